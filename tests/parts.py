"""Parts of PSFTR with settings that tests choose, and the rest as in the paper."""

from functools import partial

from psftr import segments
from psftr.methods.psftr import losses, matcher
from psftr.methods.psftr.build import NetworkConfig, build_postprocessor
from psftr.methods.psftr.criterion import Criterion
from psftr.methods.psftr.settings import LossSettings, MatcherSettings, PostprocessSettings


def network_config(**changes):
    """The paper's network for CLIP ViT-B/16."""
    return NetworkConfig(**{"feature_dim": 512, "text_dim": 512} | changes)


def postprocessor(*, is_peer=False, **changes):
    """Classified by ROIAlign alone, merged by a mild soft-NMS."""
    settings = PostprocessSettings(**{"roi_weight": 1.0, "soft_nms_sigma": 0.5} | changes)
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
