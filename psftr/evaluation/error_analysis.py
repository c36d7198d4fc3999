"""What goes wrong, in the manner of DETAD: false-positive profile, sensitivity, misses, and confusion of classes.

Definitions follow Alwassel, Caba Heilbron, Escorcia and Ghanem, "Diagnosing Error in Temporal Action Detectors"
(ECCV 2018). A detection that counts at tIoU threshold a is, by the ground-truth instance of its video (of any scored
class) with which it overlaps most:

    true positive      it takes an instance of its class (see `match_detections`)
    double detection   tIoU >= a, right label, but the instance is taken by a better-scored detection
    wrong label        tIoU >= a, wrong label
    localization       0.1 <= tIoU < a, right label
    confusion          0.1 <= tIoU < a, wrong label
    background         tIoU < 0.1

Where two instances overlap equally, the one with the detection's own label decides. Actions of seen
classes are background here, as they are for AP.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from psftr.evaluation.average_precision import Matches, average_precision
from psftr.segments import tiou_pairwise

TRUE_POSITIVE, DOUBLE, WRONG_LABEL, LOCALIZATION, CONFUSION, BACKGROUND = range(6)
TYPE_NAMES = ("true positive", "double detection", "wrong label", "localization", "confusion", "background")
NOT_COUNTED = -1
LEAST_TIOU = 0.1  # below it, a detection has nothing to do with an instance
GROUPS = 10  # the profile looks at the best 10 G detections of a class with G instances


@dataclass(frozen=True)
class Characteristic:
    """A property of ground-truth instances and its buckets: (edges[i], edges[i + 1]], named XS, S, M, L, XL."""

    name: str
    unit: str
    edges: tuple[float, ...]

    @property
    def buckets(self) -> tuple[str, ...]:
        return ("XS", "S", "M", "L", "XL")[: len(self.edges) - 1]

    def range_text(self, bucket: int) -> str:
        low, high = self.edges[bucket], self.edges[bucket + 1]
        if self.name == "instances":  # whole numbers
            first = int(low) + 1 if low > 0 else 1
            return f"{first}" if high == first else f"{first} or more" if math.isinf(high) else f"{first} to {high:g}"
        if math.isinf(high):
            return f"over {low:g} {self.unit}".rstrip()
        return f"{low:g} to {high:g} {self.unit}".rstrip()


# The paper's own buckets for the two benchmarks; anything else takes a mixture that suits short web videos.
_SHARES, _FINE_SHARES = (0, 0.2, 0.4, 0.6, 0.8, 1), (0, 0.02, 0.04, 0.06, 0.08, 1)
_SECONDS, _LONG_SECONDS = (0, 3, 6, 12, 18, math.inf), (0, 30, 60, 120, 180, math.inf)
_NUMBERS, _MANY = (0, 1, 4, 8, math.inf), (0, 1, 40, 80, math.inf)


def characteristics_for(dataset: str) -> tuple[Characteristic, ...]:
    """Buckets by length in seconds, share of the video covered, and instances of the class in the video."""
    thumos14, activitynet13 = dataset == "thumos14", dataset == "activitynet13"
    return (
        Characteristic("length", "s", _LONG_SECONDS if activitynet13 else _SECONDS),
        Characteristic("coverage", "of the video", _FINE_SHARES if thumos14 else _SHARES),
        Characteristic("instances", "", _MANY if thumos14 else _NUMBERS),
    )


@dataclass(frozen=True)
class Bucket:
    """Ground-truth instances alike in one characteristic.

    map_n: normalized average mAP (see `normalized_map`) of these alone, NaN where there are none. missed: share of them
    that no detection takes at the analysed tIoU.
    """

    characteristic: str
    name: str
    range_text: str
    count: int
    map_n: float
    missed: float


@dataclass(frozen=True, eq=False)
class ErrorAnalysis:
    """profile [GROUPS, 6]: detections by rank group and type at `tiou`; group g holds ranks gG to (g + 1)G of a class
    with G instances. gains: average mAP that would be won by taking out all errors of a type (fractions of 1).
    confusion [C, C + 1]: for each instance, the label of the best-scored detection with tIoU >= `tiou`; last column:
    none. map_n, missed: over all instances.
    """

    tiou: float
    classes: tuple[str, ...]
    profile: NDArray[np.int64]
    gains: Mapping[str, float]
    confusion: NDArray[np.int64]
    buckets: tuple[Bucket, ...]
    map_n: float
    missed: float


def analyse_errors(
    matches: Matches, *, durations_s: Mapping[str, float], characteristics: Sequence[Characteristic], tiou: float
) -> ErrorAnalysis:
    """The whole analysis of one evaluation. `tiou` must be one of `matches.tious`; a duration may be NaN or absent."""
    t = matches.tious.index(tiou)
    own, other = best_overlaps(matches)
    types = classify(matches, own, other)
    everything = np.ones(len(matches.truth_class), dtype=bool)
    return ErrorAnalysis(
        tiou=tiou,
        classes=matches.classes,
        profile=profile(matches, types[:, t]),
        gains=gains(matches, types),
        confusion=confusion(matches, tiou),
        buckets=tuple(
            Bucket(
                characteristic=what.name,
                name=name,
                range_text=what.range_text(index),
                count=int(members.sum()),
                map_n=normalized_map(matches, members),
                missed=_share(~matches.is_found[members, t]),
            )
            for what in characteristics
            for index, (name, members) in enumerate(_members(matches, what, durations_s))
        ),
        map_n=normalized_map(matches, everything),
        missed=_share(~matches.is_found[:, t]),
    )


def best_overlaps(matches: Matches) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[N], [N]: a detection's highest tIoU with the instances of its own label in its video, and of all others."""
    own, other = np.zeros(len(matches.scores)), np.zeros(len(matches.scores))
    for found, truth in _by_video(matches):
        tiou = _tiou(matches.detection_segments[found], matches.truth_segments[truth])
        same = matches.detection_class[found][:, None] == matches.truth_class[truth]
        own[found] = np.where(same, tiou, 0).max(axis=1)
        other[found] = np.where(same, 0, tiou).max(axis=1)
    return own, other


def classify(matches: Matches, own: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.int64]:
    """[N, T]: the type of every detection at every tIoU, NOT_COUNTED where it is ignored."""
    best, is_own = np.maximum(own, other), own >= other
    types = np.empty(matches.is_true.shape, dtype=np.int64)
    for t, threshold in enumerate(matches.tious):
        well = np.where(is_own, DOUBLE, WRONG_LABEL)
        badly = np.where(is_own, LOCALIZATION, CONFUSION)
        types[:, t] = np.where(best >= threshold, well, np.where(best >= LEAST_TIOU, badly, BACKGROUND))
    types[matches.is_true] = TRUE_POSITIVE
    types[matches.is_ignored] = NOT_COUNTED
    return types


def profile(matches: Matches, types: NDArray[np.int64]) -> NDArray[np.int64]:
    """[GROUPS, 6] counts of `types` [N] among the best GROUPS x G counted detections of each class."""
    counts = np.zeros((GROUPS, len(TYPE_NAMES)), dtype=np.int64)
    num_truth = np.bincount(matches.truth_class, minlength=len(matches.classes))
    for c, number in enumerate(num_truth):
        if not number:
            continue
        ranked = types[(matches.detection_class == c) & (types != NOT_COUNTED)][: GROUPS * number]
        np.add.at(counts, (np.arange(len(ranked)) // number, ranked), 1)
    return counts


def gains(matches: Matches, types: NDArray[np.int64]) -> dict[str, float]:
    """Average mAP won, by type of error taken out, each on its own. Errors take no instance, so nothing else moves."""
    before = average_precision(matches).average
    return {
        TYPE_NAMES[error]: average_precision(replace(matches, is_ignored=matches.is_ignored | (types == error))).average
        - before
        for error in range(DOUBLE, BACKGROUND + 1)
    }


def normalized_map(matches: Matches, members: NDArray[np.bool_]) -> float:
    """Average mAP_N of the instances `members` [G]: AP with precision as if every class had the same N instances.

    N is the mean number of instances per class. Detections that take other instances are left out; all errors stay.
    That makes buckets of different size comparable. NaN where no instance is a member.
    """
    num_truth = np.bincount(matches.truth_class, minlength=len(matches.classes))
    mean_number = num_truth[num_truth > 0].mean() if num_truth.any() else math.nan
    values = []
    for c in range(len(matches.classes)):
        number = int((members & (matches.truth_class == c)).sum())
        if not number:
            continue
        rows = matches.detection_class == c
        for t in range(len(matches.tious)):
            instance = matches.taken[rows, t]
            is_true = (instance >= 0) & members[instance]
            counted = is_true | ((instance < 0) & ~matches.is_ignored[rows, t])
            values.append(_normalized_ap(is_true[counted], number, mean_number))
    return float(np.mean(values)) if values else math.nan


def _normalized_ap(is_true: NDArray[np.bool_], number: int, mean_number: float) -> float:
    recall = is_true.cumsum() / number
    weighted = recall * mean_number
    precision = weighted / np.maximum(weighted + (~is_true).cumsum(), 1e-12)
    interpolated = np.maximum.accumulate(precision[::-1])[::-1]
    return float((interpolated * is_true).sum() / number)


def confusion(matches: Matches, tiou: float) -> NDArray[np.int64]:
    """[C, C + 1]: for each instance, the label of the best-scored detection that overlaps it by `tiou` or more."""
    counts = np.zeros((len(matches.classes), len(matches.classes) + 1), dtype=np.int64)
    said = np.full(len(matches.truth_class), len(matches.classes))
    for found, truth in _by_video(matches):
        tious = _tiou(matches.detection_segments[found], matches.truth_segments[truth])
        score = np.where(tious >= tiou, matches.scores[found][:, None], -np.inf)
        best = score.argmax(axis=0)
        is_reached = np.isfinite(score[best, np.arange(len(truth))])
        said[truth[is_reached]] = matches.detection_class[found][best[is_reached]]
    np.add.at(counts, (matches.truth_class, said), 1)
    return counts


def _by_video(matches: Matches) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(rows of detections, rows of instances) of every video that has both."""
    by_found, by_truth = _grouped(matches.detection_video), _grouped(matches.truth_video)
    return [(found, by_truth[video]) for video, found in by_found.items() if video in by_truth]


def _grouped(video: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
    order = np.argsort(video, kind="stable")
    names, first = np.unique(video[order], return_index=True)
    return dict(zip(names.tolist(), np.split(order, first[1:])))


def _members(
    matches: Matches, what: Characteristic, durations_s: Mapping[str, float]
) -> list[tuple[str, NDArray[np.bool_]]]:
    """(bucket, is a member [G]) of each bucket; an instance whose value is unknown is in none."""
    lengths = matches.truth_segments[:, 1] - matches.truth_segments[:, 0]
    if what.name == "length":
        values = lengths
    elif what.name == "coverage":
        durations = np.array([durations_s.get(video_id, math.nan) for video_id in matches.video_ids], dtype=float)
        # An annotation may run past the end of its video.
        values = np.minimum(lengths / durations[matches.truth_video], 1.0) if len(lengths) else lengths
    elif what.name == "instances":
        key = matches.truth_class * len(matches.video_ids) + matches.truth_video
        _, place, count = np.unique(key, return_inverse=True, return_counts=True)
        values = count[place].astype(float)
    else:
        raise ValueError(f"no characteristic {what.name!r}: length, coverage, instances")
    return [
        (name, (values > low) & (values <= high))
        for name, low, high in zip(what.buckets, what.edges, what.edges[1:], strict=False)
    ]


def _tiou(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    return tiou_pairwise(torch.from_numpy(one), torch.from_numpy(other)).numpy()


def _share(which: NDArray[np.bool_]) -> float:
    return float(which.mean()) if len(which) else math.nan
