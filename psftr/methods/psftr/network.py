"""PSFTR, the network of Figure 2: frames and class names in, segments with class logits over these names out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from psftr.errors import PsftrError
from psftr.methods.psftr.attention import pairwise_cosine
from psftr.methods.psftr.query_rows import Queries
from psftr.methods.psftr.sgqg import SGQG
from psftr.methods.psftr.ssae import SSAE, TemporalConvolution

__all__ = ["PSFTR", "LayerOutputs", "Outputs", "Texts"]

_SAME_NAME = 0.99  # cosine of two embeddings; names of ActivityNet reach 0.97 in CLIP


@dataclass(frozen=True)
class LayerOutputs:
    """What one decoder layer predicts for every query; all float32."""

    class_logits: Tensor  # [B,Q,K] over the names given to forward
    segments_cw: Tensor  # [B,Q,2] centre and width in units of the window's T rows, in (0,1)
    actionness_logits: Tensor  # [B,Q]
    seen_logits: Tensor | None = None  # [B,Q,S] over the seen names, -inf for those given to forward; see PSFTR


@dataclass(frozen=True)
class Outputs:
    """Predictions of the last decoder layer, of the frames, and of the earlier layers if auxiliary outputs are on."""

    final: LayerOutputs
    saliency_logits: Tensor  # [B,T] float32
    auxiliary: tuple[LayerOutputs, ...]  # first layer first


@dataclass(frozen=True, kw_only=True)
class Texts:
    """A text [K,Dt] for each place where text enters; all zero, the place reads nothing. K may differ."""

    encoder: Tensor
    queries: Tensor
    classifier: Tensor


class PSFTR(nn.Module):
    """SSAE encodes, SGQG decodes, SPDE enriches the queries for classification; `build_network` puts one together.

    Beyond the paper: names reach the encoder (`guidance`) and the classifier as curves of `similarity` over time.

    The class list is an input: no parameter depends on K, reordering names permutes class logits and nothing else.
    `seen_text` [S,Dt] are the seen names, those of training, once `remember_seen` has told them: in eval mode they get
    class logits too, so that what fits one of them better can be told from what is asked for.
    Decoder layers before `first_output` give no outputs (0: auxiliary outputs of all, layers - 1: only the last).
    """

    seen_text: Tensor | None

    def __init__(
        self,
        *,
        convolution: TemporalConvolution,
        text_projection: nn.Module,
        encoder: SSAE,
        decoder: SGQG,
        similarity: nn.Module,
        guidance: nn.Module,
        spde: nn.Module,
        class_head: nn.Module,
        actionness_head: nn.Module,
        saliency_head: nn.Module,
        feature_dim: int,
        text_dim: int,
        first_output: int,
    ) -> None:
        super().__init__()
        self.convolution = convolution
        self.text_projection = text_projection
        self.encoder = encoder
        self.decoder = decoder
        self.spde = spde
        self.class_head = class_head
        self.actionness_head = actionness_head
        self.saliency_head = saliency_head
        self.feature_dim = feature_dim
        self.text_dim = text_dim
        self.first_output = first_output
        self.similarity = similarity
        self.guidance = guidance
        self.register_buffer("seen_text", None)

    def remember_seen(self, text: Tensor) -> None:
        """The seen names, text [S,Dt]: part of the weights from now on."""
        self.seen_text = text.detach().float().clone()

    def expect(self, weights: Mapping[str, Tensor]) -> None:
        """Make room for the seen names of weights that are about to be loaded; there are none in those of before."""
        seen = weights.get("seen_text")
        self.seen_text = None if seen is None else torch.zeros_like(seen)

    def forward(self, features: Tensor, is_padding: Tensor, text: Tensor) -> Outputs:
        """features V [B,T,D], is_padding [B,T] bool (True = padding, its content is ignored), text T [K,Dt] -> Outputs.

        Raises PsftrError if a shape does not fit.
        """
        return self.read(features, is_padding, Texts(encoder=text, queries=text, classifier=text))

    def forward_final(self, features: Tensor, is_padding: Tensor, text: Tensor) -> LayerOutputs:
        """`forward(…).final` alone, without what only training reads."""
        return self.read_final(features, is_padding, Texts(encoder=text, queries=text, classifier=text))

    def read(self, features: Tensor, is_padding: Tensor, texts: Texts) -> Outputs:
        """`forward` with a text of its own for each place where text enters; class logits are over the classifier's."""
        return self.read_beside(features, is_padding, texts, None)[0]

    def read_beside(
        self, features: Tensor, is_padding: Tensor, texts: Texts, beside: Queries | None
    ) -> tuple[Outputs, list[LayerOutputs]]:
        """`read`, and what the layers of its outputs predict for the queries beside; nothing where there are none."""
        visual, layers = self._layers(features, is_padding, texts, first=self.first_output, beside=beside)
        further: list[LayerOutputs] = []
        if beside is not None:
            own = layers[0].segments_cw.shape[1] - beside.most
            layers, further = map(list, zip(*(_split(layer, own) for layer in layers)))
        return Outputs(layers[-1], self.saliency_head(visual, is_padding), tuple(layers[:-1])), further

    def read_final(self, features: Tensor, is_padding: Tensor, texts: Texts) -> LayerOutputs:
        """`read(…).final` alone, all that detections are made of: nothing is computed of frames and earlier layers."""
        return self._layers(features, is_padding, texts, first=len(self.decoder.layers) - 1)[1][-1]

    def _layers(
        self, features: Tensor, is_padding: Tensor, texts: Texts, *, first: int, beside: Queries | None = None
    ) -> tuple[Tensor, list[LayerOutputs]]:
        """F^ [B,T,d], and what the decoder layers from `first` on predict, for the queries beside too."""
        for text in (texts.encoder, texts.queries, texts.classifier):
            self._check(features, is_padding, text)
        features = features.masked_fill(is_padding[..., None], 0.0)
        seen = None if self.training or self.seen_text is None else self.seen_text.to(texts.encoder)
        read = texts.encoder if seen is None else torch.cat((texts.encoder, seen))
        # not len(), which would fix the number of names in torch.export
        curves, seen_curves = self.similarity(features, read, is_padding).tensor_split((texts.encoder.shape[0],), dim=1)
        visual, fused_text = self._encode(features, is_padding, texts.encoder, curves)
        if texts.queries is not texts.encoder:
            others = self.similarity(features, texts.queries, is_padding)
            _, fused_text = self._encode(features, is_padding, texts.queries, others)
        queries, segments_cw = self.decoder(visual, fused_text, is_padding, beside)  # Q^ of every layer: eq. 3-4
        if first:  # or the backward pass would fill zeros and copy for nothing
            queries, segments_cw = queries[first:], segments_cw[first:]
        names = texts.classifier
        if names is not texts.encoder:
            curves = self.similarity(features, names, is_padding)
        class_queries = self.spde(queries, features, names, is_padding)  # Q_cls: eq. 5-6
        class_logits = self.class_head(class_queries, segments_cw, features, names, curves)
        predicted = [class_logits, segments_cw, self.actionness_head(queries)]
        if seen is not None:
            is_asked = (pairwise_cosine(names, seen) > _SAME_NAME).any(dim=0)
            seen_logits = self.class_head(class_queries, segments_cw, features, seen, seen_curves)
            predicted.append(seen_logits.masked_fill(is_asked, -torch.inf))
        return visual, [LayerOutputs(*layer) for layer in zip(*predicted, strict=True)]

    def _encode(self, features: Tensor, is_padding: Tensor, text: Tensor, curves: Tensor) -> tuple[Tensor, Tensor]:
        """F^ [B,T,d] and T^ [B|1,K,d]: equations 1 and 2, after the guidance by curves of similarity [B,K,T]."""
        visual = self.guidance(self.convolution(features, is_padding), curves, is_padding)  # V~
        return self.encoder(visual, self.text_projection(text)[None], is_padding)

    def backbone_parameters(self) -> list[nn.Parameter]:
        """What the paper's "lr backbone" applies to: the temporal convolution over the frozen CLIP features."""
        return list(self.convolution.convolution.parameters())

    def _check(self, features: Tensor, is_padding: Tensor, text: Tensor) -> None:
        if features.dim() != 3 or features.shape[-1] != self.feature_dim:
            raise PsftrError(
                f"features must be [B,T,{self.feature_dim}] for this network, got {list(features.shape)}: "
                "use features of the encoder it was built for"
            )
        if is_padding.dtype != torch.bool or is_padding.shape != features.shape[:2]:
            raise PsftrError(
                f"is_padding must be bool {list(features.shape[:2])} like the features, "
                f"got {is_padding.dtype} {list(is_padding.shape)}"
            )
        if text.dim() != 2 or text.shape[-1] != self.text_dim or text.shape[0] == 0:
            raise PsftrError(
                f"text must be [K,{self.text_dim}] with at least one name for this network, "
                f"got {list(text.shape)}: embed the names with the encoder it was built for"
            )


def _split(layer: LayerOutputs, count: int) -> tuple[LayerOutputs, LayerOutputs]:
    """The first `count` queries, and those after them."""
    whole = (layer.class_logits, layer.segments_cw, layer.actionness_logits)
    return LayerOutputs(*(part[:, :count] for part in whole)), LayerOutputs(*(part[:, count:] for part in whole))
