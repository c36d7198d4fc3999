"""Does text guide what is found? Own, seen, zero and random text in each place where text enters, one at a time.

Further rows say what limits the result: queries told their true class, true segments given, ROIAlign alone, the class
head alone, ROIAlign with each name's mean cosine over training frames subtracted (centred).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psftr.data.annotations import Action
from psftr.data.batches import Batch
from psftr.methods.psftr.localizer import PsftrLocalizer
from psftr.methods.psftr.network import PSFTR, LayerOutputs, Texts
from psftr.methods.psftr.pooling import roi_align_mean
from psftr.methods.psftr.postprocess import PostProcessor
from psftr.predictions import Detection, FrameFeatures
from psftr.segments import centre_width_to_start_end, start_end_to_centre_width, tiou_pairwise

__all__ = ["OWN", "audit", "mean_unit_frame", "remembering"]

PLACES = ("encoder", "queries", "classifier")
TEXTS = ("seen", "zero", "random")
OWN, ZERO = "own names everywhere", "zero text in encoder and queries"
LOGIT_SCALE = 100.0  # CLIP's
_SURE = 20.0  # a logit whose probability is one

Change = Callable[[LayerOutputs, Batch], LayerOutputs]


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

    seen_text [S,Dt]: the seen names. frame_mean [D]: the mean unit frame of training. ground_truth: actions of
    `class_names` by video id. Detections of "true class" rows read the ground truth: they are bounds, not results.
    """
    network = cast(PSFTR, localizer.network)
    own = localizer.text.select(class_names)
    generator = torch.Generator().manual_seed(0)
    random_text = torch.randn(own.shape, generator=generator)
    random_text = random_text * own.norm(dim=-1, keepdim=True) / random_text.norm(dim=-1, keepdim=True)
    replacements = {"seen": seen_text, "zero": torch.zeros_like(own), "random": random_text}
    labels = {name: index for index, name in enumerate(class_names)}
    changed: dict[str, Mapping[str, Tensor]] = {OWN: {}}  # row: the texts that are not the names' own
    for place in PLACES:
        for kind in TEXTS:
            text = replacements[kind]
            if place == "classifier" and kind == "seen":  # as many wrong names as there are right ones
                text = text[torch.arange(len(own)) % len(text)]
            changed[f"{kind} text in the {place}"] = {place: text}
    changed[ZERO] = dict.fromkeys(PLACES[:2], replacements["zero"])
    own = own.to(localizer.device)
    texts = {}
    for row, others in changed.items():
        on_device = {place: text.to(localizer.device) for place, text in others.items()}
        texts[row] = Texts(**dict.fromkeys(PLACES, own) | on_device)
    outputs: dict[str, list[LayerOutputs]] = {row: [] for row in texts}  # of every batch

    def read_all(batch: Batch) -> LayerOutputs:
        """Every row's outputs of a batch at once: most rows give most parts of the network what another gave them."""
        with remembering(network.convolution, network.encoder, network.decoder):
            for row in texts:
                outputs[row].append(network.read_final(batch.features, batch.is_padding, texts[row]))
        return outputs[OWN][-1]

    def run(row: str, post: PostProcessor, change: Change) -> dict[str, tuple[Detection, ...]]:
        known = iter(outputs[row])
        return dict(localizer.localize_with(lambda batch: change(next(known), batch), post, videos, class_names))

    def with_roi(weight: float, **changes: Any) -> PostProcessor:
        post = localizer.postprocessor
        return replace(post, settings=replace(post.settings, roi_weight=weight, **changes))

    shipped, as_is = localizer.postprocessor, _unchanged
    yield OWN, dict(localizer.localize_with(read_all, shipped, videos, class_names))
    for row in [row for row in texts if row != OWN]:
        yield row, run(row, shipped, as_is)
    told = _TrueClass(ground_truth, labels)
    yield "true class given to each query", run(OWN, with_roi(0.0, evidence_weight=0.0), told)
    yield "true segments given", run(OWN, with_roi(shipped.settings.roi_weight), _TrueSegments(ground_truth))
    yield "class head alone", run(OWN, with_roi(0.0), as_is)
    yield "ROIAlign alone", run(OWN, with_roi(1.0), as_is)
    yield "half ROIAlign, half class head", run(OWN, with_roi(0.5), as_is)
    centred = _CentredRoi(own, frame_mean.to(localizer.device), shipped.settings.roi_bins)
    yield "ROIAlign alone, centred", run(OWN, with_roi(0.0), centred)


@contextmanager
def remembering(*modules: nn.Module) -> Iterator[None]:
    """Inside, each module called again with equal arguments gives what it gave before, without computing it."""
    for module in modules:
        module.forward = _Memory(module.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in modules:
            del module.forward


class _Memory:
    def __init__(self, compute: Callable[..., Any]) -> None:
        self.compute = compute
        self.calls: list[tuple[tuple[Any, ...], Any]] = []  # arguments, result

    def __call__(self, *arguments: Any) -> Any:
        for known, result in self.calls:
            if _equal(known, arguments):
                return result
        result = self.compute(*arguments)
        self.calls.append((arguments, result))
        return result


def _equal(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, tuple | list):
        return type(one) is type(other) and len(one) == len(other) and all(map(_equal, one, other))
    if is_dataclass(one):
        return type(one) is type(other) and all(
            _equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(one)
        )
    return bool(one == other)


@torch.inference_mode()
def mean_unit_frame(videos: Iterable[FrameFeatures]) -> Tensor:
    """[D]: the mean of all frames at unit length."""
    total, count = torch.zeros(()), 0
    for video in videos:
        total = total + F.normalize(torch.from_numpy(video.features).float(), dim=-1).sum(0)
        count += len(video.features)
    return total / max(count, 1)


def _unchanged(outputs: LayerOutputs, batch: Batch) -> LayerOutputs:
    return outputs


class _TrueClass:
    """Each query that overlaps an action gets the class of the one it overlaps most; the others keep their own."""

    def __init__(self, ground_truth: Mapping[str, Sequence[Action]], labels: Mapping[str, int]) -> None:
        self.ground_truth, self.labels = ground_truth, labels

    def __call__(self, outputs: LayerOutputs, batch: Batch) -> LayerOutputs:
        logits = outputs.class_logits.clone()
        for b, window in enumerate(batch.windows):
            actions = self.ground_truth.get(window.video_id, ())
            if not actions:
                continue
            truth = torch.tensor([[a.start_s, a.end_s] for a in actions], device=logits.device)
            truth = window.to_normalised(truth).float()
            overlap = tiou_pairwise(centre_width_to_start_end(outputs.segments_cw[b]), truth)  # [Q, A]
            best, index = overlap.max(dim=-1)
            labels = torch.tensor([self.labels[a.label] for a in actions], device=logits.device)[index]
            told = F.one_hot(labels, logits.shape[-1]).to(logits.dtype) * _SURE
            logits[b] = torch.where((best > 0)[:, None], told, logits[b])
        return replace(outputs, class_logits=logits, seen_logits=None)


class _TrueSegments:
    """The true segments that reach into the window, each as a sure query; only ROIAlign and the head name them.

    The head's answer for a true segment is that of the query that overlaps it most.
    """

    def __init__(self, ground_truth: Mapping[str, Sequence[Action]]) -> None:
        self.ground_truth = ground_truth

    def __call__(self, outputs: LayerOutputs, batch: Batch) -> LayerOutputs:
        segments_cw = torch.full_like(outputs.segments_cw, 1e-6)
        actionness = torch.full_like(outputs.actionness_logits, -_SURE)
        named_by = torch.arange(segments_cw.shape[1], device=segments_cw.device).repeat(len(segments_cw), 1)  # a query
        for b, window in enumerate(batch.windows):
            actions = [a for a in self.ground_truth.get(window.video_id, ()) if a.end_s > window.start_s]
            actions = [a for a in actions if a.start_s < window.end_s][: segments_cw.shape[1]]
            if not actions:
                continue
            truth_s = torch.tensor([[a.start_s, a.end_s] for a in actions], device=segments_cw.device)
            truth = window.to_normalised(truth_s).float().clamp(0, 1)
            overlap = tiou_pairwise(truth, centre_width_to_start_end(outputs.segments_cw[b]))  # [A, Q]
            segments_cw[b, : len(actions)] = start_end_to_centre_width(truth)
            actionness[b, : len(actions)] = _SURE
            named_by[b, : len(actions)] = overlap.argmax(dim=-1)

        def named(logits: Tensor) -> Tensor:
            return logits.gather(1, named_by.unsqueeze(-1).expand(-1, -1, logits.shape[-1]))

        return LayerOutputs(
            class_logits=named(outputs.class_logits),
            segments_cw=segments_cw,
            actionness_logits=actionness,
            seen_logits=None if outputs.seen_logits is None else named(outputs.seen_logits),
        )


class _CentredRoi:
    """Class logits from ROIAligned features, each name's cosine less its cosine with the mean training frame."""

    def __init__(self, text: Tensor, frame_mean: Tensor, bins: int) -> None:
        self.names, self.frame_mean, self.bins = F.normalize(text, dim=-1), frame_mean, bins

    def __call__(self, outputs: LayerOutputs, batch: Batch) -> LayerOutputs:
        num_valid = (~batch.is_padding).sum(1)
        size = batch.features.shape[1]
        segments = centre_width_to_start_end(outputs.segments_cw.float()).clamp(min=0)
        segments = torch.minimum(segments, (num_valid / size).view(-1, 1, 1)) * size
        pooled = F.normalize(roi_align_mean(batch.features.float(), segments, num_valid, bins=self.bins), dim=-1)
        logits = LOGIT_SCALE * (pooled - self.frame_mean) @ self.names.T
        return replace(outputs, class_logits=logits, seen_logits=None)
