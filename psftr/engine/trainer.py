"""Lightning's trainer as psftr runs it: callbacks, loggers, precision, progress, seeds that survive a resume."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.accelerators import CPUAccelerator, CUDAAccelerator
from pytorch_lightning.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from psftr.checkpoints import CHECKPOINT_KEY, check_same_training
from psftr.engine.launch import meeting_point
from psftr.engine.precision import cpu_gains_from_bf16
from psftr.engine.progress import Bar, Lines
from psftr.engine.runs import RunFolder
from psftr.errors import PsftrError
from psftr.settings import LoggerSettings, TrainerSettings, TrainSettings

log = logging.getLogger("psftr")


def build_trainer(
    settings: TrainSettings,
    folder: RunFolder,
    facts: Mapping[str, Any],
    *,
    callbacks: Sequence[Callback],
    chooses: bool,
) -> pl.Trainer:
    """`facts`: what every checkpoint says about itself. `callbacks`: the method's own.

    `chooses`: the best epoch by val/mAP is kept too.
    """
    trainer = settings.trainer
    callbacks = [
        *callbacks,
        Facts(facts),
        EpochSeed(settings.seed),
        ModelCheckpoint(
            dirpath=folder.last_checkpoint.parent,
            filename="last",
            every_n_epochs=settings.checkpoint.every_epochs,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        ),
    ]
    if chooses:
        callbacks.append(
            ModelCheckpoint(
                dirpath=folder.best_checkpoint.parent,
                filename="best",
                monitor="val/mAP",
                mode="max",
                enable_version_counter=False,
            )
        )
    if trainer.ema_decay is not None:
        callbacks.append(EMAWeightAveraging(decay=trainer.ema_decay))
    kind = trainer.progress
    if kind == "auto":
        kind = "bars" if sys.stdout.isatty() else "lines"
    if kind != "none":
        callbacks += [Lines(), Bar()] if kind == "bars" else [Lines()]
    return pl.Trainer(
        accelerator=trainer.accelerator,
        devices=trainer.devices,
        num_nodes=trainer.num_nodes,
        strategy=trainer.strategy,
        use_distributed_sampler=False,  # the data module shares its windows: psftr.data.loading.SharedBatches
        precision=precision_of(trainer),  # type: ignore[arg-type]
        max_epochs=trainer.max_epochs,
        max_steps=trainer.max_steps or -1,
        accumulate_grad_batches=trainer.accumulate,
        gradient_clip_val=trainer.gradient_clip,
        deterministic=trainer.deterministic,
        check_val_every_n_epoch=trainer.validate_every,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        logger=build_loggers(settings, folder),
        callbacks=callbacks,
        enable_progress_bar=False,  # Bar is ours
        enable_model_summary=False,
        default_root_dir=folder.path,
    )


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The processes of a training, one for each device.

    on_this_machine: how many of them this process must start; 0 where it trains itself. num_ranks: of all machines;
    is_first: this process is rank 0, or starts it. accelerator: "cpu", "cuda" or the class of another.
    """

    on_this_machine: int
    num_ranks: int
    is_first: bool
    accelerator: str


def check_trainer(common: TrainSettings) -> Ranks:
    """Refuse, before anything is read or written, what Lightning's trainer would refuse. Raises PsftrError."""
    settings: TrainerSettings = common.trainer
    silence_lightning()
    names = ("accelerator", "devices", "num_nodes", "strategy", "precision")
    given = {name: getattr(settings, name) for name in names}
    told = ", ".join(f"trainer.{name}={value}" for name, value in given.items() if value not in ("auto", 1))
    if re.search("spawn|fork|notebook", settings.strategy):
        raise PsftrError(
            f"trainer.strategy={settings.strategy}: psftr starts the processes of several devices itself; "
            "write trainer.strategy=ddp, or leave it out"
        )
    # what `auto` becomes fits in any case, and asking the GPU for it would take its memory
    precision = "32-true" if settings.precision == "auto" else settings.precision
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = pl.Trainer(
                accelerator=settings.accelerator,
                devices=settings.devices,
                num_nodes=settings.num_nodes,
                strategy=settings.strategy,
                precision=precision,  # type: ignore[arg-type]
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            environment = getattr(trainer.strategy, "cluster_environment", None)
            if environment is not None:
                environment.validate_settings(num_devices=trainer.num_devices, num_nodes=settings.num_nodes)
    except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
        raise PsftrError(f"Lightning cannot train with {told}: {' '.join(str(error).split())}") from error
    cores = os.cpu_count() or 1
    if isinstance(trainer.accelerator, CPUAccelerator) and trainer.num_devices > cores:
        what = "" if settings.accelerator == "cpu" else "there is no GPU here: "
        raise PsftrError(
            f"trainer.devices={settings.devices}: {what}that many processes, and this machine has {cores} cores"
        )
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        raise PsftrError(f"trainer.strategy={settings.strategy}: psftr trains on one device or with ddp")
    num_ranks = trainer.world_size
    if common.data.batch_size < num_ranks:
        raise PsftrError(
            f"data.batch_size={common.data.batch_size} for {num_ranks} devices: each needs a window of every batch"
        )
    kind = trainer.accelerator
    accelerator = {CPUAccelerator: "cpu", CUDAAccelerator: "cuda"}.get(type(kind), type(kind).__name__)
    if environment is None or environment.creates_processes_externally:
        is_first = trainer.global_rank == 0
        return Ranks(on_this_machine=0, num_ranks=num_ranks, is_first=is_first, accelerator=accelerator)
    meeting_point(num_nodes=settings.num_nodes)
    return Ranks(
        on_this_machine=trainer.num_devices,
        num_ranks=num_ranks,
        is_first=environment.node_rank() == 0,
        accelerator=accelerator,
    )


def precision_of(trainer: TrainerSettings) -> str:
    """Lightning's name of the precision; auto on a CPU with bfloat16 instructions measures for about a second."""
    if trainer.precision != "auto":
        return trainer.precision
    if not is_measured(trainer):
        on_gpu = trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"
    return "bf16-mixed" if cpu_gains_from_bf16(trainer.threads) else "32-true"


def is_measured(trainer: TrainerSettings) -> bool:
    """Whether the precision of this training is chosen by a measurement of the CPU."""
    on_gpu = trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    # several processes might measure differently and train in different precisions
    is_one_cpu = trainer.accelerator in ("auto", "cpu") and trainer.devices in ("auto", 1, "1")
    return trainer.precision == "auto" and is_one_cpu and not on_gpu


def build_loggers(settings: TrainSettings, folder: RunFolder) -> list[Any]:
    """CSV in any case but `none`, and the one asked for. Raises PsftrError for one that is not installed."""
    logger: LoggerSettings = settings.logger
    if logger.kind == "none":
        return []
    # each resume gets a version folder of its own, so nothing logged before is overwritten
    loggers: list[Any] = [CSVLogger(folder.path, name="logs")]
    if logger.kind == "tensorboard":
        try:
            loggers.append(TensorBoardLogger(folder.path, name="tensorboard"))
        except ModuleNotFoundError as error:
            raise PsftrError("logger=tensorboard needs tensorboard: pip install 'psftr[tensorboard]'") from error
    elif logger.kind == "wandb":
        name = f"{settings.dataset.name}-{settings.split.ratio}-{settings.split.index}"
        loggers.append(WandbLogger(project=logger.project, offline=logger.offline, name=name, save_dir=folder.path))
    return loggers


def silence_lightning() -> None:
    """Keep what concerns the user; the rest of Lightning's advice is answered by our configuration."""
    for name in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (
        ".*does not have many workers.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*number of training batches .* is smaller than the logging interval.*",
        ".*LeafSpec.*",
        ".*Total length of `list` across ranks is zero.*",
    ):
        warnings.filterwarnings("ignore", message=text)


class Facts(Callback):
    """Keeps the facts in every checkpoint, and refuses to go on with one of another training."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self.facts = dict(facts)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[CHECKPOINT_KEY] = self.facts

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if CHECKPOINT_KEY not in checkpoint:
            raise PsftrError("not a checkpoint of psftr; give a .ckpt that `psftr train` wrote")
        check_same_training(checkpoint[CHECKPOINT_KEY], self.facts)


class EpochSeed(Callback):
    """Dropout draws from (seed, epoch, rank), so a resumed run goes on exactly as an uninterrupted one would have."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.manual_seed((self.seed * 1_000_003 + trainer.current_epoch) * 4096 + trainer.global_rank)
