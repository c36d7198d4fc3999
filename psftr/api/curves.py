"""One number per feature row and label, for pictures: what is said about a label before any segment is cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from psftr.features.store import VideoFeatures

LOGIT_SCALE = 100.0  # CLIP's
SMOOTH_S = 1.0


@dataclass(frozen=True, eq=False)
class ScoreCurves:
    """values [T] by label at `seconds` [T], the centres of the feature rows; `title` says what they are."""

    seconds: NDArray[np.float64]
    values: Mapping[str, NDArray[np.float64]]
    title: str


def score_curves(
    features: VideoFeatures,
    labels: Sequence[str],
    text: NDArray[np.float32],
    *,
    saliency: NDArray[np.float64] | None = None,
) -> ScoreCurves:
    """Probability of each label among `labels` by CLIP similarity of rows with text [K, D], times saliency if given.

    One label has no alternatives: its similarity is scaled to [0, 1] over the video instead.
    """
    timeline = features.timeline
    seconds = np.asarray(timeline.seconds(np.arange(len(features.features)) + 0.5))
    weight = np.ones(len(seconds)) if saliency is None else saliency
    times = "" if saliency is None else " × saliency"
    similarity = _unit(features.features) @ _unit(text).T  # [T, K]
    similarity = _smoothed(similarity, max(1, round(SMOOTH_S / timeline.step_s)))
    if len(labels) == 1:
        low, high = similarity.min(), similarity.max()
        values = (similarity - low) / max(high - low, 1e-9)
        title = f"text similarity, scaled over the video{times}"
    else:
        raised = np.exp(LOGIT_SCALE * (similarity - similarity.max(axis=1, keepdims=True)))
        values = raised / raised.sum(axis=1, keepdims=True)
        title = f"label probability by text similarity{times}"
    return ScoreCurves(seconds, {label: values[:, k] * weight for k, label in enumerate(labels)}, title)


@runtime_checkable
class HasSaliency(Protocol):
    """A localizer that says how much each feature row looks like part of some action: [T] in [0, 1]."""

    def saliency(self, features: VideoFeatures, labels: Sequence[str]) -> NDArray[np.float64]: ...


def _unit(rows: NDArray[np.floating]) -> NDArray[np.floating]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _smoothed(values: NDArray[np.floating], width: int) -> NDArray[np.float64]:
    """Centred moving average along axis 0, shorter at the ends."""
    kernel = np.ones(width)
    share = np.convolve(np.ones(len(values)), kernel, mode="same")[: len(values)]
    columns = [np.convolve(column, kernel, mode="same")[: len(values)] / share for column in values.T]
    return np.stack(columns, axis=1)
