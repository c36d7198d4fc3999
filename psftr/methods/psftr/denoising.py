"""Denoising queries (Li et al., DN-DETR, 2022): true segments with noise go through the decoder and are to be mended.

Which action a learnable query belongs to is found by matching, and changes from step to step early in training. A
denoising query knows its action from the start. Trainings with them found more, and those of different seeds ended
nearer to each other (docs/decisions.md). Only training has such queries; the network is the same with and without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from psftr.methods.psftr.query_rows import Queries
from psftr.methods.psftr.ssae import sine_encoding

if TYPE_CHECKING:
    from psftr.data.batches import Target
    from psftr.methods.psftr.criterion import Criterion
    from psftr.methods.psftr.network import LayerOutputs

__all__ = ["Denoising"]

NOISE = 0.5  # at most: of the centre in half widths, and of the width's logarithm
_PLACES = 128  # of the window, that the position encoding tells apart


class Denoising(nn.Module):
    """Queries around true segments: one content for all, and positions that encode the noised segment."""

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.content = nn.Parameter(torch.randn(1, dim))
        self.position = nn.Linear(2 * dim, dim)

    def queries(self, targets: Sequence[Target]) -> Queries:
        """A query for every action of every window, its reference near the action."""
        counts = [len(target.labels) for target in targets]
        actions = torch.cat([target.segments_cw.float() for target in targets])  # [M,2]
        centre, width = actions.unbind(-1)
        noise = torch.empty_like(actions).uniform_(-NOISE, NOISE)
        noised = torch.stack((centre + noise[:, 0] * width / 2, width * noise[:, 1].exp()), dim=-1)
        references_cw = noised.clamp(1e-3, 1 - 1e-3)
        dim = self.content.shape[-1]
        encoded = [sine_encoding(part * _PLACES, dim) for part in references_cw.unbind(-1)]
        places = [(window, place) for window, count in enumerate(counts) for place in range(count)]
        window, place = torch.tensor(places, dtype=torch.long, device=actions.device).view(-1, 2).unbind(1)
        return Queries(
            content=self.content.expand(len(actions), -1),
            position=self.position(torch.cat(encoded, dim=-1)),
            references_cw=references_cw,
            window=window,
            place=place,
            most=max(counts),
        )

    def loss(self, layers: Sequence[LayerOutputs], targets: Sequence[Target], criterion: Criterion) -> Tensor:
        """The criterion's query terms of all layers; of what `read_beside` predicts for the queries beside."""
        counts = [len(target.labels) for target in targets]
        matches = [(torch.arange(count), torch.arange(count)) for count in counts]
        device = layers[0].segments_cw.device
        places = torch.arange(layers[0].segments_cw.shape[1], device=device)
        is_filling = places >= torch.tensor(counts, device=device)[:, None]
        return criterion.of_known_queries(layers, matches, targets, is_filling)
