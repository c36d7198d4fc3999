"""Stage-wise confidence: how surely each row shows each stage, from yes/no answers or from CLIP similarities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from psftr.errors import PsftrError
from psftr.language_models import Frames, Session
from psftr.methods.cascade.stages import StagePlan

CENTRES = ("none", "median")
_QUESTION = "Does this frame show that {description}? Answer Yes or No."


def ask_stages(session: Session, frames: Frames, plan: StagePlan) -> NDArray[np.float64]:
    """[T, S]: p(yes) / (p(yes) + p(no)) for each frame and stage, all stages of a frame in one batch."""
    return session.yes_no(frames, [_QUESTION.format(description=d.rstrip(".")) for d in plan.descriptions])


def stage_similarity(frames: NDArray, stages: NDArray, background: NDArray) -> NDArray[np.float64]:
    """[T, D], [S, D], [D] -> [T, S]: cos(v_t, tau_stage) - cos(v_t, tau_background)."""
    return unit(frames) @ (unit(stages) - unit(background[None])).T


def similarity_confidence(
    difference: NDArray, *, slope: float, smooth_rows: float = 0.0, centre: str = "none"
) -> NDArray[np.float64]:
    """sigmoid(slope * difference) [T, S].

    smooth_rows: width of a moving average before it. centre: `median` first takes each stage's median over the video
    away. Two sentences differ in cosine to any frame by more than what happens in it, so the difference has an offset
    of its own for every pair; with actions in less than half of a video its median is that offset.
    """
    if centre not in CENTRES:
        raise PsftrError(f"centre {centre!r} is unknown; choose {' or '.join(CENTRES)}")
    if smooth_rows > 0:
        difference = moving_average(difference, smooth_rows)
    if centre == "median":
        difference = difference - np.median(difference, axis=0)
    return 1 / (1 + np.exp(-np.clip(slope * difference, -500, 500)))


def moving_average(values: NDArray, width: float) -> NDArray[np.float64]:
    """Centred over an odd number of rows near `width` along axis 0; fewer at the ends."""
    half = max(0, round((width - 1) / 2))
    total = np.concatenate((np.zeros((1, values.shape[1])), values.cumsum(axis=0, dtype=np.float64)))
    row = np.arange(len(values))
    first, last = np.maximum(row - half, 0), np.minimum(row + half + 1, len(values))
    return (total[last] - total[first]) / (last - first)[:, None]


def unit(rows: NDArray) -> NDArray:
    """Rows of length one; a row of zeros stays zero."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
