"""What a multimodal model is asked, and the limits of asking.

A prompt is words of this library and of the user's class names; frames are pixels and times. Nothing else reaches a
model: no file name, no path (they tend to contain the label), no key.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from psftr.errors import PsftrError

Keep = Callable[[int, int, float], None]


class MllmError(PsftrError):
    """A question that got no answer, after all attempts. The message never holds the question or a key."""


class BudgetExhausted(PsftrError):
    """The next question would exceed the request budget."""


class AnswerError(PsftrError):
    """An answer that is not what was asked for; the message says why, for the repair request."""


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames of one video in order of time: each `rgb [H, W, 3]` uint8, shown at `times_s`."""

    rgb: tuple[NDArray[np.uint8], ...] = ()
    times_s: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.rgb) != len(self.times_s):
            raise PsftrError(f"{len(self.rgb)} frames with {len(self.times_s)} timestamps; one each is needed")

    def __len__(self) -> int:
        return len(self.rgb)

    def take(self, rows: Sequence[int]) -> Frames:
        return Frames(tuple(self.rgb[i] for i in rows), tuple(self.times_s[i] for i in rows))

    def uniform(self, count: int) -> Frames:
        """At most `count` frames, evenly spread: the middles of `count` equal parts."""
        if len(self) <= count:
            return self
        return self.take([int((i + 0.5) * len(self) / count) for i in range(count)])

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """Of each frame: its pixels, and its time to the millisecond."""
        return tuple(
            hashlib.sha256(f"{frame.shape}@{time_s:.3f}".encode() + np.ascontiguousarray(frame).tobytes()).hexdigest()
            for frame, time_s in zip(self.rgb, self.times_s)
        )


@dataclass(frozen=True)
class Schema:
    """A JSON schema by name, as servers with structured output take it."""

    name: str
    json: Mapping[str, Any]


class MLLM(Protocol):
    """A model that sees frames and reads a prompt.

    identity: names model and everything else that decides an answer; part of every cache key, so it holds no secret.
    """

    @property
    def identity(self) -> str: ...

    def generate(
        self, frames: Frames, prompt: str, *, schema: Schema | None = None, temperature: float = 0.0,
        max_tokens: int = 512,
    ) -> str:  # fmt: skip
        """The answer to `prompt` about all frames together (none: a question in words only).

        Raises MllmError when there is none, BudgetExhausted.
        """
        ...

    def yes_no(self, frames: Frames, prompts: Sequence[str], *, keep: Keep | None = None) -> NDArray[np.float64]:
        """[T, S]: p(yes) / (p(yes) + p(no)) at the first answer position, each frame by itself with each prompt.

        NaN where neither was among the answers, and where a question failed. `keep(t, s, p)` is called, from any
        thread, for every answer as soon as it is there, so that what was answered survives what comes after.
        Raises BudgetExhausted.
        """
        ...


class Budget:
    """How many questions may be sent, retries included; None: as many as it takes. Threads may share one."""

    def __init__(self, limit: int | None = None) -> None:
        if limit is not None and limit < 0:
            raise PsftrError(f"a budget of {limit} requests; give 0 or more, or none for no limit")
        self.limit, self.spent = limit, 0
        self._lock = threading.Lock()

    def spend(self, count: int = 1) -> None:
        """Raises BudgetExhausted, and spends nothing, if fewer than `count` requests are left."""
        with self._lock:
            if self.limit is not None and self.spent + count > self.limit:
                raise BudgetExhausted(
                    f"the budget of {self.limit} requests is spent; answers so far are kept: run again with a higher "
                    "backend.budget to go on"
                )
            self.spent += count


def is_yes(token: str) -> bool:
    return _word(token) == "yes"


def is_no(token: str) -> bool:
    return _word(token) == "no"


def _word(token: str) -> str:
    """A token as a word: without the marks tokenizers put for a leading space, and without case."""
    return token.replace("▁", " ").replace("Ġ", " ").strip().lower()
