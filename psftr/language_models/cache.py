"""Answers on disk, so that no question is paid for twice.

The key is a hash of model, prompt, schema, sampling, frame pixels and timestamps: nobody can read a video or a secret
out of it. Only answers that were used are kept; a failure is asked again. Values are JSON, never pickle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from psftr.errors import PsftrError
from psftr.language_models.protocol import Frames, Schema

_FORMAT = 2  # raise it when the meaning of a kept answer changes


def question_key(
    kind: str,
    identity: str,
    prompt: str,
    frames: Frames,
    *,
    options: Sequence[str] = (),
    schema: Schema | None = None,
    temperature: float = 0.0,
    answer_tokens: int = 1,
) -> str:
    """The key of a question; `kind` is "generate" or "choose", `options` are the words to choose from."""
    content = [_FORMAT, kind, identity, prompt, list(options), schema and [schema.name, schema.json]]
    text = json.dumps([*content, temperature, answer_tokens, list(frames.digests)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class AnswerCache:
    """Key -> answer (text, shares or null), in `folder` or, without one, in memory. Threads and processes share it."""

    def __init__(self, folder: Path | str | None = None) -> None:
        self._memory: dict[str, Any] | None = {} if folder is None else None
        self._disk: Any = None
        if folder is not None:
            try:
                import diskcache
            except ImportError as error:
                raise PsftrError("keeping answers on disk needs the package diskcache; install psftr[mllm]") from error
            Path(folder).mkdir(parents=True, exist_ok=True)
            self._disk = diskcache.Cache(str(folder), disk=diskcache.JSONDisk, eviction_policy="none")

    def get(self, key: str) -> Any | None:
        """The kept answer, wrapped in a list because an answer may be null; None if there is none."""
        return self._memory.get(key) if self._memory is not None else self._disk.get(key)

    def put(self, key: str, answer: Any) -> None:
        if self._memory is not None:
            self._memory[key] = [answer]
        else:
            self._disk.set(key, [answer])

    def __len__(self) -> int:
        return len(self._memory if self._memory is not None else self._disk)

    def close(self) -> None:
        if self._disk is not None:
            self._disk.close()
