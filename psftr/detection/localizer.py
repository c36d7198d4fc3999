"""A trained detector -> the detections of whole videos, over the classes it was trained on and no others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import nn

from psftr.data.batches import inference_batches
from psftr.data.windows import WindowPolicy
from psftr.detection.decode import Candidates, Decoder
from psftr.errors import PsftrError
from psftr.files import nearest_names
from psftr.predictions import Detection, FrameFeatures


class DetectionLocalizer:
    """`Localizer` of a network that maps (features, is_padding) to PointOutputs."""

    def __init__(
        self, *, network: nn.Module, decoder: Decoder, policy: WindowPolicy, batch_size: int, device: torch.device | str
    ) -> None:
        self.device = torch.device(device)
        self.network = network.to(self.device).eval()
        self.decoder, self.policy, self.batch_size = decoder, policy, batch_size

    def localize(
        self, videos: Iterable[FrameFeatures], class_names: Sequence[str]
    ) -> Iterator[tuple[str, tuple[Detection, ...]]]:
        """(video id, detections best first) of each video, in order, as soon as its last window is done.

        Raises PsftrError for a name that the network was not trained on, and for unusable features.
        """
        known = self.decoder.class_names
        if strangers := [name for name in class_names if name not in known]:
            raise PsftrError(
                f"this network knows only the {len(known)} classes it was trained on, and not "
                f"{nearest_names(strangers, known)}: look for its own classes, or use a zero-shot method such as psftr"
            )
        wanted = [known.index(name) for name in class_names]
        waiting: list[Candidates] = []
        for batch, ends in inference_batches(videos, policy=self.policy, batch_size=self.batch_size):
            batch = batch.to(self.device)
            with torch.inference_mode():
                found = self.decoder.candidates(self.network(batch.features, batch.is_padding), batch, wanted)
            for window, one, is_last in zip(batch.windows, found, ends):
                waiting.append(one)
                if is_last:
                    yield window.video_id, self.decoder.merge(waiting)
                    waiting = []
