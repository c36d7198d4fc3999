"""An untrained CLIP of 16 dimensions: as flags, as an encoder, by its name in files (`parts.save_tiny` takes it)."""

from pathlib import Path

from psftr.features.encoders import make_encoder
from psftr.features.settings import EncoderSettings

TINY_CLIP = str(Path(__file__).resolve().parent / "tiny_clip.json")
ENCODER = ["--model", TINY_CLIP, "--pretrained", "random", "--device", "cpu"]


def tiny_clip_encoder():
    return make_encoder(EncoderSettings(model=TINY_CLIP, pretrained="random", device="cpu"))


def tiny_identity() -> str:
    return tiny_clip_encoder().identity
