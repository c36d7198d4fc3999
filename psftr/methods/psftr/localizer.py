"""A trained network and class texts -> the detections of whole videos, over any vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from psftr.data.batches import Batch, inference_batches
from psftr.data.windows import WindowPolicy
from psftr.errors import PsftrError
from psftr.features.text import TextEmbeddings
from psftr.methods.psftr.network import PSFTR, LayerOutputs
from psftr.methods.psftr.postprocess import PostProcessor, WindowDetections
from psftr.predictions import Detection, FrameFeatures


class PsftrLocalizer:
    """`Localizer` of a trained network. `text` must know every class name it is asked for.

    The network is moved to `device` and put into eval mode; windows of several videos share a batch.
    precision: "32-true", or "bf16-mixed": the network runs under autocast, and post-processing in float32 all the same.
    """

    def __init__(
        self,
        *,
        network: PSFTR,
        text: TextEmbeddings,
        postprocessor: PostProcessor,
        policy: WindowPolicy,
        batch_size: int,
        device: torch.device | str,
        precision: str,
    ) -> None:
        self.device = torch.device(device)
        self.network = network.to(self.device).eval()
        self.text = text
        self.postprocessor = postprocessor
        self.policy = policy
        self.batch_size = batch_size
        self.precision = precision

    def localize(
        self, videos: Iterable[FrameFeatures], class_names: Sequence[str]
    ) -> Iterator[tuple[str, tuple[Detection, ...]]]:
        """(video id, detections best first) of each video, in order, as soon as its last window is done.

        Raises PsftrError for unknown names and unusable features.
        """
        if not class_names:
            raise PsftrError("no class names to look for; give at least one")
        text = self.text.select(class_names).to(self.device)
        yield from self.localize_with(
            lambda batch: self.network.forward_final(batch.features, batch.is_padding, text),
            self.postprocessor,
            videos,
            class_names,
        )

    def localize_with(
        self,
        outputs_of: Callable[[Batch], LayerOutputs],
        postprocessor: PostProcessor,
        videos: Iterable[FrameFeatures],
        class_names: Sequence[str],
    ) -> Iterator[tuple[str, tuple[Detection, ...]]]:
        """`localize` with outputs and post-processing of the caller's: what the audit changes."""
        text = self.text.select(class_names).to(self.device)
        waiting: list[WindowDetections] = []
        for batch, ends in self._batches(videos):
            with torch.inference_mode():
                with self._autocast():
                    outputs = outputs_of(batch)
                found = postprocessor.detect(outputs, batch, text, class_names)
            for window, one, is_last in zip(batch.windows, found, ends):
                waiting.append(one)
                if is_last:
                    yield window.video_id, postprocessor.merge(waiting)
                    waiting = []

    @torch.inference_mode()
    def saliency(self, features: FrameFeatures, labels: Sequence[str]) -> NDArray[np.float64]:
        """[T] in [0, 1]: how much each row looks like part of some action; windows are averaged where they overlap."""
        text = self.text.select(labels).to(self.device)
        centres = np.arange(len(features.features)) + 0.5
        total, count = np.zeros(len(centres)), np.zeros(len(centres))
        for batch, _ in self._batches([features]):
            with self._autocast():
                outputs = self.network(batch.features, batch.is_padding, text)
            for window, logits in zip(batch.windows, outputs.saliency_logits.float()):
                values = logits[: window.num_valid].sigmoid().cpu().numpy()
                at = window.offset + (np.arange(window.num_valid) + 0.5) * (window.span / window.num_valid)
                inside = (centres >= window.offset) & (centres <= window.offset + window.span)
                total[inside] += np.interp(centres[inside], at, values)
                count[inside] += 1
        return total / np.maximum(count, 1)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed")

    def _batches(self, videos: Iterable[FrameFeatures]) -> Iterator[tuple[Batch, tuple[bool, ...]]]:
        for batch, ends in inference_batches(videos, policy=self.policy, batch_size=self.batch_size):
            yield batch.to(self.device), ends
