"""What a training shows while it runs, on a terminal and elsewhere, and what Ctrl-C leaves behind."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from front_door import TINY, program, psftr

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are of Unix")


def on_a_terminal(*arguments: str, cwd: Path) -> tuple[subprocess.Popen, int]:
    """`psftr …` on a pseudo-terminal of 100 columns: the process, and the other end of its terminal."""
    end, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "24", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "psftr", *arguments],
        cwd=cwd, stdin=terminal, stdout=terminal, stderr=terminal, env=environment,
    )  # fmt: skip
    os.close(terminal)
    return process, end


def read_until(end: int, words: str, seconds: float = 300) -> str:
    """What the terminal shows until it shows `words`, without colours, or until the program is gone."""
    shown, last = "", time.monotonic() + seconds
    while time.monotonic() < last and words not in shown:
        if not select.select([end], [], [], 1)[0]:
            continue
        try:
            new = os.read(end, 1 << 16)
        except OSError:  # the other end is closed
            return shown
        shown += re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", new.decode(errors="replace"))
    assert not words or words in shown, shown
    return shown


def test_bar_shows_loss_score_and_time_left_and_ctrl_c_says_how_to_go_on(workplace):
    process, end = on_a_terminal(
        "train", *TINY, "trainer.max_epochs=200", "data.held_out_classes=4", "hydra.run.dir=bar", cwd=workplace
    )
    shown = read_until(end, "in epoch 2")
    process.send_signal(signal.SIGINT)
    shown += read_until(end, "resume=bar")
    read_until(end, "", seconds=1)
    assert process.wait(120) == 130
    os.close(end)
    bar = [line for line in re.split(r"[\r\n]", shown) if "━" in line]
    assert any(
        re.search(r"epoch 2/200 .* loss \d+\.\d\d val mAP \d+\.\d in epoch 1 left \d+ min", line) for line in bar
    )
    assert any("validating" in line for line in bar)
    assert "v_num" not in shown
    # the lines of finished epochs stay above the bar, and in the log file
    assert re.search(r"(?:^|\r)epoch 1/200  loss \d+\.\d\d  val mAP \d+\.\d  .*left", shown, flags=re.MULTILINE)
    assert "epoch 1/200  loss" in (workplace / "bar" / "train.log").read_text()
    assert re.search(
        r"interrupted; kept: \d epochs? in bar/checkpoints/last\.ckpt\r?\ngo on with: psftr train res", shown
    )


def test_plain_lines_have_a_score_only_where_an_epoch_was_validated(workplace):
    plain = [text for text in TINY if not text.startswith("trainer.")]
    done = psftr(
        "train", *plain, "trainer.accelerator=cpu", "trainer.max_epochs=3", "trainer.validate_every=2",
        "data.held_out_classes=4", "hydra.run.dir=plain", cwd=workplace,
    )  # fmt: skip
    lines = re.findall(r"^epoch (\d)/3(.*)$", done.stdout, flags=re.MULTILINE)
    assert ["val mAP" in text for _, text in lines] == [False, True, False]
    assert "validation mAP" in done.stdout  # of the last epoch, once the training is over
    assert "GPU available" not in done.stdout + done.stderr
    assert max(map(len, done.stdout.splitlines())) < 120


def test_ctrl_c_in_a_sweep_names_the_command_that_goes_on_with_all_of_it(workplace):
    tiny = [text for text in TINY if not text.startswith("trainer.max_epochs")]
    sweep = program(
        "train", "-m", *tiny, "split.index=0,1", "trainer.max_epochs=3", "hydra.sweep.dir=stopped",
        "hydra.launcher.jobs=1", cwd=workplace,
    )  # fmt: skip
    assert sweep.stdout is not None
    for line in sweep.stdout:
        if line.startswith("sweep: 1 of 2 jobs done"):
            assert "left about" in line
        if line.startswith("PSFTR") and (workplace / "stopped" / "1").is_dir():
            break
    sweep.send_signal(signal.SIGINT)
    rest = sweep.stdout.read()
    assert sweep.wait() == 130
    assert "and 1 finished run in stopped" in rest
    command = rest.splitlines()[-1]
    assert command == "go on with: psftr train resume=stopped"
    done = psftr(*command.partition("psftr ")[2].split(), cwd=workplace)
    assert "sweep: 2 of 2 jobs done\n" in done.stdout
    assert done.stdout.rstrip().endswith("psftr evaluate run=stopped")


def test_a_sweep_with_a_failed_job_says_which_and_how_to_go_on(sweep, workplace):
    """Job 0 finds a run of other settings in its folder."""
    psftr("train", *TINY, "trainer.max_epochs=1", "split.index=2", "hydra.run.dir=mixed/0", cwd=workplace)
    done = psftr(
        "train", "-m", *TINY, "trainer.max_epochs=1", "split.index=0,1", "hydra.sweep.dir=mixed", cwd=workplace,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "sweep: 2 of 2 jobs done, 1 of them failed (#0)" in done.stdout
    assert "failed        #0 (" in done.stdout
    assert "holds a run that differs in split.index" in done.stdout
    assert "psftr train resume=mixed" in done.stdout
    assert done.stdout.endswith("psftr evaluate run=mixed\n")
    assert "psftr train: error: job #0 (" in done.stderr.splitlines()[-1]


def test_a_bar_that_is_asked_for_without_a_terminal_leaves_the_lines(workplace):
    done = psftr("train", *TINY, "trainer.max_epochs=1", "trainer.progress=bars", "hydra.run.dir=piped", cwd=workplace)
    assert "epoch 1/1  loss" in done.stdout
    assert "score it    psftr evaluate" in done.stdout  # what comes after the bar
