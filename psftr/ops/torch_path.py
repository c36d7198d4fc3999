"""The fast path in stock PyTorch, for any machine: interpolation as a weighted bag of rows.

A point reads two rows ("knots"): the row below its position with weight w*(1-f) and the row above with w*f. One call
of `embedding_bag` sums the 2*L*P weighted rows of a query without ever storing them. The backward pass does the same
twice more: dot products of grad_out with each knot's row give the gradients of weights and locations, and a bag of
grad_out rows per row of values, the knots sorted by the row they read, gives the gradient of values. Nothing is added
concurrently, so the gradients are bit-identical from run to run on every device.

Shape letters as in temporal_deform_attn.py; K = 2*L*P knots of a query.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from psftr.ops.reference import row_position


class Knots(NamedTuple):
    """Which rows the points read, and how much of each."""

    row: Tensor  # [B*Q*H, K] index into values.view(B*T*H, D)
    fraction: Tensor  # [B,Q,H,L,P] of the way from the row below to the row above
    inside: Tensor  # [B,Q,H,L,P,2] bool, True = the knot is a row of its level


def forward(values: Tensor, locations: Tensor, weights: Tensor, level_lengths: Sequence[int]) -> Tensor:
    batch, length, heads, dim = values.shape
    queries = locations.shape[1]
    if 0 in (length, locations.numel(), dim):
        return values.new_zeros(batch, queries, heads, dim)
    dtype = torch.promote_types(values.dtype, torch.float32)
    knots = _find_knots(locations, level_lengths, length, dtype)
    rows = values.to(dtype).reshape(batch * length * heads, dim)
    out = embedding_bag(knots.row, rows, per_sample_weights=_knot_weights(weights, knots), mode="sum")
    return out.view(batch, queries, heads, dim).to(values.dtype)


def backward(
    grad_out: Tensor, values: Tensor, locations: Tensor, weights: Tensor, level_lengths: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, heads, dim = values.shape
    if 0 in (length, locations.numel(), dim):
        return torch.zeros_like(values), torch.zeros_like(locations), torch.zeros_like(weights)
    dtype = torch.promote_types(values.dtype, torch.float32)
    knots = _find_knots(locations, level_lengths, length, dtype)
    rows = values.to(dtype).reshape(batch * length * heads, dim)
    grad_rows = grad_out.to(dtype).reshape(-1, dim)
    grad_values = _sum_by_row(grad_rows, knots.row, _knot_weights(weights, knots), rows.shape[0])

    dots = _dot_with_rows(grad_rows, rows, knots.row).view(knots.inside.shape)
    left, right = dots.masked_fill_(~knots.inside, 0).unbind(-1)
    grad_weights = torch.lerp(left, right, knots.fraction)
    lengths = torch.tensor(level_lengths, dtype=dtype, device=values.device).unsqueeze(1)
    grad_locations = (right - left).mul_(weights).mul_(lengths)
    return (
        grad_values.view_as(values).to(values.dtype),
        grad_locations.to(locations.dtype),
        grad_weights.to(weights.dtype),
    )


def _find_knots(locations: Tensor, level_lengths: Sequence[int], length: int, dtype: torch.dtype) -> Knots:
    batch, _, heads = locations.shape[:3]
    device = locations.device
    level_length = torch.tensor(level_lengths, device=device).unsqueeze(1)  # [L,1]
    level_start = level_length.cumsum(0) - level_length
    position = row_position(locations, level_length)
    below = position.floor()
    fraction = (position - below).to(dtype)
    below = below.nan_to_num_(0).long()  # a NaN location reads row 0 with a NaN fraction, so that it shows
    row = torch.stack((below, below + 1), dim=-1)
    inside = (row >= 0) & (row < level_length.unsqueeze(-1))
    row += level_start.unsqueeze(-1)
    index_dtype = torch.int32 if batch * length * heads < 2**31 else torch.int64
    first = torch.arange(batch, device=device).view(-1, 1, 1, 1, 1, 1) * length
    head = torch.arange(heads, device=device).view(-1, 1, 1, 1)
    row = row.clamp_(0, length - 1).add_(first).mul_(heads).add_(head)
    return Knots(row.to(index_dtype).flatten(3).flatten(0, 2), fraction, inside)


def _knot_weights(weights: Tensor, knots: Knots) -> Tensor:
    """[B*Q*H, K]: each knot's share of its query's result."""
    weights = weights.to(knots.fraction.dtype)
    right = weights * knots.fraction
    shares = torch.stack((weights - right, right), dim=-1).masked_fill_(~knots.inside, 0)
    return shares.view_as(knots.row)


def _dot_with_rows(grad_rows: Tensor, rows: Tensor, row: Tensor) -> Tensor:
    """[B*Q*H*K]: dot product of every query's grad_out with each row it read.

    This is what automatic differentiation of `embedding_bag` calls for the gradient of its per-sample weights.
    """
    queries, knots = row.shape
    bag_start = torch.arange(0, row.numel(), knots, dtype=row.dtype, device=row.device)
    bag = torch.arange(queries, dtype=row.dtype, device=row.device).repeat_interleave(knots)
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        grad_rows, rows, row.flatten(), bag_start, bag, 0, -1
    )


def _sum_by_row(grad_rows: Tensor, row: Tensor, shares: Tensor, count: int) -> Tensor:
    """[count, D]: for every row of values the weighted sum of grad_out over the knots that read it."""
    sorted_row, order = row.flatten().sort(stable=True)
    bag_start = torch.searchsorted(
        sorted_row, torch.arange(count, dtype=row.dtype, device=row.device), out_int32=row.dtype == torch.int32
    )
    query = (order // row.shape[1]).to(row.dtype)
    return embedding_bag(query, grad_rows, bag_start, per_sample_weights=shares.flatten()[order], mode="sum")
