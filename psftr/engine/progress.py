"""How far a training is: a line an epoch in any output, and on a terminal a bar below the lines."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

log = logging.getLogger("psftr")
REFRESH_S = 0.2  # reading the loss of a step waits for the GPU: not more often than that


class Lines(Callback):
    """`epoch 3/25  loss 12.3  val mAP 31.0  4 s  left 1 min 28 s`; val mAP in the epochs that are validated."""

    def __init__(self) -> None:
        self.started = self.epoch_started = 0.0
        self.epochs_done = 0
        self.validated = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started, self.epochs_done = time.monotonic(), 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epoch_started, self.validated = time.monotonic(), False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epochs_done += 1
        now = time.monotonic()
        left = max(0, (trainer.max_epochs or 0) - trainer.current_epoch - 1)
        metrics = trainer.callback_metrics
        words = [f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"]
        if "train/total" in metrics:
            words.append(f"loss {metrics['train/total']:.2f}")
        if self.validated and "val/mAP" in metrics:
            words.append(f"val mAP {100 * metrics['val/mAP']:.1f}")
        words.append(f"{now - self.epoch_started:.1f} s")
        if left:
            words.append(f"left {duration((now - self.started) / self.epochs_done * left)}")
        if trainer.is_global_zero:
            log.info("%s", "  ".join(words))


class Bar(Callback):
    """One bar for the whole training: epoch, the loss of a step, the last val mAP, time left."""

    def __init__(self) -> None:
        self.progress: Progress | None = None
        self.handlers: list[tuple[logging.StreamHandler[Any], Any]] = []
        self.started = self.refreshed = 0.0
        self.batches_done = 0
        self.score = ""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        texts = (TextColumn(f"{{task.fields[{name}]}}", markup=False) for name in ("loss", "score", "left"))
        epoch = TextColumn("{task.description}", markup=False)
        self.progress = Progress(epoch, BarColumn(bar_width=None), *texts, console=Console(), expand=True)
        terminal = sys.stdout
        self.progress.start()
        # log lines go above the bar: rich has put a stream that does so in the place of sys.stdout
        for handler in (*logging.getLogger().handlers, *log.handlers):
            if isinstance(handler, logging.StreamHandler) and handler.stream is terminal:
                handler.setStream(sys.stdout)
                self.handlers.append((handler, terminal))
        epochs = (trainer.max_epochs or 0) - trainer.current_epoch
        total = float(trainer.num_training_batches * epochs)
        if trainer.max_steps > 0:
            total = min(total, float((trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches))
        self.started, self.batches_done = time.monotonic(), 0
        self.progress.add_task(self._epoch(trainer), total=max(total, 1.0), loss="", score="", left="")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.progress is not None:
            self.progress.update(self.progress.task_ids[0], description=self._epoch(trainer))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batches_done += 1
        now = time.monotonic()
        if self.progress is None or now - self.refreshed < REFRESH_S:
            return
        self.refreshed = now
        total = self.progress.tasks[0].total or 1.0
        left = (now - self.started) / self.batches_done * max(0.0, total - self.batches_done)
        self._update(completed=self.batches_done, left=f"left {duration(left)}")
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if loss is not None:
            self._update(loss=f"loss {float(loss):.2f}")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._update(score="validating")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if "val/mAP" in trainer.callback_metrics:
            figure = 100 * float(trainer.callback_metrics["val/mAP"])
            self.score = f"val mAP {figure:.1f} in epoch {trainer.current_epoch + 1}"
        self._update(score=self.score)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.progress is not None:
            self._update(completed=self.progress.tasks[0].total, left="")
        self.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.stop()

    def stop(self) -> None:
        """Leave the bar as it is and give the terminal back."""
        if self.progress is not None:
            for handler, before in self.handlers:
                handler.setStream(before)
            self.progress.stop()
        self.progress, self.handlers = None, []

    def _epoch(self, trainer: Trainer) -> str:
        return f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"

    def _update(self, **fields: Any) -> None:
        if self.progress is not None:
            self.progress.update(self.progress.task_ids[0], **fields)


def duration(seconds: float) -> str:
    """`1 h 3 min`, `2 min 5 s` or `7 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
