"""The CASCADE paper's own way of scoring. Not comparable with standard mAP.

As far as its released code shows: detections carry no score, AP is taken within each video and averaged over videos,
and ActivityNet's average is over the three printed tIoUs. A class that a video does not contain costs nothing, and
nothing is ranked across videos: such numbers come out higher than mAP over a test set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psftr.data.annotations import Action, Annotations
from psftr.data.splits import ClassSplit
from psftr.evaluation.average_precision import evaluate_detections
from psftr.evaluation.facts import mark
from psftr.evaluation.paper import PER_VIDEO_ROWS
from psftr.evaluation.render import text
from psftr.evaluation.rules import Protocol
from psftr.evaluation.selection import select_scored
from psftr.evaluation.tables import per_video_table
from psftr.predictions import Detection, Predictions

LABEL = (
    "per-video AP without scores, the CASCADE paper's own way of scoring: "
    "NOT COMPARABLE with the mAP of any other table"
)


@dataclass(frozen=True)
class PerVideoAp:
    """Fractions of 1: mean over videos of the mean over the video's own classes, per tIoU."""

    tious: tuple[float, ...]
    per_tiou: tuple[float, ...]
    num_videos: int

    @property
    def average(self) -> float:
        return fmean(self.per_tiou)

    def to_dict(self) -> dict[str, Any]:
        scores = {f"{t:.2f}": ap for t, ap in zip(self.tious, self.per_tiou)}
        return {"label": LABEL, "AP": {"average": self.average, **scores}, "num_videos": self.num_videos}


def per_video_ap(
    ground_truth: Mapping[str, Sequence[Action]],
    detections: Mapping[str, Sequence[Detection]],
    *,
    tious: Sequence[float],
) -> PerVideoAp:
    """Each video by itself, scores put aside: detections count in order of time."""
    unscored = {v: [replace(d, score=1.0) for d in found] for v, found in detections.items()}
    rows = ap_by_video(ground_truth, unscored, tious=tious)
    means = np.mean(list(rows.values()), axis=0).tolist()
    return PerVideoAp(tuple(tious), tuple(means), len(rows))


def ap_by_video(
    ground_truth: Mapping[str, Sequence[Action]],
    detections: Mapping[str, Sequence[Detection]],
    *,
    tious: Sequence[float],
    ignored: Mapping[str, Sequence[Action]] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """[T] for each video with actions, taken by itself: AP per tIoU, the mean over its own classes."""
    truth = {v: actions for v, actions in ground_truth.items() if actions}
    # One class per video and label makes one call of the only AP there is.
    own = {v: {a.label: f"{n} {a.label}" for a in actions} for n, (v, actions) in enumerate(truth.items())}
    left_out = {v: [replace(a, label=own[v].get(a.label, a.label)) for a in (ignored or {}).get(v, ())] for v in truth}
    result = evaluate_detections(
        {v: [replace(a, label=own[v][a.label]) for a in actions] for v, actions in truth.items()},
        {v: [replace(d, label=own[v][d.label]) for d in detections.get(v, ()) if d.label in own[v]] for v in truth},
        classes=[name for names in own.values() for name in names.values()],
        tious=tious,
        ignored=left_out,
    )
    by_class = dict(zip(result.classes, result.ap))
    return {v: np.mean([by_class[name] for name in names.values()], axis=0) for v, names in own.items()}


def score_per_video(
    predictions: Predictions, annotations: Annotations, split: ClassSplit, *, protocol: Protocol
) -> PerVideoAp:
    """A predictions file on the same videos and actions as `evaluate_predictions` takes."""
    selection = select_scored(predictions, annotations, protocol=protocol, classes=split.unseen)
    return per_video_ap(selection.ground_truth, selection.detections, tious=protocol.printed_tious)


def per_video_text(results: Mapping[str, PerVideoAp], *, protocol: Protocol, synthetic: bool, ratio: int) -> str:
    """Methods scored per video above the paper's printed rows of the same data set and ratio, if they are of videos."""
    printed = [r for r in PER_VIDEO_ROWS if (r.dataset, r.ratio) == (protocol.dataset, ratio) and not synthetic]
    worth = {"SYNTHETIC": synthetic, "PEER PROTOCOL": protocol.is_peer}
    caption = f"{mark(word for word, holds in worth.items() if holds)}{LABEL}; %, mean over videos"
    if printed:
        caption += "; below the line: as printed, with the paper's own models, mean over splits"
    elif synthetic:
        caption += "; the paper's numbers are of real videos and are not shown beside synthetic ones"
    tious = next(iter(results.values())).tious
    return text(per_video_table(caption, {name: r.per_tiou for name, r in results.items()}, tious, printed))
