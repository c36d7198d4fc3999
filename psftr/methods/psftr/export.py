"""A trained network as one file of torch.export, for programs that run it without this package's Python code.

Windows, rows and names may be of any number. The file needs psftr's operator: `import psftr.ops` before
`torch.export.load(path).module()`.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from psftr.checkpoints import Saved
from psftr.files import replacing
from psftr.methods.psftr.build import NetworkConfig, build_network


class _Tensors(nn.Module):
    """The network with plain tensors as output: a file of torch.export knows no classes of ours."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor, is_padding: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """features [B,T,D], is_padding [B,T], text [K,D] -> class logits [B,Q,K], segments (centre, width) [B,Q,2],
        actionness logits [B,Q], saliency logits [B,T]; see `network.Outputs`."""
        outputs = self.network(features, is_padding, text)
        final = outputs.final
        return final.class_logits, final.segments_cw, final.actionness_logits, outputs.saliency_logits


def export_network(network: nn.Module, *, feature_dim: int, text_dim: int) -> ExportedProgram:
    """The network as torch.export sees it, on the CPU, for any B, T and K."""
    batch, rows, names = 2, 24, 3
    example = (torch.zeros(batch, rows, feature_dim), torch.zeros(batch, rows).bool(), torch.ones(names, text_dim))
    any_size = ({0: Dim.AUTO, 1: Dim.AUTO}, {0: Dim.AUTO, 1: Dim.AUTO}, {0: Dim.AUTO})
    return torch.export.export(_Tensors(network).cpu().eval(), example, dynamic_shapes=any_size)


def export_saved(saved: Saved, path: str | os.PathLike[str]) -> Path:
    """Write a training's network as a .pt2 file; returns its path. Raises PsftrError where its weights do not fit."""
    config = NetworkConfig(**saved.facts["network"])
    network = build_network(config)
    network.expect(saved.weights)
    saved.fill(network)
    program = export_network(network, feature_dim=config.feature_dim, text_dim=config.text_dim)
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.export.save(program, file)
    return Path(path)
