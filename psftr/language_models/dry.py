"""A model that answers nothing: with the cache of a real one it shows what is not known yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from psftr.language_models.protocol import Fail, Frames, Keep, MllmError, Schema, Usage


class DryMLLM:
    """`MLLM` with the identity of another, every question of which fails."""

    def __init__(self, identity: str, *, frame_size: int) -> None:
        self.identity, self.frame_size = identity, frame_size
        self.usage = Usage()

    def generate(
        self, frames: Frames, prompt: str, *, schema: Schema | None = None, temperature: float = 0.0,
        answer_tokens: int,
    ) -> str:  # fmt: skip
        raise MllmError("a dry run asks nothing")

    def choose(
        self, clips: Sequence[Frames], prompts: Sequence[str], options: Sequence[str], *, keep: Keep, fail: Fail
    ) -> None:
        for t in range(len(clips)):
            for s in range(len(prompts)):
                fail(t, s, MllmError("a dry run asks nothing"))

    @contextmanager
    def impatient(self) -> Iterator[None]:
        yield

    def close(self) -> None:
        """Nothing is open."""
