"""Around Lightning's loop: progress (bars on a terminal, plain lines elsewhere) and seeds that survive a resume."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, RichProgressBar

from psftr.errors import PsftrError

log = logging.getLogger("psftr")


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


def progress_callback(kind: str) -> Any:
    """`auto`: bars on a terminal, lines elsewhere; `bars`, `lines`, `none`."""
    if kind == "auto":
        kind = "bars" if sys.stdout.isatty() else "lines"
    if kind == "none":
        return None
    if kind not in ("bars", "lines"):
        raise PsftrError(f"trainer.progress={kind} is unknown; choose auto, bars, lines or none")
    return Bars() if kind == "bars" else Lines()


class Bars(RichProgressBar):
    is_bar = True


class Lines(Callback):
    """`epoch 3/25  loss 12.3  val mAP 31.0  4 s  left 1 min 28 s`."""

    is_bar = False

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
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
