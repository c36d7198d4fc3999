"""The CASCADE paper's own way of scoring, and its printed rows. Neither is comparable with standard mAP.

As far as its released code shows: detections carry no score, AP is taken within each video and averaged over videos,
and ActivityNet's average is over three tIoUs. A class that a video does not contain costs nothing, and nothing is
ranked across videos: such numbers come out higher than mAP over a test set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from psftr.data.annotations import Action, Annotations
from psftr.data.splits import ClassSplit
from psftr.evaluation.average_precision import evaluate_detections
from psftr.evaluation.paper import PaperRow
from psftr.evaluation.rules import Protocol
from psftr.evaluation.selection import select_scored
from psftr.evaluation.tables import marks, table, wrap
from psftr.predictions import Detection, Predictions

SOURCE = "CASCADE paper"
LABEL = (
    "per-video AP without scores, the CASCADE paper's own way of scoring: "
    "NOT COMPARABLE with the mAP of any other table"
)
_THUMOS14 = (0.3, 0.4, 0.5, 0.6, 0.7)
_ACTIVITYNET = (0.5, 0.75, 0.95)
OWN_TIOUS = {"activitynet13": _ACTIVITYNET}  # other data sets: those of the protocol

PAPER_ROWS = tuple(
    PaperRow(SOURCE, dataset, 75, method, dict(zip(tious, values)), values[-1])
    for dataset, tious, rows in (
        (
            "thumos14",
            _THUMOS14,
            {
                "T3AL": (19.2, 12.7, 7.4, 4.4, 2.2, 9.2),
                "FreeZAD": (21.2, 13.6, 8.3, 4.7, 2.5, 10.0),
                "ZEAL": (22.1, 16.1, 11.0, 5.7, 3.0, 11.6),
                "CASCADE-Qwen": (23.9, 17.5, 11.7, 7.6, 4.3, 13.0),
                "CASCADE-LLaVA": (23.8, 17.9, 14.0, 7.6, 5.1, 13.7),
            },
        ),
        (
            "activitynet13",
            _ACTIVITYNET,
            {
                "FreeZAD": (33.5, 17.5, 3.9, 18.3),
                "CASCADE-Qwen": (41.4, 27.4, 7.1, 25.3),
                "CASCADE-LLaVA": (52.7, 36.7, 8.3, 32.6),
            },
        ),
    )
    for method, values in rows.items()
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
    truth = {v: actions for v, actions in ground_truth.items() if actions}
    # One class per video and label makes one call of the only AP there is.
    own = {v: {a.label: f"{n} {a.label}" for a in actions} for n, (v, actions) in enumerate(truth.items())}
    result = evaluate_detections(
        {v: [replace(a, label=own[v][a.label]) for a in actions] for v, actions in truth.items()},
        {
            v: [replace(d, label=own[v][d.label], score=1.0) for d in detections.get(v, ()) if d.label in own[v]]
            for v in truth
        },
        classes=[name for names in own.values() for name in names.values()],
        tious=tious,
    )
    by_class = dict(zip(result.classes, result.ap))
    videos = [sum(by_class[name] for name in names.values()) / len(names) for names in own.values()]
    return PerVideoAp(tuple(tious), tuple(float(ap) for ap in sum(videos) / len(videos)), len(videos))


def score_per_video(
    predictions: Predictions, annotations: Annotations, split: ClassSplit, *, protocol: Protocol
) -> PerVideoAp:
    """A predictions file on the same videos and actions as `evaluate_predictions` takes."""
    selection = select_scored(predictions, annotations, protocol=protocol, classes=split.unseen)
    tious = OWN_TIOUS.get(protocol.dataset, protocol.tious)
    return per_video_ap(selection.ground_truth, selection.detections, tious=tious)


def per_video_text(results: Mapping[str, PerVideoAp], *, protocol: Protocol, synthetic: bool, ratio: int) -> str:
    """Methods scored per video above the paper's printed rows of the same data set and ratio, if they are of videos."""
    tious = next(iter(results.values())).tious

    def cells(per_tiou: Sequence[float], average: float) -> list[str]:
        return [f"{value:.2f}" for value in (*per_tiou, average)]

    body = [[name, *cells([100 * ap for ap in r.per_tiou], 100 * r.average)] for name, r in results.items()]
    rows = [row for row in PAPER_ROWS if (row.dataset, row.ratio) == (protocol.dataset, ratio) and not synthetic]
    printed = [[f"{row.method} ({row.source})", *cells([row.per_tiou[t] for t in tious], row.average)] for row in rows]
    caption = f"{marks(protocol, synthetic)}{LABEL}; %, mean over videos"
    if rows:
        caption += "; below the line: as printed, with the paper's own models, mean over splits"
    elif synthetic:
        caption += "; the paper's numbers are of real videos and have no place here"
    return f"{wrap(caption)}\n{table(['method', *(f'@{t:.2f}' for t in tious), 'Avg'], body, printed)}"
