"""A trained network and class texts -> the detections of whole videos, over any vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from psftr.data.batches import Batch, Collate, Sample
from psftr.data.windows import Window, WindowPolicy, window_rows
from psftr.errors import PsftrError
from psftr.features.text import TextEmbeddings
from psftr.methods.psftr.postprocess import PostProcessor, WindowDetections
from psftr.predictions import Detection, FrameFeatures
from psftr.segments import Timeline


class PsftrLocalizer:
    """`Localizer` of a trained network. `text` must know every class name it is asked for.

    The network is moved to `device` and put into eval mode; windows of several videos share a batch.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        text: TextEmbeddings,
        postprocessor: PostProcessor,
        policy: WindowPolicy,
        batch_size: int,
        device: torch.device | str,
    ) -> None:
        if batch_size < 1:
            raise PsftrError(f"batch_size must be at least 1 window, got {batch_size}")
        self.device = torch.device(device)
        self.network = network.to(self.device).eval()
        self.text = text
        self.postprocessor = postprocessor
        self.policy = policy
        self.batch_size = batch_size

    def localize(
        self, videos: Iterable[FrameFeatures], class_names: Sequence[str]
    ) -> Iterator[tuple[str, tuple[Detection, ...]]]:
        """(video id, detections best first) of each video, in order, as soon as its last window is done.

        Raises PsftrError for unknown names and unusable features.
        """
        if not class_names:
            raise PsftrError("no class names to look for; give at least one")
        text = self.text.select(class_names).to(self.device)
        waiting: dict[int, list[WindowDetections]] = {}
        rows = self._rows(videos)
        while chunk := list(islice(rows, self.batch_size)):
            found = self._detect([(window, features) for _, _, window, features in chunk], text, class_names)
            for (video, is_last, window, _), one in zip(chunk, found):
                waiting.setdefault(video, []).append(one)
                if is_last:
                    yield window.video_id, self.postprocessor.merge(waiting.pop(video))

    @torch.inference_mode()
    def saliency(self, features: FrameFeatures, labels: Sequence[str]) -> NDArray[np.float64]:
        """[T] in [0, 1]: how much each row looks like part of some action; windows are averaged where they overlap."""
        text = self.text.select(labels).to(self.device)
        centres = np.arange(len(features.features)) + 0.5
        total, count = np.zeros(len(centres)), np.zeros(len(centres))
        for _, _, window, rows in self._rows([features]):
            batch = self._batch([(window, rows)])
            outputs = self.network(batch.features, batch.is_padding, text)
            values = outputs.saliency_logits[0, : window.num_valid].float().sigmoid().cpu().numpy()
            at = window.offset + (np.arange(window.num_valid) + 0.5) * (window.span / window.num_valid)
            inside = (centres >= window.offset) & (centres <= window.offset + window.span)
            total[inside] += np.interp(centres[inside], at, values)
            count[inside] += 1
        return total / np.maximum(count, 1)

    def _batch(self, windows: Sequence[tuple[Window, np.ndarray]]) -> Batch:
        return Collate(())([(Sample(window), rows) for window, rows in windows]).to(self.device)

    def _rows(self, videos: Iterable[FrameFeatures]) -> Iterator[tuple[int, bool, Window, np.ndarray]]:
        """(number of the video, is its last window, window, rows [size, D])."""
        for number, video in enumerate(videos):
            features = np.asarray(video.features)
            if features.ndim != 2 or len(features) == 0:
                raise PsftrError(f"video {video.video_id}: features {list(features.shape)} are not [T >= 1, D]")
            if not np.isfinite(features).all():
                raise PsftrError(f"video {video.video_id}: features hold values that are not finite; extract again")
            timeline = cast(Timeline, video.timeline)  # the feature store's, which windows are made of
            windows = self.policy.windows(video.video_id, timeline, training=False)
            for window in windows:
                yield number, window is windows[-1], window, window_rows(features, window)

    @torch.inference_mode()
    def _detect(
        self, windows: Sequence[tuple[Window, np.ndarray]], text: Tensor, class_names: Sequence[str]
    ) -> list[WindowDetections]:
        batch = self._batch(windows)
        outputs = self.network(batch.features, batch.is_padding, text)
        return self.postprocessor.detect(outputs, batch, text, class_names)
