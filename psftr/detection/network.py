"""The detector: F_vis from the features, and from it, or from more, a class and boundaries for every point."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psftr.detection.points import Level, make_levels
from psftr.detection.pyramid import FrameEmbedding, MaskedConv, Pyramid
from psftr.detection.settings import DetectorSettings
from psftr.errors import PsftrError
from psftr.settings import from_dict


@dataclass(frozen=True)
class PointOutputs:
    """class_logits [B,P,C]; distances [B,P,2] to start and end in rows, at least 0; is_padding [B,P]. float32.

    advantage [B,T]: how much language is expected to help each row, of a method that predicts it.
    """

    class_logits: Tensor
    distances: Tensor
    is_padding: Tensor
    advantage: Tensor | None = None


class Head(nn.Module):
    """Two convolutions with LayerNorm and ReLU, then one to `outputs` values; the same weights for all levels."""

    def __init__(self, *, dim: int, outputs: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([MaskedConv(dim, dim), MaskedConv(dim, dim)])
        self.norms = nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(dim)])
        self.last = MaskedConv(dim, outputs)

    def forward(self, rows: Tensor, is_padding: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms):
            rows = F.relu(norm(conv(rows, is_padding)))
        return self.last(rows, is_padding)


class Detector(nn.Module):
    """ActionFormer. `embed` makes F_vis; `detect` reads two streams, F_cls and F_loc, with the same pyramid.

    levels: of the pyramid. class_prior: probability of every class at the start.
    """

    def __init__(
        self,
        *,
        embedding: FrameEmbedding,
        pyramid: Pyramid,
        levels: tuple[Level, ...],
        dim: int,
        feature_dim: int,
        num_classes: int,
        class_prior: float,
    ) -> None:
        super().__init__()
        self.embedding, self.pyramid, self.levels = embedding, pyramid, levels
        self.dim, self.feature_dim, self.num_classes = dim, feature_dim, num_classes
        self.class_head = Head(dim=dim, outputs=num_classes)
        self.location_head = Head(dim=dim, outputs=2)
        self.location_scales = nn.Parameter(torch.ones(len(levels)))
        nn.init.constant_(self.class_head.last.conv.bias, -math.log((1 - class_prior) / class_prior))  # type: ignore[arg-type]
        nn.init.constant_(self.location_head.last.conv.bias, 1.0)  # type: ignore[arg-type]

    def forward(self, features: Tensor, is_padding: Tensor) -> PointOutputs:
        """features [B,T,feature_dim], is_padding [B,T] -> PointOutputs. Raises PsftrError for another width."""
        visual = self.embed(features, is_padding)
        return self.detect(visual, visual, is_padding)

    def embed(self, features: Tensor, is_padding: Tensor) -> Tensor:
        """F_vis [B,T,dim]."""
        if features.dim() != 3 or features.shape[-1] != self.feature_dim:
            raise PsftrError(
                f"features must be [B,T,{self.feature_dim}] for this network, got {list(features.shape)}: "
                "use features of the encoder it was built for"
            )
        return self.embedding(features, is_padding)

    def detect(self, for_classes: Tensor, for_locations: Tensor, is_padding: Tensor) -> PointOutputs:
        """F_cls and F_loc [B,T,dim] -> PointOutputs; one pass of the pyramid where both are the same tensor."""
        class_levels = self.pyramid(for_classes, is_padding)
        location_levels = class_levels if for_locations is for_classes else self.pyramid(for_locations, is_padding)
        logits = [self.class_head(rows, padding) for rows, padding in class_levels]
        distances = [
            F.relu(scale * self.location_head(rows, padding)) * level.stride
            for scale, (rows, padding), level in zip(self.location_scales, location_levels, self.levels)
        ]
        return PointOutputs(
            class_logits=torch.cat(logits, dim=1).float(),
            distances=torch.cat(distances, dim=1).float(),
            is_padding=torch.cat([padding for _, padding in class_levels], dim=1),
        )


def build_detector(settings: DetectorSettings, *, feature_dim: int, num_classes: int) -> Detector:
    """A freshly initialised detector (from torch's global random state)."""
    return Detector(
        embedding=FrameEmbedding(feature_dim=feature_dim, dim=settings.dim),
        pyramid=Pyramid(
            dim=settings.dim,
            heads=settings.attention_heads,
            span=settings.attention_span,
            expansion=settings.expansion,
            dropout=settings.block_dropout,
            levels=settings.pyramid_levels,
            stem_blocks=settings.stem_blocks,
        ),
        levels=make_levels(settings.pyramid_levels, finest_range=settings.finest_range),
        dim=settings.dim,
        feature_dim=feature_dim,
        num_classes=num_classes,
        class_prior=settings.class_prior,
    )


def rebuild_detector(facts: Mapping[str, Any]) -> Detector:
    """A detector of the sizes in a checkpoint's facts: feature_dim, num_classes and `detector`, its settings."""
    settings = from_dict(DetectorSettings, facts["detector"])
    return build_detector(settings, feature_dim=facts["feature_dim"], num_classes=facts["num_classes"])
