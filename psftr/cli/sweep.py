"""What a sweep of `psftr train` says beside its jobs: how many, how long still, and the commands that go on.

The launcher reports to Progress. Hydra calls Sweep (`hydra.callbacks` in conf/train.yaml), with any launcher.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

from psftr.cli.errors import one_line
from psftr.cli.hydra_app import planned_overrides
from psftr.cli.progress import duration
from psftr.engine.slots import Outcome, Watcher

if TYPE_CHECKING:
    from psftr.engine.places import Plan

log = logging.getLogger("psftr")


class Sweep(Callback):
    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        log.info("sweep folder  %s\nscore it      psftr evaluate run=%s", *[config.hydra.sweep.dir] * 2)


@dataclass(frozen=True)
class Job:
    """One job of a sweep: its number, its overrides as text, its run folder."""

    number: int
    words: str
    folder: Path


class Progress(Watcher):
    """Over all batches of jobs that the sweeper launches. total: how many jobs there will be; 0 where nobody knows."""

    def __init__(self, total: int) -> None:
        self.total, self.jobs_done = total, 0
        self.errors: dict[int, Exception] = {}  # by number of the job
        self.trained_s: list[float] = []  # of the jobs that had something left to do

    def begin(self, jobs: Sequence[Job], way: Plan) -> None:
        self.jobs, self.way = jobs, way
        self.running: dict[int, tuple[float, float, bool]] = {}  # started on two clocks, was finished before
        at_a_time = f", {len(way.slots)} at a time" if len(way.slots) > 1 else ""
        log.info("%s", f"{len(jobs)} {'job' if len(jobs) == 1 else 'jobs'}{at_a_time}")

    def started(self, job: int) -> None:
        one = self.jobs[job]
        self.running[job] = (time.monotonic(), time.time(), is_finished(one.folder))
        log.info("%s", f"#{one.number}  {one.words}")

    def said(self, job: int, line: str) -> None:
        log.info("%s", f"#{self.jobs[job].number}  {line}" if line.strip() else "")

    def ended(self, job: int, outcome: Outcome) -> None:
        self.job_ended(job, outcome.error)

    def job_ended(self, job: int, error: Exception | None) -> None:
        """The total so far: how many are done, which of them failed, how long the others take."""
        self.jobs_done += 1
        started, _, was_finished = self.running.pop(job)
        if not was_finished and error is None:
            self.trained_s.append(time.monotonic() - started)
        if error is not None:
            self.errors[self.jobs[job].number] = error
        if not self.total:
            return
        words = f"sweep: {self.jobs_done} of {self.total} jobs done"
        if self.errors:
            words += (
                f", {len(self.errors)} of them failed ({', '.join(f'#{number}' for number in sorted(self.errors))})"
            )
        if left := self._left_s():
            words += f", left about {duration(left)}"
        log.info("%s", words)

    def _left_s(self) -> float:
        """Of the jobs that run or wait, each as long as those before."""
        now = time.monotonic()
        waiting = self.total - self.jobs_done - len(self.running)
        if not self.trained_s or not waiting + len(self.running):
            return 0.0
        each = sum(self.trained_s) / len(self.trained_s)
        running = sum(max(0.0, each - (now - started)) for started, _, done in self.running.values() if not done)
        return (running + each * waiting) / len(self.way.slots)

    def finish(self, folder: Path) -> None:
        """Where all jobs are done and some failed: which, why, and the commands that go on."""
        if not self.errors or self.jobs_done < self.total:
            return
        words = {job.number: job.words for job in self.jobs}
        for number, error in sorted(self.errors.items()):
            log.info("%s", f"failed        #{number} ({words.get(number, '')}): {one_line(error)}")
        log.info("%s", f"try again     psftr train resume={folder}\nscore others  psftr evaluate run={folder}")

    def running_folders(self) -> list[Path]:
        return [self.jobs[job].folder for job in self.running]

    def may_start(self, slot: int, running: Mapping[int, int]) -> bool:
        from psftr.engine.places import VISIBLE, gpu_memory, has_room, jobs_beside

        if not self.way.asks_for_room:
            return True
        beside = jobs_beside(slot, self.way.slots, running)
        device = self.way.slots[slot][VISIBLE]
        return has_room(device, beside, has_settled=self._has_settled, memory=gpu_memory)

    def _has_settled(self, job: int) -> bool:
        """Whether its first epoch since the start is over, or it had none left to do."""
        from psftr.engine.runs import RunFolder

        _, started, was_finished = self.running[job]
        last = RunFolder(self.jobs[job].folder).last_checkpoint
        return was_finished or (last.is_file() and last.stat().st_mtime > started)


def jobs_of(config: Any) -> int:
    """How many jobs the sweep has; 0 where its sweeper does not say."""
    trials = config.hydra.sweeper.get("n_trials")
    return int(trials) if trials else len(planned_overrides(Path(config.hydra.sweep.dir)))


def is_finished(folder: Path) -> bool:
    from psftr.engine.runs import RunFolder

    run = RunFolder(folder)
    return run.facts_file.is_file() and run.read()["status"] == "finished"
