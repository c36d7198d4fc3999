"""The CLIP encoder that an identity in a file names."""

from __future__ import annotations

from typing import Any

from psftr.errors import PsftrError
from psftr.features.clip import ClipEncoder


def pick_device(device: str) -> Any:
    """torch.device; "auto" is CUDA where there is one. Raises PsftrError for a device that is not there."""
    import torch

    has_cuda = torch.cuda.is_available()
    try:
        chosen = torch.device(("cuda" if has_cuda else "cpu") if device == "auto" else device)
    except RuntimeError:
        raise PsftrError(f"device {device!r} is unknown; try cpu or cuda") from None
    if chosen.type == "cuda" and not has_cuda:
        raise PsftrError(f"device {device!r}: this machine has no usable CUDA device; use cpu")
    return chosen


def open_encoder(
    identity: str, *, model: str | None = None, pretrained: str | None = None, device: str = "auto"
) -> ClipEncoder:
    """The encoder called `identity`; `model` and `pretrained` say where to get it if it is not a published one.

    Raises PsftrError if that is not to be had, or is another encoder.
    """
    tool, _, rest = identity.partition(":")
    name, _, source = rest.partition(":")
    source, _, projection = source.partition(":")
    if tool != "open_clip" or not source:
        raise PsftrError(
            f"encoder {identity!r} is none that psftr can run: give features (--features) and class texts (--text) "
            "made by it"
        )
    wanted = model or name
    if "@" in wanted:
        raise PsftrError(f"encoder {identity} has a layout of its own: give its JSON file with --model FILE")
    if source.startswith("sha256-") and pretrained is None:
        raise PsftrError(f"encoder {identity} is a local weights file: give it with --pretrained FILE")
    seed = int(source.removeprefix("random-seed")) if source.startswith("random-seed") else 0
    weights = pretrained or ("random" if source.startswith("random-seed") else source)
    chosen = pick_device(device)
    encoder = ClipEncoder(
        wanted,
        weights,
        chosen,
        "bf16" if chosen.type == "cuda" else "fp32",
        projection="pre" if projection == "pre-projection" else "post",
        seed=seed,
    )
    if encoder.identity != identity:
        raise PsftrError(
            f"{identity} is needed, but {wanted} with {weights} is {encoder.identity}: leave out --model and "
            "--pretrained, or give that encoder's own"
        )
    return encoder
