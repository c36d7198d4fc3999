"""A run over many videos: several at once, finished ones kept, failures told, progress on the way."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from psftr.errors import PsftrError
from psftr.features.video import VideoError
from psftr.language_models import Recording, Session, add_to_recording
from psftr.methods.cascade.dry_run import mark_begun
from psftr.methods.cascade.frames import VideoFrames
from psftr.methods.cascade.journal import Journal, Looked
from psftr.methods.cascade.mllm_cascade import STEPS, MllmCascade, Steps

log = logging.getLogger("psftr")
Item = TypeVar("Item")
Made = TypeVar("Made")
_EVERY_S = 15.0  # between lines of progress


@dataclass
class Outcome:
    """looked: every video that could be read, finished or not. unreadable: why the others could not.

    predictions: of the finished videos, once they are written.
    """

    looked: dict[str, Looked] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    predictions: Any = None

    @property
    def finished(self) -> dict[str, Looked]:
        return {video: one for video, one in self.looked.items() if not one.failed}

    @property
    def open(self) -> dict[str, str]:
        """Videos with failed questions, and why."""
        return {video: "; ".join(f"{kind}: {why}" for kind, why in one.failed.items())
                for video, one in self.looked.items() if one.failed}  # fmt: skip

    @property
    def failures(self) -> dict[str, str]:
        return {**self.unreadable, **self.open}


def look_at_videos(
    cascade: MllmCascade,
    videos: Mapping[str, Path],
    class_names: Sequence[str],
    *,
    journal: Journal,
    workers: int,
    outcome: Outcome,
    read: Callable[[str, Path], VideoFrames] | None = None,
) -> None:
    """Fill `outcome` with every video; finished ones come from the journal. read: makes the frames of a video.

    Raises what ends the run (BudgetExhausted, GivenUp, an interrupt, …); `outcome` then has what was done before.
    """
    done = {video_id: kept for video_id, file in videos.items() if (kept := journal.get(video_id, file)) is not None}
    todo = [video_id for video_id in videos if video_id not in done]
    if done:
        log.info("%d of %d videos were finished before", len(done), len(videos))
    progress = Progress(cascade.steps.sessions, {v: videos[v].stat().st_size for v in todo})

    def look(video_id: str) -> Looked | str:
        file = videos[video_id]
        try:
            video = read(video_id, file) if read else cascade.read(video_id, file)
        except (VideoError, OSError) as error:
            return " ".join(str(error).split())
        mark_begun(cascade.steps, file)
        tick = progress.of(video_id, len(video.frames))
        looked = cascade.look(video, class_names, tick=tick)
        journal.put(video_id, file, looked)
        return looked

    found: dict[str, Looked | str] = {**done}
    try:
        for video_id, made in each(todo, look, workers=workers, stop=cascade.steps.close):
            found[video_id] = made
            progress.done(video_id)
    finally:
        for video_id in videos:  # in the order given, whichever was finished first
            made_of = found.get(video_id)
            if isinstance(made_of, str):
                outcome.unreadable[video_id] = made_of
            elif made_of is not None:
                outcome.looked[video_id] = made_of
        for session in cascade.steps.sessions:
            log.info("%s", session.counts)


def each(
    items: Sequence[Item], work: Callable[[Item], Made], *, workers: int, stop: Callable[[], None]
) -> Iterator[tuple[Item, Made]]:
    """(item, work(item)) as they are done, `workers` at once; the first exception ends all and is raised here.

    The threads are daemons and nobody waits for them: an interrupt ends the program at once, whatever they wait for.
    """
    if workers == 1:
        try:
            for item in items:
                yield item, work(item)
        except BaseException:
            stop()
            raise
        return
    waiting: queue.SimpleQueue[Item] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)
    ready: queue.SimpleQueue[tuple[Any, Any, BaseException | None]] = queue.SimpleQueue()
    is_over = threading.Event()

    def serve() -> None:
        while not is_over.is_set():
            try:
                item = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                ready.put((item, work(item), None))
            except BaseException as error:
                ready.put((item, None, error))
                return

    for number in range(min(workers, len(items))):
        threading.Thread(target=serve, name=f"psftr-video-{number}", daemon=True).start()
    try:
        for _ in items:
            item, made, error = ready.get()
            if error is not None:
                raise error
            yield item, made
    except BaseException:
        is_over.set()
        stop()
        raise


class Progress:
    """Lines such as `12 of 213 videos, 5321 questions (41 a second), 2.1 M tokens, $0.53, 1 h 3 min left`.

    sizes: bytes of each video's file; what is left is told from the share of bytes done.
    """

    def __init__(self, sessions: Sequence[Session], sizes: Mapping[str, int]) -> None:
        self.sessions, self.sizes = sessions, sizes
        self.started = self.told = time.monotonic()
        self.share = dict.fromkeys(sizes, 0.0)
        self.num_done = 0
        self._lock = threading.Lock()

    def of(self, video_id: str, num_frames: int) -> Callable[[int], None]:
        """What a video calls with the number of questions it has asked: told in frames of one stage."""

        def tick(questions: int) -> None:
            with self._lock:  # how many questions a video takes is known only in the end: approach it
                left = 1 - self.share[video_id]
                self.share[video_id] += left * min(0.5, questions / (4 * num_frames + questions))
            self._tell()

        return tick

    def done(self, video_id: str) -> None:
        with self._lock:
            self.share[video_id] = 1.0
            self.num_done += 1
        self._tell(is_last=self.num_done == len(self.sizes))

    def _tell(self, *, is_last: bool = False) -> None:
        now = time.monotonic()
        with self._lock:
            if now - self.told < _EVERY_S and not is_last:
                return
            self.told = now
            total = max(1, sum(self.sizes.values()))
            share = sum(self.sizes[v] * part for v, part in self.share.items()) / total
        elapsed_s = now - self.started
        asked = sum(session.counts.asked.total() for session in self.sessions)
        parts = [
            f"{self.num_done} of {len(self.sizes)} videos",
            f"{asked} questions ({asked / elapsed_s:.0f} a second)",
        ]
        tokens = sum(s.model.usage.tokens_in + s.model.usage.tokens_out for s in self.sessions)
        if tokens:
            parts.append(f"{tokens / 1e6:.2f} M tokens")
        dollars = [s.model.usage.dollars for s in self.sessions if s.model.usage.dollars is not None]
        if dollars:
            parts.append(f"${sum(dollars):.2f}")
        if 0 < share < 1:
            parts.append(f"{duration(elapsed_s * (1 - share) / share)} left")
        elif is_last:
            parts.append(f"in {duration(elapsed_s)}")
        log.info("%s", ", ".join(parts))


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `1 h 3 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def record(file: Path, steps: Steps, looked: Mapping[str, Looked]) -> int:
    """Add the answers that the finished videos are made of to a recording; returns how many it now holds.

    Raises PsftrError where an answer is no longer kept.
    """
    answers: dict[str, Any] = {}
    for video_id, one in looked.items():
        for step, keys in one.answers.items():
            cache = getattr(steps, step).cache
            for key in keys:
                kept = cache.get(key)
                if kept is None:
                    raise PsftrError(
                        f"an answer about {video_id} is no longer kept in the cache: run again with redo=true to record"
                    )
                answers[key] = kept[0]
    models = {
        step: {"identity": getattr(steps, step).model.identity, "frame_size": getattr(steps, step).model.frame_size}
        for step in STEPS
    }
    return add_to_recording(file, Recording(models, answers))
