"""Text as similarity: how close every frame is to every name, in CLIP's own space.

Cross-attention to embeddings of names can memorise the names it was trained on. Here no learned weight ever sees a
name: what reaches the network is a curve over time per name, the same kind of thing for a name seen in training and
for one that was not. All curves go through the same weights. The idea is cost aggregation, as CAT-Seg (Cho et al.,
2024) does for open-vocabulary segmentation.

Shape letters as in attention.py; S the curves, C channels per name, P places along a segment.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psftr.data.ranks import sum_over_ranks
from psftr.methods.psftr.rows import zero_padding

__all__ = [
    "CURVE_SCALE",
    "CentredSimilarity",
    "NameGuidance",
    "NoSimilarity",
    "SimilarityClassifier",
    "Unguided",
    "sample_along",
]

CURVE_SCALE = 25.0  # centred cosines of CLIP lie within about +-0.1: times this, curves are of order one
_LEAST_LENGTH = 1e-12  # of a frame, as in torch.nn.functional.normalize
_FULL_MOMENTUM = 0.01  # the running mean ends as an average over about the last hundred batches


class CentredSimilarity(nn.Module):
    """CURVE_SCALE * (cos(frame, name) - the name's mean cosine over training frames).

    Some names are close to all frames and some to none; what is left after centring can be compared between names.
    The mean over frames of cos(frame, name) is the cosine's bilinear form at the mean unit frame, so one vector serves
    every name, also one never seen in training. It is a running mean over training batches, as in batch normalisation.
    """

    frame_mean: Tensor
    batches_seen: Tensor

    def __init__(self, *, feature_dim: int) -> None:
        super().__init__()
        self.register_buffer("frame_mean", torch.zeros(feature_dim))
        self.register_buffer("batches_seen", torch.zeros((), dtype=torch.long))

    def forward(self, features: Tensor, text: Tensor, is_padding: Tensor) -> Tensor:
        """features V [B,T,D], text T [K,D], is_padding [B,T] -> curves [B,K,T] float32, 0 where padded.

        All-zero text gives all-zero curves: the neutral input. Frames are read as they are, and what comes of them is
        divided by their lengths: there are far fewer names than numbers in a frame.
        """
        with torch.autocast(features.device.type, enabled=False):
            frames = features.float()
            length = frames.norm(dim=-1, keepdim=True).clamp(min=_LEAST_LENGTH)  # [B,T,1]
            if self.training:
                self._update(frames.detach(), length.detach(), is_padding)
            names = F.normalize(text.float(), dim=-1)
            cosines = frames @ names.T / length
            curves = CURVE_SCALE * (cosines - self.frame_mean @ names.T).transpose(1, 2)
            return curves.masked_fill(is_padding[:, None, :], 0.0)

    @torch.no_grad()
    def _update(self, frames: Tensor, length: Tensor, is_padding: Tensor) -> None:
        """Move the mean towards the valid frames of all ranks' batches: a plain average at first, then a slow one."""
        is_valid = (~is_padding).to(frames.dtype)
        share = is_valid / length.squeeze(-1)  # [B,T]: how much of a frame is in the sum of frames of length one
        total = torch.cat((share.flatten() @ frames.flatten(0, 1), is_valid.sum()[None]))
        summed, count = sum_over_ranks(total).split((len(self.frame_mean), 1))
        batch_mean = summed / count.clamp(min=1)
        self.batches_seen += 1
        weight = (1 / self.batches_seen).clamp(min=_FULL_MOMENTUM)
        self.frame_mean.lerp_(batch_mean, weight)


class NoSimilarity(nn.Module):
    """No curves: the paper's form, in which nothing reads them."""

    def forward(self, features: Tensor, text: Tensor, is_padding: Tensor) -> Tensor:
        """features V [B,T,D] -> [B,0,T]."""
        return features.new_zeros(features.shape[0], 0, features.shape[1])


class Unguided(nn.Module):
    """V~ as it is: the paper's form."""

    def forward(self, visual: Tensor, curves: Tensor, is_padding: Tensor) -> Tensor:
        """visual V~ [B,T,d] -> [B,T,d]."""
        return visual


class NameGuidance(nn.Module):
    """V~ and what the curves of all names say about every frame.

    Each name's curve, and the same curve less its mean over the window, goes through two temporal convolutions whose
    weights all names share. Then the maximum and the mean over names, so that neither the order nor the number of names
    matters, and a projection that starts near zero: at first the network is one that reads no text in its encoder.
    """

    def __init__(self, *, channels: int, dim: int, kernel_size: int = 5) -> None:
        super().__init__()
        self.first = nn.Conv1d(2, channels, kernel_size, padding=kernel_size // 2)
        self.second = nn.Conv1d(channels, channels, kernel_size, padding=kernel_size // 2)
        self.projection = nn.Linear(2 * channels, dim)
        # not exactly zero, or the convolutions would start without gradient
        nn.init.normal_(self.projection.weight, std=1e-3)
        nn.init.zeros_(self.projection.bias)

    def forward(self, visual: Tensor, curves: Tensor, is_padding: Tensor) -> Tensor:
        """visual V~ [B,T,d] and curves S [B,K,T], 0 where padded; is_padding [B,T] -> [B,T,d], 0 where padded."""
        hidden = self._of_each_name(curves, is_padding)
        pooled = torch.cat((hidden.amax(dim=1), hidden.mean(dim=1)), dim=1)
        return visual + zero_padding(self.projection(pooled.transpose(1, 2)), is_padding)

    def _of_each_name(self, curves: Tensor, is_padding: Tensor) -> Tensor:
        """curves [B,K,T] -> [B,K,C,T]; every name by itself."""
        num_valid = (~is_padding).sum(dim=1).clamp(min=1)[:, None, None]
        local = (curves - curves.sum(dim=-1, keepdim=True) / num_valid).masked_fill(is_padding[:, None, :], 0.0)
        both = torch.stack((curves, local), dim=2).flatten(0, 1)
        return F.relu(self.second(F.relu(self.first(both)))).unflatten(0, curves.shape[:2])


class SimilarityClassifier(nn.Module):
    """logit = exp(scale) * mean of the name's curve over the segment + correction; the correction starts near zero.

    So training starts from CLIP's own centred answer, and may only change what holds for every name: the correction is
    an MLP of the curve along the segment and half its length to either side, of its inside-outside contrast, and of its
    margin over the mean of the other names. Segments are read without gradient.
    """

    INSIDE, OUTSIDE, HIDDEN = 8, 4, 32  # places inside and on each side of a segment; width of the MLP

    def __init__(self, *, logit_scale: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(logit_scale / CURVE_SCALE)))
        self.expand = nn.Linear(self.INSIDE + 2 * self.OUTSIDE + 2, self.HIDDEN)
        self.contract = nn.Linear(self.HIDDEN, 1, bias=False)  # what all names share is lost in the softmax over them
        nn.init.normal_(self.contract.weight, std=1e-3)

    def forward(self, queries: Tensor, segments_cw: Tensor, features: Tensor, text: Tensor, curves: Tensor) -> Tensor:
        """segments_cw [N,B,Q,2] in units of T, curves S [B,K,T] -> logits [N,B,Q,K] float32."""
        with torch.autocast(curves.device.type, enabled=False):
            along = sample_along(curves.float(), segments_cw, inside=self.INSIDE, outside=self.OUTSIDE)  # [N,B,Q,K,P]
            before, middle, after = along.split((self.OUTSIDE, self.INSIDE, self.OUTSIDE), dim=-1)
            inside = middle.mean(dim=-1)
            contrast = inside - torch.cat((before, after), dim=-1).mean(dim=-1)
            others = (inside.sum(dim=-1, keepdim=True) - inside) / max(1, inside.shape[-1] - 1)
            evidence = torch.cat((along, torch.stack((contrast, inside - others), dim=-1)), dim=-1)
            correction = self._correction(evidence.flatten(0, -2)).view(inside.shape)
            return self.log_scale.exp() * inside + correction

    def _correction(self, evidence: Tensor) -> Tensor:
        """[R,P] of every query and name -> [R]."""
        if evidence.device.type == "cpu" and not evidence.requires_grad and not torch.compiler.is_compiling():
            return _CorrectionOfFew.apply(evidence, self.expand.weight, self.expand.bias, self.contract.weight)
        return self.contract(F.relu(self.expand(evidence))).squeeze(-1)


class _CorrectionOfFew(torch.autograd.Function):
    """The correction, whose slow twin is in `SimilarityClassifier`, differentiated only where it has a gradient.

    Only queries that are matched to an action have one, of THUMOS14 fewer than one in seven. What lies between all
    queries and all names, 69 MB for a batch of ActivityNet, is not kept.
    """

    @staticmethod
    def forward(ctx: Any, evidence: Tensor, weight: Tensor, bias: Tensor, contract: Tensor) -> Tensor:
        ctx.save_for_backward(evidence, weight, bias, contract)
        return _hidden(evidence, weight, bias) @ contract[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, Tensor, Tensor]:
        evidence, weight, bias, contract = ctx.saved_tensors
        rows = grads[0].nonzero().squeeze(1)
        grad, evidence = grads[0][rows], evidence[rows]
        hidden = _hidden(evidence, weight, bias)
        of_hidden = (grad[:, None] * contract).masked_fill_(hidden == 0, 0.0)
        return None, of_hidden.T @ evidence, of_hidden.sum(0), (grad @ hidden)[None]


def _hidden(evidence: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[R,P] -> [R,H]."""
    return torch.addmm(bias, evidence, weight.T).relu_()


def sample_along(curves: Tensor, segments_cw: Tensor, *, inside: int, outside: int) -> Tensor:
    """Curves at the centres of `inside` equal bins of each segment and of `outside` bins of the same width each side.

    curves [B,K,T], whose row t lies at (t + .5) / T; segments_cw [N,B,Q,2] in units of T, clipped to the window, read
    without gradient -> [N,B,Q,K,P], P = outside + inside + outside, in order of time. Beyond the window its outermost
    row holds.
    """
    length = curves.shape[-1]
    layers, batch, queries, _ = segments_cw.shape
    centre, width = segments_cw.detach().float().unbind(-1)
    start, end = (centre - width / 2).clamp(0, 1), (centre + width / 2).clamp(0, 1)
    bins = (torch.arange(-outside, inside + outside, device=curves.device) + 0.5) / inside
    rows = (start[..., None] + (end - start)[..., None] * bins) * length - 0.5  # [N,B,Q,P]
    rows = rows.clamp(0, length - 1).transpose(0, 1).reshape(batch, 1, -1)
    low = rows.floor().long().clamp(max=max(0, length - 2))
    high = (low + 1).clamp(max=length - 1)
    at_low, at_high = (curves.gather(2, index.expand(-1, curves.shape[1], -1)) for index in (low, high))
    values = torch.lerp(at_low, at_high, rows - low)  # [B,K,N*Q*P]
    return values.unflatten(2, (layers, queries, -1)).permute(2, 0, 3, 1, 4)
