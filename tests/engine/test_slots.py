"""Jobs in worker processes: their order, their words, and what happens to those that fail or are killed."""

import math
import os
import signal
import sys
import time

import pytest

from psftr.engine.slots import Outcome, Watcher, run_in_slots
from psftr.errors import PsftrError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux")


class Heard(Watcher):
    def __init__(self) -> None:
        self.lines: list[tuple[int, str]] = []
        self.at_once = self.most = 0
        self.order: list[int] = []

    def started(self, job: int) -> None:
        self.at_once += 1
        self.most = max(self.most, self.at_once)

    def said(self, job: int, line: str) -> None:
        self.lines.append((job, line))

    def ended(self, job: int, outcome: Outcome) -> None:
        self.at_once -= 1
        self.order.append(job)


def run(work, jobs, slots=2, watcher=None):
    return run_in_slots(work, jobs, slots=[{}] * slots, watcher=watcher or Watcher(), forked=True)


def test_results_come_in_the_order_of_the_jobs_whoever_ends_first(tmp_path):
    def work(job: int) -> int:
        while job == 0 and not (tmp_path / "2").exists():
            time.sleep(0.01)
        (tmp_path / str(job)).touch()
        return 10 * job

    heard = Heard()
    outcomes = run(work, [0, 1, 2], watcher=heard)
    assert [outcome.value for outcome in outcomes] == [0, 10, 20]
    assert heard.order[0] == 1
    assert heard.most == 2


def test_a_slot_keeps_its_process_for_all_its_jobs():
    processes = {outcome.value for outcome in run(lambda job: os.getpid(), range(5), slots=1)}
    assert len(processes) == 1
    assert os.getpid() not in processes


def test_lines_arrive_whole_and_say_whose_they_are():
    def work(job: int) -> None:
        print("a", end="")
        print("b", job)
        print("left over", end="", file=sys.stderr)

    heard = Heard()
    run(work, [1, 2], watcher=heard)
    for job in (0, 1):
        assert [line for whose, line in heard.lines if whose == job] == [f"ab {job + 1}", "left over"]


def test_a_job_that_fails_fails_alone():
    def work(job: int) -> float:
        if job < 0:
            raise PsftrError("below zero")
        return 1 / job

    bad, unexpected, good = run(work, [-1, 0, 4])
    assert str(bad.error) == "below zero"
    assert str(unexpected.error) == "ZeroDivisionError: division by zero"
    assert (good.value, good.error) == (0.25, None)


def test_a_killed_process_fails_its_job_and_is_replaced():
    def work(job: int) -> int:
        if job == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if job == 1:
            os._exit(3)
        return job

    outcomes = run(work, [0, 1, 2, 3], slots=1)
    assert [str(outcome.error) for outcome in outcomes[:2]] == [
        "its process was killed (signal 9; out of memory?)",
        "its process ended with status 3",
    ]
    assert [outcome.value for outcome in outcomes[2:]] == [2, 3]


def test_what_cannot_be_sent_is_an_error_of_its_job():
    outcomes = run(lambda job: (lambda: 0) if job else job, [0, 1])
    assert outcomes[0].value == 0
    assert "cannot be sent" in str(outcomes[1].error)


def test_a_slot_waits_until_it_may_start():
    class OneAtATime(Heard):
        def may_start(self, slot, running):
            return not running

    watcher = OneAtATime()
    assert [outcome.value for outcome in run(math.sqrt, [1, 4, 9], watcher=watcher)] == [1, 2, 3]
    assert watcher.most == 1


def test_fresh_processes_get_the_environment_of_their_slot():
    outcomes = run_in_slots(os.getenv, ["PSFTR_X"] * 2, slots=[{"PSFTR_X": "5"}], watcher=Watcher(), forked=False)
    assert [outcome.value for outcome in outcomes] == ["5", "5"]
