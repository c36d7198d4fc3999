"""From frame features to a pyramid: embedding by convolutions, then blocks of local attention that halve the rows.

Equations 2 and 3 of ActionFormer. Padding is zero after every layer, so a window's content does not depend on it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FIRST_SCALE = 1e-1  # of residual branches: starting value of the scale per channel


class MaskedConv(nn.Module):
    """Convolution over time of kernel 3, [B,T,in] -> [B,ceil(T/by),out]; padding is zero before and after."""

    def __init__(self, width_in: int, width_out: int, *, by: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.by = by
        self.conv = nn.Conv1d(width_in, width_out, 3, stride=by, padding=1, groups=groups)

    def forward(self, rows: Tensor, is_padding: Tensor) -> Tensor:
        rows = rows.masked_fill(is_padding[..., None], 0.0)
        out = self.conv(rows.transpose(1, 2)).transpose(1, 2)
        return out.masked_fill(is_padding[:, :: self.by, None], 0.0)


class FrameEmbedding(nn.Module):
    """Two convolutions with LayerNorm and ReLU: features [B,T,D] -> F_vis [B,T,dim]."""

    def __init__(self, *, feature_dim: int, dim: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([MaskedConv(feature_dim, dim), MaskedConv(dim, dim)])
        self.norms = nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(dim)])

    def forward(self, features: Tensor, is_padding: Tensor) -> Tensor:
        rows = features
        for conv, norm in zip(self.convs, self.norms):
            rows = F.relu(norm(conv(rows, is_padding)))
        return rows.masked_fill(is_padding[..., None], 0.0)


class LocalAttention(nn.Module):
    """Self-attention of every row over the `span` rows around it, padding left out. Memory grows with T squared."""

    def __init__(self, *, dim: int, heads: int, span: int) -> None:
        super().__init__()
        self.heads, self.reach = heads, span // 2
        # a depthwise convolution before each projection tells neighbours apart, in place of a position encoding
        self.mix = nn.ModuleList([MaskedConv(dim, dim, groups=dim) for _ in range(3)])
        self.project = nn.ModuleList([nn.Linear(dim, dim) for _ in range(3)])
        self.out = nn.Linear(dim, dim)

    def forward(self, rows: Tensor, is_padding: Tensor) -> Tensor:
        batch, size, dim = rows.shape
        q, k, v = (
            project(mix(rows, is_padding)).view(batch, size, self.heads, -1).transpose(1, 2)
            for mix, project in zip(self.mix, self.project)
        )
        at = torch.arange(size, device=rows.device)
        is_near = (at[:, None] - at).abs() <= self.reach
        is_seen = is_near & ~is_padding[:, None, :] | torch.eye(size, dtype=torch.bool, device=rows.device)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=is_seen[:, None])
        return self.out(mixed.transpose(1, 2).reshape(batch, size, dim))


class Block(nn.Module):
    """Z_bar = a * MSA(LN(Z)) + Z; Z_hat = b * MLP(LN(Z_bar)) + Z_bar, with scales a, b per channel (equation 3)."""

    def __init__(self, *, dim: int, heads: int, span: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.attention = LocalAttention(dim=dim, heads=heads, span=span)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, expansion * dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(expansion * dim, dim)
        )
        self.norms = nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(dim)])
        self.scales = nn.Parameter(torch.full((2, dim), FIRST_SCALE))
        self.dropout = nn.Dropout(dropout)

    def forward(self, rows: Tensor, is_padding: Tensor) -> Tensor:
        rows = rows + self.scales[0] * self.dropout(self.attention(self.norms[0](rows), is_padding))
        rows = rows + self.scales[1] * self.dropout(self.feed_forward(self.norms[1](rows)))
        return rows.masked_fill(is_padding[..., None], 0.0)


class Pyramid(nn.Module):
    """[B,T,dim] -> for each level its rows [B,T_l,dim] and their padding [B,T_l]; T_l is half of the one before."""

    def __init__(
        self, *, dim: int, heads: int, span: int, expansion: int, dropout: float, levels: int, stem_blocks: int
    ) -> None:
        super().__init__()

        def block() -> Block:
            return Block(dim=dim, heads=heads, span=span, expansion=expansion, dropout=dropout)

        self.stem = nn.ModuleList([block() for _ in range(stem_blocks)])
        self.blocks = nn.ModuleList([block() for _ in range(levels - 1)])
        self.halve = nn.ModuleList([MaskedConv(dim, dim, by=2, groups=dim) for _ in range(levels - 1)])
        self.norms = nn.ModuleList([nn.LayerNorm(dim) for _ in range(levels)])

    def forward(self, rows: Tensor, is_padding: Tensor) -> list[tuple[Tensor, Tensor]]:
        for block in self.stem:
            rows = block(rows, is_padding)
        levels = [(self.norms[0](rows), is_padding)]
        for block, halve, norm in zip(self.blocks, self.halve, self.norms[1:]):
            rows = halve(block(rows, is_padding), is_padding)
            is_padding = is_padding[:, ::2]
            levels.append((norm(rows), is_padding))
        return levels
