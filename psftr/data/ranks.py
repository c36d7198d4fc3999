"""What the processes of one training tell each other, one for each device; alone, everything stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["gathered", "num_ranks", "sum_over_ranks", "total_over_ranks"]

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


def total_over_ranks(count: int, device: torch.device) -> int:
    """The sum of every rank's count."""
    return count if num_ranks() == 1 else int(sum_over_ranks(torch.tensor(count, device=device)))


def gathered(items: Sequence[Item]) -> list[Item]:
    """Every rank's items, on every rank, in turn, which is the order of the batches they share; picklable ones."""
    if num_ranks() == 1:
        return list(items)
    parts: list[Any] = [None] * num_ranks()
    dist.all_gather_object(parts, list(items))
    in_turn = chain.from_iterable(zip_longest(*parts, fillvalue=_NOTHING))
    return [item for item in in_turn if item is not _NOTHING]
