"""The networks that are measured: our default, and the paper's own form of conf/experiment/paper.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORMS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "paper": {
        "frame_components": 0,
        "similarity_guidance": False,
        "text_to_vision": True,
        "vision_to_text": True,
        "text_to_query": True,
        "spde": "mlp_residual",
        "class_head": "cosine",
    },
}
"""Name -> what differs from the defaults of ModelSettings."""

LOSSES: Mapping[str, Mapping[str, Any]] = {"default": {}, "paper": {"denoising": 0.0}}
"""Name -> what differs from the defaults of LossSettings."""
