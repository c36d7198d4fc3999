"""A sweep whose jobs run side by side: the same results, and nothing lost when it is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from front_door import TINY, psftr
from running import children, facts, is_alive
from safetensors.torch import load_file

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
# dropout and a validation: what a resumed training could get wrong
SWEEP = [*TINY, "split.index=0,1,2", "data.held_out_classes=4", "trainer.max_epochs=4"]
TWO = "hydra.launcher.jobs=2"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder with a small data/synthetic in it."""
    from psftr.data.synthetic import ensure_world

    folder = tmp_path_factory.mktemp("sweeps")
    ensure_world(folder / "data" / "synthetic", num_train=40, num_test=20)
    return folder


@pytest.fixture(scope="module")
def whole(workplace) -> tuple[Path, str, list[float]]:
    """An undisturbed sweep, two jobs at a time: its folder, what was printed, what its jobs returned."""
    from psftr.cli.launcher import Slots

    given, launch = [], Slots.launch

    def kept(self, *arguments, **named):
        given.extend(launch(self, *arguments, **named))
        return given

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Slots, "launch", kept)
        done = psftr("train", "-m", *SWEEP, TWO, "hydra.sweep.dir=whole", cwd=workplace)
    return workplace / "whole", done.stdout, [ret.return_value for ret in given]


def started(*arguments: str, cwd: Path) -> subprocess.Popen:
    """`psftr …` as the leader of a process group."""
    return subprocess.Popen(
        [sys.executable, "-m", "psftr", *arguments],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def workers_on(run: Path, pid: int) -> list[int]:
    """The children of a process that have the log file of a run open."""
    log = str((run / "train.log").resolve())
    found = []
    for child in children(pid):
        try:
            is_open = any(os.readlink(file) == log for file in Path(f"/proc/{child}/fd").iterdir())
        except OSError:
            continue
        found += [child] if is_open else []
    return found


def until(condition, process: subprocess.Popen) -> None:
    end = time.monotonic() + 600
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.02)


def same_weights(one: Path, other: Path) -> bool:
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (one, other))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_jobs_beside_each_other_give_what_each_gives_alone(whole, workplace):
    psftr("train", *SWEEP[:-3], *SWEEP[-2:], "split.index=1", "hydra.run.dir=alone", cwd=workplace)
    assert same_weights(workplace / "alone", whole[0] / "1")
    assert facts(workplace / "alone")["val_score"] == facts(whole[0] / "1")["val_score"]


def test_a_sweeper_gets_the_scores_in_the_order_of_the_jobs(whole):
    folder, _, returned = whole
    assert returned == [facts(folder / str(number))["val_score"] for number in range(3)]
    assert len(set(returned)) == 3


def test_every_line_of_a_job_says_whose_it_is(whole):
    folder, printed, _ = whole
    lines = printed.splitlines()
    assert lines[0] == "3 jobs, 2 at a time"
    for number in range(3):
        assert sum(line.startswith(f"#{number}  epoch ") for line in lines) == 4
        assert (folder / str(number) / "train.log").read_text().count("epoch 4/4") == 1
    assert [line.split(" jobs")[0] for line in lines if line.startswith("sweep: ")] == [
        "sweep: 1 of 3", "sweep: 2 of 3", "sweep: 3 of 3",
    ]  # fmt: skip
    assert "left about" in next(line for line in lines if line.startswith("sweep: 2 of 3"))
    others = ("#", "sweep", "precision: ", "score it      psftr evaluate run=whole", "3 jobs")
    assert all(line.startswith(others) for line in lines), printed


def test_killed_at_any_time_and_restarted_it_ends_with_the_same_scores(whole, workplace):
    folder = workplace / "killed"
    checkpoint = folder / "0" / "checkpoints" / "last.ckpt"

    # the whole process group, in the middle of the first jobs
    sweep = started("train", "-m", *SWEEP, TWO, "hydra.sweep.dir=killed", cwd=workplace)
    until(checkpoint.is_file, sweep)
    workers = children(sweep.pid)
    assert len(workers) == 2
    os.killpg(sweep.pid, signal.SIGKILL)
    sweep.communicate(timeout=300)
    end = time.monotonic() + 60
    while any(is_alive(worker) for worker in workers):  # nobody is left who would train on
        assert time.monotonic() < end
        time.sleep(0.02)

    # one worker: the others go on
    sweep = started("train", "resume=killed", TWO, cwd=workplace)
    until(lambda: (folder / "2" / "run.json").is_file() and workers_on(folder / "2", sweep.pid), sweep)
    os.kill(*workers_on(folder / "2", sweep.pid), signal.SIGKILL)
    told = sweep.communicate(timeout=300)[0]
    assert sweep.returncode == 2, told
    assert "1 of them failed (#2)" in told
    assert "failed        #2 (" in told
    assert "its process was killed (signal 9; out of memory?)" in told.splitlines()[-1]
    assert "try again     psftr train resume=killed" in told
    status = [facts(folder / str(number))["status"] for number in range(3)]
    assert status == ["finished", "finished", "training"]

    # what is finished is left as it is
    written = [(folder / name / "model.safetensors").stat().st_mtime_ns for name in "01"]
    told = psftr("train", "resume=killed", TWO, cwd=workplace).stdout
    assert told.count("is finished already") == 2
    assert "sweep: 3 of 3 jobs done" in told
    assert [(folder / name / "model.safetensors").stat().st_mtime_ns for name in "01"] == written
    for number in range(3):
        assert same_weights(folder / str(number), whole[0] / str(number))
        assert facts(folder / str(number))["val_score"] == facts(whole[0] / str(number))["val_score"]
        assert facts(folder / str(number))["status"] == "finished"


def test_ctrl_c_ends_all_jobs_and_says_how_to_go_on(workplace):
    long = [*SWEEP[:-1], "trainer.max_epochs=200"]
    sweep = started("train", "-m", *long, TWO, "hydra.sweep.dir=stopped", cwd=workplace)
    until(lambda: all((workplace / "stopped" / n / "checkpoints" / "last.ckpt").is_file() for n in "01"), sweep)
    workers = children(sweep.pid)
    sweep.send_signal(signal.SIGINT)
    told = sweep.communicate(timeout=300)[0]
    assert sweep.returncode == 130, told
    assert not any(is_alive(worker) for worker in workers)
    assert "Traceback" not in told
    *_, kept, command = told.splitlines()
    for number in (0, 1):
        assert f"in stopped/{number}/checkpoints/last.ckpt" in kept
    assert kept.startswith("psftr train: interrupted; kept: ")
    assert kept.endswith("and 0 finished runs in stopped")
    assert command == "go on with: psftr train resume=stopped"


def test_an_unexpected_error_is_one_line_and_the_log_of_the_run_has_the_traceback(workplace, monkeypatch):
    from pytorch_lightning.callbacks import ModelCheckpoint

    def break_down(self, trainer, module):
        raise RuntimeError("disk on fire")

    monkeypatch.setattr(ModelCheckpoint, "on_train_epoch_end", break_down)
    done = psftr("train", "-m", *SWEEP, TWO, "hydra.sweep.dir=broken", cwd=workplace, check=False)
    assert done.returncode == 2
    assert "sweep: 3 of 3 jobs done, 3 of them failed (#0, #1, #2)" in done.stdout
    assert done.stdout.count("RuntimeError: disk on fire (train.log has the traceback)") == 3
    assert "Traceback" in (workplace / "broken" / "2" / "train.log").read_text()
    assert done.stderr.splitlines()[-1].startswith("psftr train: error: job #0 (")


@pytest.mark.parametrize("jobs", ["0", "many"])
def test_a_bad_number_of_jobs_is_one_line(workplace, jobs):
    done = psftr(
        "train", "-m", *SWEEP, f"hydra.launcher.jobs={jobs}", "hydra.sweep.dir=none", cwd=workplace, check=False
    )
    assert done.returncode == 2
    assert "hydra.launcher.jobs must be auto or a whole number, at least 1, got" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (workplace / "none").exists()


def test_hydras_own_launcher_still_runs_the_jobs_one_after_the_other(workplace):
    few = [*TINY, "split.index=0,1", "trainer.max_epochs=1"]
    done = psftr("train", "-m", *few, "hydra/launcher=basic", "hydra.sweep.dir=basic", cwd=workplace)
    assert "Launching 2 jobs locally" in done.stdout
    assert done.stdout.rstrip().endswith("psftr evaluate run=basic")
