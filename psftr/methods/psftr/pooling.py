"""One ROIAlign for class heads, post-processing and the audit: raw features of a segment become one vector."""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor

__all__ = ["pool_segments", "roi_align", "roi_align_mean"]


def roi_align(features: Tensor, segments_se: Tensor, num_valid: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum over the bins of 1-D ROIAlign.

    features [B,T,D]; segments_se [B,Q,2] (start, end) in rows, inside [0, num_valid]; num_valid [B] rows that are not
    padding; weights [B,Q,P] of the P equal bins of a segment -> [B,Q,D] float32. Row t covers [t, t + 1), so its value
    sits at t + 0.5. A bin is torchvision's roi_align with aligned=True and adaptive sampling on the first num_valid
    rows. A segment of zero length takes the interpolated value at its place. Gradients reach features and weights.
    """
    rows, bins = features.shape[1], weights.shape[-1]
    start, end = (segments_se.float() - 0.5).unbind(-1)  # [B,Q], in units where row t sits at t
    length = end - start
    # Every bin holds ceil(length / bins) samples, so samples are evenly spaced over the segment, and pooling is one
    # row of interpolation weights per segment. The most samples a segment can have is a number known beforehand: the
    # network can be exported, and a GPU is not asked for the longest segment.
    per_bin = (length / bins).ceil().clamp(min=1)
    count = bins * per_bin  # [B,Q]
    step = torch.arange(bins * -(-rows // bins), device=features.device)  # S samples
    at = start[..., None] + (step + 0.5) * (length / count)[..., None]  # [B,Q,S]
    bin_of_step = (step // per_bin[..., None]).long().clamp(max=bins - 1)
    share = weights.float().gather(-1, bin_of_step) / per_bin[..., None] * (step < count[..., None])
    last = rearrange((num_valid - 1).clamp(min=0), "b -> b 1 1")
    at = torch.minimum(at.clamp(min=0), last.to(at.dtype))
    low = at.floor().long()
    fraction = at - low
    row_weights = share.new_zeros(*segments_se.shape[:2], rows)  # [B,Q,T]
    row_weights = row_weights.scatter_add(-1, low, share * (1 - fraction))
    row_weights = row_weights.scatter_add(-1, torch.minimum(low + 1, last), share * fraction)
    with torch.autocast(features.device.type, enabled=False):
        return row_weights @ features.float()


def roi_align_mean(features: Tensor, segments_se: Tensor, num_valid: Tensor, *, bins: int) -> Tensor:
    """`roi_align` with equal weights: features [B,T,D], segments_se [B,Q,2] in rows -> [B,Q,D]."""
    return roi_align(features, segments_se, num_valid, segments_se.new_full((*segments_se.shape[:-1], bins), 1 / bins))


def pool_segments(features: Tensor, segments_cw: Tensor, weights: Tensor) -> Tensor:
    """`roi_align` for every decoder layer, of segments (centre, width) that are clipped to the window.

    features [B,T,D], zero where padded; segments_cw [N,B,Q,2] in units of T (no gradient); weights [N,B,Q,P] ->
    [N,B,Q,D] float32.
    """
    layers, batch, rows = weights.shape[0], weights.shape[1], features.shape[1]
    centre, width = segments_cw.detach().float().unbind(-1)
    edges = torch.stack((centre - width / 2, centre + width / 2), dim=-1).clamp(0, 1) * rows
    edges, weights = (rearrange(x, "n b q x -> b (n q) x") for x in (edges, weights))
    num_valid = repeat(torch.tensor(rows, device=features.device), "-> b", b=batch)
    return rearrange(roi_align(features, edges, num_valid, weights), "b (n q) d -> n b q d", n=layers)
