"""Semantics-Guided Query Generation (paper, section 3.5): queries read the class names, then the frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from psftr.methods.psftr.attention import FeedForward, MultiheadAttention, TemporalDeformableAttention
from psftr.methods.psftr.query_rows import Queries, QueryRows
from psftr.methods.psftr.residual import Residual

__all__ = [
    "SGQG",
    "ContextualVisualAnchoring",
    "LiteralSemanticPromptInfusion",
    "NoPromptInfusion",
    "QuerySelfAttention",
    "RefiningSGQG",
    "SemanticPromptInfusion",
    "SgqgLayer",
]


class QuerySelfAttention(nn.Module):
    """Q_bar = LayerNorm(Q + SA(q = k = Q + position, v = Q)) over the content half Q of the queries."""

    def __init__(self, *, attention: MultiheadAttention, dim: int, dropout: float) -> None:
        super().__init__()
        self.attention = attention
        self.residual = Residual(dropout=dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, content: Tensor, position: Tensor, rows: QueryRows | None) -> Tensor:
        """content [B|1,Q,d], position [Q,d] -> [B|1,Q,d]; or rows, content and position [1,R,d] -> widened [1,R,d]."""
        located = content + position
        if rows is None:
            return self.norm(self.residual(content, self.attention(located, located, content)))
        query, key, value = (rows.split(one) for one in self.attention.project(located, located, content))
        learnable = self.attention.mix(query[0], key[0], value[0])
        beside = self.attention.mix(query[1], key[1], value[1], rows.sees)
        mixed = rows.join(learnable, beside)
        return self.norm(self.residual(rows.widen(content), rows.widen(self.attention.output(mixed))))


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
        self,
        queries: Tensor,
        position: Tensor,
        references_cw: Tensor,
        visual: Tensor,
        is_padding: Tensor,
        rows: QueryRows | None,
    ) -> Tensor:
        """queries [B|1,Q,d], position [Q,d], references_cw [B|1,Q,2], visual F^ [B,T,d] -> [B,Q,d]; or all as rows."""
        located = queries + position
        if rows is None:
            anchored = self.attention(located, references_cw, visual, is_padding)
        else:
            read = (rows.to_windows(one) for one in (located, references_cw))
            anchored = rows.from_windows(self.attention(*read, visual, is_padding))
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
        rows: QueryRows | None = None,
    ) -> Tensor:
        """content [B|1,Q,d], position [Q,d], references_cw [B|1,Q,2], F^ [B,T,d], T^ [B|1,K,d] -> Q^ [B,Q,d].

        With queries beside, all that has a Q is given as rows [1,R,...], references_cw as widened rows, and so is Q^.
        """
        attended = self.self_attention(content, position, rows)  # Q_bar
        if rows is None:
            infused = self.infusion(attended, content, text)  # Q~, equation 3
        else:
            content, position = rows.widen(content), rows.widen(position)
            infused = self._infuse_rows(attended, content, text, rows)
        return self.anchoring(infused, position, references_cw, visual, is_padding, rows)  # Q^, equation 4

    def _infuse_rows(self, attended: Tensor, content: Tensor, text: Tensor, rows: QueryRows) -> Tensor:
        if isinstance(self.infusion, NoPromptInfusion):
            return attended
        return rows.from_windows(self.infusion(rows.to_windows(attended), rows.to_windows(content), text))


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

        beside: further queries; they follow the learnable ones along Q, and where a window has fewer than the one with
        most, what is said of them is meaningless.
        """
        position, content = self.queries.chunk(2, dim=-1)
        references_cw = self.reference(position).float().sigmoid()
        rows = None
        if beside is None:
            content, references_cw = content[None], references_cw[None]
        else:
            # the learnable queries are those of every window until they have seen one: they attend to each other once
            rows = QueryRows(beside, windows=len(visual), learnable=len(content))
            content = rows.start(content, beside.content)
            position = rows.start(position, beside.position)
            references_cw = rows.widen(rows.start(references_cw, beside.references_cw))
        queries, segments_cw = [], []
        for layer in self.layers:
            content = layer(content, position, references_cw, visual, text, is_padding, rows)
            if rows is not None:
                position = rows.widen(position)
            queries.append(content)
            segments_cw.append(self.segment_head(content, references_cw))
            references_cw = self.next_references(references_cw, segments_cw[-1])
        if rows is not None:
            queries, segments_cw = ([rows.to_windows(one) for one in each] for each in (queries, segments_cw))
        return torch.stack(queries), torch.stack(segments_cw)

    def next_references(self, references_cw: Tensor, segments_cw: Tensor) -> Tensor:
        """References [B|1,Q,2] of the next layer, given this layer's and what it predicted."""
        return references_cw


class RefiningSGQG(SGQG):
    """SGQG with iterative refinement: a layer starts from the segments of the one before, without gradient into it."""

    def next_references(self, references_cw: Tensor, segments_cw: Tensor) -> Tensor:
        """References [B,Q,2] of the next layer: this layer's segments."""
        return segments_cw.detach()
