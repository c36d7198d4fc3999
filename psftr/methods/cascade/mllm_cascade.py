"""CASCADE over multimodal models: the four steps on frames, each answer checked, each failure counted."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psftr.language_models import MLLM, Counts, MllmError, Session
from psftr.methods.cascade import confidence, decomposition, filtering
from psftr.methods.cascade.confidence import StageQuestions
from psftr.methods.cascade.decomposition import caption_action, plan_stages
from psftr.methods.cascade.filtering import Filtered, Nearest, filter_by_answer, filter_compat
from psftr.methods.cascade.frames import VideoFrames, read_frames
from psftr.methods.cascade.journal import Looked
from psftr.methods.cascade.prefilter import Hints
from psftr.methods.cascade.settings import FramesSettings, QuestionSettings, ReconstructionSettings
from psftr.methods.cascade.stages import StagePlan
from psftr.methods.cascade.trace import ClassTrace, VideoTrace, trace_class

STEPS = ("filter", "caption", "plan", "confidence")


@dataclass(frozen=True)
class Steps:
    """Who answers in each step. Steps may share a session."""

    filter: Session
    caption: Session
    plan: Session
    confidence: Session

    def view(self) -> Steps:
        """The same models with counts of their own."""
        views = {id(session): session.view() for session in self.sessions}
        return Steps(*(views[id(getattr(self, step))] for step in STEPS))

    @property
    def sessions(self) -> list[Session]:
        """Each once."""
        return list(dict.fromkeys(getattr(self, step) for step in STEPS))

    @property
    def identities(self) -> dict[str, str]:
        return {step: getattr(self, step).model.identity for step in STEPS}

    @property
    def frame_size(self) -> int:
        """Frames are kept this large: as the step that looks closest needs them."""
        models: list[MLLM] = [self.filter.model, self.caption.model, self.confidence.model]
        return max(model.frame_size for model in models)

    def close(self) -> None:
        """Stop all questions under way."""
        for session in self.sessions:
            session.model.close()


def prompts_digest() -> str:
    """Changes with the words of any question, so that a finished video is looked at again when they do."""
    words = repr((filtering.PROMPTS, decomposition.PROMPTS, confidence.PROMPTS))
    return hashlib.sha256(words.encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class MllmCascade:
    """plans: stages known beforehand, by class name; those classes need neither caption nor plan from a model.

    nearest: a name the filter answers that is no candidate's -> the candidate meant. hints: CLIP features, for
    questions that need not be asked. compat: as the released code was observed to do it.
    """

    steps: Steps
    frames: FramesSettings
    questions: QuestionSettings
    reconstruction: ReconstructionSettings
    plans: Mapping[str, StagePlan]
    compat: bool
    nearest: Nearest | None = None
    hints: Hints | None = None

    def read(self, video_id: str, file: Path) -> VideoFrames:
        """The frames that the steps look at. Raises VideoError, FileNotFoundError."""
        frames = self.frames
        return read_frames(file, video_id, fps=frames.fps, max_frames=frames.max_frames, size=self.steps.frame_size)

    def look(
        self, video: VideoFrames, class_names: Sequence[str], *, tick: Callable[[int], None] = lambda _: None
    ) -> Looked:
        """The four steps on one video. No model learns which video it is.

        A video with failed questions is looked at as far as it goes, and is not finished. Raises BudgetExhausted,
        GivenUp, Stopped.
        """
        steps = self.steps.view()
        trace = None
        with contextlib.suppress(MllmError):  # which its session has counted
            trace = self._trace(steps, video, class_names, tick)
        counts = sum_counts([session.counts for session in steps.sessions])
        failed = {kind: f"{n} failed, the last with: {counts.reasons[kind]}" for kind, n in counts.failed.items()}
        is_finished = trace is not None and not failed
        return Looked(
            detections=trace.detections() if is_finished and trace else (),
            trace={**trace.to_dict(), "num_frames": len(video.frames), "counts": counts.to_dict()}
            if is_finished and trace
            else {},
            answers={step: tuple(sorted(getattr(steps, step).used)) for step in STEPS},
            failed=failed,
            asked=dict(counts.asked),
        )

    def _trace(
        self, steps: Steps, video: VideoFrames, class_names: Sequence[str], tick: Callable[[int], None]
    ) -> VideoTrace:
        passed = self._filter(steps.filter, video, class_names)
        tick(1)
        plans, captions, fallbacks = [], {}, set()
        for label in passed.confidence:
            plan = self.plans.get(label)
            if plan is None:
                captions[label] = caption_action(steps.caption, video.frames.uniform(self.frames.caption_frames), label)
                plan, is_fallback = plan_stages(steps.plan, label, captions[label])
                fallbacks |= {label} if is_fallback else set()
                tick(2)
            plans.append(plan)
        tables = StageQuestions(
            session=steps.confidence,
            frames=video.frames,
            settings=self.questions,
            clip_frames=self.frames.clip_frames,
            step_s=video.step_s,
            tick=tick,
        ).confidence(plans, self._allowed(video, list(passed.confidence)))
        classes: list[ClassTrace] = [
            trace_class(
                plan,
                tables[plan.label],
                step_s=video.step_s,
                filter_confidence=passed.confidence[plan.label],
                config=self.reconstruction,
                caption=captions.get(plan.label),
                is_fallback=plan.label in fallbacks,
            )
            for plan in plans
        ]
        return VideoTrace(video.video_id, video.duration_s, video.step_s, tuple(classes), self.reconstruction.threshold)

    def _filter(self, session: Session, video: VideoFrames, names: Sequence[str]) -> Filtered:
        if self.questions.filter == "all":
            return Filtered(dict.fromkeys(names, 1.0))
        if self.hints is not None and self.questions.filter == "clip":
            return Filtered(self.hints.passed(video.video_id, names))
        if self.hints is not None and self.questions.max_classes is not None:
            names = self.hints.best_classes(video.video_id, names, self.questions.max_classes)
        shown = video.frames.uniform(self.frames.filter_frames)
        if self.compat:
            return filter_compat(session, shown, names)
        return filter_by_answer(session, shown, names, min_confidence=self.frames.min_confidence, nearest=self.nearest)

    def _allowed(self, video: VideoFrames, names: Sequence[str]) -> dict[str, Any]:
        share = self.questions.frames_share
        if self.hints is None or share == 1:
            return {}
        times_s = video.frames.times_s
        return {name: self.hints.worth_a_look(video.video_id, name, names, times_s, share) for name in names}


def sum_counts(counts: Sequence[Counts]) -> Counts:
    """All kinds of questions of several sessions together."""
    total = Counts()
    for one in counts:
        for name in ("asked", "from_cache", "repaired", "unusable", "failed"):
            total_of: Counter[str] = getattr(total, name)
            total_of.update(getattr(one, name))
        total.undecided += one.undecided
        total.reasons |= one.reasons
    return total
