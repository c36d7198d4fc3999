"""The embedded default: a small ZSTAL world built in seconds, through the very files of the real datasets.

Every class is a motion, an object and a scene ("rolling a barrel on a road") and shares each of them with other
classes, so an unseen class is a new combination of known words. Most classes differ from another one in a single word.
About two of five actions, in training and test alike, are of no class at all (distractors): other combinations of the
same words, as salient as the rest, never annotated. So only who reads the names knows which actions are asked for.
What frames and sentences look like, and what of it is measured, is in synthetic_space.py; this file decides who does
what when, and writes the files, all of them marked synthetic.
`simulate_features` writes features of the same making over the timelines and actions of a real dataset.

Numbers measured on any of this compare methods with each other under known conditions; they say nothing about videos.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from psftr import __version__
from psftr.data.annotations import Action, Annotations, Video, write_annotations
from psftr.data.descriptions import write_descriptions
from psftr.data.record import NAME, read_record, write_record
from psftr.data.splits import ClassSplit, write_published_splits
from psftr.data.synthetic_distractors import Repertoire, distractors_in_gaps
from psftr.data.synthetic_order import ORDER_VERSION, noise_descriptions, order_descriptions, twin_classes
from psftr.data.synthetic_space import (
    Composition,
    Event,
    Recipe,
    Space,
    background_motions,
    compose,
    hard_negatives,
    render,
    seeded,
)
from psftr.errors import PsftrError
from psftr.features.store import FeatureWriter
from psftr.features.text import TextEmbeddings
from psftr.files import sha256_of
from psftr.segments import Timeline

GENERATOR_VERSION = 2  # raise it whenever the same World and Recipe would give another world
RATIOS = (75, 50)
NUM_SPLITS = 10
NUM_CLUTTER = 3
DISTRACTOR_SHARE = 0.4
SHORTEST_TWIN_S = 4.0  # two motions and a pause take their time
TRAIN_SUBSET, TEST_SUBSET = "training", "validation"

_ACTIVITIES = """
    throwing a ball on grass, kicking a ball on grass, lifting a barrel in a gym, rolling a barrel in a gym,
    swinging a rope on sand, pulling a rope on sand, carrying a pole on a road, lifting a pole on a road,
    throwing a disc on sand, throwing a bag on sand, kicking a bag on a road, kicking a ball on a road,
    swinging a disc on ice, swinging a pole on ice, pulling a rope on grass, rolling a barrel on ice,
    carrying a bag in a gym, rolling a ball in a gym, pulling a barrel on grass, carrying a disc on ice
"""


def _parse(name: str) -> Composition:
    words = name.split()
    return Composition(name, motion=words[0], objects=(words[2],), scene=words[-1])


CLASSES = tuple(_parse(" ".join(name.split())) for name in _ACTIVITIES.split(","))
REPERTOIRE = Repertoire(CLASSES, scenes_named=True)
TWINS = Repertoire(twin_classes(), scenes_named=True)


def encoder_name(seed: int, dim: int) -> str:
    """The identity of the pretended encoder: equal for features and sentences that belong together."""
    return f"synthetic:words-v{GENERATOR_VERSION}:seed{seed}:dim{dim}"


def generator_facts() -> dict[str, Any]:
    """What, beside the arguments, decides the numbers: a record with other facts is stale."""
    return {"version": GENERATOR_VERSION, "recipe": hashlib.sha256(repr(Recipe()).encode()).hexdigest()[:16]}


def plan_actions(
    main: Composition, duration_s: float, repertoire: Repertoire, rng: np.random.Generator, *, shortest_s: float
) -> list[Event]:
    """Actions and distractors of one video: log-normal lengths of `shortest_s` to 10 s, gaps short and long.

    A third of the videos has a second class, half of the time one that differs from `main` in a word.
    """
    second = main
    if rng.random() < 0.35:
        near = repertoire.near_class(main, rng) if rng.random() < 0.5 else None
        second = near or repertoire.classes[rng.integers(len(repertoire.classes))]
    strangers = [c for c in (repertoire.near(main, rng), repertoire.far(rng)) if c is not None]
    events: list[Event] = []
    cursor_s = float(np.clip(rng.lognormal(0.9, 0.9), 0.3, 12.0))
    while True:
        end_s = cursor_s + float(np.clip(rng.lognormal(1.2, 0.7), shortest_s, 10.0))
        if end_s > duration_s - 0.3:
            break
        composition, kind = second if rng.random() < 0.4 else main, "action"
        if rng.random() < DISTRACTOR_SHARE:
            composition, kind = strangers[rng.integers(len(strangers))], "distractor"
        events.append(Event(round(cursor_s, 2), round(end_s, 2), kind, composition))
        cursor_s = end_s + float(np.clip(rng.lognormal(1.0, 0.8), 0.5, 20.0))
    if not any(event.composition == main for event in events):
        first = events[0] if events else Event(round(duration_s / 3, 2), round(duration_s / 3 + 4, 2), "", main)
        events[:1] = [replace(first, kind="action", composition=main)]
    return events


def draw_splits(seed: int) -> list[ClassSplit]:
    """Ten splits per ratio; every motion and every object of an unseen class occurs in a seen one."""
    splits = []
    for ratio in RATIOS:
        num_seen = len(CLASSES) * ratio // 100
        for index in range(NUM_SPLITS):
            rng = seeded(seed, "split", ratio, index)
            while True:
                order = [CLASSES[i] for i in rng.permutation(len(CLASSES))]
                seen, unseen = order[:num_seen], order[num_seen:]
                known = {c.motion for c in seen} | {word for c in seen for word in c.objects}
                if all(known.issuperset((c.motion, *c.objects)) for c in unseen):
                    break
            names = [tuple(sorted(c.name for c in side)) for side in (seen, unseen)]
            splits.append(ClassSplit(names[0], names[1], "published", ratio, index))
    return splits


@dataclass(frozen=True, kw_only=True)
class World:
    """What decides a world: the same values make the same files.

    twins: classes come in pairs that differ in the order of two motions only, which descriptions.json tells; such a
    world has no published splits, it is for split=closed. noise: descriptions.json holds words that mean nothing.
    """

    seed: int = 0
    num_train: int = 120
    num_test: int = 80
    dim: int = 512
    stride: int = 8
    fps: float = 30.0
    min_duration_s: float = 28.0
    max_duration_s: float = 62.0
    twins: bool = False
    noise: bool = False

    def __post_init__(self) -> None:
        if min(self.num_train, self.num_test, self.stride) < 1 or self.fps <= 0 or self.dim < 64:
            raise PsftrError(f"a synthetic world needs at least one video, stride 1 and dim 64, got {self}")
        if not 15 <= self.min_duration_s <= self.max_duration_s:
            raise PsftrError(f"a synthetic video lasts at least 15 s, got {self}")

    @property
    def generator(self) -> dict[str, Any]:
        # what is off is left out: worlds from before there was a choice stay as they are
        own = {name: value for name, value in asdict(self).items() if value or name not in ("twins", "noise")}
        return {**generator_facts(), **own, **({"order_version": ORDER_VERSION} if self.twins else {})}

    @property
    def repertoire(self) -> Repertoire:
        return TWINS if self.twins else REPERTOIRE


def ensure_world(root: str | Path, **sizes: Any) -> bool:
    """Build the world unless one with these `sizes` (fields of World) is in `root`; True if it was built.

    What is not given is taken from the world that is there, so one made with other arguments stays.
    """
    root = Path(root)
    record = read_record(root)
    if record is not None and record["dataset"] == "synthetic":
        there = record["generator"]
        sizes = {f.name: there[f.name] for f in fields(World) if f.name in there} | sizes
        if there == World(**sizes).generator and all((root / name).is_file() for name in record["files"]):
            return False
    build_world(root, **sizes)
    return True


def build_world(root: str | Path, **sizes: Any) -> None:
    """Write annotations.json, splits/, features.h5, text.h5 and, last, prepared.json; `sizes` are the fields of World.

    Raises PsftrError if `root` holds files of something else.
    """
    root, world = Path(root), World(**sizes)
    record = read_record(root)
    other = None if record is None else record["dataset"]
    if other is None and any(root.glob("*.json")):
        other = f"a dataset without {NAME}"
    if other not in (None, "synthetic"):
        raise PsftrError(f"{root} holds {other}: give the synthetic world a folder of its own")
    root.mkdir(parents=True, exist_ok=True)
    building = root / f".building-{uuid.uuid4().hex}"
    try:
        facts = _write_world(building, world)
        (root / NAME).unlink(missing_ok=True)  # a world torn by a crash between the moves counts as absent
        for name in facts["files"]:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(building / name, root / name)
        write_record(root, facts)
    finally:
        shutil.rmtree(building, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Who does what when: what is annotated, the distractors nobody is told of, and the rows of every video."""

    annotations: Annotations
    distractors: dict[str, list[Event]]
    timelines: dict[str, Timeline]


def plan_world(world: World) -> Plan:
    """The same for the same world."""
    videos: dict[str, Video] = {}
    distractors: dict[str, list[Event]] = {}
    timelines: dict[str, Timeline] = {}
    for subset, tag, count in ((TRAIN_SUBSET, "train", world.num_train), (TEST_SUBSET, "test", world.num_test)):
        for number in range(count):
            video_id = f"synthetic_{tag}_{number:04d}"
            rng = seeded(world.seed, "plan", video_id)
            num_steps = int(rng.uniform(world.min_duration_s, world.max_duration_s) * world.fps / world.stride)
            duration_s = num_steps * world.stride / world.fps
            classes = world.repertoire.classes
            main, shortest_s = classes[number % len(classes)], SHORTEST_TWIN_S if world.twins else 1.0
            events = plan_actions(main, duration_s, world.repertoire, rng, shortest_s=shortest_s)
            actions = tuple(Action(e.start_s, e.end_s, e.composition.name) for e in events if e.kind == "action")
            distractors[video_id] = [event for event in events if event.kind == "distractor"]
            videos[video_id] = Video(video_id, subset, duration_s, world.fps, actions)
            timelines[video_id] = Timeline(world.stride, world.fps, num_steps, duration_s)
    return Plan(annotations=Annotations(videos=videos), distractors=distractors, timelines=timelines)


def _write_world(folder: Path, world: World) -> dict[str, Any]:
    """Write every file but the record; returns the record's facts."""
    plan = plan_world(world)
    folder.mkdir(parents=True)
    write_annotations(folder / "annotations.json", plan.annotations)
    classes = world.repertoire.classes
    if not world.twins:
        write_published_splits(folder / "splits", draw_splits(world.seed))
    if world.noise:
        write_descriptions(folder / "descriptions.json", noise_descriptions(classes, seed=world.seed))
    elif world.twins:
        write_descriptions(folder / "descriptions.json", order_descriptions(classes))
    simulate_features(
        plan.annotations,
        plan.timelines,
        folder / "features.h5",
        folder / "text.h5",
        seed=world.seed,
        dim=world.dim,
        repertoire=world.repertoire,
        distractors=plan.distractors,
    )
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        "dataset": "synthetic",
        "synthetic": True,
        "created_by": f"psftr {__version__}",
        "generator": world.generator,
        "counts": {TRAIN_SUBSET: world.num_train, TEST_SUBSET: world.num_test, "classes": len(classes)},
        "troubles": {},
        "files": {path.relative_to(folder).as_posix(): sha256_of(path) for path in files},
    }


def simulate_features(
    annotations: Annotations,
    timelines: Mapping[str, Timeline],
    out_store: str | Path,
    out_text: str | Path,
    *,
    seed: int = 0,
    dim: int = 512,
    repertoire: Repertoire | None = None,
    distractors: Mapping[str, Sequence[Event]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a feature store over `timelines` (video id -> timeline) and the class sentences, both marked synthetic.

    Frames follow the annotated actions; ignored ones (`Ambiguous`) look like motions of no class. `repertoire` has the
    classes and their words, by default what the class names say. `distractors` of each video, by default some in the
    gaps between its actions. One video is in memory at a time. `progress(done, total)` is called after each.
    """
    if repertoire is None:
        repertoire = Repertoire([compose(name) for name in annotations.classes], scenes_named=False)
    compositions = {c.name: c for c in repertoire.classes}
    space = Space(seed=seed, dim=dim)
    names = tuple(compositions)
    text = np.stack([space.text(compositions[name]) for name in names]).astype(np.float32)
    things = [space.objects(c) for c in compositions.values()] + [space.scene(c) for c in compositions.values()]
    encoder = encoder_name(seed, dim)
    with FeatureWriter(out_store, encoder=encoder, dim=dim, synthetic=True) as writer:
        for done, (video_id, timeline) in enumerate(timelines.items(), start=1):
            rng = seeded(seed, "frames", video_id)
            video = annotations.videos[video_id]
            actions = [Event(a.start_s, a.end_s, "action", compositions[a.label]) for a in video.actions]
            main = _most_common(actions) or compositions[names[rng.integers(len(names))]]
            ignored = annotations.ignored.get(video_id, ())
            unclear = [Event(a.start_s, a.end_s, "idle", replace(main, motion="ambiguous")) for a in ignored]
            length_s = timeline.num_steps * timeline.step_s
            taken = [(event.start_s, event.end_s) for event in actions + unclear]
            if distractors is None:
                others = distractors_in_gaps(actions, taken, length_s, main, repertoire, rng)
            else:
                others = list(distractors[video_id])
            taken += [(event.start_s, event.end_s) for event in others]
            main = _most_common(actions + others) or main  # whose scene and object are there all the time
            rest = hard_negatives(taken, length_s, main, rng)
            rest += background_motions(length_s, repertoire.motions, rng)
            features = render(
                space,
                actions + others + unclear + rest,
                main=main,
                clutter=[things[i] for i in rng.integers(len(things), size=NUM_CLUTTER)],
                steps=timeline.num_steps,
                step_s=timeline.step_s,
                rng=rng,
            )
            num_frames = max(timeline.num_steps * timeline.stride, round(timeline.duration_s * timeline.fps))
            writer.write(
                video_id,
                features,
                stride=timeline.stride,
                fps=timeline.fps,
                num_frames=num_frames,
                duration_s=timeline.duration_s,
            )
            if progress is not None:
                progress(done, len(timelines))
    TextEmbeddings(names, torch.from_numpy(text), encoder, prompt="synthetic", synthetic=True).save(out_text)


def _most_common(events: Sequence[Event]) -> Composition | None:
    counts = Counter(event.composition for event in events)
    return counts.most_common(1)[0][0] if counts else None
