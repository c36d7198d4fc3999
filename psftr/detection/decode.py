"""From points to detections in seconds: candidates of a window, soft-NMS inside a class, boundary voting."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from psftr.data.batches import Batch
from psftr.data.windows import Window
from psftr.detection.network import PointOutputs
from psftr.detection.points import Level, positions
from psftr.detection.settings import DetectionsSettings
from psftr.errors import PsftrError
from psftr.predictions import Detection
from psftr.segments import soft_nms, tiou_pairwise


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """What one window says: segments_s [N,2] seconds of the video, labels long [N], scores [N], on the CPU.

    advantages [N]: mean language advantage of the rows of each segment; NaN where it is not predicted.
    """

    window: Window
    segments_s: Tensor
    labels: Tensor
    scores: Tensor
    advantages: Tensor


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Outputs of windows -> detections of videos. class_names: in the order of the network's classes."""

    levels: tuple[Level, ...]
    class_names: tuple[str, ...]
    settings: DetectionsSettings

    @torch.no_grad()
    def candidates(self, outputs: PointOutputs, batch: Batch, wanted: Sequence[int]) -> list[Candidates]:
        """The best candidates of every window, of the classes `wanted` (indices) only.

        Segments are clipped to the valid rows. Raises PsftrError when the outputs are not finite.
        """
        if not all(torch.isfinite(part).all() for part in (outputs.class_logits, outputs.distances)):
            raise PsftrError(
                "the network's outputs are not finite: the training has diverged or the checkpoint is damaged; "
                "train again with a lower learning.lr, or give another checkpoint"
            )
        size, device = batch.features.shape[1], outputs.distances.device
        at = positions(self.levels, size, device)
        scores = outputs.class_logits[..., list(wanted)].sigmoid()
        scores = scores.masked_fill(outputs.is_padding[..., None], -1.0)  # [B,P,K]
        start, end = at - outputs.distances[..., 0], at + outputs.distances[..., 1]
        found = []
        for number, window in enumerate(batch.windows):
            bounds = torch.stack((start[number], end[number]), dim=-1).clamp(min=0, max=window.num_valid)
            best, index = scores[number].flatten().topk(min(self.settings.top_candidates, scores[number].numel()))
            point, which = index // len(wanted), index % len(wanted)
            rows = bounds[point]
            kept = (best >= self.settings.least_score) & (rows[:, 1] > rows[:, 0])
            labels = torch.tensor(list(wanted), device=device)[which[kept]]
            found.append(
                Candidates(
                    window=window,
                    segments_s=window.to_seconds((rows[kept] / size).double().cpu()),
                    labels=labels.cpu(),
                    scores=best[kept].float().cpu(),
                    advantages=_mean_inside(outputs.advantage, number, rows[kept]).cpu(),
                )
            )
        return found

    def merge(self, windows: Sequence[Candidates]) -> tuple[Detection, ...]:
        """All windows of one video -> its detections, best first, inside [0, duration]."""
        video_id, duration_s = windows[0].window.video_id, windows[0].window.timeline.duration_s
        segments_s = torch.cat([one.segments_s for one in windows]).clamp(min=0.0, max=duration_s)
        labels = torch.cat([one.labels for one in windows])
        scores = torch.cat([one.scores for one in windows])
        advantages = torch.cat([one.advantages for one in windows])
        has_length = segments_s[:, 1] > segments_s[:, 0]
        segments_s, labels, scores = segments_s[has_length], labels[has_length], scores[has_length]
        advantages = advantages[has_length]
        kept, decayed = soft_nms(
            segments_s, scores, sigma=self.settings.sigma, max_kept=self.settings.most_per_video, groups=labels
        )
        bounds = segments_s[kept]
        if self.settings.voting is not None and len(kept):
            bounds = vote(bounds, labels[kept], segments_s, labels, scores, threshold=self.settings.voting)
        rows = zip(bounds.tolist(), labels[kept].tolist(), decayed.tolist(), advantages[kept].tolist())
        return tuple(
            Detection(
                video_id, self.class_names[label], start_s, min(end_s, duration_s), score,
                None if math.isnan(advantage) else advantage,
            )
            for (start_s, end_s), label, score, advantage in rows
        )  # fmt: skip

    def merge_videos(self, windows: Iterable[Candidates]) -> dict[str, tuple[Detection, ...]]:
        """Windows of any number of videos, in any order -> detections by video id; a window given twice counts once."""
        by_video: dict[str, dict[tuple[float, float], Candidates]] = {}
        for one in windows:
            by_video.setdefault(one.window.video_id, {}).setdefault((one.window.offset, one.window.span), one)
        return {video_id: self.merge(list(places.values())) for video_id, places in by_video.items()}


def _mean_inside(values: Tensor | None, number: int, rows: Tensor) -> Tensor:
    """Mean of values [B,T] of window `number` over the rows that each segment [N,2] touches; NaN without values."""
    if values is None:
        return rows.new_full((len(rows),), math.nan)
    total = F.pad(values[number].double().cumsum(0), (1, 0))
    first, last = rows[:, 0].floor().long(), rows[:, 1].ceil().long().clamp(max=values.shape[1])
    return ((total[last] - total[first]) / (last - first)).float()


def vote(
    kept: Tensor, kept_labels: Tensor, segments: Tensor, labels: Tensor, scores: Tensor, *, threshold: float
) -> Tensor:
    """Each kept segment [M,2] -> mean of the candidates [N,2] of its class with tIoU >= threshold, by score * tIoU."""
    overlap = tiou_pairwise(kept, segments)  # [M,N]
    weights = torch.where((overlap >= threshold) & (kept_labels[:, None] == labels), overlap * scores, 0.0)
    total = weights.sum(-1, keepdim=True)
    return torch.where(total > 0, weights @ segments / total.clamp(min=1e-12), kept)
