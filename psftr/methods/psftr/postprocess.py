"""From a network's outputs to detections in seconds (section 3.7.1): ROIAlign, scores, and merging windows.

Legend: B windows, T rows of a window, Q queries, K class names, D feature size, N detections of a window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from psftr.errors import PsftrError
from psftr.methods.psftr.pooling import roi_align_mean
from psftr.predictions import Detection
from psftr.segments import centre_width_to_start_end, nms, soft_nms

if TYPE_CHECKING:
    from psftr.data.batches import Batch
    from psftr.data.windows import Window
    from psftr.methods.psftr.network import LayerOutputs
    from psftr.methods.psftr.settings import PostprocessSettings


@dataclass(frozen=True, kw_only=True)
class WindowDetections:
    """What one window says, before windows are merged: on the CPU, best score first.

    segments_s [N, 2] (start, end) in seconds of the video; labels long [N] into `class_names`; scores [N].
    """

    window: Window
    segments_s: Tensor
    labels: Tensor
    scores: Tensor
    class_names: tuple[str, ...]

    def to(self, device: torch.device | str) -> WindowDetections:
        """Itself on another device: what Trainer.predict asks of whatever predict_step returns."""
        moved = [part.to(device) for part in (self.segments_s, self.labels, self.scores)]
        return WindowDetections(
            window=self.window, segments_s=moved[0], labels=moved[1], scores=moved[2], class_names=self.class_names
        )


PEER_THRESHOLD = 0.4  # tIoU, GAP's

MergeRule = Callable[[Sequence[WindowDetections]], tuple[Detection, ...]]
"""All windows of one video -> its detections, best first, inside [0, duration]."""


def text_similarity(visual: Tensor, text: Tensor) -> Tensor:
    """Cosine of visual [..., D] and text [K, D] -> [..., K]."""
    return F.normalize(visual, dim=-1) @ F.normalize(text, dim=-1).T


@dataclass(frozen=True, kw_only=True)
class PostProcessor:
    """Outputs of a batch of windows -> detections of videos. merge_rule makes those of a video of its windows'."""

    settings: PostprocessSettings
    merge_rule: MergeRule

    @torch.no_grad()
    def detect(
        self, outputs: LayerOutputs, batch: Batch, text: Tensor, class_names: Sequence[str]
    ) -> list[WindowDetections]:
        """The best `top_per_window` (query, class) pairs of every window; text [K, D] in `class_names` order.

        Segments are clipped to the window's valid rows; a query left without length is dropped. float32
        whatever autocast says. Raises PsftrError when the outputs are not finite.
        """
        if len(class_names) != len(text):
            raise ValueError(f"{len(class_names)} class names for {len(text)} text embeddings")
        parts = (outputs.segments_cw, outputs.class_logits, outputs.actionness_logits)
        if not all(torch.isfinite(part).all() for part in parts):
            raise PsftrError(
                "the network's outputs are not finite: the training has diverged or the checkpoint is damaged; "
                "train again with a lower optimizer.lr, or give another checkpoint"
            )
        size = batch.features.shape[1]
        with torch.autocast(batch.features.device.type, enabled=False):
            num_valid = (~batch.is_padding).sum(1)  # [B]
            edge = (num_valid / size).view(-1, 1, 1)
            segments_se = centre_width_to_start_end(outputs.segments_cw.float())
            segments_se = torch.minimum(segments_se.clamp(min=0), edge)  # [B, Q, 2], normalised
            class_probability = self._class_probability(outputs, batch, segments_se, num_valid, text)
            scores = class_probability * self._actionness_of_names(outputs)  # [B, Q, K]
            is_empty = segments_se[..., 1] <= segments_se[..., 0]
            scores = scores.masked_fill(is_empty.unsqueeze(-1), -1.0).flatten(1)
            best, index = scores.topk(min(self.settings.top_per_window, scores.shape[1]), dim=1)
            query, labels = index // len(class_names), index % len(class_names)
            chosen = segments_se.gather(1, query.unsqueeze(-1).expand(-1, -1, 2)).cpu()
            best, labels = best.cpu(), labels.cpu()
        names = tuple(class_names)
        found = []
        for window, segments, label, score in zip(batch.windows, chosen, labels, best):
            kept = score >= 0
            found.append(
                WindowDetections(
                    window=window,
                    segments_s=window.to_seconds(segments[kept]),
                    labels=label[kept],
                    scores=score[kept],
                    class_names=names,
                )
            )
        return found

    def _class_probability(
        self, outputs: LayerOutputs, batch: Batch, segments_se: Tensor, num_valid: Tensor, text: Tensor
    ) -> Tensor:
        """[B, Q, K]: softmax of ROIAligned raw features against text, mixed with the class head's."""
        head = self._head_probability(outputs)
        if self.settings.roi_weight == 0:
            return head
        features = batch.features.float()
        if features.shape[-1] != text.shape[-1]:
            raise PsftrError(
                f"features have {features.shape[-1]} dimensions and text {text.shape[-1]}, so ROIAligned features "
                "cannot be compared with text: use text of the features' encoder, or roi_weight=0"
            )
        rows = segments_se * features.shape[1]
        pooled = roi_align_mean(features, rows, num_valid, bins=self.settings.roi_bins)
        roi = (self.settings.logit_scale * text_similarity(pooled, text.float())).softmax(-1)
        return self.settings.roi_weight * roi + (1 - self.settings.roi_weight) * head

    def _head_probability(self, outputs: LayerOutputs) -> Tensor:
        """[B, Q, K]: the class head's softmax over the names asked for and, with less weight, the seen names.

        Less, because a head trained on them prefers them: calibrated stacking (Chao et al., 2016).
        """
        temperature, weight = self.settings.class_temperature, self.settings.seen_weight
        logits = outputs.class_logits.float() / temperature
        num_names = logits.shape[-1]
        if outputs.seen_logits is not None and weight > 0:
            seen = outputs.seen_logits.float() / temperature + math.log(weight)
            logits = torch.cat((logits, seen), dim=-1)
        return logits.softmax(-1)[..., :num_names]

    def _actionness_of_names(self, outputs: LayerOutputs) -> Tensor:
        """[B, Q, K]: sigmoid of the actionness logit and the share of the name's own logit.

        The softmax over names loses how well a name fits at all: with wrong names only, one of them is still likely.
        """
        settings = self.settings
        weight = settings.evidence_weight * (1 - settings.roi_weight)  # ROIAlign's cosines are not centred
        return (outputs.actionness_logits.float().unsqueeze(-1) + weight * outputs.class_logits.float()).sigmoid()

    def merge(self, windows: Sequence[WindowDetections]) -> tuple[Detection, ...]:
        """All windows of one video -> its detections in seconds, best first, inside [0, duration]."""
        return self.merge_rule(windows)

    def merge_videos(self, windows: Iterable[WindowDetections]) -> dict[str, tuple[Detection, ...]]:
        """Windows of any number of videos, in any order -> detections by video id.

        A window given twice (a distributed sampler pads with repeats) counts once.
        """
        by_video: dict[str, dict[tuple[float, float], WindowDetections]] = {}
        for found in windows:
            place = (found.window.offset, found.window.span)
            by_video.setdefault(found.window.video_id, {}).setdefault(place, found)
        return {video_id: self.merge(list(places.values())) for video_id, places in by_video.items()}


def soft_nms_merge(windows: Sequence[WindowDetections], *, sigma: float, max_kept: int) -> tuple[Detection, ...]:
    """Class-wise Gaussian soft-NMS over all windows of a video."""
    segments_s, labels, scores = _pool(windows)
    kept, decayed = soft_nms(segments_s, scores, sigma=sigma, max_kept=max_kept, groups=labels)
    return _detections(windows, segments_s[kept], labels[kept], decayed)


def hard_nms_merge(windows: Sequence[WindowDetections], *, threshold: float, max_kept: int) -> tuple[Detection, ...]:
    """Class-wise NMS over all windows of a video: a tIoU above `threshold` with a better one removes."""
    segments_s, labels, scores = _pool(windows)
    kept = nms(segments_s, scores, threshold=threshold, groups=labels)[:max_kept]
    return _detections(windows, segments_s[kept], labels[kept], scores[kept])


def peer_merge(windows: Sequence[WindowDetections]) -> tuple[Detection, ...]:
    """GAP's rule, for protocol=peer only: class-wise NMS among the detections that touch a window overlap.

    Each overlap of neighbouring windows is treated by itself, so a detection that touches two overlaps can come
    out twice, and one that touches none always stays. Nothing limits their number.
    """
    segments_s, labels, scores = _pool(windows)
    extents = sorted((found.window.start_s, found.window.end_s) for found in windows)
    is_left = torch.ones(len(scores), dtype=torch.bool)
    kept = []
    for (_, this_end_s), (next_start_s, _) in pairwise(extents):
        overlap_s = segments_s[:, 1].clamp(max=this_end_s) - segments_s[:, 0].clamp(min=next_start_s)
        touching = (overlap_s > 0).nonzero()[:, 0]
        is_left[touching] = False
        best = nms(segments_s[touching], scores[touching], threshold=PEER_THRESHOLD, groups=labels[touching])
        kept.append(touching[best])
    kept.append(is_left.nonzero()[:, 0])
    index = torch.cat(kept)
    index = index[scores[index].argsort(descending=True, stable=True)]
    return _detections(windows, segments_s[index], labels[index], scores[index])


def _pool(windows: Sequence[WindowDetections]) -> tuple[Tensor, Tensor, Tensor]:
    """(segments_s [N, 2], labels [N], scores [N]) of all windows, clipped to the video, empty ones dropped."""
    duration_s = windows[0].window.timeline.duration_s
    segments_s = torch.cat([found.segments_s for found in windows]).clamp(min=0.0, max=duration_s)
    labels = torch.cat([found.labels for found in windows])
    scores = torch.cat([found.scores for found in windows])
    has_length = segments_s[:, 1] > segments_s[:, 0]
    return segments_s[has_length], labels[has_length], scores[has_length]


def _detections(
    windows: Sequence[WindowDetections], segments_s: Tensor, labels: Tensor, scores: Tensor
) -> tuple[Detection, ...]:
    video_id, names = windows[0].window.video_id, windows[0].class_names
    duration_s = windows[0].window.timeline.duration_s
    rows = zip(segments_s.tolist(), labels.tolist(), scores.tolist())
    # min(): the nearest float32 of a duration may lie above it.
    return tuple(
        Detection(video_id, names[label], start_s, min(end_s, duration_s), score)
        for (start_s, end_s), label, score in rows
    )
