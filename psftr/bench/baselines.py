"""What ours is compared with: how others compute the same, and what cannot be beaten."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from psftr.data.annotations import Action
from psftr.predictions import Detection

Attention = Callable[[Tensor, Tensor, Tensor, Sequence[int]], Tensor]
"""Takes and returns what `psftr.ops.temporal_deform_attn` does."""


def grid_sample_attn(values: Tensor, locations: Tensor, weights: Tensor, level_lengths: Sequence[int]) -> Tensor:
    """The way of the Deformable-DETR family where its CUDA extension is missing, in one dimension.

    Arguments and result as `psftr.ops.temporal_deform_attn`. Locations are float32 products here, so long sequences
    lose digits.
    """
    heads = values.shape[2]
    sampled = []
    for level, rows in enumerate(values.split(list(level_lengths), dim=1)):
        if rows.shape[1] == 0:
            continue
        image = rearrange(rows, "b t h d -> (b h) d 1 t")
        x = rearrange(locations[:, :, :, level], "b q h p -> (b h) q p") * 2 - 1
        grid = torch.stack((x, torch.zeros_like(x)), dim=-1).to(values.dtype)
        read = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)  # [B*H,D,Q,P]
        share = rearrange(weights[:, :, :, level], "b q h p -> (b h) 1 q p")
        sampled.append((read * share.to(values.dtype)).sum(-1))
    return rearrange(torch.stack(sampled).sum(0), "(b h) d q -> b q h d", h=heads)


def attend_to_nothing(values: Tensor, locations: Tensor, weights: Tensor, level_lengths: Sequence[int]) -> Tensor:
    """A result of the right shape through which gradients reach every input, at next to no cost."""
    return (values[:, :1] * (weights.mean() + locations.mean()).to(values.dtype)).expand(-1, locations.shape[1], -1, -1)


def looped_map(
    truth: Mapping[str, Sequence[Action]],
    found: Mapping[str, Sequence[Detection]],
    classes: Sequence[str],
    tious: Sequence[float],
) -> float:
    """Average mAP the ActivityNet toolkit's way: one class, one detection, one threshold at a time."""
    averages = []
    for label in classes:
        instances = {v: [a for a in rows if a.label == label] for v, rows in truth.items()}
        count = sum(map(len, instances.values()))
        if not count:
            continue
        ranked = sorted((d for rows in found.values() for d in rows if d.label == label), key=lambda d: -d.score)
        taken: list[set[tuple[str, int]]] = [set() for _ in tious]
        hits = np.zeros((len(tious), len(ranked)))
        for rank, d in enumerate(ranked):
            overlaps = [_tiou(d, a) for a in instances[d.video_id]]
            for k, tiou in enumerate(tious):
                for j in np.argsort(overlaps)[::-1]:
                    if overlaps[j] < tiou:
                        break
                    if (d.video_id, int(j)) not in taken[k]:
                        taken[k].add((d.video_id, int(j)))
                        hits[k, rank] = 1
                        break
        for row in hits:
            true = row.cumsum()
            precision = np.maximum.accumulate((true / np.arange(1, len(row) + 1))[::-1])[::-1]
            averages.append(float((precision * row).sum() / count))
    return float(np.mean(averages))


def _tiou(d: Detection, a: Action) -> float:
    shared = max(0.0, min(d.end_s, a.end_s) - max(d.start_s, a.start_s))
    return shared / ((d.end_s - d.start_s) + (a.end_s - a.start_s) - shared)
