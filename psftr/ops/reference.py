"""The slow twin: temporal deformable attention in a page of plain PyTorch, and the check of its inputs.

Every other path is tested against it. Shape letters as in temporal_deform_attn.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor


def temporal_deform_attn_reference(
    values: Tensor, locations: Tensor, weights: Tensor, level_lengths: Sequence[int]
) -> Tensor:
    """The slow twin of `temporal_deform_attn`: gather, interpolate, sum. Twice differentiable.

    Arguments, result and errors are those of `temporal_deform_attn`.
    """
    check_inputs(values, locations, weights, level_lengths)
    batch, _, heads, dim = values.shape
    dtype = torch.promote_types(values.dtype, torch.float32)
    total = values.new_zeros(batch, locations.shape[1], heads, dim, dtype=dtype)
    for level, rows in enumerate(values.split(list(level_lengths), dim=1)):
        if rows.shape[1] > 0:
            below, fraction, weight = _points(locations, weights, level, rows.shape[1], dtype)
            rows = rearrange(rows.to(dtype), "b t h d -> b h t d")
            left, right = _read_rows(rows, below), _read_rows(rows, below + 1)  # [B,H,Q,P,D]
            sampled = torch.lerp(left, right, fraction.unsqueeze(-1))
            total = total + rearrange((weight.unsqueeze(-1) * sampled).sum(dim=3), "b h q d -> b q h d")
    return total.to(values.dtype)


def forward(values: Tensor, locations: Tensor, weights: Tensor, level_lengths: Sequence[int]) -> Tensor:
    return temporal_deform_attn_reference(values, locations, weights, level_lengths)


def backward(
    grad_out: Tensor, values: Tensor, locations: Tensor, weights: Tensor, level_lengths: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of values, locations and weights, written out.

    Automatic differentiation of the function above would give zeros here: PyTorch records nothing inside an operator.
    """
    dtype = torch.promote_types(values.dtype, torch.float32)
    grads = tuple(torch.zeros_like(tensor, dtype=dtype) for tensor in (values, locations, weights))
    grad_rows = grads[0].split(list(level_lengths), dim=1)
    grad = rearrange(grad_out.to(dtype), "b q h d -> b h q 1 d")
    for level, rows in enumerate(values.split(list(level_lengths), dim=1)):
        length = rows.shape[1]
        if length == 0:
            continue
        below, fraction, weight = _points(locations, weights, level, length, dtype)
        rows = rearrange(rows.to(dtype), "b t h d -> b h t d")
        left, right = ((_read_rows(rows, row) * grad).sum(-1) for row in (below, below + 1))  # [B,H,Q,P]
        grads[1][:, :, :, level] = rearrange((right - left) * weight * length, "b h q p -> b q h p")
        grads[2][:, :, :, level] = rearrange(torch.lerp(left, right, fraction), "b h q p -> b q h p")
        summed = torch.zeros_like(rows)
        for row, share in ((below, 1 - fraction), (below + 1, fraction)):
            shares = (weight * share).masked_fill((row < 0) | (row >= length), 0).unsqueeze(-1) * grad
            index = row.long().clamp(0, length - 1).unsqueeze(-1).expand_as(shares)
            summed.scatter_add_(2, index.flatten(2, 3), shares.flatten(2, 3))
        grad_rows[level].copy_(rearrange(summed, "b h t d -> b t h d"))
    return grads[0].to(values.dtype), grads[1].to(locations.dtype), grads[2].to(weights.dtype)


def _points(
    locations: Tensor, weights: Tensor, level: int, length: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """(row below, fraction of the way to the row above, weight) of every point on one level, each [B,H,Q,P]."""
    position = row_position(rearrange(locations[:, :, :, level], "b q h p -> b h q p"), length)
    below = position.detach().floor()
    return below, (position - below).to(dtype), rearrange(weights[:, :, :, level].to(dtype), "b q h p -> b h q p")


def row_position(locations: Tensor, length: int | Tensor) -> Tensor:
    """Locations in [0,1] -> row positions x*T_l - 0.5, in float64.

    The product in float32 alone errs by 1e-4 rows at T_l = 2304. Positions are clamped to just outside the level,
    where everything reads as zero anyway, so that infinite locations stay harmless; NaN stays NaN.
    """
    return (locations.double() * length - 0.5).clamp(min=-2).clamp(max=length + 1)


def _read_rows(rows: Tensor, index: Tensor) -> Tensor:
    """rows [B,H,T_l,D], whole-numbered index [B,H,Q,P] -> [B,H,Q,P,D]; zero outside [0,T_l)."""
    length, dim = rows.shape[2:]
    outside = (index < 0) | (index >= length)
    # clamp after the conversion: NaN may become any integer, which must not point outside the tensor
    row = index.long().clamp(0, length - 1).flatten(2).unsqueeze(-1).expand(-1, -1, -1, dim)
    read = rows.gather(2, row).view(*index.shape, dim)
    return read.masked_fill(outside.unsqueeze(-1), 0)


def check_inputs(values: Tensor, locations: Tensor, weights: Tensor, level_lengths: Sequence[int]) -> None:
    """Raise ValueError, in one line, for inputs that do not fit together."""
    if values.dim() != 4:
        raise ValueError(f"values must be [B,T,H,D], got {list(values.shape)}")
    if locations.dim() != 5 or weights.shape != locations.shape:
        raise ValueError(
            f"locations and weights must both be [B,Q,H,L,P], got {list(locations.shape)} and {list(weights.shape)}"
        )
    batch, length, heads, _ = values.shape
    if locations.shape[0] != batch or locations.shape[2] != heads:
        raise ValueError(
            f"batch and heads differ: values {list(values.shape)} is [B,T,H,D], "
            f"locations {list(locations.shape)} is [B,Q,H,L,P]"
        )
    if len(level_lengths) != locations.shape[3]:
        raise ValueError(f"{len(level_lengths)} level lengths for {locations.shape[3]} levels of locations")
    if any(level < 0 for level in level_lengths) or sum(level_lengths) != length:
        raise ValueError(
            f"level_lengths {list(level_lengths)} must be non-negative and sum to the {length} rows of values"
        )
    for name, tensor in (("values", values), ("locations", locations), ("weights", weights)):
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be floating point, got {tensor.dtype}")
        if tensor.device != values.device:
            raise ValueError(f"{name} is on {tensor.device}, values on {values.device}")
