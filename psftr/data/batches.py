"""What a network is given: windows with their rows and targets, collated into a `Batch`.

Apart from the data module, so that whoever only predicts need not import Lightning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from psftr.data.annotations import Action
from psftr.data.windows import Window, action_rows


@dataclass(frozen=True)
class Target:
    """`labels [N]` int64 into the loader's class names; `segments_cw [N, 2]` normalised (centre, width)."""

    labels: Tensor
    segments_cw: Tensor

    def to(self, device: torch.device | str, **kwargs: Any) -> Target:
        return Target(self.labels.to(device, **kwargs), self.segments_cw.to(device, **kwargs))

    def pin_memory(self) -> Target:
        return Target(self.labels.pin_memory(), self.segments_cw.pin_memory())


@dataclass(frozen=True)
class Batch:
    """`features [B, T, D]` float32; `is_padding [B, T]` True on padding; `is_action [B, T]` float.

    `is_action` is 1 where a row's centre lies in an action of the loader's classes, whether or not that action is a
    target. In prediction it is 0 and `targets` are empty, whatever the annotations say.
    """

    features: Tensor
    is_padding: Tensor
    is_action: Tensor
    targets: tuple[Target, ...]
    windows: tuple[Window, ...]

    def __len__(self) -> int:
        return len(self.windows)

    def to(self, device: torch.device | str, **kwargs: Any) -> Batch:
        return Batch(
            self.features.to(device, **kwargs),
            self.is_padding.to(device, **kwargs),
            self.is_action.to(device, **kwargs),
            tuple(target.to(device, **kwargs) for target in self.targets),
            self.windows,
        )

    def pin_memory(self) -> Batch:
        return Batch(
            self.features.pin_memory(),
            self.is_padding.pin_memory(),
            self.is_action.pin_memory(),
            tuple(target.pin_memory() for target in self.targets),
            self.windows,
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """A window, the targets in it (action, normalised start and end) and the actions that mark its rows."""

    window: Window
    targets: Sequence[tuple[Action, tuple[float, float]]] = ()
    actions: Sequence[Action] = ()


@dataclass(frozen=True)
class Collate:
    """Samples with rows -> Batch, labels as indices into `class_names`."""

    class_names: tuple[str, ...]
    index: Mapping[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", {name: i for i, name in enumerate(self.class_names)})

    def __call__(self, items: Sequence[tuple[Sample, np.ndarray]]) -> Batch:
        samples = [sample for sample, _ in items]
        sizes = np.array([sample.window.num_valid for sample in samples])
        is_padding = np.arange(samples[0].window.size) >= sizes[:, None]
        is_action = np.stack([action_rows(sample.actions, sample.window) for sample in samples])
        return Batch(
            features=torch.from_numpy(np.stack([rows for _, rows in items])),
            is_padding=torch.from_numpy(is_padding),
            is_action=torch.from_numpy(is_action.astype(np.float32)),
            targets=tuple(self._target(sample) for sample in samples),
            windows=tuple(sample.window for sample in samples),
        )

    def _target(self, sample: Sample) -> Target:
        segments_se = torch.tensor([se for _, se in sample.targets], dtype=torch.float64).reshape(-1, 2)
        start, end = segments_se.unbind(-1)
        segments_cw = torch.stack([(start + end) / 2, end - start], dim=-1).float()
        labels = torch.tensor([self.index[action.label] for action, _ in sample.targets], dtype=torch.int64)
        return Target(labels, segments_cw)
