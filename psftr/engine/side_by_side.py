"""What an evaluation asks of the networks of several runs, over the cores of a CPU: detections, baseline, audit."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from psftr.checkpoints import load_saved
from psftr.engine.audit import Audit, audit_job
from psftr.engine.evaluate import Job, run_job, trained_on
from psftr.engine.precision import LEAST_PARAMETERS, measured_gain, remember_gains
from psftr.engine.runs import RunFolder, different_keys, find_runs
from psftr.engine.slots import Watcher, run_in_slots
from psftr.errors import PsftrError
from psftr.evaluation.comparison import TrainedOn
from psftr.features.encoders import pick_device
from psftr.predictions import Predictions
from psftr.settings import EvaluateSettings

__all__ = ["Asked", "ask_runs", "scores_of"]


@dataclass(frozen=True)
class Asked:
    """Of one run. baseline, audit: None where they were not asked for."""

    job: Job
    baseline: Predictions | None
    audit: Audit | None


def ask_runs(runs: Sequence[RunFolder], settings: EvaluateSettings, given: Mapping[str, Any]) -> list[Asked]:
    """The runs in their order; as many at a time as PyTorch has threads, where they run on a CPU.

    settings: which of baseline and audit are asked for. given: as of `run_job`. A run's detections are written to its
    folder as soon as they are made. Raises PsftrError where one of the runs cannot be evaluated.
    """
    at_a_time = min(len(runs), torch.get_num_threads())
    if at_a_time < 2 or pick_device(settings.device).type != "cpu":
        return [_ask(run, settings, given) for run in runs]
    threads = torch.get_num_threads() // at_a_time
    # a copy of a process whose threads have worked can wait for them for ever, unless it needs one thread only
    forked = sys.platform == "linux" and threads == 1 and not torch.cuda.is_available()
    work = _Work(settings, given, threads, _gains(runs, settings, threads))
    folders = [run.path for run in runs]
    outcomes = run_in_slots(work, folders, slots=[{}] * at_a_time, watcher=Watcher(), forked=forked)
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
    again = replace(settings, redo=False)
    jobs = [run_job(run, again, given, tells=False) for run in runs]
    return [Asked(job, *outcome.value) for job, outcome in zip(jobs, outcomes)]


def scores_of(folder: Path, settings: EvaluateSettings, given: Mapping[str, Any]) -> dict[TrainedOn, float]:
    """Average mAP of every finished run in a run or multirun folder, which must hold one setting: splits and seeds.

    Raises PsftrError where the runs differ in anything else.
    """
    runs = [run for run in find_runs(folder) if run.read()["status"] == "finished"]
    if not runs:
        raise PsftrError(f"no finished run in {folder}")
    configs = [run.read()["config"] for run in runs]
    differing = {key for config in configs for key in different_keys(configs[0], config)}
    if other := sorted(differing - {"split.index", "seed", "data.held_out_seed"}):
        raise PsftrError(
            f"the runs in {folder} differ in {', '.join(other[:4])} too: compare folders whose runs differ in split, "
            "seed and data.held_out_seed only"
        )
    return {trained_on(run): one.job.evaluate().ap.average for run, one in zip(runs, ask_runs(runs, settings, given))}


@dataclass(frozen=True)
class _Work:
    """In a worker: a run's folder -> (baseline, audit); its detections are in the folder then."""

    settings: EvaluateSettings
    given: Mapping[str, Any]
    threads: int
    gains: Mapping[int | None, float | None]

    def __call__(self, folder: Path) -> tuple[Predictions | None, Audit | None]:
        torch.set_num_threads(self.threads)
        remember_gains(self.gains)
        asked = _ask(RunFolder(folder), self.settings, self.given)
        return asked.baseline, asked.audit


def _ask(run: RunFolder, settings: EvaluateSettings, given: Mapping[str, Any]) -> Asked:
    job = run_job(run, settings, given)
    return Asked(
        job,
        job.baseline() if settings.baseline else None,
        audit_job(job, load_saved(run.path), trained_on(run)) if settings.audit else None,
    )


def _gains(runs: Sequence[RunFolder], settings: EvaluateSettings, threads: int) -> Mapping[int | None, float | None]:
    """What bfloat16 gains on this CPU, measured once: side by side, runs might choose different precisions."""
    weights = [run.path / "model.safetensors" for run in runs]
    is_small = all(file.is_file() and file.stat().st_size < 4 * LEAST_PARAMETERS for file in weights)
    if settings.precision != "auto" or is_small:
        return {}
    return {threads: measured_gain(threads)}
