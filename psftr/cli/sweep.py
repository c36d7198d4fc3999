"""What a sweep of `psftr train` says beside its jobs: how many, how long still, and the command that scores them.

Hydra calls these methods (`hydra.callbacks` in conf/train.yaml). With a launcher that sends jobs elsewhere, only the
last words are said here.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from hydra.types import RunMode

from psftr.cli.hydra_app import planned_overrides
from psftr.cli.progress import duration

log = logging.getLogger("psftr")


class Sweep(Callback):
    def __init__(self) -> None:
        self.jobs_done = 0
        self.failed: list[int] = []
        self.trained_s: list[float] = []  # of the jobs that had something left to do
        self.job_started = 0.0
        self.was_finished = False

    def on_job_start(self, config: Any, **kwargs: Any) -> None:
        self.job_started = time.monotonic()
        self.was_finished = is_finished(Path(config.hydra.runtime.output_dir))

    def on_job_end(self, config: Any, job_return: Any, **kwargs: Any) -> None:
        """The total so far; after the last job, what is there and what to do with it."""
        if config.hydra.mode != RunMode.MULTIRUN or not config.hydra.launcher["_target_"].endswith(".BasicLauncher"):
            return  # elsewhere a job knows nothing of the others
        self.jobs_done += 1
        if not self.was_finished:
            self.trained_s.append(time.monotonic() - self.job_started)
        if job_return.status.name == "FAILED":
            self.failed.append(config.hydra.job.num)
        folder, total = Path(config.hydra.sweep.dir), jobs_of(config)
        if not total:
            return
        left = sum(not is_finished(folder / str(number)) for number in range(self.jobs_done, total))
        words = f"sweep: {self.jobs_done} of {total} jobs done"
        if self.failed:
            words += f", {len(self.failed)} of them failed ({', '.join(f'#{number}' for number in self.failed)})"
        if left and self.trained_s:
            words += f", left about {duration(sum(self.trained_s) / len(self.trained_s) * left)}"
        log.info("%s", words)
        if self.failed and self.jobs_done == total:
            log.info("try again   psftr train resume=%s", folder)
            log.info("score the others   psftr evaluate run=%s", folder)

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        log.info("sweep folder  %s\nscore it      psftr evaluate run=%s", *[config.hydra.sweep.dir] * 2)


def jobs_of(config: Any) -> int:
    """How many jobs the sweep has; 0 where its sweeper does not say."""
    trials = config.hydra.sweeper.get("n_trials")
    return int(trials) if trials else len(planned_overrides(Path(config.hydra.sweep.dir)))


def is_finished(folder: Path) -> bool:
    from psftr.engine.runs import RunFolder

    run = RunFolder(folder)
    return run.facts_file.is_file() and run.read()["status"] == "finished"
