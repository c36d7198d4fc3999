"""The CLIP encoder that settings describe, or that an identity in a file names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psftr.errors import PsftrError

if TYPE_CHECKING:
    import torch

    from psftr.features.clip import ClipEncoder
    from psftr.features.settings import EncoderSettings


def pick_device(device: str) -> torch.device:
    """torch.device; "auto" is CUDA where there is one. Raises PsftrError for a device that is not there."""
    import torch

    has_cuda = torch.cuda.is_available()
    try:
        chosen = torch.device(("cuda" if has_cuda else "cpu") if device == "auto" else device)
    except RuntimeError:
        raise PsftrError(f"device {device!r} is unknown; try cpu or cuda") from None
    if chosen.type == "cuda" and (not has_cuda or (chosen.index or 0) >= torch.cuda.device_count()):
        raise PsftrError(f"device {device!r}: this machine has no such usable CUDA device; use cpu")
    if chosen.type not in ("cpu", "cuda", "mps") or (chosen.type == "mps" and not torch.backends.mps.is_available()):
        raise PsftrError(f"device {device!r} cannot be used on this machine; use cpu")
    return chosen


def make_encoder(settings: EncoderSettings) -> ClipEncoder:
    """The encoder of these settings. Raises PsftrError, among others where its weights are not available."""
    from psftr.features.clip import ClipEncoder

    device = pick_device(settings.device)
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" else "fp32"
    return ClipEncoder(
        settings.model,
        settings.pretrained,
        device=device,
        precision=precision,
        projection=settings.projection,
        seed=settings.seed,
    )


def open_encoder(identity: str, *, model: str | None = None, pretrained: str | None = None, device: str) -> ClipEncoder:
    """The encoder called `identity`; `model` and `pretrained` say where it is if it is not a published one.

    Raises PsftrError if it is not available, or is another encoder.
    """
    from psftr.features.settings import EncoderSettings

    tool, _, rest = identity.partition(":")
    name, _, source = rest.partition(":")
    source, _, projection = source.partition(":")
    if tool != "open_clip" or not source:
        raise PsftrError(
            f"psftr cannot run encoder {identity!r}: give features (--features) and class texts (--text) made by it"
        )
    wanted = model or name
    if "@" in wanted:
        raise PsftrError(f"encoder {identity} has a layout of its own: give its JSON file with --model FILE")
    if source.startswith("sha256-") and pretrained is None:
        raise PsftrError(f"encoder {identity} is a local weights file: give it with --pretrained FILE")
    is_random = source.startswith("random-seed")
    settings = EncoderSettings(
        model=wanted,
        pretrained=pretrained or ("random" if is_random else source),
        projection="pre" if projection == "pre-projection" else "post",
        seed=int(source.removeprefix("random-seed")) if is_random else 0,
        device=device,
    )
    encoder = make_encoder(settings)
    if encoder.identity != identity:
        raise PsftrError(
            f"{identity} is needed, but {wanted} with {settings.pretrained} is {encoder.identity}: leave out --model "
            "and --pretrained, or give that encoder's own"
        )
    return encoder
