"""CASCADE over a multimodal model: the four steps on frames, each answer checked, each failure counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from psftr.errors import PsftrError
from psftr.language_models import Session
from psftr.methods.cascade.confidence import ask_stages
from psftr.methods.cascade.decomposition import caption_action, plan_stages
from psftr.methods.cascade.filtering import Nearest, filter_by_answer, filter_compat
from psftr.methods.cascade.frames import VideoFrames
from psftr.methods.cascade.reconstruction import ReconstructionConfig
from psftr.methods.cascade.stages import MAX_STAGES, StagePlan
from psftr.methods.cascade.trace import VideoTrace, trace_class

COMPAT_MAX_FRAMES = 400


@dataclass(frozen=True, kw_only=True)
class MllmCascadeConfig:
    """fps: frames looked at per second, at least. max_frames: of a video, None: as many as fps asks for.

    filter_frames, caption_frames: shown together, evenly spread. compat: as the released code was observed to do it.
    """

    fps: float = 2.0
    max_frames: int | None = None
    filter_frames: int = 25
    caption_frames: int = 25
    min_confidence: float = 0.0
    compat: bool = False
    reconstruction: ReconstructionConfig = field(default_factory=ReconstructionConfig)

    def __post_init__(self) -> None:
        if self.fps <= 0 or min(self.filter_frames, self.caption_frames, self.max_frames or 1) < 1:
            raise PsftrError("fps must be above 0, and filter_frames, caption_frames and max_frames at least 1")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def as_compat(self) -> MllmCascadeConfig:
        """What was observed: at most 400 frames, free-text filter, no gaps, same-key merging only, no scores."""
        observed = ReconstructionConfig(gap_s=0.0, later_key_gap_s=None, scored=False)
        return replace(self, compat=True, max_frames=COMPAT_MAX_FRAMES, reconstruction=observed)


class MllmCascade:
    """session: the model that sees; planner: the one that divides captions into stages (default: the same).

    plans: stages known beforehand, by class name; those classes need neither caption nor plan from a model.
    """

    def __init__(
        self,
        *,
        session: Session,
        planner: Session | None = None,
        config: MllmCascadeConfig | None = None,
        plans: Mapping[str, StagePlan] | None = None,
        nearest: Nearest | None = None,
    ) -> None:
        self.session, self.planner = session, planner or session
        self.config, self.plans, self.nearest = config or MllmCascadeConfig(), dict(plans or {}), nearest

    def trace(self, video: VideoFrames, class_names: Sequence[str]) -> VideoTrace:
        """The four steps on one video. The model never learns which video it is. Raises BudgetExhausted."""
        config, frames = self.config, video.frames
        shown = frames.uniform(config.filter_frames)
        if config.compat:
            passed = filter_compat(self.session, shown, class_names)
        else:
            passed = filter_by_answer(
                self.session, shown, class_names, min_confidence=config.min_confidence, nearest=self.nearest
            )
        classes = []
        for label, filter_confidence in passed.confidence.items():
            caption, is_fallback, plan = None, False, self.plans.get(label)
            if plan is None:
                caption = caption_action(self.session, frames.uniform(config.caption_frames), label)
                plan, is_fallback = plan_stages(self.planner, label, caption)
            classes.append(
                trace_class(
                    plan,
                    ask_stages(self.session, frames, plan),
                    step_s=video.step_s,
                    filter_confidence=filter_confidence,
                    config=config.reconstruction,
                    caption=caption,
                    is_fallback=is_fallback,
                )
            )
        return VideoTrace(
            video.video_id, video.duration_s, video.step_s, tuple(classes), config.reconstruction.threshold
        )


@dataclass(frozen=True)
class Plan:
    """How many questions a run may ask: at most, with every class in every video and the longest plans."""

    videos: int
    filters: int
    captions: int
    stage_plans: int
    yes_no: int

    @property
    def total(self) -> int:
        return self.filters + self.captions + self.stage_plans + self.yes_no

    def __str__(self) -> str:
        return (
            f"{self.videos} videos: at most {self.total} questions without repairs and retries "
            f"({self.filters} filters, {self.captions} captions, {self.stage_plans} stage plans, "
            f"{self.yes_no} yes/no = frames x stages x classes)"
        )


def plan_questions(
    num_frames: Sequence[int], class_names: Sequence[str], plans: Mapping[str, StagePlan], *, compat: bool = False
) -> Plan:
    """The upper bound for videos of so many frames; what the filter takes out and the cache knows comes off it."""
    unplanned = [name for name in class_names if name not in plans]
    if compat:  # one free-text answer is one action
        stages, described = MAX_STAGES, 1
    else:
        stages = sum(len(plans[name].stages) for name in class_names if name in plans) + MAX_STAGES * len(unplanned)
        described = len(unplanned)
    videos = len(num_frames)
    return Plan(videos, videos, videos * described, videos * described, sum(num_frames) * stages)
