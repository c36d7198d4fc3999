"""Lightning's trainer as psftr runs it: callbacks, loggers, precision, progress, seeds that survive a resume."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from psftr.checkpoints import CHECKPOINT_KEY, check_same_training
from psftr.engine.precision import cpu_gains_from_bf16
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
        callbacks.append(RichProgressBar() if kind == "bars" else Lines())
    return pl.Trainer(
        accelerator=trainer.accelerator,
        devices=trainer.devices,
        strategy=trainer.strategy,
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
        enable_progress_bar=kind == "bars",
        enable_model_summary=False,
        default_root_dir=folder.path,
    )


def check_trainer(settings: TrainerSettings) -> None:
    """Refuse, before anything is read or written, what Lightning's trainer would refuse. Raises PsftrError."""
    cores = os.cpu_count() or 1
    if settings.accelerator == "cpu" and isinstance(settings.devices, int) and settings.devices > cores:
        raise PsftrError(f"trainer.devices={settings.devices}: that many processes, and this machine has {cores} cores")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pl.Trainer(
                accelerator=settings.accelerator,
                devices=settings.devices,
                strategy=settings.strategy,
                precision=precision_of(settings),  # type: ignore[arg-type]
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
    except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
        given = {name: getattr(settings, name) for name in ("accelerator", "devices", "strategy", "precision")}
        told = ", ".join(f"trainer.{name}={value}" for name, value in given.items() if value != "auto")
        raise PsftrError(f"Lightning cannot train with {told}: {' '.join(str(error).split())}") from error


def precision_of(trainer: TrainerSettings) -> str:
    """Lightning's name of the precision; auto on a CPU with bfloat16 instructions measures for about a second."""
    if trainer.precision != "auto":
        return trainer.precision
    on_gpu = trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if on_gpu:
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    # several processes might measure differently and train in different precisions
    is_one_cpu = trainer.accelerator in ("auto", "cpu") and trainer.devices in ("auto", 1, "1")
    return "bf16-mixed" if is_one_cpu and cpu_gains_from_bf16(trainer.threads) else "32-true"


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


class Lines(Callback):
    """`epoch 3/25  loss 12.3  val mAP 31.0  4 s  left 1 min 28 s`."""

    def __init__(self) -> None:
        self.started = self.epoch_started = 0.0
        self.epochs_done = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started, self.epochs_done = time.monotonic(), 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epoch_started = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epochs_done += 1
        now = time.monotonic()
        left = max(0, (trainer.max_epochs or 0) - trainer.current_epoch - 1)
        metrics = trainer.callback_metrics
        words = [f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"]
        if "train/total" in metrics:
            words.append(f"loss {metrics['train/total']:.2f}")
        if "val/mAP" in metrics:
            words.append(f"val mAP {100 * metrics['val/mAP']:.1f}")
        words.append(f"{now - self.epoch_started:.1f} s")
        if left:
            words.append(f"left {duration((now - self.started) / self.epochs_done * left)}")
        if trainer.is_global_zero:
            log.info("%s", "  ".join(words))


class EpochSeed(Callback):
    """Dropout draws from (seed, epoch, rank), so a resumed run goes on exactly as an uninterrupted one would have."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.manual_seed((self.seed * 1_000_003 + trainer.current_epoch) * 4096 + trainer.global_rank)


def duration(seconds: float) -> str:
    """`1 h 3 min`, `2 min 5 s` or `7 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
