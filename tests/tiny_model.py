"""An untrained CLIP of 16 dimensions, as flags and by its name in files; `parts.save_tiny` makes a model for it."""

from pathlib import Path

TINY_CLIP = str(Path(__file__).resolve().parent / "tiny_clip.json")
ENCODER = ["--model", TINY_CLIP, "--pretrained", "random", "--device", "cpu"]


def tiny_identity() -> str:
    from psftr.features.clip import ClipEncoder

    return ClipEncoder(TINY_CLIP, "random").identity
