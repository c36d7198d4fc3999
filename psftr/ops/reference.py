"""The slow twin: temporal deformable attention in a page of plain PyTorch, and the check of its inputs.

Every other path is tested against it. Shape letters as in temporal_deform_attn.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def temporal_deform_attn_reference(
    values: Tensor, locations: Tensor, weights: Tensor, level_lengths: Sequence[int]
) -> Tensor:
    """The slow twin of `temporal_deform_attn`: gather, interpolate, sum. Twice differentiable.

    Arguments, result and errors are those of `temporal_deform_attn`.
    """
    check_inputs(values, locations, weights, level_lengths)
    batch, _, heads, dim = values.shape
    queries, levels = locations.shape[1], locations.shape[3]
    dtype = torch.promote_types(values.dtype, torch.float32)
    sampled = [values.new_zeros(batch, queries, heads, dim, dtype=dtype)]
    for level, rows in zip(range(levels), values.split(list(level_lengths), dim=1), strict=True):
        length = rows.shape[1]
        if length == 0:
            continue
        rows = rows.to(dtype).transpose(1, 2)  # [B,H,T_l,D]
        position = row_position(locations[:, :, :, level], length).transpose(1, 2)  # [B,H,Q,P]
        below = position.detach().floor()
        fraction = (position - below).to(dtype).unsqueeze(-1)
        left = _read_rows(rows, below)
        right = _read_rows(rows, below + 1)
        weight = weights[:, :, :, level].to(dtype).transpose(1, 2).unsqueeze(-1)
        points_sum = (weight * (left * (1 - fraction) + right * fraction)).sum(dim=3)  # [B,H,Q,D]
        sampled.append(points_sum.transpose(1, 2))
    return torch.stack(sampled).sum(0).to(values.dtype)


def forward(values: Tensor, locations: Tensor, weights: Tensor, level_lengths: Sequence[int]) -> Tensor:
    return temporal_deform_attn_reference(values, locations, weights, level_lengths)


def backward(
    grad_out: Tensor, values: Tensor, locations: Tensor, weights: Tensor, level_lengths: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of values, locations and weights by automatic differentiation of the slow twin."""
    values, locations, weights = (t.detach().requires_grad_() for t in (values, locations, weights))
    with torch.enable_grad():
        out = temporal_deform_attn_reference(values, locations, weights, level_lengths)
        if not out.requires_grad:  # no level has a row
            return torch.zeros_like(values), torch.zeros_like(locations), torch.zeros_like(weights)
        grads = torch.autograd.grad(out, (values, locations, weights), grad_out)
    return grads[0], grads[1], grads[2]


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
    # clamp after the conversion: whatever integer NaN becomes, it must not leave the tensor
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
