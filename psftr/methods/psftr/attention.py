"""Attention and feed-forward blocks that SSAE and SGQG are composed of.

Shape letters here and in the other files of this package: B windows, T frames, K class names, Q queries, d model width,
D feature width, Dt text width, H heads, L levels, P points. "B|1" is a batch axis of 1 for what all windows share
(text before it meets a video, the learnable queries): it is computed once and broadcast where the windows come in.

Dropout acts on the residual branches. There is none on attention probabilities or inside the feed-forward, where it
keeps PyTorch from its fused attention and costs a sixth of a CPU training step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psftr.methods.psftr.residual import Residual
from psftr.methods.psftr.rows import without_padding
from psftr.ops.temporal_deform_attn import temporal_deform_attn

__all__ = [
    "FeedForward",
    "MultiheadAttention",
    "SegmentDeformableAttention",
    "TemporalDeformableAttention",
    "pairwise_cosine",
]


class MultiheadAttention(nn.Module):
    """Scaled dot-product attention, the paper's SA and CA.

    Keys have no bias: it would add the same number to every score of a query and never learn.
    """

    def __init__(self, *, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = _xavier_linear(dim, dim)
        self.key = _xavier_linear(dim, dim, bias=False)
        self.value = _xavier_linear(dim, dim)
        self.output = _xavier_linear(dim, dim)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, is_padding: Tensor | None = None) -> Tensor:
        """queries [B|1,N,d], keys and values [B|1,M,d], is_padding [B,M] (True = key not to be read) -> [B|1,N,d]."""
        is_read = None if is_padding is None else ~is_padding[:, None, None, :]
        return self.output(self.mix(*self.project(queries, keys, values), is_read))

    def project(self, queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `mix` takes, of the same shapes; `output` then makes the result of what it returns."""
        return self.query(queries), self.key(keys), self.value(values)

    def mix(self, query: Tensor, key: Tensor, value: Tensor, is_read: Tensor | None = None) -> Tensor:
        """Projected query [B|1,N,d], key and value [B|1,M,d]; is_read bool, broadcast to [B,H,N,M] -> [B|1,N,d]."""
        batch = torch.broadcast_shapes(query.shape[:1], key.shape[:1])[0]
        query, key, value = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2).expand(batch, -1, -1, -1) for x in (query, key, value)
        )
        attend = _attend_in_bf16 if _is_bf16_on_cpu(query) else F.scaled_dot_product_attention
        return attend(query, key, value, attn_mask=is_read).transpose(1, 2).flatten(2)


class FeedForward(nn.Module):
    """FFN(x) = LayerNorm(x + Linear(ReLU(Linear(x)))), with a hidden width of `expansion` times d."""

    def __init__(self, *, dim: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.expand = _xavier_linear(dim, expansion * dim)
        self.contract = _xavier_linear(expansion * dim, dim)
        self.residual = Residual(dropout=dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, is_padding: Tensor | None = None) -> Tensor:
        """x [...,d] -> [...,d]; of x [B,T,d] with is_padding [B,T] padding comes out zero."""
        return self._of_rows(x) if is_padding is None else without_padding(self._of_rows, x, is_padding)

    def _of_rows(self, x: Tensor) -> Tensor:
        hidden = self.expand(x.flatten(0, -2))  # rows of a matrix, or autograd takes it for a view and copies it
        branch = self.contract(F.relu(hidden, inplace=True))
        return self.norm(self.residual(x, branch.view(x.shape)))


class TemporalDeformableAttention(nn.Module):
    """1-D multi-scale deformable attention (DA) around a reference time; offsets are in frames of a level."""

    def __init__(self, *, dim: int, heads: int, points: int, levels: int = 1) -> None:
        super().__init__()
        # a benchmark puts other implementations here
        self.attend: Callable[[Tensor, Tensor, Tensor, Sequence[int]], Tensor] = temporal_deform_attn
        self.sampling = (heads, levels, points)
        self.value = _xavier_linear(dim, dim)
        self.offsets = nn.Linear(dim, heads * levels * points)
        self.weights = nn.Linear(dim, heads * levels * points)
        self.output = _xavier_linear(dim, dim)
        self._start_spread()

    def _start_spread(self) -> None:
        """At first every query reads the same pattern around its reference, each point with the same weight.

        A head's points lie in frames 0..P on alternate sides, and heads mirror each other; the fraction of a frame
        differs between pairs of heads and is never 0, where interpolation has its kinks.
        """
        heads, levels, points = self.sampling
        head, point = torch.arange(heads)[:, None], torch.arange(points)[None, :]
        pairs = (heads + 1) // 2
        frames = (point + (head // 2 + 0.5) / pairs) * (1 - 2 * ((head + point) % 2))
        with torch.no_grad():
            self.offsets.bias.copy_(frames[:, None, :].expand(heads, levels, points).flatten())
        for parameter in (self.offsets.weight, self.weights.weight, self.weights.bias):
            nn.init.zeros_(parameter)

    def forward(
        self,
        queries: Tensor,
        references: Tensor,
        memory: Tensor,
        is_padding: Tensor,
        level_lengths: Sequence[int] | None = None,
    ) -> Tensor:
        """Attend from queries to the frames around their references.

        queries        [B|1,N,d]
        references     [B|1,N,1] centre, or [B|1,N,2] centre and width, in units of a level's length (padding included)
        memory         [B,T,d]    the levels one after the other; padded rows read as zero
        is_padding     [B,T]      True = padding
        level_lengths  L integers that sum to T (default: one level of T frames)
        returns        [B,N,d]
        """
        heads, levels, points = self.sampling
        lengths = (memory.shape[1],) if level_lengths is None else tuple(level_lengths)
        values = without_padding(self.value, memory, is_padding).unflatten(-1, (heads, -1))
        # locations and weights stay float32 under autocast: bfloat16 resolves only 1/256 of a window
        weights = self.weights(queries).float().unflatten(-1, (heads, levels * points)).softmax(-1)
        offsets = self.offsets(queries).float().unflatten(-1, self.sampling)
        locations = self.locations(references.float(), offsets, lengths)
        shape = (memory.shape[0], queries.shape[1], *self.sampling)
        # every path on a CPU computes in float32: without autocast nothing is converted on the way there and back
        in_bf16 = _is_bf16_on_cpu(values)
        with torch.autocast("cpu", enabled=False) if in_bf16 else contextlib.nullcontext():
            sampled = self.attend(
                values.float() if in_bf16 else values,
                locations.expand(shape),
                weights.unflatten(-1, (levels, points)).expand(shape),
                lengths,
            )
        return self.output(sampled.flatten(2))

    def locations(self, references: Tensor, offsets: Tensor, lengths: Sequence[int]) -> Tensor:
        """references [B|1,N,1|2], offsets [B|1,N,H,L,P] in frames -> [B|1,N,H,L,P] in units of the level's length."""
        levels = zip(offsets.split(1, dim=3), lengths, strict=True)
        shares = torch.cat([level / max(length, 1) for level, length in levels], dim=3)
        return references[:, :, None, None, :1] + shares


class SegmentDeformableAttention(TemporalDeformableAttention):
    """DA around a reference segment: an offset of P reaches from its centre to its end."""

    def locations(self, references: Tensor, offsets: Tensor, lengths: Sequence[int]) -> Tensor:
        """references [B|1,N,2], offsets [B|1,N,H,L,P] in P-ths of half a width -> [B|1,N,H,L,P]."""
        centre, width = references[:, :, None, None, :].split(1, dim=-1)
        return centre + offsets * (width / (2 * self.sampling[2]))


def pairwise_cosine(a: Tensor, b: Tensor) -> Tensor:
    """a [...,N,D], b [...,M,D] -> cosines [...,N,M] in float32; a zero vector has cosine 0 with everything.

    Float32 also under autocast: cosines are multiplied by about 100 before a softmax.
    """
    with torch.autocast(a.device.type, enabled=False):
        unit_a, unit_b = (F.normalize(x.float(), dim=-1, eps=1e-6) for x in (a, b))
        return unit_a @ unit_b.transpose(-1, -2)


def _is_bf16_on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype == torch.bfloat16


def _attend_in_bf16(query: Tensor, key: Tensor, value: Tensor, *, attn_mask: Tensor | None) -> Tensor:
    """PyTorch's scaled dot-product attention, its slow twin, for bfloat16 [B,H,N,D] on a CPU; scores have 8 bits.

    PyTorch's takes 1.6 to 2.1 times as long to train in float32, and longer still in bfloat16.
    """
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    return scores.float().softmax(-1).to(value.dtype) @ value


def _xavier_linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    linear = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_uniform_(linear.weight)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear
