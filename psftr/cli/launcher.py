"""`hydra/launcher=slots`, the default of `psftr train -m`: the jobs of a sweep over the cores and GPUs of this machine.

`hydra.launcher.jobs` says how many at a time. One at a time runs in this process, as Hydra's own launcher does; several
run in worker processes (psftr.engine.slots). What a job gives does not depend on the others, nor on how many there are.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobRuntime, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from psftr.cli.errors import one_line
from psftr.cli.hydra_app import plain
from psftr.cli.kept import what_was_kept
from psftr.cli.sweep import Job, Progress, jobs_of
from psftr.engine.slots import run_in_slots, told
from psftr.errors import PsftrError
from psftr.settings import TrainSettings

log = logging.getLogger("psftr")


@dataclass
class SlotsConf:
    """jobs: how many at a time; auto: as many as the cores have room for threads, or the GPUs room for jobs."""

    _target_: str = "hydra_plugins.psftr.Slots"
    jobs: Any = "auto"


def register() -> None:
    """Make the launcher known to Hydra, which takes plugins of the package hydra_plugins only.

    That is a namespace that packages share. A file of psftr's own in it would be missing from every checkout that was
    installed before, so this module goes there by its name.
    """
    try:
        package = import_module("hydra_plugins")
    except ModuleNotFoundError:
        package = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
        package.__path__ = []
    package.psftr = sys.modules[__name__]  # type: ignore[attr-defined]
    ConfigStore.instance().store(group="hydra/launcher", name="slots", node=SlotsConf, provider="psftr")
    Plugins.instance().register(Slots)


class Slots(Launcher):
    __module__ = "hydra_plugins.psftr"  # see register()

    def __init__(self, jobs: Any) -> None:
        self.jobs = jobs
        self.progress: Progress | None = None
        self.has_trained = False

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        if self.jobs != "auto" and not (type(self.jobs) is int and self.jobs >= 1):
            raise PsftrError(f"hydra.launcher.jobs must be auto or a whole number, at least 1, got {self.jobs!r}")
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from psftr.engine.worlds import built_meanwhile

        setup_globals()
        self._log_as_the_sweep()
        folder = Path(str(self.config.hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        configs = [self._config(given, initial_job_idx + place) for place, given in enumerate(job_overrides)]
        jobs = [
            Job(config.hydra.job.num, " ".join(filter_overrides(given)), folder / subfolder(config))
            for config, given in zip(configs, job_overrides)
        ]
        settings = [train_settings(config) for config in configs]
        with built_meanwhile(settings):
            import psftr.engine.train  # noqa: F401  Lightning and all: what is here, forked workers need not import
            from psftr.engine.places import plan, prepare
        way = plan(settings, asked=self.jobs)
        if self.progress is None:
            self.progress = Progress(jobs_of(self.config))
        self.progress.begin(jobs, way)
        task = JobTask(self.task, self.context, JobRuntime.instance().get("name"))
        if len(way.slots) == 1:
            results = self._here(task, configs, self.progress)
        else:
            forked = way.may_fork and not self.has_trained
            task.gains = prepare(settings, forked=forked)
            try:
                outcomes = run_in_slots(task, configs, slots=way.slots, watcher=self.progress, forked=forked)
            except KeyboardInterrupt as stop:
                raise KeyboardInterrupt(what_was_kept(self.progress.running_folders(), folder.absolute())) from stop
            results = [outcome.value or JobReturn(status=JobStatus.FAILED) for outcome in outcomes]
        self.progress.finish(folder)
        for job, ret, given in zip(jobs, results, job_overrides):
            error = self.progress.errors.get(job.number)
            if isinstance(error, PsftrError | OSError):
                ret.overrides = list(given)
                ret.return_value = PsftrError(f"job #{job.number} ({job.words}): {one_line(error)}")
        return results

    def _config(self, overrides: Sequence[str], number: int) -> DictConfig:
        config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
            config.hydra.sweep.dir = str(self.config.hydra.sweep.dir)  # its time of day is that of the sweep
        return config

    def _here(self, task: JobTask, configs: Sequence[DictConfig], progress: Progress) -> list[JobReturn]:
        """One after the other in this process, which may then start processes for the devices of each."""
        self.has_trained, results = True, []
        for place, config in enumerate(configs):
            progress.started(place)
            results.append(task.run(config))
            self._log_as_the_sweep()
            progress.job_ended(place, task.error)
        return results

    def _log_as_the_sweep(self) -> None:
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)


class JobTask:
    """One job, here or in a worker: the task that Hydra was started with.

    error: of the last call. gains: what was measured for all jobs, so that they choose one precision.
    """

    def __init__(self, task: TaskFunction, context: HydraContext, name: str) -> None:
        self.task, self.callbacks, self.name = task, context.callbacks, name
        self.gains: dict[int | None, float | None] = {}
        self.error: Exception | None = None

    def run(self, config: DictConfig) -> JobReturn:
        from psftr.engine.precision import remember_gains

        remember_gains(self.gains)
        setup_globals()
        JobRuntime.instance().set("name", self.name)
        self.error = None
        return run_job(
            task_function=self._watched,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
            # of the context, a job needs the callbacks only
            hydra_context=HydraContext(config_loader=None, callbacks=self.callbacks),  # type: ignore[arg-type]
        )

    def _watched(self, config: DictConfig) -> Any:
        try:
            return self.task(config)
        except Exception as error:
            self.error = error
            if not isinstance(error, PsftrError | OSError):
                log.error("%s", "".join(traceback.format_exception(error)))  # in the log file of the run too
            raise

    def __call__(self, config: DictConfig) -> JobReturn:
        """In a worker. Raises PsftrError, which can be sent, where the job failed."""
        ret = self.run(config)
        if self.error is not None:
            known = isinstance(self.error, PsftrError | OSError)
            raise PsftrError(one_line(self.error) if known else f"{told(self.error)} (train.log has the traceback)")
        return ret


def train_settings(config: DictConfig) -> TrainSettings:
    from psftr.engine.configuration import read_config

    with open_dict(config):
        hydra = config.pop("hydra")
        try:
            return read_config(TrainSettings, plain(config))[0]
        finally:
            config.hydra = hydra


def subfolder(config: DictConfig) -> str:
    """Where a job writes, below the folder of its sweep."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    try:
        return str(config.hydra.sweep.subdir)
    finally:
        HydraConfig.instance().cfg = before
