"""Temporal (1-D) multi-scale deformable attention.

Every query reads P points on each of L levels of a feature sequence and sums them with its attention weights:

    out[b,q,h,:] = sum over l,p of  weights[b,q,h,l,p] * level_l[b, locations[b,q,h,l,p], h, :]

where reading level l (T_l rows) at location x in [0,1] interpolates linearly at the row position x*T_l - 0.5:
row i covers [i/T_l, (i+1)/T_l] and is centred on (i+0.5)/T_l. Rows outside the level read as zero.

Shape letters here and in the other files of this package: B batch, T rows of all levels together, H heads,
D channels per head, Q queries, L levels, P points per level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["temporal_deform_attn", "temporal_deform_attn_reference"]


def temporal_deform_attn(
    values: Tensor, locations: Tensor, weights: Tensor, level_lengths: Sequence[int]
) -> Tensor:
    """Weighted sum of linearly interpolated rows: the fastest path of this machine.

    values         [B,T,H,D]    float; the levels one after the other along T
    locations      [B,Q,H,L,P]  position within each level, [0,1]; outside it the level fades to zero
    weights        [B,Q,H,L,P]  attention weights (not normalised here)
    level_lengths  L integers that sum to T; zero-length levels contribute nothing
    returns        [B,Q,H,D]    in the dtype of `values`

    Raises ValueError for shapes or dtypes that do not fit together.
    """
    return temporal_deform_attn_reference(values, locations, weights, level_lengths)


def temporal_deform_attn_reference(
    values: Tensor, locations: Tensor, weights: Tensor, level_lengths: Sequence[int]
) -> Tensor:
    """The slow twin of `temporal_deform_attn`: gather, interpolate, sum. Twice differentiable."""
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


def row_position(locations: Tensor, length: int) -> Tensor:
    """Locations in [0,1] -> row positions x*T_l - 0.5, exact.

    In float32 the product alone errs by 1e-4 rows at T_l = 2304.

    The result is clamped to just outside the level, where everything reads as zero anyway, so that infinite
    locations stay harmless; NaN stays NaN.
    """
    exact = torch.float32 if locations.device.type == "mps" else torch.float64
    return (locations.to(exact) * length - 0.5).clamp(-2, length + 1)


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
            "locations and weights must both be [B,Q,H,L,P], got "
            f"{list(locations.shape)} and {list(weights.shape)}"
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
