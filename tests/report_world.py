"""A small data set and detections in it, for the report page."""

from psftr.data.annotations import Action, Annotations, Video
from psftr.predictions import Detection, Predictions, Provenance

CLASSES = ("jump", "run", "swim", "throw")
SPLITS = {0: (("jump", "run"), ("swim", "throw")), 1: (("swim", "throw"), ("jump", "run"))}


def world() -> Annotations:
    """Four test videos of 100 s, in each two actions of one class; two training videos of each class."""
    videos = [
        Video(f"t{k}", "validation", 100.0, 25.0, (Action(10, 20, name), Action(50, 70, name)))
        for k, name in enumerate(CLASSES)
    ]
    videos += [Video(f"v_{name}_{n}", "training", 50.0, 25.0, (Action(0, 5, name),)) for name in CLASSES for n in "ab"]
    return Annotations(videos={v.video_id: v for v in videos}, ignored={"t0": (Action(80, 90, "Ambiguous"),)})


def predictions(split: int = 0, *, synthetic: bool = False, **changes) -> Predictions:
    """The first action of each video found exactly, the second badly, and one thing where nothing is."""
    seen, unseen = SPLITS[split]
    found = {}
    for k, name in enumerate(CLASSES):
        if name in unseen:
            rows = ((name, 10, 20, 0.9), (name, 50, 55, 0.5), (name, 85, 95, 0.1), (unseen[0], 30, 40, 0.2))
            found[f"t{k}"] = tuple(Detection(f"t{k}", *row) for row in rows)
    stated = {"dataset": "synthetic", "source": "published", "ratio": 50, "index": split, "seen": seen,
              "unseen": unseen}  # fmt: skip
    features = {"encoder": "words", "dim": 4, "identity": "words-1", "synthetic": synthetic}
    training = {"videos": 4, "classes": 2, "names": seen, "actions": 4, "windows": 4, "held_out_classes": []}
    made = {"method": "psftr", "checkpoint_rule": "last", "split": stated, "features": features, "training": training}
    return Predictions(found, Provenance(**{**made, **changes}))
