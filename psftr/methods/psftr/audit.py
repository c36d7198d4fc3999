"""Does text guide what is found? Own, seen, zero and random text in each place where text enters, one at a time.

Further rows say what limits the result: queries told their true class, true segments given, ROIAlign alone, the class
head alone, ROIAlign with each name's mean cosine over training frames subtracted (centred).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from psftr.data.annotations import Action
from psftr.data.batches import Batch
from psftr.methods.psftr.localizer import PsftrLocalizer
from psftr.methods.psftr.network import PSFTR, Outputs, Texts
from psftr.methods.psftr.pooling import roi_align_mean
from psftr.methods.psftr.postprocess import PostProcessor
from psftr.predictions import Detection, FrameFeatures
from psftr.segments import centre_width_to_start_end, start_end_to_centre_width, tiou_pairwise

__all__ = ["OWN", "audit", "mean_unit_frame"]

PLACES = ("encoder", "queries", "classifier")
TEXTS = ("seen", "zero", "random")
OWN = "own names everywhere"
LOGIT_SCALE = 100.0  # CLIP's
_SURE = 20.0  # a logit whose probability is one

Change = Callable[[Outputs, Batch], Outputs]


def audit(
    localizer: PsftrLocalizer,
    videos: Sequence[FrameFeatures],
    class_names: Sequence[str],
    *,
    seen_text: Tensor,
    frame_mean: Tensor,
    ground_truth: Mapping[str, Sequence[Action]],
) -> Iterator[tuple[str, dict[str, tuple[Detection, ...]]]]:
    """(row, detections by video) for each row of the table, the shipped one first.

    seen_text [S,Dt]: names of training. frame_mean [D]: the mean unit frame of training. ground_truth: actions of
    `class_names` by video id. Detections of "true class" rows read the ground truth: they are bounds, not results.
    """
    network = cast(PSFTR, localizer.network)
    own = localizer.text.select(class_names)
    generator = torch.Generator().manual_seed(0)
    random_text = torch.randn(own.shape, generator=generator)
    random_text = random_text * own.norm(dim=-1, keepdim=True) / random_text.norm(dim=-1, keepdim=True)
    replacements = {"seen": seen_text, "zero": torch.zeros_like(own), "random": random_text}
    labels = {name: index for index, name in enumerate(class_names)}

    def run(texts: Mapping[str, Tensor], post: PostProcessor, change: Change) -> dict[str, tuple[Detection, ...]]:
        read = Texts(**{place: texts.get(place, own).to(localizer.device) for place in PLACES})

        def outputs_of(batch: Batch) -> Outputs:
            return change(network.read(batch.features, batch.is_padding, read), batch)

        return dict(localizer.localize_with(outputs_of, post, videos, class_names))

    def with_roi(weight: float, **changes: Any) -> PostProcessor:
        post = localizer.postprocessor
        return replace(post, settings=replace(post.settings, roi_weight=weight, **changes))

    shipped, as_is = localizer.postprocessor, _unchanged
    yield OWN, run({}, shipped, as_is)
    for place in PLACES:
        for kind in TEXTS:
            text = replacements[kind]
            if place == "classifier" and kind == "seen":  # as many wrong names as there are right ones
                text = text[torch.arange(len(own)) % len(text)]
            yield f"{kind} text in the {place}", run({place: text}, shipped, as_is)
    yield "zero text in encoder and queries", run(dict.fromkeys(PLACES[:2], replacements["zero"]), shipped, as_is)
    told = _TrueClass(ground_truth, labels)
    yield "true class given to each query", run({}, with_roi(0.0, evidence_weight=0.0), told)
    yield "true segments given", run({}, with_roi(shipped.settings.roi_weight), _TrueSegments(ground_truth))
    yield "class head alone", run({}, with_roi(0.0), as_is)
    yield "ROIAlign alone", run({}, with_roi(1.0), as_is)
    yield "half ROIAlign, half class head", run({}, with_roi(0.5), as_is)
    centred = _CentredRoi(own.to(localizer.device), frame_mean.to(localizer.device), shipped.settings.roi_bins)
    yield "ROIAlign alone, centred", run({}, with_roi(0.0), centred)


@torch.inference_mode()
def mean_unit_frame(videos: Iterable[FrameFeatures]) -> Tensor:
    """[D]: the mean of all frames at unit length."""
    total, count = torch.zeros(()), 0
    for video in videos:
        total = total + F.normalize(torch.from_numpy(video.features).float(), dim=-1).sum(0)
        count += len(video.features)
    return total / max(count, 1)


def _unchanged(outputs: Outputs, batch: Batch) -> Outputs:
    return outputs


def _with_final(outputs: Outputs, **changes: Tensor) -> Outputs:
    return replace(outputs, final=replace(outputs.final, **changes))


class _TrueClass:
    """Each query that overlaps an action gets the class of the one it overlaps most; the others keep their own."""

    def __init__(self, ground_truth: Mapping[str, Sequence[Action]], labels: Mapping[str, int]) -> None:
        self.ground_truth, self.labels = ground_truth, labels

    def __call__(self, outputs: Outputs, batch: Batch) -> Outputs:
        logits = outputs.final.class_logits.clone()
        for b, window in enumerate(batch.windows):
            actions = self.ground_truth.get(window.video_id, ())
            if not actions:
                continue
            truth = torch.tensor([[a.start_s, a.end_s] for a in actions], device=logits.device)
            truth = window.to_normalised(truth).float()
            overlap = tiou_pairwise(centre_width_to_start_end(outputs.final.segments_cw[b]), truth)  # [Q, A]
            best, index = overlap.max(dim=-1)
            labels = torch.tensor([self.labels[a.label] for a in actions], device=logits.device)[index]
            told = F.one_hot(labels, logits.shape[-1]).to(logits.dtype) * _SURE
            logits[b] = torch.where((best > 0)[:, None], told, logits[b])
        return _with_final(outputs, class_logits=logits)


class _TrueSegments:
    """The true segments that reach into the window, each as a sure query; only ROIAlign and the head name them.

    The head's answer for a true segment is that of the query that overlaps it most.
    """

    def __init__(self, ground_truth: Mapping[str, Sequence[Action]]) -> None:
        self.ground_truth = ground_truth

    def __call__(self, outputs: Outputs, batch: Batch) -> Outputs:
        final = outputs.final
        segments_cw = torch.full_like(final.segments_cw, 1e-6)
        actionness = torch.full_like(final.actionness_logits, -_SURE)
        logits = final.class_logits.clone()
        for b, window in enumerate(batch.windows):
            actions = [a for a in self.ground_truth.get(window.video_id, ()) if a.end_s > window.start_s]
            actions = [a for a in actions if a.start_s < window.end_s][: segments_cw.shape[1]]
            if not actions:
                continue
            truth_s = torch.tensor([[a.start_s, a.end_s] for a in actions], device=logits.device)
            truth = window.to_normalised(truth_s).float().clamp(0, 1)
            overlap = tiou_pairwise(truth, centre_width_to_start_end(final.segments_cw[b]))  # [A, Q]
            segments_cw[b, : len(actions)] = start_end_to_centre_width(truth)
            actionness[b, : len(actions)] = _SURE
            logits[b, : len(actions)] = final.class_logits[b, overlap.argmax(dim=-1)]
        return _with_final(outputs, segments_cw=segments_cw, actionness_logits=actionness, class_logits=logits)


class _CentredRoi:
    """Class logits from ROIAligned features, each name's cosine less its cosine with the mean training frame."""

    def __init__(self, text: Tensor, frame_mean: Tensor, bins: int) -> None:
        self.names, self.frame_mean, self.bins = F.normalize(text, dim=-1), frame_mean, bins

    def __call__(self, outputs: Outputs, batch: Batch) -> Outputs:
        num_valid = (~batch.is_padding).sum(1)
        size = batch.features.shape[1]
        segments = centre_width_to_start_end(outputs.final.segments_cw.float()).clamp(min=0)
        segments = torch.minimum(segments, (num_valid / size).view(-1, 1, 1)) * size
        pooled = F.normalize(roi_align_mean(batch.features.float(), segments, num_valid, bins=self.bins), dim=-1)
        return _with_final(outputs, class_logits=LOGIT_SCALE * (pooled - self.frame_mean) @ self.names.T)
