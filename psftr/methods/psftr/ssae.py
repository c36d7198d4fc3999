"""Semantic Synergy-Aware Encoder (paper, section 3.4): frames and class names first by themselves, then each other.

`SsaeLayer` is composed of four parts. The rows of Table 2 replace `CrossModalFusion` by `Unfused`, an ordinary
transformer layer's feed-forward, or by `Unread` where nothing later would read the result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psftr.methods.psftr.attention import FeedForward, MultiheadAttention, TemporalDeformableAttention
from psftr.methods.psftr.residual import Residual
from psftr.methods.psftr.rows import convolve_rows, zero_padding

__all__ = [
    "SSAE",
    "CrossModalFusion",
    "SsaeLayer",
    "TemporalConvolution",
    "TextualSynergy",
    "Unfused",
    "Unread",
    "VisualSynergy",
    "sine_encoding",
]


class TemporalConvolution(nn.Module):
    """V~ = Linear(LeakyReLU(Conv1d(V))), padding zeroed before and after; adapts the feature width to the model's.

    With `components`, only that many principal components of V are read, those of the training frames. Training says
    nothing about other directions: there the random starting weights stay, and make noise of what a frame has in them.
    Frames of unseen classes have far more of it than those of seen ones (docs/decisions.md).
    """

    basis: Tensor | None

    def __init__(self, *, feature_dim: int, dim: int, components: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(feature_dim, dim, kernel_size=3, padding=1)
        self.projection = nn.Linear(dim, dim)
        nn.init.kaiming_uniform_(self.convolution.weight, a=0.2)
        is_cut = 0 < components < feature_dim
        self.register_buffer("basis", torch.eye(feature_dim, components) if is_cut else None)

    def forward(self, features: Tensor, is_padding: Tensor) -> Tensor:
        """features [B,T,D], zero where padded; is_padding [B,T] -> [B,T,d], zero where padded."""
        weight = self.convolution.weight
        if self.basis is not None:
            # equal to convolving V @ basis @ basis.T, with components / D of the work
            features = features @ self.basis
            rows = weight.transpose(1, 2).flatten(0, 1)  # [d*3,D]: a matrix, whose gradient is one product too
            weight = (rows @ self.basis).unflatten(0, (len(weight), -1)).transpose(1, 2)
        local = F.leaky_relu(convolve_rows(features, weight, self.convolution.bias), 0.2)
        return zero_padding(self.projection(local), is_padding)

    @torch.no_grad()
    def fit(self, frames: Iterable[Tensor]) -> None:
        """Find the principal components of frames, [n,D] float32 of each video; without `components` nothing is read.

        They are eigenvectors of the second moment (no mean is taken off), the greatest first: the columns of `basis`.
        """
        if self.basis is None:
            return
        moment = torch.zeros(self.basis.shape[0], self.basis.shape[0], dtype=torch.float64)
        for of_video in frames:
            moment += of_video.T @ of_video
        axes = torch.linalg.eigh(moment).eigenvectors  # from the least to the most
        self.basis.copy_(axes.flip(1)[:, : self.basis.shape[1]])


class VisualSynergy(nn.Module):
    """F~ = LayerNorm(V~ + DA(V~ + position, own time, V~)), the visual half of IMSE."""

    def __init__(self, *, attention: TemporalDeformableAttention, dim: int, dropout: float) -> None:
        super().__init__()
        self.attention = attention
        self.residual = Residual(dropout=dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, visual: Tensor, position: Tensor, references: Tensor, is_padding: Tensor) -> Tensor:
        """visual [B,T,d], position [T,d], references [1,T,1], is_padding [B,T] -> [B,T,d]."""
        attended = self.attention(visual + position, references, visual, is_padding)
        return self.norm(self.residual(visual, attended))


class TextualSynergy(nn.Module):
    """T~ = LayerNorm(T + SA(T)), the textual half of IMSE. Names carry no position: their order means nothing."""

    def __init__(self, *, attention: MultiheadAttention, dim: int, dropout: float) -> None:
        super().__init__()
        self.attention = attention
        self.residual = Residual(dropout=dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, text: Tensor) -> Tensor:
        """text [B|1,K,d] -> [B|1,K,d]."""
        return self.norm(self.residual(text, self.attention(text, text, text)))


class CrossModalFusion(nn.Module):
    """FFN(LayerNorm(CA(x, other, other) + x)): equation 1 for frames reading names, 2 for names reading frames."""

    def __init__(self, *, attention: MultiheadAttention, feed_forward: FeedForward, dim: int, dropout: float) -> None:
        super().__init__()
        self.attention = attention
        self.residual = Residual(dropout=dropout)
        self.norm = nn.LayerNorm(dim)
        self.feed_forward = feed_forward

    def forward(self, x: Tensor, other: Tensor, is_padding: Tensor | None, other_is_padding: Tensor | None) -> Tensor:
        """x [B|1,N,d], other [B|1,M,d], is_padding [B,N] and other_is_padding [B,M] of each -> [B|1,N,d]."""
        attended = self.attention(x, other, other, other_is_padding)
        return self.feed_forward(self.norm(self.residual(x, attended)), is_padding)


class Unfused(nn.Module):
    """FFN(x): the other modality is not read."""

    def __init__(self, *, feed_forward: FeedForward) -> None:
        super().__init__()
        self.feed_forward = feed_forward

    def forward(self, x: Tensor, other: Tensor, is_padding: Tensor | None, other_is_padding: Tensor | None) -> Tensor:
        """x [B|1,N,d], is_padding [B,N] of x -> [B|1,N,d]."""
        return self.feed_forward(x, is_padding)


class Unread(nn.Module):
    """x as it came: stands where no later part reads the result, so that no parameter is left without a gradient."""

    def forward(self, x: Tensor, other: Tensor, is_padding: Tensor | None, other_is_padding: Tensor | None) -> Tensor:
        return x


class SsaeLayer(nn.Module):
    """Intra-modal synergy extraction, then cross-modal fusion of both directions from the same (F~, T~)."""

    def __init__(
        self,
        *,
        visual_synergy: nn.Module,
        textual_synergy: nn.Module,
        text_to_vision: nn.Module,
        vision_to_text: nn.Module,
    ) -> None:
        super().__init__()
        self.visual_synergy = visual_synergy
        self.textual_synergy = textual_synergy
        self.text_to_vision = text_to_vision
        self.vision_to_text = vision_to_text

    def forward(
        self, visual: Tensor, text: Tensor, position: Tensor, references: Tensor, is_padding: Tensor
    ) -> tuple[Tensor, Tensor]:
        """visual [B,T,d], text [B|1,K,d], position [T,d], references [1,T,1], is_padding [B,T] -> F^ and T^."""
        visual = self.visual_synergy(visual, position, references, is_padding)  # F~
        text = self.textual_synergy(text)  # T~
        # equations 1 and 2; padded rows of F^ are never read, padded rows of F~ are masked here
        frames = self.text_to_vision(visual, text, is_padding, None)
        return frames, self.vision_to_text(text, visual, None, is_padding)


class SSAE(nn.Module):
    """A stack of SsaeLayers over frames whose references are their own times, (t + 0.5) / T."""

    def __init__(self, *, layers: Sequence[SsaeLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, visual: Tensor, text: Tensor, is_padding: Tensor) -> tuple[Tensor, Tensor]:
        """visual V~ [B,T,d], text T [1,K,d], is_padding [B,T] -> F^ [B,T,d], T^ [B|1,K,d]."""
        length, dim = visual.shape[1:]
        frame = torch.arange(length, device=visual.device, dtype=torch.float32)
        references = ((frame + 0.5) / length)[None, :, None]
        position = sine_encoding(frame, dim).to(visual.dtype)
        for layer in self.layers:
            visual, text = layer(visual, text, position, references, is_padding)
        return visual, text


def sine_encoding(position: Tensor, dim: int, *, temperature: float = 10_000.0) -> Tensor:
    """position [T] -> [T,dim]: the first half sines, the second cosines, of wavelengths 2 pi to 2 pi temperature."""
    steps = torch.arange(dim // 2, device=position.device, dtype=torch.float32) * (2 / dim)
    angles = position[:, None] * torch.exp(-math.log(temperature) * steps)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)
