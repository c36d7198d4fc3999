"""How many questions a run would ask: at most, and as far as one can expect, knowing what is kept already."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from psftr.features.video import VideoError
from psftr.language_models import Session
from psftr.methods.cascade.confidence import WITH_BACKGROUND
from psftr.methods.cascade.frames import count_frames
from psftr.methods.cascade.journal import Journal
from psftr.methods.cascade.mllm_cascade import MllmCascade, Steps
from psftr.methods.cascade.settings import QuestionSettings
from psftr.methods.cascade.stages import MAX_STAGES, StagePlan

# What is expected where no finished video tells: THUMOS14's test videos have 1.1 of the looked-for classes.
CLASSES_A_VIDEO = 1.2
STAGES_AN_ACTION = 3.5
SHOWN = 0.3  # of a video's rows call for a closer look after a coarse one


@dataclass(frozen=True)
class Estimate:
    """at_most: with every class in every video and the longest plans. expected: what this run would ask now."""

    videos: int
    finished: int
    at_most: int
    expected: int
    classes_a_video: float
    stages_an_action: float
    unreadable: Mapping[str, str]

    def __str__(self) -> str:
        lost = f"; {len(self.unreadable)} cannot be read" if self.unreadable else ""
        return (
            f"{self.videos} videos ({self.finished} finished{lost}): about {self.expected} questions expected, at most "
            f"{self.at_most}, without repairs and retries (expected: {self.classes_a_video:.1f} classes a video and "
            f"{self.stages_an_action:.1f} stages an action where no answer is kept)"
        )


def estimate(
    cascade: MllmCascade, videos: Mapping[str, Path], class_names: Sequence[str], journal: Journal
) -> Estimate:
    """Asks nothing. Videos about which the cache may know something are decoded, to look their questions up."""
    counts, unreadable, finished, unknown = {}, {}, 0, []
    known_classes: list[int] = []
    known_stages: list[int] = []
    expected = 0
    settings = cascade.frames
    for video_id, file in videos.items():
        try:
            counts[video_id] = count_frames(file, fps=settings.fps, max_frames=settings.max_frames)
        except (VideoError, OSError) as error:
            unreadable[video_id] = str(error)
            continue
        kept = journal.get(video_id, file)
        if kept is not None:
            finished += 1
            known_classes.append(len(kept.trace["classes"]))
            known_stages += [len(one["stages"]) for one in kept.trace["classes"]]
        elif was_begun(cascade.steps, file):
            video = cascade.read(video_id, file)
            sessions = (cascade.steps.filter, cascade.steps.caption, cascade.steps.plan, cascade.steps.confidence)
            own = Steps(*(Session(session.model, session.cache, is_quiet=True) for session in sessions))
            looked = replace(cascade, steps=own).look(video, class_names)
            if {"filter", "caption", "stages"} & set(looked.failed):
                unknown.append(video_id)  # what follows depends on the answer
            else:
                expected += sum(looked.asked.values())
        else:
            unknown.append(video_id)
    classes = fmean(known_classes) if known_classes else CLASSES_A_VIDEO
    planned = [len(plan.stages) for name, plan in cascade.plans.items() if name in class_names]
    stages = fmean(known_stages or planned) if known_stages or planned else STAGES_AN_ACTION
    if cascade.questions.filter == "all":
        classes = float(len(class_names))
    has_filter = cascade.questions.filter == "model"
    for video_id in unknown:
        describes = 0 if all(name in cascade.plans for name in class_names) else 2
        rows = _rows(cascade.questions, counts[video_id], settings.fps)
        expected += round(has_filter + classes * (describes + rows * _questions(cascade.questions, stages)))
    return Estimate(
        videos=len(videos),
        finished=finished,
        at_most=sum(
            at_most(count, class_names, cascade.plans, cascade.questions, compat=cascade.compat)
            for count in counts.values()
        ),
        expected=expected,
        classes_a_video=classes,
        stages_an_action=stages,
        unreadable=unreadable,
    )


def at_most(
    num_frames: int,
    class_names: Sequence[str],
    plans: Mapping[str, StagePlan],
    questions: QuestionSettings,
    *,
    compat: bool,
) -> int:
    """Questions about one video if every class passes the filter; a free-text answer under compat is one action."""
    names = list(class_names)[: questions.max_classes] if questions.max_classes else list(class_names)
    unplanned = 1 if compat else sum(name not in plans for name in names)
    lengths = [MAX_STAGES] * unplanned + ([] if compat else [len(plans[n].stages) for n in names if n in plans])
    per_frame = sum(_questions(questions, length) for length in lengths)
    return int((questions.filter == "model") + 2 * unplanned + num_frames * per_frame)


def mark_begun(steps: Steps, file: Path) -> None:
    """Leave a note in the cache that something may be known about this file's video."""
    for session in steps.sessions:
        session.cache.put(_note(session, file), True)


def was_begun(steps: Steps, file: Path) -> bool:
    return any(session.cache.get(_note(session, file)) is not None for session in steps.sessions)


def _note(session: Session, file: Path) -> str:
    facts = file.stat()
    text = f"begun/{session.model.identity}/{facts.st_size}/{facts.st_mtime_ns}"
    return hashlib.sha256(text.encode()).hexdigest()


def _questions(questions: QuestionSettings, stages: float) -> float:
    """About one row and class."""
    return 1 if questions.stages == "together" else stages + (questions.calibrate in WITH_BACKGROUND)


def _rows(questions: QuestionSettings, num_frames: int, fps: float) -> float:
    if questions.coarse_s is None:
        return num_frames * questions.frames_share
    coarse = num_frames / max(1.0, questions.coarse_s * fps)
    return min(num_frames, coarse + SHOWN * (num_frames - coarse))
