"""Average precision of temporal detections: the only AP in this repository.

The rules are those of the ActivityNet toolkit. For each class and each tIoU threshold, detections of all
videos are visited from the best score to the worst; each takes, among the still unmatched ground truth of
its class and video, the one with the highest tIoU not below the threshold, and is a true positive; finding
none, it is a false positive. AP is the area under the interpolated precision-recall curve (precision at a
rank = the highest at that rank or any later one).

Ties, which the toolkit leaves to an unstable sort, are settled the same way every time: equal scores by
video id, then start, then end; equal tIoUs by the ground truth's start, then end. The order of rows in a
file never matters.

All thresholds are matched in one pass: a ground-truth instance remembers the thresholds at which it is
taken as the bits of one integer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from psftr.data.annotations import Action
from psftr.errors import PsftrError
from psftr.predictions import Detection
from psftr.segments import tiou_paired


@dataclass(frozen=True, eq=False)
class Matches:
    """Detections (N, by class, then best score first) matched with ground truth (G) at each tIoU (T).

    is_true [N, T]: takes a ground truth. is_ignored [N, T]: neither true nor false. is_found [G, T]: is
    taken. Class and video columns are indices into `classes` and `video_ids`; segments are (start, end) in
    seconds.
    """

    classes: tuple[str, ...]
    tious: tuple[float, ...]
    video_ids: tuple[str, ...]
    detection_class: np.ndarray  # [N] int
    detection_video: np.ndarray  # [N] int
    detection_segments: np.ndarray  # [N, 2]
    scores: np.ndarray  # [N]
    is_true: np.ndarray
    is_ignored: np.ndarray
    truth_class: np.ndarray  # [G] int
    truth_video: np.ndarray  # [G] int
    truth_segments: np.ndarray  # [G, 2]
    is_found: np.ndarray

    def precision_recall(self, class_index: int, tiou_index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Precision (not interpolated), recall and score after each counted detection of a class, best first.

        Recall is NaN where the class has no ground truth.
        """
        rows = self.detection_class == class_index
        counted = rows & ~self.is_ignored[:, tiou_index]
        true = self.is_true[counted, tiou_index].cumsum()
        num_truth = int((self.truth_class == class_index).sum())
        recall = true / num_truth if num_truth else np.full(len(true), np.nan)
        return true / np.arange(1, len(true) + 1), recall, self.scores[counted]


@dataclass(frozen=True, eq=False)
class ApResult:
    """ap [C, T] in [0, 1], NaN for a class without ground truth; counts [C] are over all videos given."""

    classes: tuple[str, ...]
    tious: tuple[float, ...]
    ap: np.ndarray
    num_ground_truth: np.ndarray
    num_detections: np.ndarray

    @property
    def map_per_tiou(self) -> np.ndarray:
        """[T]: mean over the classes that have ground truth (NaN when none has)."""
        scored = self.ap[self.num_ground_truth > 0]
        return scored.mean(axis=0) if len(scored) else np.full(len(self.tious), np.nan)

    @property
    def average(self) -> float:
        """Mean over tIoUs of the mean over classes: the tables' "Avg"."""
        return float(self.map_per_tiou.mean())

    @property
    def ap_per_class(self) -> dict[str, float]:
        """Mean over tIoUs of each class that has ground truth."""
        means = self.ap.mean(axis=1)
        return {n: float(v) for n, v, count in zip(self.classes, means, self.num_ground_truth) if count}


def evaluate_detections(
    ground_truth: Mapping[str, Sequence[Action]],
    detections: Mapping[str, Sequence[Detection]],
    *,
    classes: Sequence[str],
    tious: Sequence[float],
    ignored: Mapping[str, Sequence[Action]] | None = None,
) -> ApResult:
    """AP of `classes` at `tious`; the mappings go from video id to rows. See `match_detections`."""
    return average_precision(match_detections(ground_truth, detections, classes=classes, tious=tious, ignored=ignored))


def match_detections(
    ground_truth: Mapping[str, Sequence[Action]],
    detections: Mapping[str, Sequence[Detection]],
    *,
    classes: Sequence[str],
    tious: Sequence[float],
    ignored: Mapping[str, Sequence[Action]] | None = None,
) -> Matches:
    """Match every detection of `classes` with the ground truth. Rows of other labels are left out of both.

    ignored: instances that are neither to be found nor to be blamed for. A detection that overlaps one in
    time at all, and takes no ground truth at a threshold, does not count at that threshold (the rule of
    THUMOS14's own evaluation for `Ambiguous`). An ignored instance labelled with one of `classes` concerns
    only that class, one of another label concerns all.

    Raises PsftrError for repeated class names and for thresholds that do not rise within (0, 1].
    """
    classes, tious = tuple(classes), tuple(map(float, tious))
    _check(classes, tious)
    video_ids = tuple(sorted({*ground_truth, *detections}))
    truth = _Columns.of(ground_truth, classes, video_ids)
    truth = truth.take(np.lexsort((truth.end_s, truth.start_s, truth.video, truth.label)))
    found = _Columns.of(detections, classes, video_ids)
    found = found.take(np.lexsort((found.end_s, found.start_s, found.video, -found.score, found.label)))

    row, instance, tiou = _pairs(found, truth, len(video_ids))
    num_reached = np.searchsorted(tious, tiou, side="right")  # thresholds not above the tIoU: always a prefix
    keep = num_reached > 0
    row, instance, tiou, num_reached = row[keep], instance[keep], tiou[keep], num_reached[keep]
    order = np.lexsort((instance, -tiou, row))
    true_bits, found_bits = [0] * len(found.label), [0] * len(truth.label)
    reached_bits = (1 << num_reached[order]) - 1
    for d, g, reached in zip(row[order].tolist(), instance[order].tolist(), reached_bits.tolist()):
        taken = reached & ~true_bits[d] & ~found_bits[g]
        true_bits[d] |= taken
        found_bits[g] |= taken

    is_true = _unpack(true_bits, len(tious))
    is_ignored = _overlaps_ignored(found, ignored or {}, classes, video_ids)[:, None] & ~is_true
    return Matches(
        classes=classes,
        tious=tious,
        video_ids=video_ids,
        detection_class=found.label,
        detection_video=found.video,
        detection_segments=np.stack((found.start_s, found.end_s), axis=1),
        scores=found.score,
        is_true=is_true,
        is_ignored=is_ignored,
        truth_class=truth.label,
        truth_video=truth.video,
        truth_segments=np.stack((truth.start_s, truth.end_s), axis=1),
        is_found=_unpack(found_bits, len(tious)),
    )


def average_precision(matches: Matches) -> ApResult:
    """Interpolated AP of each class at each tIoU from its matched detections."""
    num_classes, num_tious = len(matches.classes), len(matches.tious)
    ap = np.full((num_classes, num_tious), np.nan)
    num_truth = np.bincount(matches.truth_class, minlength=num_classes)
    num_detections = np.bincount(matches.detection_class, minlength=num_classes)
    ends = num_detections.cumsum()
    for c, (stop, count) in enumerate(zip(ends, num_detections)):
        if not num_truth[c]:
            continue
        is_true = matches.is_true[stop - count : stop]
        true = is_true.cumsum(axis=0)
        counted = (~matches.is_ignored[stop - count : stop]).cumsum(axis=0)
        precision = true / np.maximum(counted, 1)
        interpolated = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        ap[c] = (interpolated * is_true).sum(axis=0) / num_truth[c]  # recall rises by 1/num_truth at each true
    return ApResult(matches.classes, matches.tious, ap, num_truth, num_detections)


@dataclass(frozen=True, eq=False)
class _Columns:
    """Ground truth or detections as columns: class and video as indices, seconds, score (0 for truth)."""

    label: np.ndarray
    video: np.ndarray
    start_s: np.ndarray
    end_s: np.ndarray
    score: np.ndarray

    @classmethod
    def of(
        cls,
        rows: Mapping[str, Sequence[Action]] | Mapping[str, Sequence[Detection]],
        classes: tuple[str, ...],
        video_ids: tuple[str, ...],
    ) -> _Columns:
        place = {name: i for i, name in enumerate(classes)}
        video_place = {name: i for i, name in enumerate(video_ids)}
        flat = [
            (place[r.label], video_place[video_id], r.start_s, r.end_s, getattr(r, "score", 0.0))
            for video_id, video_rows in rows.items()
            for r in video_rows
            if r.label in place
        ]
        table = np.array(flat, dtype=np.float64).reshape(-1, 5)  # indices stay exact in float64
        label, video = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
        return cls(label, video, table[:, 2].copy(), table[:, 3].copy(), table[:, 4].copy())

    def take(self, order: np.ndarray) -> _Columns:
        columns = (self.label, self.video, self.start_s, self.end_s, self.score)
        return _Columns(*(column[order] for column in columns))

    def segments(self, rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.stack((self.start_s[rows], self.end_s[rows]), axis=1))


def _pairs(found: _Columns, truth: _Columns, num_videos: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every (detection, ground truth) row of the same class and video, and their tIoU; `truth` is sorted."""
    truth_key, found_key = truth.label * num_videos + truth.video, found.label * num_videos + found.video
    first = np.searchsorted(truth_key, found_key, side="left")
    count = np.searchsorted(truth_key, found_key, side="right") - first
    row = np.repeat(np.arange(len(found_key)), count)
    within = np.arange(len(row)) - np.repeat(count.cumsum() - count, count)
    instance = np.repeat(first, count) + within
    return row, instance, tiou_paired(found.segments(row), truth.segments(instance)).numpy()


def _unpack(bits: list[int], num_tious: int) -> np.ndarray:
    """Integers whose bit t stands for threshold t -> bool [len(bits), num_tious]."""
    return (np.array(bits, dtype=np.int64)[:, None] >> np.arange(num_tious)) & 1 == 1


def _overlaps_ignored(
    found: _Columns,
    ignored: Mapping[str, Sequence[Action]],
    classes: tuple[str, ...],
    video_ids: tuple[str, ...],
) -> np.ndarray:
    """bool [N]: the detection shares some time with an ignored instance that concerns its class."""
    overlaps = np.zeros(len(found.label), dtype=bool)
    place = {name: i for i, name in enumerate(classes)}
    video_place = {name: i for i, name in enumerate(video_ids)}
    for video_id, actions in ignored.items():
        if video_id not in video_place or not actions:
            continue
        rows = np.flatnonzero(found.video == video_place[video_id])
        for action in actions:
            shares = np.minimum(found.end_s[rows], action.end_s) > np.maximum(found.start_s[rows], action.start_s)
            concerned = found.label[rows] == place.get(action.label, -1) if action.label in place else True
            overlaps[rows] |= shares & concerned
    return overlaps


def _check(classes: tuple[str, ...], tious: tuple[float, ...]) -> None:
    if len(set(classes)) != len(classes):
        twice = sorted({name for name in classes if classes.count(name) > 1})
        raise PsftrError(f"class names given twice: {', '.join(twice)}; each may appear once")
    rising = all(a < b for a, b in zip((0.0, *tious), (*tious, np.inf)))
    if not tious or not rising or tious[-1] > 1 or len(tious) > 62:
        raise PsftrError(f"tIoU thresholds {list(tious)} must rise within (0, 1], 62 at most; for example 0.3 0.5 0.7")
