"""What a language model folder may hold beside its weights: how frames of one feature space become tokens it knows.

Multimodal language models come with such a projection; one that reads text only has none, and it is trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from psftr.errors import PsftrError
from psftr.files import replacing
from psftr.methods.actionvlm.stream import LanguageStream

ALIGNMENT = "alignment.safetensors"
_PARTS = ("project.weight", "project.bias", "tokens")


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """weight [H,feature_dim], bias [H] of the projection, tokens [S,H]: [cls], [loc] and [adv]. where: its file."""

    weight: Tensor
    bias: Tensor
    tokens: Tensor
    where: str

    def fill(self, stream: LanguageStream, *, frozen: bool) -> None:
        """Start `stream` with these; frozen: they stay as they are. Raises PsftrError where they do not fit."""
        for given, own in zip((self.weight, self.bias, self.tokens), _own(stream)):
            if given.shape != own.shape:
                raise PsftrError(
                    f"{self.where} is for features of width {self.weight.shape[1]} and {len(self.tokens)} tokens of a "
                    f"frame, here are features of width {stream.project.in_features} and {len(stream.tokens)} tokens: "
                    "use the features and language.tokens that it was made with"
                )
            with torch.no_grad():
                own.copy_(given)
            own.requires_grad_(not frozen)

    def write(self, folder: str | Path) -> Path:
        """Keep it beside the weights of the language model; returns the file."""
        file = Path(folder) / ALIGNMENT
        with replacing(file) as temporary:
            save_file(
                dict(zip(_PARTS, (part.contiguous() for part in (self.weight, self.bias, self.tokens)))), temporary
            )
        return file


def read_alignment(folder: str | None) -> Alignment | None:
    """That of a language model folder; None where it has none. Raises PsftrError for a damaged file."""
    file = Path(folder) / ALIGNMENT if folder is not None else None
    if file is None or not file.is_file():
        return None
    try:
        parts = load_file(file)
        weight, bias, tokens = (parts[name] for name in _PARTS)
    except (SafetensorError, OSError, KeyError) as error:
        raise PsftrError(f"cannot read {file} ({error}): restore the folder of the language model") from None
    return Alignment(weight=weight, bias=bias, tokens=tokens, where=str(file))


def _own(stream: LanguageStream) -> tuple[Tensor, Tensor, Tensor]:
    return stream.project.weight, stream.project.bias, stream.tokens
