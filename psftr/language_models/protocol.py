"""What a multimodal model is asked, and the limits of asking.

A prompt is words of this library and of the user's class names; frames are pixels and times. Nothing else reaches a
model: no file name, no path (they tend to contain the label), no key.
"""

from __future__ import annotations

import hashlib
import io
import math
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from psftr.errors import PsftrError

if TYPE_CHECKING:
    from PIL.Image import Image

YES_NO = ("Yes", "No")
NARROWEST_PX = 32  # image processors refuse slivers; a narrower frame gets black edges
JPEG_QUALITY = 92
_IN_MEMORY = 8 * 2**20

Keep = Callable[[int, int, "tuple[float, ...] | None"], None]
Fail = Callable[[int, int, "MllmError"], None]


class MllmError(PsftrError):
    """A question that got no answer, after all attempts. The message never holds the question or a key."""


class AnswerError(PsftrError):
    """An answer that is not what was asked for; the message says why, for the repair request."""


class Stopped(PsftrError):
    """The run was stopped while a question waited for its answer."""

    def __init__(self) -> None:
        super().__init__("the run was stopped")


class BudgetExhausted(PsftrError):
    """The next question would exceed the request budget."""


class Pictures:
    """JPEG pictures one after the other, in memory up to `_IN_MEMORY` bytes, then in a temporary file without a name.

    A video of half an hour, decoded, takes more than a gigabyte, and a hundred megabytes as JPEG. Threads may share it.
    The file goes when nobody refers to it any more, and with the program.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - closed by the line below
        self._lock = threading.Lock()
        weakref.finalize(self, self._file.close)

    def add(self, jpeg: bytes) -> tuple[int, int]:
        """Where it begins and how many bytes it has. Raises OSError, such as for a full disk."""
        with self._lock:
            start = self._file.seek(0, io.SEEK_END)
            self._file.write(jpeg)
        return start, len(jpeg)

    def read(self, start: int, length: int) -> bytes:
        with self._lock:
            self._file.seek(start)
            return self._file.read(length)


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """One picture as models get it: JPEG, shown at `time_s`. digest: of the pixels before JPEG and of the time.

    It is kept among the `pictures` of its video, at `place` (first byte, number of bytes).
    """

    pictures: Pictures
    place: tuple[int, int]
    time_s: float
    digest: str

    @classmethod
    def of(cls, rgb: NDArray[np.uint8], time_s: float, *, size: int, pictures: Pictures) -> Frame:
        """`rgb [H, W, 3]`, reduced to `size` pixels on the longer side and given black edges if it is a sliver."""
        from PIL import Image

        image = Image.fromarray(rgb)
        image.thumbnail((size, size))
        if min(image.size) < NARROWEST_PX:
            wide = Image.new("RGB", (max(image.width, NARROWEST_PX), max(image.height, NARROWEST_PX)))
            wide.paste(image, ((wide.width - image.width) // 2, (wide.height - image.height) // 2))
            image = wide
        pixels = np.asarray(image)
        digest = hashlib.sha256(f"{pixels.shape}@{time_s:.3f}".encode() + pixels.tobytes()).hexdigest()
        return cls(pictures, pictures.add(_jpeg(image)), time_s, digest)

    @property
    def jpeg(self) -> bytes:
        return self.pictures.read(*self.place)

    def image(self) -> Image:
        from PIL import Image

        return Image.open(io.BytesIO(self.jpeg)).convert("RGB")

    def jpeg_of(self, size: int) -> bytes:
        """The picture with at most `size` pixels on the longer side."""
        image = self.image()
        if max(image.size) <= size:
            return self.jpeg
        image.thumbnail((size, size))
        return _jpeg(image)


def _jpeg(image: Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames of one video in order of time."""

    frames: tuple[Frame, ...] = ()

    @classmethod
    def of(cls, rgb: Sequence[NDArray[np.uint8]], times_s: Sequence[float], *, size: int) -> Frames:
        """Pictures `[H, W, 3]` uint8 and the times they are shown at."""
        if len(rgb) != len(times_s):
            raise PsftrError(f"{len(rgb)} frames with {len(times_s)} timestamps; one each is needed")
        pictures = Pictures()
        return cls(tuple(Frame.of(one, time_s, size=size, pictures=pictures) for one, time_s in zip(rgb, times_s)))

    def __len__(self) -> int:
        return len(self.frames)

    def take(self, rows: Sequence[int]) -> Frames:
        return Frames(tuple(self.frames[i] for i in rows))

    def uniform(self, count: int) -> Frames:
        """At most `count` frames, evenly spread: the middles of `count` equal parts."""
        if len(self) <= count:
            return self
        return self.take([int((i + 0.5) * len(self) / count) for i in range(count)])

    @property
    def times_s(self) -> tuple[float, ...]:
        return tuple(frame.time_s for frame in self.frames)

    @property
    def digests(self) -> tuple[str, ...]:
        return tuple(frame.digest for frame in self.frames)


@dataclass(frozen=True)
class Schema:
    """A JSON schema by name, as servers with structured output take it."""

    name: str
    json: Mapping[str, Any]


class MLLM(Protocol):
    """A model that sees frames and reads a prompt.

    identity: names the model by content and everything else that decides an answer. It is part of every cache key, so
    it holds no secret. frame_size: longer side of the frames it looks at, in pixels. usage: what it has cost so far.
    """

    usage: Usage

    @property
    def identity(self) -> str: ...

    @property
    def frame_size(self) -> int: ...

    def generate(
        self, frames: Frames, prompt: str, *, schema: Schema | None = None, temperature: float = 0.0,
        answer_tokens: int,
    ) -> str:  # fmt: skip
        """The answer to `prompt` about all frames together (none: a question in words only).

        Raises MllmError when there is none, BudgetExhausted, PsftrError when asking on is useless.
        """
        ...

    def choose(
        self, clips: Sequence[Frames], prompts: Sequence[str], options: Sequence[str], *, keep: Keep, fail: Fail
    ) -> None:
        """For each clip with each prompt: how the mass of the first answer word is shared among `options`.

        `keep(t, s, shares)` is called, from any thread, for every answer as soon as it is there (None: the answer was
        none of the options), `fail(t, s, error)` for every question without an answer; an exception of either ends the
        call. Raises BudgetExhausted, PsftrError when asking on is useless.
        """
        ...

    def impatient(self) -> AbstractContextManager[None]:
        """Within it, questions that get no answer soon fail: for those that find out whether the model is well."""
        ...

    def close(self) -> None:
        """Stop at once what is under way; who waits for an answer gets Stopped."""
        ...


class Usage:
    """Requests, tokens and money spent by one model. Threads may share it.

    prices: US dollars per million tokens of prompts and of answers; None where nobody said.
    """

    def __init__(self, price_in: float | None = None, price_out: float | None = None) -> None:
        self.requests = self.tokens_in = self.tokens_out = 0
        self.prices = None if price_in is None and price_out is None else (price_in or 0.0, price_out or 0.0)
        self._lock = threading.Lock()

    def add(self, tokens_in: int, tokens_out: int, requests: int = 1) -> None:
        with self._lock:
            self.requests += requests
            self.tokens_in += tokens_in
            self.tokens_out += tokens_out

    @property
    def dollars(self) -> float | None:
        if self.prices is None:
            return None
        return (self.tokens_in * self.prices[0] + self.tokens_out * self.prices[1]) / 1e6

    def to_dict(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "dollars": self.dollars,
        }


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


def spells(token: str, word: str, *, literal: bool = False) -> bool:
    """Whether a token of a model's vocabulary is `word`, with or without a leading space, in upper or lower case.

    literal: the very letters, which is what the released code of CASCADE looks for.
    """
    bare = token.replace("▁", " ").replace("Ġ", " ").replace("Ċ", "\n")
    return token == word if literal else bare.strip().lower() == word.lower()


def shares(masses: Sequence[float]) -> tuple[float, ...] | None:
    """Masses -> shares of their sum; None if all are zero."""
    total = math.fsum(masses)
    return tuple(mass / total for mass in masses) if total > 0 else None
