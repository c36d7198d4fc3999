"""One predictions file on one class split: its AP and the facts that go with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psftr.data.annotations import Annotations
from psftr.data.splits import CLOSED, HELD_OUT, ClassSplit
from psftr.errors import PsftrError
from psftr.evaluation.average_precision import (
    ApResult,
    Matches,
    average_precision,
    evaluate_detections,
    match_detections,
)
from psftr.evaluation.facts import Facts, Training, mark, state_facts
from psftr.evaluation.rules import Protocol, protocol_of
from psftr.evaluation.selection import Selection, select_scored, videos_under_test, without_double_labels
from psftr.files import some
from psftr.predictions import CHECKPOINT_NONE, CHECKPOINT_PEER, Detection, Predictions, Provenance, canonical_id


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One predictions file under one protocol on one split.

    without_double_labels: see `Protocol`; None where no pair of such classes has one in training and one in the test.
    selection, matches: what was scored and how it was matched, for error analysis and timelines; not stored.
    """

    protocol: Protocol
    split: ClassSplit | None
    ap: ApResult
    facts: Facts
    num_videos: int
    without_double_labels: ApResult | None = None
    training: Training = field(default_factory=Training)
    selection: Selection | None = None
    matches: Matches | None = None

    @property
    def index(self) -> int:
        return self.split.index if self.split else 0

    @property
    def ratio(self) -> int:
        """Percentage of the classes that is seen; 100 without a split, where every class counts."""
        return self.split.ratio if self.split else 100

    @property
    def method(self) -> str:
        """Without the code version."""
        return self.facts.method.partition(" (")[0]

    @property
    def num_actions(self) -> int:
        return int(self.ap.num_ground_truth.sum())

    @property
    def worth(self) -> tuple[str, ...]:
        """What a reader must not overlook: words for `mark`."""
        told = {"SYNTHETIC": self.facts.synthetic, "PEER PROTOCOL": self.protocol.is_peer}
        if self.split and self.split.source == HELD_OUT:
            told["HELD-OUT SEEN CLASSES"] = True
        elif self.training.held_out and self.split:
            told[f"TRAINED ON {self.training.classes} OF {len(self.split.seen)} SEEN CLASSES"] = True
        return tuple(word for word, holds in told.items() if holds)

    @property
    def mark(self) -> str:
        return mark(self.worth)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; every AP is a fraction of 1, null where a class has no ground truth."""
        without = self.without_double_labels
        return {
            "dataset": self.protocol.dataset,
            "protocol": self.protocol.name,
            "synthetic": self.facts.synthetic,
            "split": self.split and {"ratio": self.split.ratio, "index": self.split.index, "source": self.split.source},
            "num_videos": self.num_videos,
            "num_training_videos": self.training.videos,
            "num_training_classes": self.training.classes,
            "held_out_classes": list(self.training.held_out),
            "facts": self.facts.to_dict(),
            **ap_to_dict(self.ap),
            "without_double_labels": None if without is None else ap_to_dict(without),
        }


def evaluate_predictions(
    predictions: Predictions,
    annotations: Annotations,
    split: ClassSplit | None = None,
    *,
    protocol: Protocol,
    features_identity: str | None = None,
) -> Evaluation:
    """Score a predictions file on the unseen classes of `split` (default: the split the file names; if it
    names none, every annotated class).

    annotations: all of the data set's, seen classes included. features_identity: of the store at hand,
    compared with the one the file was made from. Raises PsftrError, in one sentence, when file, split,
    annotations and features do not belong together.
    """
    provenance = predictions.provenance
    stated = split_of(provenance)
    _refuse_mismatch(provenance, stated, split, protocol, features_identity)
    split_from_file = split is None and stated is not None
    split = split or stated
    videos = videos_under_test(annotations, protocol)
    wanted = split.unseen if split else tuple(sorted({a.label for v in videos for a in v.actions}))
    selection = select_scored(predictions, annotations, protocol=protocol, classes=wanted)
    matches = _match(selection, protocol)
    single, double_text = without_double_labels(selection, videos, protocol, split)
    training = Training.of(provenance)
    facts = state_facts(
        predictions=predictions,
        protocol=protocol,
        split=split,
        split_from_file=split_from_file,
        selection=selection,
        training=training,
        double_labels=double_text,
    )
    return Evaluation(
        protocol=protocol,
        split=split,
        ap=average_precision(matches),
        facts=facts,
        num_videos=len(selection.ground_truth),
        without_double_labels=average_precision(_match(single, protocol)) if single else None,
        training=training,
        selection=selection,
        matches=matches,
    )


def score_files(
    files: Mapping[str, Predictions],
    annotations: Annotations,
    *,
    protocol: Protocol | None = None,
    splits: Mapping[str, ClassSplit] | None = None,
) -> dict[str, Evaluation]:
    """Every file by itself. protocol: default `protocol_of` each; splits: for files that do not name theirs."""
    return {
        name: evaluate_predictions(
            predictions,
            annotations,
            None if split_of(predictions.provenance) else (splits or {}).get(name),
            protocol=protocol or protocol_of(predictions),
        )
        for name, predictions in files.items()
    }


def scorer(
    annotations: Annotations, *, classes: Sequence[str], protocol: Protocol
) -> Callable[[Mapping[str, Sequence[Detection]]], dict[str, float]]:
    """For seen-class validation during training: detections by video id -> mAP, its average and per tIoU.

    Scores all videos of `annotations` that have an action of `classes`.
    """
    restricted = annotations.only_classes(classes).videos.items()
    truth = {video_id: video.actions for video_id, video in restricted if video.actions}
    ignored = {video_id: annotations.ignored.get(video_id, ()) for video_id in truth}

    def score(detections: Mapping[str, Sequence[Detection]]) -> dict[str, float]:
        counted = {canonical_id(v): rows for v, rows in detections.items() if canonical_id(v) in truth}
        ap = evaluate_detections(truth, counted, classes=classes, tious=protocol.tious, ignored=ignored)
        return {"mAP": ap.average} | {f"mAP@{t:.2f}": float(m) for t, m in zip(ap.tious, ap.map_per_tiou)}

    return score


def split_of(provenance: Provenance | None) -> ClassSplit | None:
    """The class split a predictions file names, or None."""
    stated = provenance.split if provenance else None
    if not stated or not stated.get("unseen") or not stated.get("seen"):
        return None
    ratio, index = int(stated.get("ratio") or 0), int(stated.get("index") or 0)
    source = str(stated.get("source") or "not stated")
    return ClassSplit(tuple(stated["seen"]), tuple(stated["unseen"]), source, ratio, index)


def ap_to_dict(ap: ApResult) -> dict[str, Any]:
    """mAP and AP as plain data, fractions of 1, keyed by tIoU as text."""

    def row(values: Iterable[float]) -> dict[str, float | None]:
        return {f"{t:.2f}": None if value != value else float(value) for t, value in zip(ap.tious, values)}

    return {
        "tious": list(ap.tious),
        "mAP": {"average": ap.average, **row(ap.map_per_tiou)},
        "AP": {
            name: {
                "average": ap.ap_per_class.get(name),
                **row(ap.ap[c]),
                "ground_truth": int(ap.num_ground_truth[c]),
                "detections": int(ap.num_detections[c]),
            }
            for c, name in enumerate(ap.classes)
        },
    }


def _match(selection: Selection, protocol: Protocol) -> Matches:
    return match_detections(
        selection.ground_truth,
        selection.detections,
        classes=selection.classes,
        tious=protocol.tious,
        ignored=selection.ignored,
    )


def _refuse_mismatch(
    provenance: Provenance | None,
    stated: ClassSplit | None,
    split: ClassSplit | None,
    protocol: Protocol,
    features_identity: str | None,
) -> None:
    if provenance is None:
        return
    if provenance.checkpoint_rule == CHECKPOINT_PEER and not protocol.is_peer:
        raise PsftrError(
            "these predictions come from a checkpoint chosen on the unseen test classes; "
            "evaluate them with protocol=peer, which marks every number"
        )
    dataset = (provenance.split or {}).get("dataset")
    if dataset and dataset != protocol.dataset:
        raise PsftrError(f"these predictions are of {dataset}, but the evaluation is of {protocol.dataset}")
    made_from = provenance.features.get("identity")
    if features_identity and made_from and made_from != features_identity:
        raise PsftrError(
            f"these predictions were made from features {made_from}, but the store at hand is {features_identity}; "
            "predict again from this store, or evaluate without naming it"
        )
    if stated is None or split is None:
        return
    trained = provenance.checkpoint_rule != CHECKPOINT_NONE
    leaked = sorted(set(stated.seen) & set(split.unseen))
    if trained and leaked and (stated.source, split.source) != (CLOSED, CLOSED):
        raise PsftrError(
            f"the model behind these predictions was trained on {some(leaked)}, unseen in split {split.name}: "
            f"evaluate on the file's own split {stated.name}"
        )
    if set(stated.unseen) != set(split.unseen) or (trained and set(stated.seen) != set(split.seen)):
        raise PsftrError(
            f"these predictions are for split {stated.name} with {len(stated.seen)} seen and {len(stated.unseen)} "
            f"unseen classes, not for {split.name} with {len(split.seen)} and {len(split.unseen)}: give the file's own"
        )
