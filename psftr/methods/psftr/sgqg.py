"""Semantics-Guided Query Generation (paper, section 3.5): queries read the class names, then the frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from psftr.methods.psftr.attention import FeedForward, MultiheadAttention, TemporalDeformableAttention
from psftr.methods.psftr.residual import Residual

__all__ = [
    "SGQG",
    "ContextualVisualAnchoring",
    "LiteralSemanticPromptInfusion",
    "NoPromptInfusion",
    "Queries",
    "QuerySelfAttention",
    "RefiningSGQG",
    "SemanticPromptInfusion",
    "SgqgLayer",
]


@dataclass(frozen=True, kw_only=True)
class Queries:
    """Queries that go through the decoder beside the learnable ones: they see each other, and no others see them."""

    content: Tensor  # [B,n,d]
    position: Tensor  # [B,n,d]
    references_cw: Tensor  # [B,n,2] in (0,1)


class QuerySelfAttention(nn.Module):
    """Q_bar = LayerNorm(Q + SA(q = k = Q + position, v = Q)) over the content half Q of the queries."""

    def __init__(self, *, attention: MultiheadAttention, dim: int, dropout: float) -> None:
        super().__init__()
        self.attention = attention
        self.residual = Residual(dropout=dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, content: Tensor, position: Tensor) -> Tensor:
        """content [B|1,Q,d], position [Q,d] or [B,Q,d] -> [B|1,Q,d]."""
        return self.norm(self.residual(content, self._attend(content, position)))

    def apart(self, content: Tensor, parts: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """`forward` where each query sees those of its own part: (content, position) of each, in their order along Q.

        content [B,Q,d] is that of all. A part may have one batch row for all windows.
        """
        attended = [self._attend(*part).expand(len(content), -1, -1) for part in parts]
        return self.norm(self.residual(content, torch.cat(attended, dim=1)))

    def _attend(self, content: Tensor, position: Tensor) -> Tensor:
        located = content + position
        return self.attention(located, located, content)


class SemanticPromptInfusion(nn.Module):
    """SPI, equation 3 with the residual on Q_bar: Q~ = FFN(LayerNorm(CA(Q_bar, T^, T^) + Q_bar))."""

    def __init__(self, *, attention: MultiheadAttention, feed_forward: FeedForward, dim: int, dropout: float) -> None:
        super().__init__()
        self.attention = attention
        self.residual = Residual(dropout=dropout)
        self.norm = nn.LayerNorm(dim)
        self.feed_forward = feed_forward

    def forward(self, attended: Tensor, content: Tensor, text: Tensor) -> Tensor:
        """attended Q_bar and content Q [B|1,Q,d], text T^ [B|1,K,d] -> [B|1,Q,d]."""
        return self._infuse(attended, attended, text)

    def _infuse(self, attended: Tensor, residual: Tensor, text: Tensor) -> Tensor:
        infused = self.attention(attended, text, text)
        return self.feed_forward(self.norm(self.residual(residual, infused)))


class LiteralSemanticPromptInfusion(SemanticPromptInfusion):
    """SPI, equation 3 as printed: the residual is on Q, the queries before their self-attention."""

    def forward(self, attended: Tensor, content: Tensor, text: Tensor) -> Tensor:
        """attended Q_bar and content Q [B|1,Q,d], text T^ [B|1,K,d] -> [B|1,Q,d]."""
        return self._infuse(attended, content, text)


class NoPromptInfusion(nn.Module):
    """Q~ = Q_bar: an ordinary decoder layer, text-to-query off (Table 2)."""

    def forward(self, attended: Tensor, content: Tensor, text: Tensor) -> Tensor:
        return attended


class ContextualVisualAnchoring(nn.Module):
    """CVA, equation 4: Q^ = FFN(LayerNorm(DA(Q~ + position, reference, F^) + Q~))."""

    def __init__(
        self, *, attention: TemporalDeformableAttention, feed_forward: FeedForward, dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.attention = attention
        self.residual = Residual(dropout=dropout)
        self.norm = nn.LayerNorm(dim)
        self.feed_forward = feed_forward

    def forward(
        self, queries: Tensor, position: Tensor, references_cw: Tensor, visual: Tensor, is_padding: Tensor
    ) -> Tensor:
        """queries [B|1,Q,d], position [Q,d], references_cw [B|1,Q,2], visual F^ [B,T,d] -> [B,Q,d]."""
        anchored = self.attention(queries + position, references_cw, visual, is_padding)
        return self.feed_forward(self.norm(self.residual(queries, anchored)))


class SgqgLayer(nn.Module):
    """Self-attention, semantic prompt infusion, contextual visual anchoring."""

    def __init__(
        self, *, self_attention: QuerySelfAttention, infusion: nn.Module, anchoring: ContextualVisualAnchoring
    ) -> None:
        super().__init__()
        self.self_attention = self_attention
        self.infusion = infusion
        self.anchoring = anchoring

    def forward(
        self,
        content: Tensor,
        position: Tensor,
        references_cw: Tensor,
        visual: Tensor,
        text: Tensor,
        is_padding: Tensor,
        parts: Sequence[tuple[Tensor, Tensor]] = (),
    ) -> Tensor:
        """content [B|1,Q,d], position [Q,d] or [B,Q,d], references_cw [B|1,Q,2], F^ [B,T,d], T^ [B|1,K,d] -> [B,Q,d].

        parts: (content, position) of those that see each other, see `QuerySelfAttention.apart`; none: all see all.
        """
        if parts:
            attended = self.self_attention.apart(content, parts)  # Q_bar
        else:
            attended = self.self_attention(content, position)
        infused = self.infusion(attended, content, text)  # Q~, equation 3
        return self.anchoring(infused, position, references_cw, visual, is_padding)  # Q^, equation 4


class SGQG(nn.Module):
    """Learnable queries through a stack of SgqgLayers; every layer anchors on the same learned references.

    A query is a position half and a content half. Linear(position) is its reference (centre, width), around which the
    segment head (shared by the layers) corrects: centre = sigmoid(delta_c + logit(ref)), and likewise the width, whose
    reference takes the part of a bias that may differ between queries.
    """

    def __init__(self, *, layers: Sequence[SgqgLayer], segment_head: nn.Module, queries: int, dim: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, 2 * dim))
        self.reference = nn.Linear(dim, 2)
        self.layers = nn.ModuleList(layers)
        self.segment_head = segment_head
        self._start_spread(dim)

    def _start_spread(self, dim: int) -> None:
        """Centres start about uniform over the window; nine widths in ten between .03 and .41 of it."""
        with torch.no_grad():
            self.reference.weight.normal_().mul_(torch.tensor([[1.7], [1.0]]) / dim**0.5)
            self.reference.bias.copy_(torch.tensor([0.0, -2.0]))

    def forward(
        self, visual: Tensor, text: Tensor, is_padding: Tensor, beside: Queries | None = None
    ) -> tuple[Tensor, Tensor]:
        """visual F^ [B,T,d], text T^ [B|1,K,d], is_padding [B,T] -> of N layers: queries Q^ [N,B,Q,d], cw [N,B,Q,2].

        beside: further queries; they follow the learnable ones along Q.
        """
        position, content = self.queries.chunk(2, dim=-1)
        references_cw = self.reference(position).float().sigmoid()[None]
        content = content[None]
        parts: list[tuple[Tensor, Tensor]] = []
        if beside is not None:
            # the learnable queries are those of every window until they have seen one: they attend to each other once
            parts = [(content, position), (beside.content, beside.position)]
            own = Queries(content=content, position=position[None], references_cw=references_cw)
            content, position, references_cw = _side_by_side(own, beside)
        sizes = [part[0].shape[1] for part in parts]
        queries, segments_cw = [], []
        for layer in self.layers:
            content = layer(content, position, references_cw, visual, text, is_padding, parts)
            queries.append(content)
            segments_cw.append(self.segment_head(content, references_cw))
            references_cw = self.next_references(references_cw, segments_cw[-1])
            if parts:
                parts = list(zip(content.split(sizes, dim=1), position.split(sizes, dim=1)))
        return torch.stack(queries), torch.stack(segments_cw)

    def next_references(self, references_cw: Tensor, segments_cw: Tensor) -> Tensor:
        """References [B|1,Q,2] of the next layer, given this layer's and what it predicted."""
        return references_cw


def _side_by_side(own: Queries, beside: Queries) -> tuple[Tensor, Tensor, Tensor]:
    """(content, position, references) of both along Q; `own` has one batch row, `beside` one for each window."""

    def join(ours: Tensor, theirs: Tensor) -> Tensor:
        return torch.cat((ours.expand(len(theirs), -1, -1), theirs), dim=1)

    return (
        join(own.content, beside.content),
        join(own.position, beside.position),
        join(own.references_cw, beside.references_cw),
    )


class RefiningSGQG(SGQG):
    """SGQG with iterative refinement: a layer starts from the segments of the one before, without gradient into it."""

    def next_references(self, references_cw: Tensor, segments_cw: Tensor) -> Tensor:
        """References [B,Q,2] of the next layer: this layer's segments."""
        return segments_cw.detach()
