"""Two processes that train together, through the command line: the figures of one process with the same batches."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from front_door import TINY, program, psftr
from running import children, facts, is_alive
from safetensors.torch import load_file

pytestmark = [
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two processes need two cores"),
    pytest.mark.skipif(os.name != "posix", reason="looks for processes in /proc"),
]
# no dropout: its random numbers belong to a process. Batches of 7 windows are shared unevenly, and one is left over
PLAIN = [*TINY, "model.dropout=0", "data.val_fraction=0.25", "data.batch_size=7"]
TWO = [*PLAIN, "trainer.devices=2"]
SAME = ["loss.denoising=0"]  # each process draws noise of its own, as it does for dropout


def ran(*arguments: str, cwd: Path) -> str:
    process = program(*arguments, cwd=cwd)
    told = process.communicate(timeout=900)[0]
    assert process.returncode == 0, told
    return told


def until(condition, process: subprocess.Popen, timeout_s: float = 900) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder with a small data/synthetic in it."""
    from psftr.data.synthetic import ensure_world

    folder = tmp_path_factory.mktemp("devices")
    ensure_world(folder / "data" / "synthetic", num_train=40, num_test=20)
    return folder


@pytest.fixture(scope="module")
def two(workplace) -> tuple[Path, str]:
    """A finished run of two processes, and what was printed."""
    return workplace / "two", ran("train", *TWO, *SAME, "hydra.run.dir=two", cwd=workplace)


def logged(run: Path) -> dict[tuple[str, str], float]:
    """(column, epoch) -> value."""
    import csv

    with (run / "logs" / "version_0" / "metrics.csv").open() as file:
        return {
            (name, row["epoch"]): float(value)
            for row in csv.DictReader(file)
            for name, value in row.items()
            if value and name != "epoch"
        }


def test_two_processes_end_where_one_does(two, workplace):
    run = two[0]
    psftr("train", *PLAIN, *SAME, "hydra.run.dir=alone", cwd=workplace)
    alone = workplace / "alone"
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (run, alone))
    for name, value in theirs.items():
        # sums in another order: 3e-8 apart when this was written
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-4, msg=name)
    ours, theirs = logged(run), logged(alone)
    assert ours.keys() == theirs.keys()
    for (name, epoch), value in theirs.items():
        # of the validation its mAP: a loss is a mean over batches, and the last one, of a single window, was joined
        if name.startswith(("train/", "val/mAP")):
            assert ours[name, epoch] == pytest.approx(value, rel=1e-3, abs=1e-3), (name, epoch)
    assert facts(run)["val_score"] == pytest.approx(facts(alone)["val_score"], abs=1e-3)
    scores = []
    for folder in (run, alone):
        psftr("evaluate", f"run={folder}", "figures=false", cwd=workplace)
        scored = json.loads((folder / "evaluation" / "evaluation.json").read_text())
        scores.append(scored["mAP"]["average"]["mean"])
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)


def test_only_one_process_speaks_and_writes(two):
    run, told = two
    for words in ("epoch 1/2", "epoch 2/2", "run folder", "validation mAP"):
        assert told.count(words) == 1, told
    assert not re.search("warn|GPU|gloo|rank", told, flags=re.IGNORECASE), told
    assert (run / "train.log").read_text().count("epoch 2/2") == 1
    assert sorted(path.name for path in (run / "logs").iterdir()) == ["version_0"]
    assert facts(run)["status"] == "finished"
    assert facts(run)["config"]["trainer"]["devices"] == 2


def test_a_killed_process_ends_the_others_with_one_line_and_the_run_is_resumed(workplace, two):
    process = program("train", *TWO, "trainer.max_epochs=30", "hydra.run.dir=killed", cwd=workplace)
    checkpoint = workplace / "killed" / "checkpoints" / "last.ckpt"
    until(checkpoint.is_file, process)
    ranks = children(process.pid)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    told = process.communicate(timeout=300)[0]
    assert process.returncode == 2
    assert not any(is_alive(rank) for rank in ranks)
    errors = [line for line in told.splitlines() if "error" in line.lower()]
    assert errors == [
        "psftr train: error: process 1 of 2 was killed (signal 9; out of memory?); the others were ended"
    ], told
    assert "Traceback" not in told
    # go on with as many epochs as there were to be: here two more
    epoch = torch.load(checkpoint, weights_only=True)["epoch"]
    overrides = workplace / "killed" / ".hydra" / "overrides.yaml"
    run_json = workplace / "killed" / "run.json"
    for file in (overrides, run_json):
        text = file.read_text()
        file.write_text(
            text.replace("max_epochs=30", f"max_epochs={epoch + 3}").replace(
                '"max_epochs": 30', f'"max_epochs": {epoch + 3}'
            )
        )
    told = ran("train", "resume=killed", cwd=workplace)
    assert "resuming from" in told
    assert f"epoch {epoch + 1}/" not in told
    assert f"epoch {epoch + 3}/{epoch + 3}" in told
    assert facts(workplace / "killed")["status"] == "finished"


def test_ctrl_c_reaches_every_process(workplace):
    process = program("train", *TWO, "trainer.max_epochs=50", "hydra.run.dir=stopped", cwd=workplace)
    until((workplace / "stopped" / "checkpoints" / "last.ckpt").is_file, process)
    ranks = children(process.pid)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=300)[0]
    assert process.returncode == 130, told
    assert "interrupted" in told
    assert "Traceback" not in told
    assert not any(is_alive(rank) for rank in ranks)


def test_nobody_is_left_where_the_starting_process_is_killed(workplace):
    process = program("train", *TWO, "trainer.max_epochs=50", "hydra.run.dir=orphans", cwd=workplace)
    until((workplace / "orphans" / "run.json").is_file, process)
    ranks = children(process.pid)
    process.kill()
    process.communicate(timeout=300)
    end = time.monotonic() + 60
    while any(is_alive(rank) for rank in ranks):
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_sweep_starts_its_own_processes_for_every_job(workplace):
    told = ran("train", "-m", *TWO, "trainer.max_epochs=1", "split.index=0,1", "hydra.sweep.dir=both", cwd=workplace)
    assert told.count("epoch 1/1") == 2, told
    assert [facts(workplace / "both" / job)["status"] for job in ("0", "1")] == ["finished"] * 2
    assert [facts(workplace / "both" / job)["config"]["split"]["index"] for job in ("0", "1")] == [0, 1]


def test_two_machines_find_each_other_through_lightnings_variables(workplace, two):
    """Each machine runs the command with one device; here both are this one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    arguments = [*PLAIN, *SAME, "trainer.num_nodes=2", "hydra.run.dir=nodes"]
    machines = [
        subprocess.Popen(
            [sys.executable, "-m", "psftr", "train", *arguments],
            cwd=workplace,
            env={
                **os.environ,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "NODE_RANK": number,
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in ("0", "1")
    ]
    told = [machine.communicate(timeout=900)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], told
    assert [text.count("epoch 2/2") for text in told] == [1, 0]
    assert facts(workplace / "nodes")["val_score"] == pytest.approx(facts(two[0])["val_score"], abs=1e-3)


def test_torchrun_may_start_the_processes(workplace, two):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "psftr",
        "train",
    ]
    done = subprocess.run(
        [*command, *TWO, *SAME, "hydra.run.dir=torchrun"],
        cwd=workplace,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 2/2") == 1
    assert facts(workplace / "torchrun")["val_score"] == pytest.approx(facts(two[0])["val_score"], abs=1e-3)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["trainer.devices=99", "trainer.accelerator=auto"], "trainer.devices=99"),
        (["trainer.devices=2", "trainer.strategy=ddp_spawn"], "write trainer.strategy=ddp, or leave it out"),
        (["trainer.devices=2", "data.batch_size=1"], "data.batch_size=1 for 2 devices"),
        (["trainer.num_nodes=2"], "trainer.num_nodes=2 needs MASTER_ADDR, MASTER_PORT, NODE_RANK"),
    ],
)
def test_what_cannot_train_on_several_devices_is_one_line(workplace, typed, told):
    before = set(workplace.rglob("*"))
    done = psftr("train", "trainer.accelerator=cpu", *typed, cwd=workplace, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert told in done.stderr
    assert set(workplace.rglob("*")) == before
