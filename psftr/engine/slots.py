"""Jobs over the cores and devices of this machine: a process for each slot, which runs one job after the other.

On Linux without a GPU the processes are forked from the one that has imported everything, so that a sweep pays for its
imports once; elsewhere each imports for itself, and keeps that for all its jobs. What they print arrives here as lines,
so only one process writes to the terminal. The slots know nothing of trainings: a job is any value that can be sent.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pickle import PickleError
from typing import Any

from psftr.errors import PsftrError

POLL_S = 1.0  # how often a slot that may not start yet is asked again
GRACE_S = 60.0  # after Ctrl-C, for the batch at hand and the loggers
INTERRUPTED = 130

Environment = Mapping[str, str]


@dataclass(frozen=True)
class Outcome:
    """What a job gave, or why it gave nothing."""

    value: Any = None
    error: PsftrError | None = None


class Watcher:
    """Told, in the starting process, what happens to the jobs; each is known by its place in the sequence."""

    def started(self, job: int) -> None: ...

    def said(self, job: int, line: str) -> None: ...

    def ended(self, job: int, outcome: Outcome) -> None: ...

    def may_start(self, slot: int, running: Mapping[int, int]) -> bool:
        """Whether the slot may take another job now; `running` holds {slot: job}. Asked again after a while."""
        return True


def run_in_slots(
    work: Callable[[Any], Any],
    jobs: Sequence[Any],
    *,
    slots: Sequence[Environment],
    watcher: Watcher,
    forked: bool,
) -> list[Outcome]:
    """Run work(job) for every job, as many at a time as there are slots, and return what they gave, in their order.

    slots: environment variables of each slot. forked: the processes begin as copies of this one; `work` and the jobs
    must be picklable in any case. A job fails alone: by an error, and where its process is killed, which is replaced.
    Raises KeyboardInterrupt after passing Ctrl-C on to all of them. They end with this process, however it ends.
    """
    pool = _Pool(work, slots, multiprocessing.get_context("fork" if forked else "spawn"), watcher)
    try:
        return pool.run(jobs)
    except KeyboardInterrupt:
        pool.interrupt()
        raise
    finally:
        pool.end()


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    pipe: Connection
    job: int | None = None


class _Pool:
    def __init__(
        self, work: Callable[[Any], Any], slots: Sequence[Environment], context: BaseContext, watcher: Watcher
    ) -> None:
        self.work, self.slots, self.context, self.watcher = work, slots, context, watcher
        self.workers: dict[int, _Worker] = {}
        self.outcomes: dict[int, Outcome] = {}
        self.is_interrupted = False

    def run(self, jobs: Sequence[Any]) -> list[Outcome]:
        waiting = deque(range(len(jobs)))
        while len(self.outcomes) < len(jobs):
            for slot in range(len(self.slots)):
                worker = self.workers.get(slot)
                if not waiting or (worker and worker.job is not None):
                    continue
                running = {place: one.job for place, one in self.workers.items() if one.job is not None}
                if not self.watcher.may_start(slot, running):
                    continue
                worker = worker or self._start(slot)
                worker.job = waiting.popleft()
                self.watcher.started(worker.job)
                with suppress(OSError):  # a process that is gone is noticed below
                    worker.pipe.send(jobs[worker.job])
            self._listen(POLL_S if waiting else None)
        return [self.outcomes[number] for number in range(len(jobs))]

    def _start(self, slot: int) -> _Worker:
        here, there = self.context.Pipe()
        process = self.context.Process(target=_serve, args=(there, self.work, dict(self.slots[slot])))  # type: ignore[attr-defined]
        with warnings.catch_warnings():
            # Python warns where threads are alive; those of numerical libraries wait for work and survive a fork
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        there.close()
        self.workers[slot] = _Worker(process, here)
        return self.workers[slot]

    def _listen(self, timeout_s: float | None) -> None:
        """Take what the workers sent; notice those that are gone."""
        of = {worker.pipe: worker for worker in self.workers.values()}
        of |= {worker.process.sentinel: worker for worker in self.workers.values()}  # type: ignore[misc]
        for worker in {of[one] for one in wait(list(of), timeout_s)}:  # type: ignore[index]
            try:
                while worker.pipe.poll():
                    self._take(worker, *worker.pipe.recv())
            except (EOFError, OSError):
                self._bury(worker)
                continue
            if not worker.process.is_alive() and not worker.pipe.poll():
                self._bury(worker)

    def _take(self, worker: _Worker, kind: str, value: Any) -> None:
        if worker.job is None:
            return
        if kind == "line":
            self.watcher.said(worker.job, value)
        else:
            self._end_job(worker, value)

    def _end_job(self, worker: _Worker, outcome: Outcome) -> None:
        assert worker.job is not None
        job, worker.job = worker.job, None
        self.outcomes[job] = outcome
        self.watcher.ended(job, outcome)

    def _bury(self, worker: _Worker) -> None:
        """Of a process that ended by itself: its job failed, and its slot is free for a new process."""
        worker.process.join()
        worker.pipe.close()
        self.workers = {slot: one for slot, one in self.workers.items() if one is not worker}
        if worker.job is not None and not self.is_interrupted:
            code = worker.process.exitcode or 0
            how = f"was killed (signal {-code}; out of memory?)" if code < 0 else f"ended with status {code}"
            self._end_job(worker, Outcome(error=PsftrError(f"its process {how}")))

    def interrupt(self) -> None:
        """Ctrl-C for every job, and time to end well; what they print meanwhile is still shown."""
        self.is_interrupted = True
        with _deaf_to_ctrl_c():
            for worker in self.workers.values():
                with suppress(OSError):
                    assert worker.process.pid is not None
                    os.kill(worker.process.pid, signal.SIGINT if os.name == "posix" else signal.SIGTERM)
            end = time.monotonic() + GRACE_S
            while self.workers and time.monotonic() < end:
                self._listen(POLL_S)

    def end(self) -> None:
        for worker in self.workers.values():
            with suppress(OSError):
                worker.pipe.send(None)
            if worker.job is not None:
                worker.process.kill()
        for worker in self.workers.values():
            worker.process.join(GRACE_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(pipe: Connection, work: Callable[[Any], Any], environment: Environment) -> None:
    """The life of a worker: jobs from the pipe until it is sent None."""
    if hasattr(os, "setsid"):
        os.setsid()  # a terminal's Ctrl-C reaches the starting process only, which passes it on once
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_end_with_the_starter, daemon=True).start()
    os.environ.update(environment)
    lines = Lines(pipe)
    sys.stdout = sys.stderr = lines
    try:
        while (job := pipe.recv()) is not None:
            try:
                outcome = Outcome(value=work(job))
            except Exception as error:
                outcome = Outcome(error=error if isinstance(error, PsftrError) else PsftrError(told(error)))
            lines.end_line()
            try:
                lines.send("done", outcome)
            except (AttributeError, TypeError, PickleError) as error:
                lines.send("done", Outcome(error=PsftrError(f"what it gave cannot be sent ({told(error)})")))
    except (KeyboardInterrupt, SystemExit):  # Lightning makes the second of the first
        sys.exit(INTERRUPTED)
    except (EOFError, OSError):  # nobody is there any more
        sys.exit(INTERRUPTED)


def told(error: BaseException) -> str:
    """Of an error that nobody expected, its kind and its words."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")


def _end_with_the_starter() -> None:
    starter = multiprocessing.parent_process()
    if starter is not None:
        starter.join()
        # at once, whatever the training waits for; Lightning has handlers for gentler signals
        os.kill(os.getpid(), signal.SIGKILL if os.name == "posix" else signal.SIGTERM)


class Lines(io.TextIOBase):
    """A stream that sends every finished line through a pipe."""

    encoding = "utf-8"  # type: ignore[assignment]

    def __init__(self, pipe: Connection) -> None:
        self.pipe, self.begun = pipe, ""
        self.lock = threading.RLock()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        with self.lock:
            *done, self.begun = (self.begun + text).split("\n")
            for line in done:
                self.send("line", line)
        return len(text)

    def end_line(self) -> None:
        if self.begun:
            self.write("\n")

    def send(self, kind: str, value: Any) -> None:
        with self.lock:
            self.pipe.send((kind, value))
