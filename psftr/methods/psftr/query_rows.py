"""Queries beside the learnable ones, and how both lie in one matrix without a row too many.

Windows have different numbers of such queries: in a batch of THUMOS14 the one with most has 12, and the mean is 3.4. So
the decoder works on rows [1,R,...]: the Q learnable queries of the first window, those of the next, …, then the M
others. Only what reads a window's frames or text takes [B,Q+n,...], n of the window with most, filled up with anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Queries", "QueryRows"]


@dataclass(frozen=True, kw_only=True)
class Queries:
    """Queries that go through the decoder beside the learnable ones.

    Those of a window see each other, and no others see them. `most`: n, at least place + 1 of each.
    """

    content: Tensor  # [M,d]
    position: Tensor  # [M,d]
    references_cw: Tensor  # [M,2] in (0,1)
    window: Tensor  # [M] long, 0 to B - 1
    place: Tensor  # [M] long: which of its window's
    most: int


class QueryRows:
    """The rows of a batch of B windows with `learnable` queries Q each, and of the M beside.

    An odd M is made even by a row that nothing reads: on a CPU products of matrices with an odd number of rows take
    1.1 to 1.2 times as long in bfloat16.
    """

    def __init__(self, beside: Queries, *, windows: int, learnable: int) -> None:
        self.windows, self.learnable, self.most = windows, learnable, beside.most
        self._filling = len(beside.window) % 2
        self.count = len(beside.window) + self._filling
        window = F.pad(beside.window, (0, self._filling), value=-1)
        self.sees = window[:, None] == window  # [M,M]: of one window
        slot = beside.window * beside.most + beside.place
        self._slot = F.pad(slot, (0, self._filling))  # [M]
        # which of the M each place of a window holds; where it holds none, the first, and nothing reads it there
        self._held = torch.zeros(windows * beside.most, dtype=torch.long, device=slot.device)
        self._held[slot] = torch.arange(len(slot), device=slot.device)

    def start(self, learnable: Tensor, beside: Tensor) -> Tensor:
        """[Q,c], of all windows, and [M,c], without filling -> rows [1,Q+M,c], until `widen`."""
        return torch.cat((learnable, F.pad(beside, (0, 0, 0, self._filling))))[None]

    def join(self, learnable: Tensor, beside: Tensor) -> Tensor:
        """[B|1,Q,c] and [1,M,c] -> rows [1,R,c]."""
        return torch.cat((learnable.flatten(0, 1)[None], beside), dim=1)

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of `join`."""
        learnable, beside = rows.split((rows.shape[1] - self.count, self.count), dim=1)
        return learnable.view(-1, self.learnable, rows.shape[-1]), beside

    def widen(self, rows: Tensor) -> Tensor:
        """Rows of which all windows share the learnable ones -> [1,B*Q+M,c]; others are returned as they are."""
        if rows.shape[1] == self.windows * self.learnable + self.count:
            return rows
        learnable, beside = self.split(rows)
        return self.join(learnable.expand(self.windows, -1, -1), beside)

    def to_windows(self, rows: Tensor) -> Tensor:
        """[1,R,c] -> [B,Q+n,c]."""
        learnable, beside = self.split(rows)
        held = beside[0].index_select(0, self._held).view(self.windows, self.most, rows.shape[-1])
        return torch.cat((learnable, held), dim=1)

    def from_windows(self, windows: Tensor) -> Tensor:
        """[B,Q+n,c] -> [1,R,c]."""
        learnable, beside = windows.split((self.learnable, self.most), dim=1)
        return self.join(learnable, beside.flatten(0, 1).index_select(0, self._slot)[None])
