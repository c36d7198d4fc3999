"""A tiny random language model that needs no download: for the embedded world and the tests, not for results."""

from __future__ import annotations

import re
import zlib
from typing import Any

from psftr.errors import PsftrError

VOCABULARY = 512
HIDDEN, LAYERS, HEADS, KEY_VALUE_HEADS = 64, 2, 4, 2
_RESERVED = 16  # end of text and the ten digits
_PIECES = re.compile(r"[a-z]+|[0-9]|[^\sa-z0-9]")


class TinyTokenizer:
    """Words and signs by a hash of their letters (some share an id), numbers digit by digit."""

    end_id = 0

    def encode(self, text: str) -> list[int]:
        return [self._id(piece) for piece in _PIECES.findall(text.lower())]

    def _id(self, piece: str) -> int:
        if piece.isdigit():
            return 1 + int(piece)
        return _RESERVED + zlib.crc32(piece.encode()) % (VOCABULARY - _RESERVED)


def tiny_model() -> Any:
    """A Qwen2 of random weights (from torch's global random state). Raises PsftrError without transformers."""
    try:
        from transformers import Qwen2Config, Qwen2ForCausalLM
    except ImportError as error:
        raise PsftrError("actionvlm needs the package transformers: pip install 'psftr[vlm]'") from error
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_VALUE_HEADS,
        max_position_embeddings=32768,
        tie_word_embeddings=False,
        bos_token_id=TinyTokenizer.end_id,
        eos_token_id=TinyTokenizer.end_id,
    )
    return Qwen2ForCausalLM(config)
