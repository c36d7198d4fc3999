"""Parts of PSFTR with settings that tests choose, and the rest as in the paper."""

from functools import partial
from pathlib import Path

import torch

from psftr import segments
from psftr.checkpoints import save_pretrained, training_facts
from psftr.methods.psftr import losses, matcher
from psftr.methods.psftr.build import NetworkConfig, build_network, build_postprocessor
from psftr.methods.psftr.criterion import Criterion
from psftr.methods.psftr.settings import LossSettings, MatcherSettings, PostprocessSettings
from psftr.settings import to_dict

PAPER = {
    "similarity_guidance": False, "text_to_vision": True, "vision_to_text": True, "text_to_query": True,
    "spde": "mlp_residual", "class_head": "cosine",
}  # fmt: skip


def network_config(**changes):
    """The paper's network, for CLIP ViT-B/16."""
    return NetworkConfig(**{"feature_dim": 512, "text_dim": 512} | PAPER | changes)


def postprocessor(*, is_peer=False, **changes):
    """Classified by ROIAlign alone, scored as in the paper, merged by a mild soft-NMS."""
    scores = {"roi_weight": 1.0, "class_temperature": 1.0, "evidence_weight": 0.0, "seen_weight": 0.0}
    settings = PostprocessSettings(**scores | {"soft_nms_sigma": 0.5} | changes)
    return build_postprocessor(settings, is_peer=is_peer)


def match(outputs, targets, *, class_cost=matcher.class_cost, overlap=segments.tiou_pairwise, **weights):
    """Matching on the class loss (equation 7)."""
    weights = MatcherSettings(**weights)
    return matcher.match(outputs, targets, class_cost=class_cost, overlap=overlap, weights=weights)


def criterion(**changes):
    """Equation 11 as the paper has it."""
    parts = {
        "matcher": partial(match),
        "weights": LossSettings(),
        "overlap": segments.tiou_paired,
        "saliency_loss": losses.saliency_bce,
    }
    return Criterion(**parts | changes)


def save_tiny(folder: Path, encoder: str, *, feature_dim: int = 16, synthetic: bool = False, **facts) -> Path:
    """A model folder with an untrained network."""
    torch.manual_seed(0)
    config = NetworkConfig(
        feature_dim=feature_dim, text_dim=feature_dim, dim=16, heads=2, encoder_layers=1, decoder_layers=1, queries=6
    )
    told = training_facts(
        **{"method": "psftr", "config": {}, "network": to_dict(config), "train_classes": ["run"]} | facts,
        encoder=encoder,
        synthetic=synthetic,
    )
    return save_pretrained(folder, build_network(config), told)
