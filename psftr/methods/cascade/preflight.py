"""Is every model well? Asked before the first question of a run, so that a wrong setting costs seconds and no night."""

from __future__ import annotations

import threading

import numpy as np

from psftr.errors import PsftrError
from psftr.language_models import YES_NO, Frames, MllmError, Session
from psftr.methods.cascade.confidence import FRAME_QUESTION
from psftr.methods.cascade.decomposition import CAPTION_SCHEMA, PLAN_SCHEMA
from psftr.methods.cascade.filtering import SCHEMA as FILTER_SCHEMA
from psftr.methods.cascade.mllm_cascade import Steps
from psftr.methods.cascade.settings import FramesSettings, QuestionSettings

_WORDS = 'Answer with one JSON object: {"action": "none"}.'


class Preflight:
    """Called any number of times, from any thread, it checks once; the others wait. A failure ends the run.

    Each step is asked one question of its kind: the filter and the caption with as many grey frames as they will be
    shown and with their JSON schema, the plan with its schema, the confidence with logprobs. Answers are thrown away.
    needs_plans: whether any class needs a caption and a plan from a model.
    """

    def __init__(self, steps: Steps, *, frames: FramesSettings, questions: QuestionSettings, needs_plans: bool) -> None:
        self.steps, self.frames, self.questions, self.needs_plans = steps, frames, questions, needs_plans
        self._lock = threading.Lock()
        self._is_done = False

    def __call__(self) -> None:
        with self._lock:
            if not self._is_done:
                self._check()
                self._is_done = True

    def _check(self) -> None:
        steps, frames = self.steps, self.frames
        if self.questions.filter == "model":
            self._generate("filter", steps.filter, frames.filter_frames, FILTER_SCHEMA, "frames.filter_frames")
        if self.needs_plans:
            self._generate("caption", steps.caption, frames.caption_frames, CAPTION_SCHEMA, "frames.caption_frames")
            self._generate("plan", steps.plan, 0, PLAN_SCHEMA, None)
        model = steps.confidence.model
        failures: list[MllmError] = []
        try:
            with model.impatient():
                model.choose(
                    [_grey(frames.clip_frames, model.frame_size)],
                    [FRAME_QUESTION.format(description="people do nothing")],
                    YES_NO,
                    keep=lambda t, s, found: None,
                    fail=lambda t, s, error: failures.append(error),
                )
        except MllmError as error:
            failures.append(error)
        if failures:
            raise PsftrError(
                f"the confidence step cannot begin: asked a yes/no question about {frames.clip_frames} frame(s) with "
                f"logprobs, {failures[0]}"
            )

    def _generate(self, step: str, session: Session, num_frames: int, schema: object, key: str | None) -> None:
        model = session.model
        try:
            with model.impatient():
                model.generate(_grey(num_frames, model.frame_size), _WORDS, schema=schema, answer_tokens=16)  # type: ignore[arg-type]
        except MllmError as error:
            shown = f"{num_frames} frames and " if num_frames else ""
            name = "planner" if step == "plan" else step
            remedies = []
            if "answered 4" in str(error):  # it understood, and refused
                remedies += [f"{key}=… shows fewer frames"] if key else []
                remedies += ["backend.structured=json_object or none asks without a schema"]
                remedies += [f"backend@{name}=… gives this step another model"]
            raise PsftrError(
                f"the {step} step cannot begin: asked a question with {shown}a JSON schema, "
                + "; ".join([str(error), *remedies])
            ) from None


def _grey(count: int, size: int) -> Frames:
    picture = np.full((size * 9 // 16, size, 3), 127, dtype=np.uint8)
    return Frames.of([picture] * count, [float(n) for n in range(count)], size=size)
