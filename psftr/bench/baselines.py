"""What others compute temporal deformable attention with, for comparison."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def grid_sample_attn(values: Tensor, locations: Tensor, weights: Tensor, level_lengths: Sequence[int]) -> Tensor:
    """The formulation of the Deformable-DETR family where its CUDA extension is missing, in one dimension.

    Arguments and result as `psftr.ops.temporal_deform_attn`. Locations are float32 products here, so that long
    sequences lose digits.
    """
    batch, _, heads, dim = values.shape
    queries, points = locations.shape[1], locations.shape[4]
    sampled = []
    for level, rows in enumerate(values.split(list(level_lengths), dim=1)):
        if rows.shape[1] == 0:
            continue
        image = rows.permute(0, 2, 3, 1).reshape(batch * heads, dim, 1, rows.shape[1])
        x = locations[:, :, :, level].transpose(1, 2).reshape(batch * heads, queries, points) * 2 - 1
        grid = torch.stack((x, torch.zeros_like(x)), dim=-1).to(values.dtype)
        read = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        share = weights[:, :, :, level].transpose(1, 2).reshape(batch * heads, 1, queries, points)
        sampled.append((read * share.to(values.dtype)).sum(-1))
    return torch.stack(sampled).sum(0).view(batch, heads, dim, queries).permute(0, 3, 1, 2)
