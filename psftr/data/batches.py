"""What a network is given: windows with their rows and targets, collated into a `Batch`.

Not in the data module's file, so that prediction does not import Lightning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from psftr.data.annotations import Action
from psftr.data.windows import Window, WindowPolicy, action_rows, window_rows
from psftr.errors import PsftrError
from psftr.predictions import FrameFeatures
from psftr.segments import Timeline, start_end_to_centre_width


@dataclass(frozen=True)
class Target:
    """`labels [N]` int64 into the loader's class names; `segments_cw [N, 2]` normalised (centre, width)."""

    labels: Tensor
    segments_cw: Tensor


@dataclass(frozen=True)
class Batch:
    """`features [B, T, D]` float32; `is_padding`, `is_ignored [B, T]` bool; `is_action [B, T]` float.

    `is_action` is 1 where a row's centre lies in an action of the loader's classes, whether or not that action is a
    target. `is_ignored` is True where a row lies in an instance that is neither action nor background, such as
    THUMOS14's Ambiguous, and in no action. In prediction both are 0 and `targets` are empty.
    """

    features: Tensor
    is_padding: Tensor
    is_action: Tensor
    is_ignored: Tensor
    targets: tuple[Target, ...]
    windows: tuple[Window, ...]

    def __len__(self) -> int:
        return len(self.windows)

    def to(self, device: torch.device | str, **kwargs: Any) -> Batch:
        return self._each(lambda tensor: tensor.to(device, **kwargs))

    def pin_memory(self) -> Batch:
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(
            features=change(self.features),
            is_padding=change(self.is_padding),
            is_action=change(self.is_action),
            is_ignored=change(self.is_ignored),
            targets=tuple(Target(change(target.labels), change(target.segments_cw)) for target in self.targets),
            windows=self.windows,
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """A window, the targets in it (action, normalised start and end), and the actions that mark its rows.

    `ignored`: instances in it that are neither action nor background.
    """

    window: Window
    targets: Sequence[tuple[Action, tuple[float, float]]] = ()
    actions: Sequence[Action] = ()
    ignored: Sequence[Action] = ()


@dataclass(frozen=True, slots=True)
class Labelled:
    """A sample with its rows of `Batch.is_action` and `is_ignored` [size], and its `Target`."""

    sample: Sample
    is_action: np.ndarray
    is_ignored: np.ndarray
    target: Target


@dataclass(frozen=True)
class Collate:
    """Samples with rows -> Batch, labels as indices into `class_names`."""

    class_names: tuple[str, ...]
    index: Mapping[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", {name: i for i, name in enumerate(self.class_names)})

    def __call__(self, items: Sequence[tuple[Sample, np.ndarray]]) -> Batch:
        return self.join([self.label(sample) for sample, _ in items], np.stack([rows for _, rows in items]))

    def label(self, sample: Sample) -> Labelled:
        """What the annotations say about a sample: the same in every epoch."""
        is_action = action_rows(sample.actions, sample.window)
        is_ignored = action_rows(sample.ignored, sample.window) & ~is_action
        return Labelled(sample, is_action.astype(np.float32), is_ignored, self._target(sample))

    def join(self, labelled: Sequence[Labelled], features: np.ndarray) -> Batch:
        """features [B, size, D], float32."""
        windows = tuple(one.sample.window for one in labelled)
        sizes = np.array([window.num_valid for window in windows])
        return Batch(
            features=torch.from_numpy(features),
            is_padding=torch.from_numpy(np.arange(windows[0].size) >= sizes[:, None]),
            is_action=torch.from_numpy(np.stack([one.is_action for one in labelled])),
            is_ignored=torch.from_numpy(np.stack([one.is_ignored for one in labelled])),
            targets=tuple(one.target for one in labelled),
            windows=windows,
        )

    def _target(self, sample: Sample) -> Target:
        segments_se = torch.tensor([se for _, se in sample.targets], dtype=torch.float64).reshape(-1, 2)
        segments_cw = start_end_to_centre_width(segments_se).float()
        labels = torch.tensor([self.index[action.label] for action, _ in sample.targets], dtype=torch.int64)
        return Target(labels, segments_cw)


def inference_samples(video_id: str, timeline: Timeline, policy: WindowPolicy) -> list[Sample]:
    """Every window of a video in time order, without targets."""
    return [Sample(window) for window in policy.windows(video_id, timeline, training=False)]


def inference_batches(
    videos: Iterable[FrameFeatures], *, policy: WindowPolicy, batch_size: int
) -> Iterator[tuple[Batch, tuple[bool, ...]]]:
    """Windows of videos in order, `batch_size` at a time; a batch may hold windows of several videos.

    Beside each batch: True for every window that is the last of its video. Raises PsftrError for unusable features.
    """
    if batch_size < 1:
        raise PsftrError(f"batch_size must be at least 1 window, got {batch_size}")
    collate = Collate(())
    windows = _inference_windows(videos, policy)
    while chunk := list(islice(windows, batch_size)):
        yield collate([(sample, rows) for sample, rows, _ in chunk]), tuple(is_last for _, _, is_last in chunk)


def _inference_windows(
    videos: Iterable[FrameFeatures], policy: WindowPolicy
) -> Iterator[tuple[Sample, np.ndarray, bool]]:
    """(sample, rows [size, D], is it the last of its video)."""
    for video in videos:
        features = np.asarray(video.features)
        if features.ndim != 2 or len(features) == 0:
            raise PsftrError(f"video {video.video_id}: features {list(features.shape)} are not [T >= 1, D]")
        if not np.isfinite(features).all():
            raise PsftrError(f"video {video.video_id}: features hold values that are not finite; extract again")
        samples = inference_samples(video.video_id, video.timeline, policy)
        for number, sample in enumerate(samples, start=1):
            yield sample, window_rows(features, sample.window), number == len(samples)
