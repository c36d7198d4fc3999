"""Recorded answers instead of a model: the same run again, anywhere, without weights, network or cost."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psftr.errors import PsftrError
from psftr.language_models.cache import question_key
from psftr.language_models.protocol import Frames, Keep, MllmError, Schema
from psftr.language_models.session import RECORDING


class ReplayMLLM:
    """Answers from a file that `Session.write_recording` wrote; it has the identity of the model that was recorded."""

    def __init__(self, path: Path | str) -> None:
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"recorded answers {path} not found: make them with record=FILE")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            says, self.identity = content["format"], str(content["model"])
            self._answers: dict[str, Any] = dict(content["answers"])
        except (ValueError, KeyError, TypeError) as error:
            raise PsftrError(f"{path} is not a recording of answers ({error!r}): make one with record=FILE") from None
        if says != RECORDING:
            raise PsftrError(f"{path} has format {says!r}, this psftr reads {RECORDING!r}")

    def generate(
        self, frames: Frames, prompt: str, *, schema: Schema | None = None, temperature: float = 0.0,
        max_tokens: int = 512,
    ) -> str:  # fmt: skip
        key = question_key(
            "generate", self.identity, prompt, frames, schema=schema, temperature=temperature, max_tokens=max_tokens
        )
        if key not in self._answers:
            raise MllmError("not among the recorded answers: frames, classes or settings are not the recorded ones")
        return str(self._answers[key])

    def yes_no(self, frames: Frames, prompts: Sequence[str], *, keep: Keep | None = None) -> NDArray[np.float64]:
        table = np.full((len(frames), len(prompts)), np.nan)
        for t, s in np.ndindex(table.shape):
            key = question_key("yes_no", self.identity, prompts[s], frames.take([t]))
            if key in self._answers:
                answer = self._answers[key]
                table[t, s] = math.nan if answer is None else answer
                if keep is not None:
                    keep(t, s, float(table[t, s]))
        return table
