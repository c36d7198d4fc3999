"""Points: every row of every level of the pyramid is one, and knows which actions it is responsible for.

Legend: B windows, T rows of a window, L levels, P points of all levels, finest first, C classes.
A point of a level with stride s stands for s rows; point i lies at row position i * s + 0.5, where the strided
convolutions that made it are centred.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from psftr.data.batches import Target
from psftr.segments import centre_width_to_start_end


@dataclass(frozen=True, slots=True)
class Level:
    """A level of the pyramid: rows a point stands for, and how far away (in rows) the boundaries are that it finds."""

    stride: int
    nearest: float
    farthest: float

    def num_points(self, size: int) -> int:
        return -(-size // self.stride)


def make_levels(number: int, *, finest_range: float) -> tuple[Level, ...]:
    """Strides 1, 2, 4, …; ranges [0, r], [r, 2r], [2r, 4r], …, the last without end."""
    edges = [0.0, *(finest_range * 2**level for level in range(number - 1)), math.inf]
    return tuple(Level(2**level, edges[level], edges[level + 1]) for level in range(number))


def positions(levels: Sequence[Level], size: int, device: torch.device) -> Tensor:
    """[P] where the points of a window of `size` rows lie, in rows."""
    return torch.cat(
        [torch.arange(level.num_points(size), device=device) * level.stride + 0.5 for level in levels]
    ).float()


def of_points(rows: Tensor, levels: Sequence[Level]) -> Tensor:
    """What holds of rows [B,T], at each point [B,P]: that of the row where it lies."""
    return torch.cat([rows[:, :: level.stride] for level in levels], dim=1)


def of_rows(points: Tensor, levels: Sequence[Level], size: int) -> Tensor:
    """Values of points [B,P] -> [B,T]: of each row the sum over levels of the point that stands for it."""
    parts = points.split([level.num_points(size) for level in levels], dim=1)
    spread = [part.repeat_interleave(level.stride, dim=1)[:, :size] for part, level in zip(parts, levels)]
    return torch.stack(spread).sum(0)


@dataclass(frozen=True)
class Assigned:
    """What the points of a batch should say.

    classes [B,P,C] float, 1 for the class of the action that the point is responsible for (all 0: background);
    distances [B,P,2] to its start and end in rows; is_positive [B,P] bool.
    """

    classes: Tensor
    distances: Tensor
    is_positive: Tensor


def assign(
    targets: Sequence[Target], levels: Sequence[Level], *, size: int, num_classes: int, centre_radius: float
) -> Assigned:
    """A point is responsible for an action if it lies inside, near the centre, and the farther boundary is in range.

    Where several actions claim a point, the shortest wins.
    """
    device = targets[0].labels.device
    at = positions(levels, size, device)  # [P]
    counts = [level.num_points(size) for level in levels]
    per_point = torch.tensor([[one.stride, one.nearest, one.farthest] for one in levels], device=device)
    stride, nearest, farthest = per_point.repeat_interleave(torch.tensor(counts, device=device), dim=0).unbind(-1)
    classes = torch.zeros(len(targets), len(at), num_classes, device=device)
    distances = torch.zeros(len(targets), len(at), 2, device=device)
    is_positive = torch.zeros(len(targets), len(at), dtype=torch.bool, device=device)
    for number, target in enumerate(targets):
        if not len(target.labels):
            continue
        segments = centre_width_to_start_end(target.segments_cw) * size  # [N,2] in rows
        to_start, to_end = at[:, None] - segments[:, 0], segments[:, 1] - at[:, None]  # [P,N]
        is_inside = torch.minimum(to_start, to_end) > 0
        is_central = (at[:, None] - segments.mean(-1)).abs() <= centre_radius * stride[:, None]
        reach = torch.maximum(to_start, to_end)
        in_range = (reach >= nearest[:, None]) & (reach <= farthest[:, None])
        length = (segments[:, 1] - segments[:, 0]).expand(len(at), -1)
        claimed = length.masked_fill(~(is_inside & is_central & in_range), math.inf)
        shortest, which = claimed.min(dim=1)
        found = shortest.isfinite()
        is_positive[number] = found
        classes[number, found, target.labels[which[found]]] = 1.0
        distances[number, found] = torch.stack((to_start, to_end), dim=-1)[found, which[found]]
    return Assigned(classes, distances, is_positive)


def row_classes(targets: Sequence[Target], *, size: int, num_classes: int) -> Tensor:
    """[B,T] the class of every row: of the shortest action that holds its centre; `num_classes` is background."""
    device = targets[0].labels.device
    centres = torch.arange(size, device=device) + 0.5
    rows = torch.full((len(targets), size), num_classes, dtype=torch.long, device=device)
    for number, target in enumerate(targets):
        segments = centre_width_to_start_end(target.segments_cw) * size
        order = (segments[:, 1] - segments[:, 0]).argsort(descending=True)
        for one in order.tolist():  # the shortest is written last
            inside = (centres >= segments[one, 0]) & (centres < segments[one, 1])
            rows[number, inside] = target.labels[one]
    return rows
