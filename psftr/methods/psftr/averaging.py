"""The mean of the weights at the ends of the last epochs, which takes the place of the last epoch's weights."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from psftr.errors import PsftrError

__all__ = ["LastEpochsAverage"]


class LastEpochsAverage(WeightAveraging):
    """Stochastic weight averaging (Izmailov et al., 2018) at a constant rate over the last `share` of `max_epochs`.

    One epoch of a short training lands well or badly by chance; the mean of several does so less. Before, the average
    is a copy of the current weights, so that validation during training sees what is there. At least one epoch counts.
    """

    def __init__(self, *, share: float, max_epochs: int) -> None:
        if not 0 < share <= 1:
            raise PsftrError(f"the share of epochs to average must be in (0, 1], got {share}; 0.3 is the last third")
        super().__init__(avg_fn=self._towards)
        self._first = max_epochs - max(1, round(share * max_epochs))
        self._weight = 1.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update after the epoch's last step: validation comes before the epoch's end."""
        if trainer.is_last_batch:
            self.on_train_epoch_end(trainer, pl_module)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Update once an epoch; called by Lightning."""
        if epoch_idx is None:
            return False
        self._weight = 1 / max(1, epoch_idx - self._first + 1)
        return True

    def _towards(self, average: Tensor, current: Tensor, num_averaged: Tensor | int) -> Tensor:
        """The average moved towards the current value: onto it, then 1/2, 1/3 … of the way."""
        return average + (current - average) * self._weight
