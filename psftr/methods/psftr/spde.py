"""Semantic Prototype-Driven Enhancement (paper, section 3.6): raw frames that resemble the names join the queries."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from psftr.methods.psftr.attention import pairwise_cosine

__all__ = [
    "SPDE",
    "ConcatMlpFusion",
    "LinearResidualFusion",
    "NoEnhancement",
    "ResidualFusion",
    "SemanticPrototype",
]


class SemanticPrototype(nn.Module):
    """The mean over names of equation 5's prototypes V^ = softmax_time(scale * cos(T, V)) V.

    Mean pooling (equation 6) is linear, so it is applied to the attention: V^ [B,K,D] itself is never needed.
    """

    def __init__(self, *, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, features: Tensor, text: Tensor, is_padding: Tensor) -> Tensor:
        """features V [B,T,D], zero where padded; text T [K,D]; is_padding [B,T] -> [B,1,D] float32."""
        similarity = self.scale * pairwise_cosine(text, features)  # [B,K,T]
        similarity = similarity.masked_fill(is_padding[:, None, :], torch.finfo(similarity.dtype).min)
        attention = similarity.softmax(dim=-1).mean(dim=1, keepdim=True)
        with torch.autocast(features.device.type, enabled=False):
            return attention @ features.float()


class ResidualFusion(nn.Module):
    """Q_cls = Q^ + prototype: "Res." of Table 3, nothing learned.

    Where feature and model widths differ, a fixed projection with orthonormal rows or columns takes one to the other.
    """

    projection: Tensor

    def __init__(self, *, feature_dim: int, dim: int) -> None:
        super().__init__()
        same = feature_dim == dim
        weight = torch.eye(dim) if same else nn.init.orthogonal_(torch.empty(feature_dim, dim))
        self.register_buffer("projection", weight)

    def forward(self, queries: Tensor, prototype: Tensor) -> Tensor:
        """queries [...,B,Q,d], prototype [B,1,D] -> [...,B,Q,d]."""
        return queries + prototype @ self.projection


class LinearResidualFusion(nn.Module):
    """Q_cls = Q^ + Linear(prototype): equation 6, "MLP + Res." of Table 3."""

    def __init__(self, *, feature_dim: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(feature_dim, dim)

    def forward(self, queries: Tensor, prototype: Tensor) -> Tensor:
        """queries [...,B,Q,d], prototype [B,1,D] -> [...,B,Q,d]."""
        return queries + self.linear(prototype)


class ConcatMlpFusion(nn.Module):
    """Q_cls = MLP([Q^; prototype]): "Con. + MLP" of Table 3."""

    def __init__(self, *, feature_dim: int, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(dim + feature_dim, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self, queries: Tensor, prototype: Tensor) -> Tensor:
        """queries [...,B,Q,d], prototype [B,1,D] -> [...,B,Q,d]."""
        prototype = prototype.to(queries.dtype).expand(*queries.shape[:-1], -1)
        return self.mlp(torch.cat((queries, prototype), dim=-1))


class SPDE(nn.Module):
    """Queries for classification: equation 5, then one way of fusing its prototype into them."""

    def __init__(self, *, prototype: SemanticPrototype, fusion: nn.Module) -> None:
        super().__init__()
        self.prototype = prototype
        self.fusion = fusion

    def forward(self, queries: Tensor, features: Tensor, text: Tensor, is_padding: Tensor) -> Tensor:
        """queries Q^ [N,B,Q,d], features V [B,T,D], text T [K,D], is_padding [B,T] -> Q_cls [N,B,Q,d]."""
        return self.fusion(queries, self.prototype(features, text, is_padding))


class NoEnhancement(nn.Module):
    """Q_cls = Q^: "w/o SPDE" of Table 3."""

    def forward(self, queries: Tensor, features: Tensor, text: Tensor, is_padding: Tensor) -> Tensor:
        return queries
