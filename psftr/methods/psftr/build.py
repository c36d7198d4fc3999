"""From settings to a network, its objective and its post-processing: the only place that reads names of variants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from inspect import signature
from typing import Any

from torch import nn

from psftr import segments
from psftr.data.windows import WindowPolicy
from psftr.errors import PsftrError
from psftr.methods.psftr import losses
from psftr.methods.psftr import matcher as matching
from psftr.methods.psftr.attention import (
    FeedForward,
    MultiheadAttention,
    SegmentDeformableAttention,
    TemporalDeformableAttention,
)
from psftr.methods.psftr.criterion import Criterion
from psftr.methods.psftr.heads import (
    ActionnessHead,
    SaliencyHead,
    SegmentHead,
)
from psftr.methods.psftr.language_gate import (
    GatedEnhancement,
    GatedFusion,
    GatedNameGuidance,
    GatedPromptInfusion,
    GatedTraining,
    LanguageGate,
)
from psftr.methods.psftr.network import PSFTR
from psftr.methods.psftr.postprocess import MergeRule, PostProcessor, hard_nms_merge, peer_merge, soft_nms_merge
from psftr.methods.psftr.settings import (
    ADDING,
    CLASS_HEADS,
    LossSettings,
    MatcherSettings,
    ModelSettings,
    PostprocessSettings,
)
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
from psftr.methods.psftr.similarity import (
    CentredSimilarity,
    NameGuidance,
    NoSimilarity,
    Unguided,
)
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
from psftr.settings import WindowSettings, to_dict

__all__ = [
    "NetworkConfig",
    "build_criterion",
    "build_gated_training",
    "build_network",
    "build_postprocessor",
    "build_window_policy",
    "network_config",
]


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(ModelSettings):
    """`ModelSettings` and the widths of what the network is given: all that decides its parameters.

    feature_dim: width of the frame features (512, or 768 for ViT-L/14); text_dim: of the class-text embeddings.
    Raises PsftrError for values that do not fit together.
    """

    feature_dim: int
    text_dim: int

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("feature_dim", "text_dim"):
            if not isinstance(width := getattr(self, name), int) or width < 1:
                raise PsftrError(f"{name} must be a whole number of at least 1, got {width!r}")
        shared_space = [f"spde={self.spde}"] * (self.spde != "none")
        shared_space += [f"class_head={self.class_head}"] * (self.class_head != "cosine")
        shared_space += ["similarity_guidance=true"] * self.similarity_guidance
        if shared_space and self.feature_dim != self.text_dim:
            raise PsftrError(
                f"{' and '.join(shared_space)} compares frames with names in one space, but feature_dim is "
                f"{self.feature_dim} and text_dim {self.text_dim}: use features and text of one CLIP model, "
                "or spde=none with class_head=cosine and similarity_guidance=false"
            )


def network_config(model: ModelSettings, *, feature_dim: int, text_dim: int) -> NetworkConfig:
    return NetworkConfig(**to_dict(model), feature_dim=feature_dim, text_dim=text_dim)


def build_network(config: NetworkConfig) -> PSFTR:
    """A freshly initialised network (from torch's global random state)."""
    reads_text = config.text_to_vision or config.text_to_query
    adapts_text = reads_text and config.text_dim != config.dim
    decoder = RefiningSGQG if config.refine else SGQG
    reads_curves = config.similarity_guidance or config.class_head == "similarity"
    return PSFTR(
        convolution=TemporalConvolution(
            feature_dim=config.feature_dim, dim=config.dim, components=config.frame_components
        ),
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
        similarity=CentredSimilarity(feature_dim=config.feature_dim) if reads_curves else NoSimilarity(),
        guidance=_guidance(config),
        feature_dim=config.feature_dim,
        text_dim=config.text_dim,
        first_output=0 if config.auxiliary else config.decoder_layers - 1,
    )


def build_gated_training(network: nn.Module, *, num_classes: int) -> GatedTraining | None:
    """What the language gates of a network need in training; None where it has none."""
    gates = [module for module in network.modules() if isinstance(module, LanguageGate)]
    return GatedTraining(gates=gates, num_classes=num_classes) if gates else None


def _guidance(config: NetworkConfig) -> nn.Module:
    if not config.similarity_guidance:
        return Unguided()
    sizes = {"channels": config.guidance_channels, "dim": config.dim}
    if config.gates_frames:
        return GatedNameGuidance(gate=LanguageGate(dim=config.dim, of="frames"), **sizes)
    return NameGuidance(**sizes)


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
        text_to_vision=_text_to_vision(config) if config.text_to_vision else Unfused(feed_forward=_ffn(config)),
        vision_to_text=vision_to_text,
    )


def _sgqg_layer(config: NetworkConfig) -> SgqgLayer:
    """Table 2's decoder column, the residual of equation 3, and what offsets are measured in."""
    infusion: nn.Module = NoPromptInfusion()
    if config.text_to_query:
        literal = config.query_residual == "literal"
        kind = LiteralSemanticPromptInfusion if literal else SemanticPromptInfusion
        parts = {"attention": _attention(config), "feed_forward": _ffn(config), **_residual(config)}
        infusion = (
            GatedPromptInfusion(gate=LanguageGate(dim=config.dim, of="queries"), **parts)
            if config.gates_queries
            else kind(**parts)
        )
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
    fusion: nn.Module = kinds[config.spde](feature_dim=config.feature_dim, dim=config.dim)
    if config.gates_queries and config.spde in ADDING:
        fusion = GatedEnhancement(gate=LanguageGate(dim=config.dim, of="queries"), fusion=fusion)
    return SPDE(prototype=SemanticPrototype(scale=config.logit_scale), fusion=fusion)


def _class_head(config: NetworkConfig) -> nn.Module:
    """The module of `CLASS_HEADS`, given the settings that its constructor names."""
    module, _, name = CLASS_HEADS[config.class_head].partition(":")
    kind: Callable[..., nn.Module] = getattr(import_module(module), name)
    return kind(**{wanted: getattr(config, wanted) for wanted in signature(kind).parameters})


def _text_to_vision(config: NetworkConfig) -> CrossModalFusion:
    if not config.gates_frames:
        return _fusion(config)
    gate = LanguageGate(dim=config.dim, of="frames")
    return GatedFusion(gate=gate, attention=_attention(config), feed_forward=_ffn(config), **_residual(config))


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


def build_criterion(loss: LossSettings, matcher: MatcherSettings) -> Criterion:
    """The training objective in the forms that the settings name."""
    paired, pairwise = {
        "tiou": (segments.tiou_paired, segments.tiou_pairwise),
        "giou": (segments.giou_paired, segments.giou_pairwise),
    }[loss.iou_form]
    costs = {
        "class": matching.class_cost,
        "class_probability": matching.class_probability_cost,
        "actionness": matching.actionness_cost,
        "both": matching.class_and_actionness_cost,
    }
    return Criterion(
        matcher=partial(matching.match, class_cost=costs[matcher.cost], overlap=pairwise, weights=matcher),
        weights=loss,
        overlap=paired,
        saliency_loss={"bce": losses.saliency_bce, "focal": losses.saliency_focal}[loss.saliency_form],
    )


def build_postprocessor(settings: PostprocessSettings, *, is_peer: bool) -> PostProcessor:
    """`is_peer`: windows are merged by GAP's rule, whatever `settings.merge` says."""
    rules: dict[str, MergeRule] = {
        "soft_nms": partial(soft_nms_merge, sigma=settings.soft_nms_sigma, max_kept=settings.max_per_video),
        "nms": partial(hard_nms_merge, threshold=settings.nms_threshold, max_kept=settings.max_per_video),
    }
    return PostProcessor(settings=settings, merge_rule=peer_merge if is_peer else rules[settings.merge])


def build_window_policy(settings: WindowSettings, *, is_peer: bool) -> WindowPolicy:
    policy = WindowPolicy(**to_dict(settings))
    return policy.as_peer() if is_peer else policy
