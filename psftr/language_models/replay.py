"""Recorded answers instead of a model: the same run again, anywhere, without weights, network or cost.

{"format": "psftr-answers-2", "models": {STEP: {"identity": TEXT, "frame_size": PX}}, "answers": {KEY: ANSWER}}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psftr.errors import PsftrError
from psftr.files import read_json, write_json
from psftr.language_models.cache import question_key
from psftr.language_models.protocol import Fail, Frames, Keep, MllmError, Schema, Usage

FORMAT = "psftr-answers-2"
_ABSENT = "not among the recorded answers: videos, frames, classes or settings are not the recorded ones"


@dataclass(frozen=True)
class Recording:
    """Answers by question key, and the model of each step: {"identity", "frame_size"}."""

    models: Mapping[str, Mapping[str, Any]]
    answers: Mapping[str, Any]


def read_recording(path: Path | str) -> Recording:
    """Raises PsftrError for what is not a recording."""
    content = read_json(path, remedy="make a recording with record=FILE")
    try:
        says, models, answers = content["format"], dict(content["models"]), dict(content["answers"])
        for model in models.values():
            str(model["identity"]), int(model["frame_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise PsftrError(f"{path} is not a recording of answers ({error!r}): make one with record=FILE") from None
    if says != FORMAT:
        raise PsftrError(f"{path} has format {says!r}, this psftr reads {FORMAT!r}: record again with record=FILE")
    return Recording(models, answers)


def add_to_recording(path: Path | str, recording: Recording) -> int:
    """Write a recording; answers of the same models that `path` holds already are kept. Returns how many it now has.

    Raises PsftrError where `path` holds answers of other models.
    """
    answers = dict(recording.answers)
    if Path(path).exists():
        before = read_recording(path)
        if before.models != recording.models:
            raise PsftrError(f"{path} holds answers of other models or settings: give another record=FILE")
        answers = {**before.answers, **answers}
    write_json(path, {"format": FORMAT, "models": recording.models, "answers": answers}, indent=0)
    return len(answers)


class ReplayMLLM:
    """The answers of one step's model; it has the identity of the model that was recorded."""

    def __init__(self, recording: Recording, *, step: str) -> None:
        if step not in recording.models:
            raise PsftrError(f"the recording has no model for the step {step}; it has {', '.join(recording.models)}")
        model = recording.models[step]
        self.identity, self.frame_size = str(model["identity"]), int(model["frame_size"])
        self.usage = Usage()
        self._answers = recording.answers

    def generate(
        self, frames: Frames, prompt: str, *, schema: Schema | None = None, temperature: float = 0.0,
        answer_tokens: int,
    ) -> str:  # fmt: skip
        key = question_key(
            "generate",
            self.identity,
            prompt,
            frames,
            schema=schema,
            temperature=temperature,
            answer_tokens=answer_tokens,
        )
        if key not in self._answers:
            raise MllmError(_ABSENT)
        return str(self._answers[key])

    def choose(
        self, clips: Sequence[Frames], prompts: Sequence[str], options: Sequence[str], *, keep: Keep, fail: Fail
    ) -> None:
        for t, clip in enumerate(clips):
            for s, prompt in enumerate(prompts):
                key = question_key("choose", self.identity, prompt, clip, options=options)
                if key in self._answers:
                    answer = self._answers[key]
                    keep(t, s, None if answer is None else tuple(answer))
                else:
                    fail(t, s, MllmError(_ABSENT))

    @contextmanager
    def impatient(self) -> Iterator[None]:
        yield

    def close(self) -> None:
        """Nothing is open."""
