"""A tiny CLIP with random weights, a tiny network for its features, and two small videos."""

from pathlib import Path

import pytest
from clips import numbered_clip
from parts import save_tiny
from tiny_model import TINY_CLIP, tiny_identity


@pytest.fixture(scope="session")
def tiny_clip() -> dict[str, str]:
    return {"model": TINY_CLIP, "pretrained": "random"}


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    """An untrained network for features of the tiny CLIP at stride 4."""
    encoder = tiny_identity()
    config = {"window": {"mode": "slide", "size": 16}, "postprocess": {"soft_nms_sigma": 2.0}}
    features = {"identity": f"{encoder} dim=16 stride=4 videos=3 0123"}
    return save_tiny(tmp_path_factory.mktemp("model"), encoder, config=config, features=features)


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> Path:
    """clip_a (60 frames at 25/s, 2.4 s) and clip_b (40 frames, 1.6 s)."""
    folder = tmp_path_factory.mktemp("videos")
    numbered_clip(folder / "clip_a.mp4", count=60)
    numbered_clip(folder / "clip_b.mp4", count=40)
    return folder
