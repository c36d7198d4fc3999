"""What the processes of one training tell each other, one for each device; alone, everything stays as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Means", "gathered", "num_ranks", "sum_over_ranks"]

Item = TypeVar("Item")
_NOTHING: Any = object()


def num_ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of every rank's `value`, on every rank; without gradient."""
    if num_ranks() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


class Means:
    """Means by name over an epoch's batches on all ranks, each batch counting as its number of windows.

    A rank's value is such that the mean over ranks is that of all their windows together. Nothing waits for the device
    before `take`. Lightning's own log moves every metric to its device at every call.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}  # by names: the values times windows, and the windows

    def add(self, values: Mapping[str, Tensor], windows: int) -> None:
        """values: numbers by name; windows: how many this rank's part of the batch has."""
        names = tuple(values)
        each = torch.stack([value.detach().float() for value in values.values()])
        total = sum_over_ranks(each.new_tensor([windows]))
        weighted = torch.cat((each * total, total))
        self._sums[names] = weighted if names not in self._sums else self._sums[names] + weighted

    def take(self) -> dict[str, Tensor]:
        """The means of all that was added since the last call, the same on every rank."""
        sums, self._sums = self._sums, {}
        of_name: dict[str, Tensor] = {}
        for names, weighted in sums.items():
            shared = sum_over_ranks(weighted) / num_ranks()
            for name, total in zip(names, shared[:-1], strict=True):
                pair = torch.stack((total, shared[-1]))
                of_name[name] = of_name[name] + pair if name in of_name else pair
        return {name: total / windows.clamp(min=1) for name, (total, windows) in of_name.items()}


def gathered(items: Sequence[Item]) -> list[Item]:
    """Every rank's items, on every rank, in turn, which is the order of the batches they share; picklable ones."""
    if num_ranks() == 1:
        return list(items)
    parts: list[Any] = [None] * num_ranks()
    dist.all_gather_object(parts, list(items))
    in_turn = chain.from_iterable(zip_longest(*parts, fillvalue=_NOTHING))
    return [item for item in in_turn if item is not _NOTHING]
