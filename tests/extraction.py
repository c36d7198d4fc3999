"""Pieces of extraction tests that child processes import."""

from __future__ import annotations

from pathlib import Path

from psftr.features.clip import ClipEncoder
from psftr.features.extract import ExtractReport, extract, find_videos
from psftr.features.shards import ShardedStore

TINY_CLIP = Path(__file__).parent / "tiny_clip.json"


def clip(model, pretrained="random", **how) -> ClipEncoder:
    """An encoder on the CPU in full precision, untrained unless said otherwise."""
    return ClipEncoder(str(model), pretrained, **{"device": "cpu", "precision": "fp32"} | how)


def tiny_encoder(**how) -> ClipEncoder:
    """An untrained CLIP of 32-pixel images and 16 dimensions."""
    return clip(TINY_CLIP, **how)


def extract_tiny(videos: Path, out: Path, *, stride: int = 4, encoder=None, **how) -> ExtractReport:
    encoder = encoder or tiny_encoder()
    store = ShardedStore(out, encoder=encoder.identity, dim=encoder.dim, stride=stride)
    return extract(find_videos([videos]), encoder=encoder, store=store, batch_size=8, **how)
