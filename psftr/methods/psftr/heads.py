"""What is read off queries and frames: segments, actionness, class logits over any names, frame saliency.

N in shapes: the decoder layers whose outputs are wanted, computed together.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psftr.methods.psftr.attention import pairwise_cosine
from psftr.methods.psftr.pooling import pool_segments
from psftr.methods.psftr.rows import convolve_rows, zero_padding
from psftr.methods.psftr.settings import MAX_LOGIT_SCALE

__all__ = [
    "ActionnessHead",
    "AdapterClassifier",
    "AttentionPoolClassifier",
    "CosineClassifier",
    "LogitScale",
    "SaliencyHead",
    "SegmentHead",
]

PRIOR = 0.01
PADDING_SALIENCY = -20.0  # a probability of 2e-9: finite, so that a masked loss stays finite too


class SegmentHead(nn.Module):
    """(centre, width) = sigmoid(MLP(Q^) + logit(reference)), in units of the window's T rows."""

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        last = nn.Linear(dim, 2)
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), last)
        # predictions start on their references; not exactly, or the layers before would start without gradient
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)

    def forward(self, queries: Tensor, references_cw: Tensor) -> Tensor:
        """queries [B,Q,d], references_cw [B|1,Q,2] in (0,1) -> segments_cw [B,Q,2] in (0,1), float32."""
        return torch.sigmoid(self.mlp(queries).float() + torch.logit(references_cw.float(), eps=1e-5))


class ActionnessHead(nn.Module):
    """Whether a query holds an action of whatever class; starts at probability PRIOR, as focal losses want."""

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 1)
        nn.init.constant_(self.linear.bias, math.log(PRIOR / (1 - PRIOR)))

    def forward(self, queries: Tensor) -> Tensor:
        """queries [...,d] -> logits [...] float32."""
        return self.linear(queries).float().squeeze(-1)


class SaliencyHead(nn.Module):
    """Conv1d / LeakyReLU / Conv1d over F^: whether a frame lies inside an action."""

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.local = nn.Conv1d(dim, dim, kernel_size=3, padding=1)
        self.logit = nn.Conv1d(dim, 1, kernel_size=1)

    def forward(self, visual: Tensor, is_padding: Tensor) -> Tensor:
        """visual F^ [B,T,d], is_padding [B,T] -> logits [B,T] float32, PADDING_SALIENCY where padded."""
        local = F.leaky_relu(convolve_rows(zero_padding(visual, is_padding), self.local.weight, self.local.bias), 0.2)
        logits = convolve_rows(local, self.logit.weight, self.logit.bias)
        return logits.float().squeeze(-1).masked_fill(is_padding, PADDING_SALIENCY)


class LogitScale(nn.Module):
    """exp(scale) * cosine with CLIP's learned temperature, clamped to [1, MAX_LOGIT_SCALE]."""

    def __init__(self, *, initial: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(initial)))

    def forward(self, embeddings: Tensor, text: Tensor) -> Tensor:
        """embeddings [...,Dt], text [K,Dt] -> logits [...,K] float32."""
        scale = self.log_scale.float().clamp(0.0, math.log(MAX_LOGIT_SCALE)).exp()
        return scale * pairwise_cosine(embeddings, text)


class CosineClassifier(nn.Module):
    """exp(scale) * cos(Linear(Q_cls), T): the paper's classifier. All of the embedding is learned from seen names."""

    def __init__(self, *, dim: int, text_dim: int, logit_scale: float) -> None:
        super().__init__()
        self.projection = nn.Linear(dim, text_dim)
        self.logits = LogitScale(initial=logit_scale)

    def forward(self, queries: Tensor, segments_cw: Tensor, features: Tensor, text: Tensor, curves: Tensor) -> Tensor:
        """queries Q_cls [N,B,Q,d], text T [K,Dt] -> logits [N,B,Q,K]."""
        return self.logits(self.projection(queries), text)


class AdapterClassifier(nn.Module):
    """Cosine of an adapted raw CLIP feature: (1 - ratio) * unit(RoI mean of V) + ratio * unit(Linear(Q_cls)).

    As in CLIP-Adapter (Gao et al.), the learned part is a residual of bounded size: it can tilt CLIP's own zero-shot
    answer towards the seen names, but not replace it. Segments are read without gradient.
    """

    def __init__(self, *, dim: int, text_dim: int, logit_scale: float, adapter_ratio: float, roi_bins: int) -> None:
        super().__init__()
        self.ratio = adapter_ratio
        self.bins = roi_bins
        self.projection = nn.Linear(dim, text_dim)
        self.logits = LogitScale(initial=logit_scale)

    def forward(self, queries: Tensor, segments_cw: Tensor, features: Tensor, text: Tensor, curves: Tensor) -> Tensor:
        """queries Q_cls [N,B,Q,d], segments_cw [N,B,Q,2], features V [B,T,Dt], text T [K,Dt] -> [N,B,Q,K]."""
        weights = segments_cw.new_full((*segments_cw.shape[:-1], self.bins), 1 / self.bins)
        pooled = pool_segments(features, segments_cw, weights)
        raw, learned = (F.normalize(x.float(), dim=-1) for x in (pooled, self.projection(queries)))
        return self.logits(torch.lerp(raw, learned, self.ratio), text)


class AttentionPoolClassifier(nn.Module):
    """Cosine of an attention-pooled raw CLIP feature: Q_cls only says which part of its segment to look at.

    Nothing is learned in the space of the names. Segments are read without gradient.
    """

    def __init__(self, *, dim: int, logit_scale: float, roi_bins: int) -> None:
        super().__init__()
        self.attention = nn.Linear(dim, roi_bins)
        self.logits = LogitScale(initial=logit_scale)

    def forward(self, queries: Tensor, segments_cw: Tensor, features: Tensor, text: Tensor, curves: Tensor) -> Tensor:
        """queries Q_cls [N,B,Q,d], segments_cw [N,B,Q,2], features V [B,T,Dt], text T [K,Dt] -> [N,B,Q,K]."""
        weights = self.attention(queries).float().softmax(dim=-1)
        return self.logits(pool_segments(features, segments_cw, weights), text)
