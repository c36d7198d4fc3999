"""From plain values to a PSFTR network: the only place that reads the names of variants."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from psftr.errors import PsftrError
from psftr.methods.psftr.attention import (
    FeedForward,
    MultiheadAttention,
    SegmentDeformableAttention,
    TemporalDeformableAttention,
)
from psftr.methods.psftr.heads import (
    MAX_LOGIT_SCALE,
    ActionnessHead,
    AdapterClassifier,
    AttentionPoolClassifier,
    CosineClassifier,
    SaliencyHead,
    SegmentHead,
)
from psftr.methods.psftr.network import PSFTR
from psftr.methods.psftr.sgqg import (
    SGQG,
    ContextualVisualAnchoring,
    LiteralSemanticPromptInfusion,
    NoPromptInfusion,
    QuerySelfAttention,
    RefiningSGQG,
    SemanticPromptInfusion,
    SgqgLayer,
)
from psftr.methods.psftr.similarity import CentredSimilarity, NameGuidance, SimilarityClassifier
from psftr.methods.psftr.spde import (
    SPDE,
    ConcatMlpFusion,
    LinearResidualFusion,
    NoEnhancement,
    ResidualFusion,
    SemanticPrototype,
)
from psftr.methods.psftr.ssae import (
    SSAE,
    CrossModalFusion,
    SsaeLayer,
    TemporalConvolution,
    TextualSynergy,
    Unfused,
    Unread,
    VisualSynergy,
)

__all__ = ["NetworkConfig", "build_network"]

VARIANTS = {
    "query_residual": ("attended", "literal"),
    "spde": ("none", "residual", "concat_mlp", "mlp_residual"),
    "class_head": ("cosine", "clip_adapter", "attention_pool", "similarity"),
}
LEAST = dict.fromkeys(
    (
        "feature_dim",
        "text_dim",
        "dim",
        "heads",
        "encoder_layers",
        "decoder_layers",
        "ffn_expansion",
        "guidance_channels",
    ),
    1,
)
# a softmax over one of these would be constant and leave what feeds it untrained
LEAST |= dict.fromkeys(("points", "queries", "roi_bins"), 2)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Sizes and variants of a network, in plain values; the defaults are the paper's for THUMOS14 and CLIP ViT-B/16.

    Raises PsftrError for values that do not fit together.
    """

    feature_dim: int = 512  # width of the frame features (768 for ViT-L/14)
    text_dim: int = 512  # width of the class-text embeddings
    dim: int = 512
    heads: int = 8  # Table 6
    points: int = 4  # sampling points per head of deformable attention
    encoder_layers: int = 2
    decoder_layers: int = 5
    queries: int = 40
    ffn_expansion: int = 4
    dropout: float = 0.1
    text_to_vision: bool = True  # Table 2, equation 1
    vision_to_text: bool = True  # Table 2, equation 2
    text_to_query: bool = True  # Table 2, equation 3
    query_residual: str = "attended"  # residual of equation 3: Q_bar, or "literal" for Q as printed
    spde: str = "mlp_residual"  # Table 3
    class_head: str = "cosine"  # or "clip_adapter", "attention_pool": raw CLIP features; "similarity": curves
    similarity_guidance: bool = False  # names reach the encoder as curves of similarity over time
    guidance_channels: int = 16  # per name, in the guidance
    adapter_ratio: float = 0.2  # share of the learned part in clip_adapter
    roi_bins: int = 16  # samples per segment in clip_adapter and attention_pool
    logit_scale: float = 100.0  # CLIP's: fixed in equation 5, the starting value in the class head
    refine: bool = True  # each decoder layer starts from the segments of the one before
    auxiliary: bool = True  # outputs of all decoder layers, for auxiliary losses

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_type(field.name, getattr(self, field.name), type(field.default))
        for name, allowed in VARIANTS.items():
            if (value := getattr(self, name)) not in allowed:
                raise PsftrError(
                    f"{name} {value!r} is unknown, did you mean {_nearest(value, allowed)!r}? "
                    f"Choose one of {', '.join(allowed)}"
                )
        for name, least in LEAST.items():
            if (size := getattr(self, name)) < least:
                raise PsftrError(f"{name} must be at least {least}, got {size}")
        self._check_fit()

    def _check_fit(self) -> None:
        if self.dim % self.heads:
            raise PsftrError(f"dim {self.dim} is not a multiple of heads {self.heads}: change one of them")
        if self.dim % 2:
            raise PsftrError(f"dim must be even for the sine position encoding, got {self.dim}")
        if not 0 <= self.dropout < 1:
            raise PsftrError(f"dropout must be in [0, 1), got {self.dropout}")
        if not 0 < self.adapter_ratio <= 1:
            raise PsftrError(f"adapter_ratio must be in (0, 1], got {self.adapter_ratio}")
        if not 1 <= self.logit_scale <= MAX_LOGIT_SCALE:
            raise PsftrError(f"logit_scale must be in [1, {MAX_LOGIT_SCALE:g}], got {self.logit_scale}")
        if self.vision_to_text and not (self.text_to_vision or self.text_to_query):
            raise PsftrError(
                "vision_to_text alone changes only text that nothing reads: "
                "turn on text_to_vision or text_to_query, or turn it off"
            )
        shared_space = [f"spde={self.spde}"] * (self.spde != "none")
        shared_space += [f"class_head={self.class_head}"] * (self.class_head != "cosine")
        shared_space += ["similarity_guidance=true"] * self.similarity_guidance
        if shared_space and self.feature_dim != self.text_dim:
            raise PsftrError(
                f"{' and '.join(shared_space)} compares frames with names in one space, but feature_dim is "
                f"{self.feature_dim} and text_dim {self.text_dim}: use features and text of one CLIP model, "
                "or spde=none with class_head=cosine and similarity_guidance=false"
            )
        if self.class_head == "similarity" and self.spde != "none":
            raise PsftrError(
                f"class_head=similarity reads no queries, so spde={self.spde} would change nothing: set spde=none"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name, for checkpoints and config.json."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NetworkConfig:
        """The inverse of `to_dict`; absent keys take their defaults. Raises PsftrError for unknown keys."""
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise PsftrError(
                    f"unknown network setting {key!r}, did you mean {_nearest(key, known)!r}? "
                    f"Known settings: {', '.join(known)}"
                )
        return cls(**values)


def build_network(config: NetworkConfig) -> PSFTR:
    """A freshly initialised network (from torch's global random state)."""
    reads_text = config.text_to_vision or config.text_to_query
    adapts_text = reads_text and config.text_dim != config.dim
    decoder = RefiningSGQG if config.refine else SGQG
    reads_curves = config.similarity_guidance or config.class_head == "similarity"
    return PSFTR(
        convolution=TemporalConvolution(feature_dim=config.feature_dim, dim=config.dim),
        text_projection=nn.Linear(config.text_dim, config.dim) if adapts_text else nn.Identity(),
        encoder=SSAE(layers=[_ssae_layer(config, index) for index in range(config.encoder_layers)]),
        decoder=decoder(
            layers=[_sgqg_layer(config) for _ in range(config.decoder_layers)],
            segment_head=SegmentHead(dim=config.dim),
            queries=config.queries,
            dim=config.dim,
        ),
        spde=_spde(config),
        class_head=_class_head(config),
        actionness_head=ActionnessHead(dim=config.dim),
        saliency_head=SaliencyHead(dim=config.dim),
        feature_dim=config.feature_dim,
        text_dim=config.text_dim,
        first_output=0 if config.auxiliary else config.decoder_layers - 1,
        similarity=CentredSimilarity(feature_dim=config.feature_dim) if reads_curves else None,
        guidance=_guidance(config),
    )


def _ssae_layer(config: NetworkConfig, index: int) -> SsaeLayer:
    """Table 2's encoder columns. Text has parts only as far as a later part reads it."""
    is_last = index == config.encoder_layers - 1
    text_is_read_later = config.text_to_query or (config.text_to_vision and not is_last)
    vision_to_text: nn.Module = Unread()
    if text_is_read_later:
        vision_to_text = _fusion(config) if config.vision_to_text else Unfused(feed_forward=_ffn(config))
    textual_synergy: nn.Module = nn.Identity()
    if text_is_read_later or config.text_to_vision:
        textual_synergy = TextualSynergy(attention=_attention(config), **_residual(config))
    return SsaeLayer(
        visual_synergy=VisualSynergy(attention=TemporalDeformableAttention(**_sampling(config)), **_residual(config)),
        textual_synergy=textual_synergy,
        text_to_vision=_fusion(config) if config.text_to_vision else Unfused(feed_forward=_ffn(config)),
        vision_to_text=vision_to_text,
    )


def _sgqg_layer(config: NetworkConfig) -> SgqgLayer:
    """Table 2's decoder column, the residual of equation 3, and what offsets are measured in."""
    infusion: nn.Module = NoPromptInfusion()
    if config.text_to_query:
        literal = config.query_residual == "literal"
        kind = LiteralSemanticPromptInfusion if literal else SemanticPromptInfusion
        infusion = kind(attention=_attention(config), feed_forward=_ffn(config), **_residual(config))
    deformable = SegmentDeformableAttention if config.refine else TemporalDeformableAttention
    return SgqgLayer(
        self_attention=QuerySelfAttention(attention=_attention(config), **_residual(config)),
        infusion=infusion,
        anchoring=ContextualVisualAnchoring(
            attention=deformable(**_sampling(config)), feed_forward=_ffn(config), **_residual(config)
        ),
    )


def _spde(config: NetworkConfig) -> nn.Module:
    """Table 3."""
    if config.spde == "none":
        return NoEnhancement()
    kinds = {"residual": ResidualFusion, "concat_mlp": ConcatMlpFusion, "mlp_residual": LinearResidualFusion}
    fusion = kinds[config.spde](feature_dim=config.feature_dim, dim=config.dim)
    return SPDE(prototype=SemanticPrototype(scale=config.logit_scale), fusion=fusion)


def _guidance(config: NetworkConfig) -> nn.Module | None:
    if not config.similarity_guidance:
        return None
    return NameGuidance(channels=config.guidance_channels, dim=config.dim)


def _class_head(config: NetworkConfig) -> nn.Module:
    if config.class_head == "cosine":
        return CosineClassifier(dim=config.dim, text_dim=config.text_dim, logit_scale=config.logit_scale)
    if config.class_head == "similarity":
        return SimilarityClassifier(logit_scale=config.logit_scale)
    if config.class_head == "attention_pool":
        return AttentionPoolClassifier(dim=config.dim, logit_scale=config.logit_scale, bins=config.roi_bins)
    return AdapterClassifier(
        dim=config.dim,
        text_dim=config.text_dim,
        logit_scale=config.logit_scale,
        ratio=config.adapter_ratio,
        bins=config.roi_bins,
    )


def _fusion(config: NetworkConfig) -> CrossModalFusion:
    return CrossModalFusion(attention=_attention(config), feed_forward=_ffn(config), **_residual(config))


def _attention(config: NetworkConfig) -> MultiheadAttention:
    return MultiheadAttention(dim=config.dim, heads=config.heads)


def _ffn(config: NetworkConfig) -> FeedForward:
    return FeedForward(dim=config.dim, expansion=config.ffn_expansion, dropout=config.dropout)


def _residual(config: NetworkConfig) -> dict[str, Any]:
    return {"dim": config.dim, "dropout": config.dropout}


def _sampling(config: NetworkConfig) -> dict[str, Any]:
    return {"dim": config.dim, "heads": config.heads, "points": config.points}


def _check_type(name: str, value: object, wanted: type) -> None:
    fits = isinstance(value, wanted) or (wanted is float and isinstance(value, int))
    if not fits or (isinstance(value, bool) and wanted is not bool):
        raise PsftrError(f"{name} must be {wanted.__name__}, got {value!r}")


def _nearest(name: object, known: list[str] | tuple[str, ...]) -> str:
    return difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)[0]
