"""Train a method on the seen classes of one split."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psftr.cli.hydra_app import config_dir_among, job_logging, output_dir, sweep_dir
from psftr.cli.kept import what_was_kept
from psftr.errors import PsftrError
from psftr.settings import TrainSettings

CONFIG = "train"
SETTINGS = TrainSettings
HELP = """
usage: psftr train [key=value …] [-m]

Train on the seen classes of one split. The run folder holds checkpoints, metrics and weights; score it with
`psftr evaluate run=DIR`.

examples:
  psftr train                                                    the embedded synthetic world
  psftr train dataset=thumos14 split.ratio=75 split.index=0      real data, after `psftr prepare thumos14`
  psftr train -m dataset=thumos14 'split.index=range(10)' model.heads=4,8
  psftr train dataset=data/kitchen                               your own data, after `psftr prepare custom`
  psftr train experiment=table1_thumos14                         the paper's Table 1, in its own form; also table2, …
  psftr train resume=outputs/one                                 go on where a run stopped (also a whole sweep)
  psftr train -m 'split.index=range(10)' trainer.threads=1       as many at a time as there are cores

A sweep's jobs run side by side where there is room: hydra.launcher.jobs=auto. On CPUs that is cores / trainer.threads
(null: all cores, so one at a time); on GPUs one job on each, and more once its memory shows room for them. A number
asks for so many at a time, 1 for one after the other, as jobs run with trainer.devices=2 or more. hydra/launcher=NAME
takes another launcher, such as submitit_slurm.

groups: dataset=synthetic|thumos14|activitynet13|FILE   split=published|random|file   logger=csv|tensorboard|wandb|none
        method=NAME   variant=NAME   experiment=NAME
"""


def register() -> None:
    from psftr.cli.launcher import register

    register()


def rewrite_arguments(arguments: list[str]) -> list[str]:
    """`resume=DIR` becomes the overrides that DIR was started with, into the same folder."""
    given = [a for a in arguments if a.startswith("resume=")]
    if not given or given[-1] in ("resume=", "resume=null"):
        return arguments
    rest = [a for a in arguments if not a.startswith("resume=") and a not in ("-m", "--multirun")]
    folder = config_dir_among(rest)  # a run made with one needs it again
    launchers = [a for a in rest if a.startswith(("hydra/launcher=", "hydra.launcher."))]  # how, and not what
    others = [a for a in rest if not a.startswith(("--config-dir", "-cd")) and a not in (folder, *launchers)]
    if others:
        raise PsftrError(f"resume takes its configuration from the folder; leave out {' '.join(others)}")
    again = resume_arguments(Path(given[-1].partition("=")[2]))
    return again + launchers + ([f"--config-dir={folder}"] if folder else [])


def resume_arguments(folder: Path) -> list[str]:
    import yaml

    single, sweep = folder / ".hydra" / "overrides.yaml", folder / "multirun.yaml"
    if single.is_file():
        overrides = yaml.safe_load(single.read_text(encoding="utf-8")) or []
        where = [f"hydra.run.dir={quoted(folder)}", "hydra.mode=RUN"]
    elif sweep.is_file():
        overrides = yaml.safe_load(sweep.read_text(encoding="utf-8"))["hydra"]["overrides"]["task"]
        where = [f"hydra.sweep.dir={quoted(folder)}", "hydra.mode=MULTIRUN"]
    else:
        raise PsftrError(f"nothing to resume in {folder}: give a run or a multirun folder written by `psftr train`")
    # a folder from elsewhere may not redirect Hydra's own plugins
    return [str(text) for text in overrides if not str(text).lstrip("+~").startswith("hydra")] + where


def quoted(path: Path) -> str:
    return "'" + str(path).replace("'", r"\'") + "'"


def check(config: Mapping[str, Any]) -> None:
    """Refuse settings that cannot be trained with, before a run folder is made."""
    from psftr.data.datasets import spec_of
    from psftr.engine.configuration import read_config

    common, _, _ = read_config(TrainSettings, config)
    spec_of(common.dataset)
    from psftr.engine.trainer import check_trainer  # imports Lightning

    check_trainer(common)


def check_folder(config: Mapping[str, Any], folder: Path, *, is_sweep: bool) -> None:
    """Refuse a folder that another training writes into or that holds a run of other settings, before Hydra writes."""
    if not folder.is_dir():
        return
    from psftr.engine.configuration import read_config
    from psftr.engine.runs import RunFolder
    from psftr.engine.train import check_settings
    from psftr.engine.trainer import check_trainer

    common, _, own = read_config(TrainSettings, config)
    if not check_trainer(common).is_first:
        return  # rank 0 of the same training has the lock
    runs = [RunFolder(path) for path in (folder.iterdir() if is_sweep else (folder,)) if path.is_dir()]
    for run in runs:
        if run.is_held():
            raise PsftrError(run.busy())
    if not is_sweep:
        check_settings(common, own, RunFolder(folder))


def run(config: Mapping[str, Any]) -> float | None:
    """One job: returns the seen-class validation mAP, so that a sweep optimizes nothing else."""
    from psftr.engine.configuration import read_config
    from psftr.engine.train import train

    try:
        return train(*read_config(TrainSettings, config), output_dir(), log_config=job_logging())
    except (PsftrError, OSError):
        remove_traces(output_dir())
        raise
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(what_was_kept([output_dir()], sweep_dir())) from error


def remove_traces(folder: Path) -> None:
    """Of a training that never began: its folder, where nothing but settings, log and lock is in it."""
    from psftr.engine.runs import RunFolder

    if {path.name for path in folder.iterdir()} - {".hydra", ".lock", "train.log"} or RunFolder(folder).is_held():
        return
    shutil.rmtree(folder, ignore_errors=True)
    here = Path.cwd()
    for parent in folder.absolute().parents:
        if parent == here or not parent.is_relative_to(here):
            break
        try:
            parent.rmdir()
        except OSError:  # not empty
            break
