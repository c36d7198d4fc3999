"""The fast path in stock PyTorch, for any machine: interpolation as a weighted bag of rows.

A point reads two rows ("knots"): the row below its position with weight w*(1-f) and the row above with w*f. One call
of `embedding_bag` sums the 2*L*P weighted rows of a query without ever storing them. The backward pass does the same
twice more: dot products of grad_out with each knot's row give the gradients of weights and locations, and a bag of
grad_out rows per row of values, the knots sorted by the row they read, gives the gradient of values. Nothing is added
concurrently, so the gradients are bit-identical from run to run on every device.

Shape letters as in temporal_deform_attn.py; K = 2*L*P knots of a query.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from psftr.ops.reference import row_position

_GATHERED_NUMBERS = 2**26  # rows copied at once in the backward pass, 256 MiB


class Knots(NamedTuple):
    """Which rows the points read, and how much of each."""

    row: Tensor  # [B*Q*H, K] index into values.view(B*T*H, D)
    fraction: Tensor  # [B,Q,H,L,P] of the way from the row below to the row above
    inside: Tensor  # [B,Q,H,2,L,P] bool, True = the knot is a row of its level


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
    left, right = dots.masked_fill_(~knots.inside, 0).unbind(3)
    grad_weights = torch.lerp(left, right, knots.fraction)
    grad_locations = (right - left).mul_(weights).mul_(_column(level_lengths, dtype, values.device))
    return (
        grad_values.view_as(values).to(values.dtype),
        grad_locations.to(locations.dtype),
        grad_weights.to(weights.dtype),
    )


def _find_knots(locations: Tensor, level_lengths: Sequence[int], length: int, dtype: torch.dtype) -> Knots:
    batch, _, heads = locations.shape[:3]
    device = locations.device
    largest = max(batch * length * heads, 2 * locations.numel())  # index of a row, or of a knot
    index_dtype = torch.int32 if largest < 2**31 else torch.int64
    level_length = _column(level_lengths, index_dtype, device)
    position = row_position(locations, level_length)
    below = position.floor()
    fraction = position.sub_(below).to(dtype)
    # a NaN location reads row 0 with a NaN fraction, so that it shows
    below = below.nan_to_num_(0).to(index_dtype)
    row = torch.stack((below, below + 1), dim=3)
    inside = (row >= 0) & (row < level_length)
    if len(level_lengths) > 1:
        row += level_length.cumsum(0, dtype=index_dtype) - level_length
    first = torch.arange(batch, dtype=index_dtype, device=device).view(-1, 1, 1, 1, 1, 1) * (length * heads)
    head = torch.arange(heads, dtype=index_dtype, device=device).view(-1, 1, 1, 1)
    row = row.clamp_(0, length - 1).mul_(heads).add_(first + head)
    return Knots(row.flatten(3).flatten(0, 2), fraction, inside)


def _column(numbers: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """[L,1], filled on the device: a copy from the host could not be captured into a CUDA graph."""
    column = torch.empty(len(numbers), 1, dtype=dtype, device=device)
    for i, number in enumerate(numbers):
        column[i].fill_(number)
    return column


def _knot_weights(weights: Tensor, knots: Knots) -> Tensor:
    """[B*Q*H, K]: each knot's share of its query's result."""
    weights = weights.to(knots.fraction.dtype)
    right = weights * knots.fraction
    shares = torch.stack((weights - right, right), dim=3).masked_fill_(~knots.inside, 0)
    return shares.view_as(knots.row)


def _queries(row: Tensor) -> Tensor:
    """[B*Q*H*K]: which query (of one head) each knot belongs to."""
    queries, knots = row.shape
    return torch.arange(queries, dtype=row.dtype, device=row.device).repeat_interleave(knots)


def _dot_with_rows(grad_rows: Tensor, rows: Tensor, row: Tensor) -> Tensor:
    """[B*Q*H*K]: dot product of every query's grad_out with each row it read."""
    return (_sampled_product if row.device.type == "cpu" else _gathered_product)(grad_rows, rows, row)


def _sampled_product(grad_rows: Tensor, rows: Tensor, row: Tensor) -> Tensor:
    """As the product of two matrices, sampled: 2.5 times faster on a CPU."""
    _hear_about_sparse_tensors()
    queries, knots = row.shape
    wanted = torch.sparse_csr_tensor(
        torch.arange(0, row.numel() + 1, knots, dtype=row.dtype),
        row.flatten(),
        grad_rows.new_zeros(row.numel()),
        (queries, rows.shape[0]),
        check_invariants=False,  # a query may read a row twice
    )
    return torch.sparse.sampled_addmm(wanted, grad_rows, rows.t(), beta=0.0).values()


def _gathered_product(grad_rows: Tensor, rows: Tensor, row: Tensor) -> Tensor:
    """With copies of the rows, a part of the queries at a time."""
    at_once = max(1, _GATHERED_NUMBERS // (row.shape[1] * rows.shape[1]))
    parts = zip(row.split(at_once), grad_rows.split(at_once))
    return torch.cat([(rows[part] * grad.unsqueeze(1)).sum(-1) for part, grad in parts]).flatten()


@functools.cache
def _hear_about_sparse_tensors() -> None:
    """PyTorch warns once per process that sparse tensors are in beta, which does not concern users."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, 1), check_invariants=False)


def _sum_by_row(grad_rows: Tensor, row: Tensor, shares: Tensor, count: int) -> Tensor:
    """[count, D]: for every row of values the weighted sum of grad_out over the knots that read it."""
    key = row.flatten()
    if row.device.type == "cpu":  # a radix sort, in half the passes where 16 bits are enough
        _, order = key.to(torch.int16 if count < 2**15 else row.dtype).sort(stable=True)
        ends = torch.bincount(key, minlength=count).cumsum(0, dtype=row.dtype)
        bag_start = torch.cat((ends.new_zeros(1), ends[:-1]))
    else:  # counting waits for the device, searching does not
        key, order = key.sort(stable=True)
        rows = torch.arange(count, dtype=row.dtype, device=row.device)
        bag_start = torch.searchsorted(key, rows, out_int32=row.dtype == torch.int32)
    query = _queries(row).index_select(0, order)
    share = shares.flatten().index_select(0, order)
    return embedding_bag(query, grad_rows, bag_start, per_sample_weights=share, mode="sum")
