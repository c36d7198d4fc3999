"""Precision against recall, and scores against what they turn out to be worth (calibration)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psftr.evaluation.average_precision import Matches

RECALLS = np.linspace(0, 1, 41)


def precision_at_recalls(
    matches: Matches, class_index: int, tiou_index: int, recalls: NDArray[np.float64] = RECALLS
) -> NDArray[np.float64]:
    """Interpolated precision of a class at each recall: the best at that recall or beyond, 0 where none is reached."""
    precision, recall, _ = matches.precision_recall(class_index, tiou_index)
    if not len(precision) or math.isnan(recall[0]):
        return np.zeros(len(recalls))
    interpolated = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return interpolated[np.searchsorted(recall, recalls - 1e-9)]


@dataclass(frozen=True, eq=False)
class Reliability:
    """Counted detections in bins of equal number, by rising score.

    scores, precision [B]: mean score and share of true positives of a bin; lowest, highest [B]: its range of scores.
    error: mean distance of the two, each detection counting once (the expected calibration error); NaN, and
    `is_probability` False, where a score lies outside [0, 1]. count: detections in all.
    """

    tiou: float
    scores: NDArray[np.float64]
    precision: NDArray[np.float64]
    lowest: NDArray[np.float64]
    highest: NDArray[np.float64]
    count: int
    error: float
    is_probability: bool


def reliability(matches: Matches, tiou_index: int, *, bins: int = 10) -> Reliability:
    """Scores against true positives at one tIoU; at most `bins` bins, none of them empty."""
    counted = ~matches.is_ignored[:, tiou_index]
    order = np.argsort(matches.scores[counted], kind="stable")
    scores, is_true = matches.scores[counted][order], matches.is_true[counted, tiou_index][order]
    parts = [(s, t) for s, t in zip(np.array_split(scores, bins), np.array_split(is_true, bins)) if len(s)]
    mean_scores = np.array([s.mean() for s, _ in parts])
    precision = np.array([t.mean() for _, t in parts])
    sizes = np.array([len(s) for s, _ in parts])
    is_probability = bool(len(scores)) and bool(scores[0] >= 0) and bool(scores[-1] <= 1)
    error = float((np.abs(mean_scores - precision) * sizes).sum() / sizes.sum()) if is_probability else math.nan
    return Reliability(
        tiou=matches.tious[tiou_index],
        scores=mean_scores,
        precision=precision,
        lowest=np.array([s[0] for s, _ in parts]),
        highest=np.array([s[-1] for s, _ in parts]),
        count=len(scores),
        error=error,
        is_probability=is_probability,
    )
