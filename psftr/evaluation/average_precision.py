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
import pandas as pd
import torch

from psftr.data.annotations import Action
from psftr.errors import PsftrError
from psftr.predictions import Detection
from psftr.segments import tiou_paired


@dataclass(frozen=True, eq=False)
class Matches:
    """Detections (N, by class, then best score first) matched with ground truth (G) at each tIoU (T).

    Class and video columns are indices into `classes` and `video_ids`; segments are (start, end) in seconds.
    taken: the instance that a detection takes, -1 for none. is_ignored: neither true nor false.
    """

    classes: tuple[str, ...]
    tious: tuple[float, ...]
    video_ids: tuple[str, ...]
    detection_class: np.ndarray  # [N] int
    detection_video: np.ndarray  # [N] int
    detection_segments: np.ndarray  # [N, 2]
    scores: np.ndarray  # [N]
    taken: np.ndarray  # [N, T] int
    is_ignored: np.ndarray  # [N, T]
    truth_class: np.ndarray  # [G] int
    truth_video: np.ndarray  # [G] int
    truth_segments: np.ndarray  # [G, 2]

    @property
    def is_true(self) -> np.ndarray:
        """[N, T]: takes an instance."""
        return self.taken >= 0

    @property
    def is_found(self) -> np.ndarray:
        """[G, T]: is taken."""
        found = np.zeros((len(self.truth_class), len(self.tious)), dtype=bool)
        for t, instances in enumerate(self.taken.T):
            found[instances[instances >= 0], t] = True
        return found

    def precision_recall(self, class_index: int, tiou_index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Precision (not interpolated), recall and score after each counted detection of a class, best first.

        Recall is NaN where the class has no ground truth.
        """
        rows = self.detection_class == class_index
        counted = rows & ~self.is_ignored[:, tiou_index]
        true = (self.taken[counted, tiou_index] >= 0).cumsum()
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

    ignored: instances that count neither as ground truth nor as background. A detection that overlaps one in
    time at all, and takes no ground truth at a threshold, does not count at that threshold (the rule of
    THUMOS14's own evaluation for `Ambiguous`). An ignored instance labelled with one of `classes` concerns
    only that class, one of another label concerns all.

    Raises PsftrError for repeated class names and for thresholds that do not rise within (0, 1].
    """
    classes, tious = tuple(classes), tuple(map(float, tious))
    _check(classes, tious)
    video_ids = tuple(sorted({*ground_truth, *detections}))
    truth, found = (_sorted_rows(rows, classes, video_ids) for rows in (ground_truth, detections))
    truth_segments, segments = truth[["start_s", "end_s"]].to_numpy(), found[["start_s", "end_s"]].to_numpy()

    # every detection with every instance of its class and video; `truth` is sorted by both
    key, truth_key = (rows["label"].to_numpy() * len(video_ids) + rows["video"].to_numpy() for rows in (found, truth))
    first = np.searchsorted(truth_key, key, side="left")
    count = np.searchsorted(truth_key, key, side="right") - first
    row = np.repeat(np.arange(len(key)), count)
    instance = np.repeat(first - count.cumsum() + count, count) + np.arange(len(row))
    tiou = tiou_paired(torch.from_numpy(segments[row]), torch.from_numpy(truth_segments[instance])).numpy()
    num_reached = np.searchsorted(tious, tiou, side="right")  # thresholds not above the tIoU: always a prefix
    order = np.lexsort((instance, -tiou, row))
    order = order[num_reached[order] > 0]
    taken, thresholds = np.full((len(found), len(tious)), -1, dtype=np.int32), np.arange(len(tious))
    true_bits, found_bits = [0] * len(found), [0] * len(truth)
    for d, g, reached in zip(row[order].tolist(), instance[order].tolist(), (1 << num_reached[order]).tolist()):
        new = (reached - 1) & ~true_bits[d] & ~found_bits[g]
        if new:
            true_bits[d] |= new
            found_bits[g] |= new
            taken[d, new >> thresholds & 1 == 1] = g
    return Matches(
        classes=classes,
        tious=tious,
        video_ids=video_ids,
        detection_class=found["label"].to_numpy(),
        detection_video=found["video"].to_numpy(),
        detection_segments=segments,
        scores=found["score"].to_numpy(),
        taken=taken,
        is_ignored=_overlaps_ignored(found, ignored or {}, classes, video_ids)[:, None] & (taken < 0),
        truth_class=truth["label"].to_numpy(),
        truth_video=truth["video"].to_numpy(),
        truth_segments=truth_segments,
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
        is_true = matches.taken[stop - count : stop] >= 0
        true = is_true.cumsum(axis=0)
        counted = (~matches.is_ignored[stop - count : stop]).cumsum(axis=0)
        precision = true / np.maximum(counted, 1)
        interpolated = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        ap[c] = (interpolated * is_true).sum(axis=0) / num_truth[c]  # recall rises by 1/num_truth at each true
    return ApResult(matches.classes, matches.tious, ap, num_truth, num_detections)


def _sorted_rows(
    rows: Mapping[str, Sequence[Action]] | Mapping[str, Sequence[Detection]],
    classes: tuple[str, ...],
    video_ids: tuple[str, ...],
) -> pd.DataFrame:
    """Ground truth or detections of `classes`: label and video as indices, seconds, score (0 for ground truth).

    By label, then best score first, then by video, start and end.
    """
    place = {name: i for i, name in enumerate(classes)}
    kept = [
        (place[r.label], v, r.start_s, r.end_s, getattr(r, "score", 0.0))
        for v, video_id in enumerate(video_ids)
        for r in rows.get(video_id, ())
        if r.label in place
    ]
    kinds = {"label": np.int64, "video": np.int64, "start_s": float, "end_s": float, "score": float}
    columns = np.array(kept, dtype=np.float64).reshape(-1, len(kinds)).T.copy()  # indices stay exact in float64
    label, video, start_s, end_s, score = columns
    order = np.lexsort((end_s, start_s, video, -score, label))
    return pd.DataFrame({name: column[order] for name, column in zip(kinds, columns)}).astype(kinds)


def _overlaps_ignored(
    found: pd.DataFrame, ignored: Mapping[str, Sequence[Action]], classes: tuple[str, ...], video_ids: tuple[str, ...]
) -> np.ndarray:
    """bool [N]: the detection shares some time with an ignored instance that concerns its class."""
    overlaps = np.zeros(len(found), dtype=bool)
    label, video, start_s, end_s = (found[name].to_numpy() for name in ("label", "video", "start_s", "end_s"))
    for video_id in set(ignored) & set(video_ids):
        rows = np.flatnonzero(video == video_ids.index(video_id)) if ignored[video_id] else ()
        for action in ignored[video_id]:
            shares = np.minimum(end_s[rows], action.end_s) > np.maximum(start_s[rows], action.start_s)
            if action.label in classes:
                shares &= label[rows] == classes.index(action.label)
            overlaps[rows] |= shares
    return overlaps


def _check(classes: tuple[str, ...], tious: tuple[float, ...]) -> None:
    if len(set(classes)) != len(classes):
        twice = sorted({name for name in classes if classes.count(name) > 1})
        raise PsftrError(f"class names given twice: {', '.join(twice)}; each may appear once")
    rising = all(a < b for a, b in zip((0.0, *tious), (*tious, np.inf)))
    if not tious or not rising or tious[-1] > 1 or len(tious) > 62:
        raise PsftrError(f"tIoU thresholds {list(tious)} must rise within (0, 1], 62 at most; for example 0.3 0.5 0.7")
