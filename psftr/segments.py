"""Temporal segments: the two notations, overlap, suppression, and where feature rows lie in seconds.

A segment is a pair in the last axis, either (start, end) or (centre, width); the unit (seconds, normalised
window time, store positions) is the caller's. Everything is batched over leading axes and returns the dtype
it was given.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Numbers = TypeVar("Numbers")  # float, ndarray or Tensor: what goes in comes out
_SHORTEST = 1e-8  # a union below this counts as empty: overlap 0, gradient 0


@dataclass(frozen=True, slots=True)
class Timeline:
    """`num_steps` feature rows of `stride` frames each; `duration_s` is the video's own length; rows may fall short."""

    stride: int
    fps: float
    num_steps: int
    duration_s: float

    @property
    def step_s(self) -> float:
        return self.stride / self.fps

    def seconds(self, position: Numbers) -> Numbers:
        """Store position (rows; row i covers [i, i+1)) to seconds."""
        return position * self.stride / self.fps  # type: ignore[operator, return-value]

    def position(self, seconds: Numbers) -> Numbers:
        """Seconds to store position: the inverse of `seconds`."""
        return seconds * self.fps / self.stride  # type: ignore[operator, return-value]


def centre_width_to_start_end(cw: Tensor) -> Tensor:
    """(centre, width) [..., 2] -> (start, end) [..., 2]."""
    centre, width = cw.unbind(-1)
    return torch.stack((centre - 0.5 * width, centre + 0.5 * width), dim=-1)


def start_end_to_centre_width(se: Tensor) -> Tensor:
    """(start, end) [..., 2] -> (centre, width) [..., 2]."""
    start, end = se.unbind(-1)
    return torch.stack((0.5 * (start + end), end - start), dim=-1)


def _intersection_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    inside = (torch.minimum(a[..., 1], b[..., 1]) - torch.maximum(a[..., 0], b[..., 0])).clamp(min=0)
    length_a = (a[..., 1] - a[..., 0]).clamp(min=0)
    length_b = (b[..., 1] - b[..., 0]).clamp(min=0)
    return inside, length_a + length_b - inside


def _safe_ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, and 0 with a zero gradient where whole is empty."""
    filled = whole > max(_SHORTEST, torch.finfo(whole.dtype).tiny)
    # The inner `where` keeps the division itself finite: a masked NaN would still poison the gradient.
    return torch.where(filled, part / torch.where(filled, whole, 1.0), 0.0).to(part.dtype)


def tiou_paired(a: Tensor, b: Tensor) -> Tensor:
    """Temporal IoU of (start, end) segments a[..., 2] and b[..., 2], element by element -> [...] in [0, 1].

    A segment of zero length overlaps nothing: its tIoU is 0, never NaN, with finite gradients.
    """
    inside, union = _intersection_and_union(a, b)
    return _safe_ratio(inside, union)


def tiou_pairwise(a: Tensor, b: Tensor) -> Tensor:
    """Temporal IoU of every (start, end) in a[..., N, 2] with every one in b[..., M, 2] -> [..., N, M]."""
    return tiou_paired(a.unsqueeze(-2), b.unsqueeze(-3))


def giou_paired(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU (Rezatofighi et al., 2019) of (start, end) a[..., 2] and b[..., 2] -> [...] in [-1, 1].

    tIoU minus the share of the enclosing segment that neither covers, so that disjoint segments still
    attract each other.
    """
    inside, union = _intersection_and_union(a, b)
    hull = (torch.maximum(a[..., 1], b[..., 1]) - torch.minimum(a[..., 0], b[..., 0])).clamp(min=0)
    return _safe_ratio(inside, union) - _safe_ratio(hull - union, hull)


def giou_pairwise(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of every (start, end) in a[..., N, 2] with every one in b[..., M, 2] -> [..., N, M]."""
    return giou_paired(a.unsqueeze(-2), b.unsqueeze(-3))


def nms(segments: Tensor, scores: Tensor, *, threshold: float, groups: Tensor | None = None) -> Tensor:
    """Greedy non-maximum suppression.

    segments [N, 2] (start, end); scores [N]; groups [N] integers or None: a segment only suppresses members
    of its own group (its class). A segment goes when its tIoU with a better kept one exceeds `threshold`.
    Returns the kept indices (long), best first.
    """
    bounds, score, group = _as_arrays(segments, scores, groups)
    order = np.lexsort((-score, group))  # by group, best first inside each: every group is one slice
    start, end = bounds[order, 0], bounds[order, 1]
    kept: list[int] = []
    for first, last in _slices(group[order]):
        alive = np.ones(last - first, dtype=bool)
        for i in range(last - first):
            if alive[i]:
                kept.append(int(order[first + i]))
                rest = slice(first + i, last)
                overlap = _tiou_one_to_many(start[first + i], end[first + i], start[rest], end[rest])
                alive[i:] &= overlap <= threshold
    kept.sort(key=lambda index: -score[index])
    return torch.tensor(kept, dtype=torch.long, device=segments.device)


def soft_nms(
    segments: Tensor,
    scores: Tensor,
    *,
    sigma: float,
    min_score: float = 1e-3,
    max_kept: int | None = None,
    groups: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gaussian soft-NMS (Bodla et al., 2017): each pick multiplies the others by exp(-tIoU^2 / sigma).

    segments [N, 2] (start, end); scores [N]; groups [N] integers or None: decay stays inside a group (a
    class), so one call does every class of a video. Picking stops at `max_kept` picks or when no score
    reaches `min_score`. Returns (indices long [M], decayed scores [M] in the dtype of `scores`), best first.
    """
    if sigma <= 0:
        raise ValueError(f"soft-NMS needs sigma > 0, got {sigma}; a small sigma suppresses more")
    bounds, score, group = _as_arrays(segments, scores, groups)
    order = np.argsort(group, kind="stable")
    start, end, live = bounds[order, 0], bounds[order, 1], score[order].copy()
    slice_of = {int(group[order[first]]): slice(first, last) for first, last in _slices(group[order])}
    sorted_group = group[order]
    picks: list[int] = []
    decayed: list[float] = []
    limit = len(live) if max_kept is None else min(max_kept, len(live))
    while len(picks) < limit:
        best = int(live.argmax())
        if live[best] < min_score:
            break
        picks.append(int(order[best]))
        decayed.append(float(live[best]))
        same = slice_of[int(sorted_group[best])]
        overlap = _tiou_one_to_many(start[best], end[best], start[same], end[same])
        live[same] *= np.maximum(np.exp(-(overlap**2) / sigma), 1e-300)  # never 0: a pick stays at -inf
        live[best] = -np.inf
    return (
        torch.tensor(picks, dtype=torch.long, device=segments.device),
        torch.tensor(decayed, dtype=scores.dtype, device=scores.device),
    )


def _as_arrays(segments: Tensor, scores: Tensor, groups: Tensor | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if segments.ndim != 2 or segments.shape[-1] != 2 or scores.shape != segments.shape[:1]:
        raise ValueError(
            f"suppression takes segments [N, 2] and scores [N], got {list(segments.shape)} and {list(scores.shape)}"
        )
    bounds = segments.detach().double().cpu().numpy()
    score = scores.detach().double().cpu().numpy()
    group = np.zeros(len(score), dtype=np.int64) if groups is None else groups.detach().cpu().numpy()
    return bounds, score, group


def _slices(sorted_groups: np.ndarray) -> list[tuple[int, int]]:
    """[first, last) of every run of equal values."""
    if not len(sorted_groups):
        return []
    cuts = np.flatnonzero(np.diff(sorted_groups)) + 1
    edges = [0, *cuts.tolist(), len(sorted_groups)]
    return list(pairwise(edges))


def _tiou_one_to_many(start: float, end: float, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    inside = np.maximum(np.minimum(end, ends) - np.maximum(start, starts), 0.0)
    union = max(end - start, 0.0) + np.maximum(ends - starts, 0.0) - inside
    return inside / np.maximum(union, _SHORTEST)
