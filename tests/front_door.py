"""Running the program as a user would: in this process where that is enough, else as a program of its own."""

import contextlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from psftr.cli import main

TINY = [
    "model.dim=32",
    "model.heads=2",
    "model.queries=8",
    "model.encoder_layers=1",
    "model.decoder_layers=1",
    "window.size=64",
    "window.train_overlap=0",
    "trainer.max_epochs=2",
    "trainer.validate_every=1",
    "data.batch_size=32",
    "trainer.accelerator=cpu",
]


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def psftr(*arguments: str, cwd: Path, check: bool = True) -> Done:
    """`psftr …` in folder `cwd`, in this process."""
    out, err, before = io.StringIO(), io.StringIO(), Path.cwd()
    os.chdir(cwd)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(list(arguments))
            except SystemExit as stop:
                code = int(stop.code or 0)
    finally:
        os.chdir(before)
    done = Done(code, out.getvalue(), err.getvalue())
    assert not check or code == 0, f"psftr {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
    return done


def program(*arguments: str, cwd: Path) -> subprocess.Popen:
    """`psftr …` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "psftr", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
