"""`psftr bench protocol`: ten splits in one command, against ten `psftr train` commands one after the other.

Both train on the embedded synthetic world, in folders of their own, and must end with the same weights. `--project DIR`
measures epochs of THUMOS14 trainings side by side, and says how long twenty of 30 epochs would take.
"""

from __future__ import annotations

import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from psftr.bench.timing import describe_machine
from psftr.data.synthetic import ensure_world
from psftr.engine.places import cores, plan
from psftr.errors import PsftrError
from psftr.settings import TrainSettings

TRAININGS, EPOCHS = 20, 30  # of the projection: the paper's Table 1 for one data set
MEASURED_EPOCHS = 6  # on a GPU, jobs join each other after the first one; the second half is measured
PSFTR = (sys.executable, "-m", "psftr")


@dataclass(frozen=True)
class Spent:
    """Seconds on the clock, and of the processor in all processes."""

    wall_s: float
    cpu_s: float


def run_benchmark(*, splits: int, epochs: int, overrides: Sequence[str] = (), project: Path | None) -> dict[str, Any]:
    """overrides: of every training. project: a prepared THUMOS14 folder, whose features may be simulated.

    Raises PsftrError where a training fails, and where the two ways end with other weights.
    """
    with tempfile.TemporaryDirectory(prefix="psftr-bench-") as folder:
        here = Path(folder)
        ensure_world(here / "data" / "synthetic")
        given = [*overrides, f"trainer.max_epochs={epochs}"]
        plain = [
            ran("train", f"split.index={split}", *given, f"hydra.run.dir=plain/{split}", cwd=here)
            for split in range(splits)
        ]
        indices = ",".join(map(str, range(splits)))
        sweep = ran("train", "-m", f"split.index={indices}", *given, "hydra.sweep.dir=sweep", cwd=here)
        for split in range(splits):
            one, other = (here / way / str(split) / "model.safetensors" for way in ("plain", "sweep"))
            if one.read_bytes() != other.read_bytes():
                raise PsftrError(f"split {split} ends with other weights in the sweep: no time is worth reporting")
        result: dict[str, Any] = {
            "machine": describe_machine(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
            "cores": cores(),
            "splits": splits,
            "epochs": epochs,
            "plain_s": sum(one.wall_s for one in plain),
            "plain_cpu_s": sum(one.cpu_s for one in plain),
            "one_s": statistics.mean(one.wall_s for one in plain),
            "sweep_s": sweep.wall_s,
            "sweep_cpu_s": sweep.cpu_s,
        }
        if project is not None:
            result["projection"] = projection(project.resolve(), cwd=here)
    return result | {"ratio": result["plain_s"] / result["sweep_s"]}


def ran(*arguments: str, cwd: Path) -> Spent:
    """`psftr …` to its end. Raises PsftrError where that is not a good one."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([*PSFTR, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    wall_s, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise PsftrError(f"psftr {' '.join(arguments)} failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return Spent(wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def projection(root: Path, *, cwd: Path, overrides: Sequence[str] = ("dataset=thumos14",)) -> dict[str, Any]:
    """Of TRAININGS trainings of EPOCHS epochs: from as many as run side by side here, for MEASURED_EPOCHS."""
    settings = TrainSettings()
    most = len(plan([replace(settings, seed=seed) for seed in range(TRAININGS)], asked="auto").slots)
    seeds = ",".join(map(str, range(most)))
    given = [*overrides, f"dataset.root={root}", f"trainer.max_epochs={MEASURED_EPOCHS}", f"seed={seeds}"]
    ran("train", "-m", *given, "hydra.sweep.dir=project", cwd=cwd)
    logs = [(cwd / "project" / str(number) / "train.log").read_text(encoding="utf-8") for number in range(most)]
    return {"jobs_at_a_time": most, **projected([times_of(log) for log in logs], at_a_time=most)}


def times_of(log: str) -> tuple[float, list[float]]:
    """(seconds from the first line to the first epoch's begin, seconds of each epoch) of a train.log."""
    rows = [
        (datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S,%f").timestamp(), found[2])
        for found in re.finditer(r"^(\S+ \S+) psftr INFO (.*)$", log, flags=re.MULTILINE)
    ]
    ends = [when for when, words in rows if re.match(r"epoch \d+/\d+ ", words)]
    first = re.search(r"^\S+ \S+ psftr INFO epoch 1/\d+ .*?([\d.]+) s(?: |$)", log, flags=re.MULTILINE)
    if not first or len(ends) < 2:
        raise PsftrError("no two epochs in the log of a measured training")
    seconds = [float(first[1]), *(after - before for before, after in pairwise(ends))]
    return ends[0] - seconds[0] - rows[0][0], seconds


def projected(times: Sequence[tuple[float, Sequence[float]]], *, at_a_time: int) -> dict[str, float]:
    """From (start-up, epochs) in seconds of trainings side by side; of the epochs, the second half counts."""
    start_s = statistics.median(start for start, _ in times)
    epoch_s = statistics.median(one for _, epochs in times for one in epochs[len(epochs) // 2 :])
    whole_s = TRAININGS * (start_s + EPOCHS * epoch_s) / at_a_time
    return {"start_s": start_s, "epoch_s": epoch_s, "whole_s": whole_s}


def render(result: Mapping[str, Any]) -> str:
    splits, one_s = result["splits"], result["one_s"]
    lines = [
        f"{result['machine']}, {result['cores']} cores",
        f"{splits} splits of the embedded synthetic world, {result['epochs']} epochs each, the same weights both ways:",
        "",
        "| | on the clock, s | processor, s |",
        "|---|---:|---:|",
        f"| {splits} commands, one after the other | {result['plain_s']:.1f} | {result['plain_cpu_s']:.1f} |",
        f"| one command | {result['sweep_s']:.1f} | {result['sweep_cpu_s']:.1f} |",
        "",
        f"one command is {result['ratio']:.2f} times faster: {result['sweep_s'] / one_s:.1f} times one split's time",
    ]
    if "projection" in result:
        found = result["projection"]
        lines.append(
            f"{TRAININGS} THUMOS14 trainings of {EPOCHS} epochs, projected from measured epochs of "
            f"{found['epoch_s']:.2f} s, {found['jobs_at_a_time']} at a time: {found['whole_s'] / 60:.1f} minutes"
        )
    return "\n".join(lines)
