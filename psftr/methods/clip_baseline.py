"""The training-free CLIP baseline: similarity, threshold, grouping. The number a trained method has to beat.

It follows what zero-shot papers use as their CLIP baseline (frame-text similarity, smoothed, thresholded
relative to the video, consecutive frames grouped), with three customary refinements that help it: several
thresholds instead of one, scores by inside-outside contrast (as in weakly supervised localization), and
soft-NMS. Its constants are round numbers chosen beforehand; none was fitted to anybody's unseen classes,
nor to ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from psftr.errors import PsftrError
from psftr.features.text import TextEmbeddings
from psftr.methods import LocalizerSetup, Method
from psftr.predictions import Detection, FrameFeatures
from psftr.segments import soft_nms
from psftr.settings import Checked, group, setting


@dataclass(frozen=True, kw_only=True)
class BaselineSettings(Checked):
    """The constants of the baseline."""

    logit_scale: float = setting(100.0, "CLIP's inverse temperature: of the softmax over the names", above=0)
    smooth_s: float = setting(1.5, "width of the moving average over similarities", unit="s", least=0)
    gap_s: float = setting(0.5, "groups of frames closer than this are one", unit="s", least=0)
    levels: tuple[float, ...] = setting(
        (0.3, 0.4, 0.5, 0.6, 0.7, 0.8), "thresholds on similarity, scaled to [0, 1] over the video", above=0, most=1
    )
    min_presence: float = setting(
        0.1, "a class whose best eighth of frames has a lower mean probability counts as absent", least=0, most=1
    )
    soft_nms_sigma: float | None = setting(0.3, "soft-NMS; null keeps every proposal at its score", above=0)
    max_per_video: int = setting(200, "detections kept in a video", least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.levels:
            raise PsftrError("levels is empty: give at least one threshold, for example [0.3, 0.5, 0.7]")


@dataclass(frozen=True, kw_only=True)
class ClipBaselineSettings(Checked):
    """The group that the baseline adds to the shared settings."""

    clip_baseline: BaselineSettings = group(BaselineSettings)


class ClipBaseline:
    """Localizes any class names that `text` has embeddings of, without training."""

    def __init__(self, *, text: TextEmbeddings, settings: BaselineSettings) -> None:
        self.text = text
        self.settings = settings

    def localize(
        self, videos: Iterable[FrameFeatures], class_names: Sequence[str]
    ) -> Iterator[tuple[str, tuple[Detection, ...]]]:
        """(video id, detections in seconds, best first) of each video, in order.

        Raises PsftrError for names without an embedding.
        """
        for features in videos:
            yield features.video_id, tuple(self._localize(features, class_names))

    def _localize(self, features: FrameFeatures, class_names: Sequence[str]) -> list[Detection]:
        own = self.settings
        embeddings = self.text.select(class_names).numpy()
        if features.features.shape[1] != embeddings.shape[1]:
            raise PsftrError(
                f"{features.video_id}: features have {features.features.shape[1]} dimensions, class texts of "
                f"{self.text.encoder} have {embeddings.shape[1]}; use the encoder that made the features"
            )
        step_s = features.timeline.seconds(1.0)
        logits = _smooth(
            own.logit_scale * _unit(features.features) @ _unit(embeddings).T, own.smooth_s / step_s
        )  # [T, K]
        probability = _softmax(logits)  # over the names given
        presence = _mean_of_best(probability, share=8)
        segments, scores, labels = [], [], []
        for k in np.flatnonzero(presence >= min(own.min_presence, presence.max())):
            signal = _scale_to_unit(logits[:, k])
            groups = {g for level in own.levels for g in _groups(signal >= level, own.gap_s / step_s)}
            for first, last in sorted(groups):
                contrast = signal[first:last].mean() - _outside_mean(signal, first, last)
                segments.append((float(features.timeline.seconds(first)), float(features.timeline.seconds(last))))
                scores.append(probability[first:last, k].mean() * max(contrast, 0.0))
                labels.append(int(k))
        return self._suppress(features, class_names, segments, scores, labels)

    def _suppress(
        self,
        features: FrameFeatures,
        class_names: Sequence[str],
        segments: list[tuple[float, float]],
        scores: list[float],
        labels: list[int],
    ) -> list[Detection]:
        bounds = np.array(segments, dtype=np.float64).reshape(-1, 2).clip(0.0, features.duration_s)
        final = np.array(scores, dtype=np.float64)
        kept = np.argsort(-final, kind="stable")[: self.settings.max_per_video]
        if self.settings.soft_nms_sigma is not None:
            index, decayed = soft_nms(
                torch.from_numpy(bounds),
                torch.from_numpy(final),
                sigma=self.settings.soft_nms_sigma,
                max_kept=self.settings.max_per_video,
                groups=torch.tensor(labels, dtype=torch.long),
            )
            kept, final[index.numpy()] = index.numpy(), decayed.numpy()
        return [
            Detection(
                features.video_id,
                class_names[labels[i]],
                float(bounds[i, 0]),
                float(bounds[i, 1]),
                float(final[i]),
            )
            for i in kept
            if bounds[i, 1] > bounds[i, 0]
        ]


def _unit(rows: NDArray) -> NDArray:
    """Rows of length one; a row of zeros stays zero."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _softmax(logits: NDArray) -> NDArray:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def _smooth(values: NDArray, width: float) -> NDArray:
    """Centred moving average along axis 0 over an odd number of rows near `width`, at least 3; shorter at
    the ends."""
    half = max(1, round((width - 1) / 2))
    total = np.concatenate((np.zeros((1, values.shape[1])), values.cumsum(axis=0, dtype=np.float64)))
    row = np.arange(len(values))
    first, last = np.maximum(row - half, 0), np.minimum(row + half + 1, len(values))
    return (total[last] - total[first]) / (last - first)[:, None]


def _mean_of_best(values: NDArray, *, share: int) -> NDArray:
    """[T, K] -> [K]: mean over each column's best 1/share of rows, at least one row."""
    count = max(1, len(values) // share)
    return np.partition(values, len(values) - count, axis=0)[-count:].mean(axis=0)


def _scale_to_unit(values: NDArray) -> NDArray:
    """To [0, 1] over the video; a video whose frames are all alike is 1 throughout."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high - low > 1e-6 else np.ones_like(values)


def _groups(above: NDArray, gap: float) -> list[tuple[int, int]]:
    """Runs of True as [first, last), runs with at most `gap` rows between them joined."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], above, [False]))))
    groups: list[tuple[int, int]] = []
    for first, last in zip(edges[::2].tolist(), edges[1::2].tolist()):
        if groups and first - groups[-1][1] <= gap:
            groups[-1] = (groups[-1][0], last)
        else:
            groups.append((first, last))
    return groups


def _outside_mean(signal: NDArray, first: int, last: int) -> float:
    """Mean just outside [first, last): a quarter of its length on each side, at least one row; 0 if there
    is none."""
    margin = max(1, round((last - first) / 4))
    outside = np.concatenate((signal[max(0, first - margin) : first], signal[last : last + margin]))
    return float(outside.mean()) if len(outside) else 0.0


def _localizer(setup: LocalizerSetup) -> ClipBaseline:
    assert setup.text is not None  # this method reads text
    return ClipBaseline(text=setup.text, settings=setup.own.clip_baseline)


METHOD = Method(
    name="clip_baseline",
    settings=ClipBaselineSettings,
    localizer=_localizer,
)
