"""Training a detector with Lightning: steps, logs, optimizer, validation in mAP."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import pytorch_lightning as pl
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from psftr.data.batches import Batch
from psftr.data.ranks import Means, gathered
from psftr.detection.decode import Candidates, Decoder
from psftr.detection.network import PointOutputs
from psftr.predictions import Detection

Score = Callable[[Mapping[str, tuple[Detection, ...]]], Mapping[str, float]]
"""Detections by video -> figures by name, e.g. {"mAP": 0.31}."""


class Objective(Protocol):
    """What is minimised: an nn.Module whose buffers are kept in checkpoints."""

    def begin_epoch(self, epoch: int) -> None: ...

    def end_epoch(self) -> None: ...

    def __call__(self, network: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Losses by name; "total" is the one that is minimised."""
        ...


class DetectionModule(pl.LightningModule):
    """network: (features, is_padding) -> PointOutputs. objective: an `Objective`. groups: of AdamW.

    score: validation detections -> figures, logged as val/<name>; None: nothing is validated.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        objective: nn.Module,
        decoder: Decoder,
        groups: Sequence[Mapping[str, Any]],
        warmup_epochs: float,
        score: Score | None,
    ) -> None:
        super().__init__()
        self.network, self.objective, self.decoder = network, objective, decoder
        self.groups, self.warmup_epochs, self.score = groups, warmup_epochs, score
        self._found: list[Candidates] = []
        self._losses = Means()

    def forward(self, batch: Batch) -> PointOutputs:
        return self.network(batch.features, batch.is_padding)

    def on_train_epoch_start(self) -> None:
        self.objective.begin_epoch(self.current_epoch)  # type: ignore[operator]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses = self.objective(self.network, batch)
        self._losses.add(losses, len(batch))
        return losses["total"]

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Log with an epoch's last batch: what reads the epoch's losses runs before `on_train_epoch_end`."""
        if self.trainer.is_last_batch or self.trainer.global_step == self.trainer.max_steps:
            values = {f"train/{name}": value for name, value in self._losses.take().items()}
            self.log_dict(values, on_step=False, on_epoch=True, batch_size=1, rank_zero_only=False)

    def on_train_epoch_end(self) -> None:
        self.objective.end_epoch()  # type: ignore[operator]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._found += self.decoder.candidates(self(batch), batch, range(len(self.decoder.class_names)))

    def on_validation_epoch_end(self) -> None:
        found, self._found = gathered(self._found), []
        if self.score is None or self.trainer.sanity_checking:
            return
        figures = self.score(self.decoder.merge_videos(found))
        # Every rank scored the same detections.
        self.log_dict({f"val/{name}": float(value) for name, value in figures.items()}, rank_zero_only=False)

    def configure_optimizers(self) -> Any:
        optimizer = AdamW([dict(group) for group in self.groups])
        total = max(1, int(self.trainer.estimated_stepping_batches))
        epochs = self.trainer.max_epochs or 1
        warmup = min(total - 1, round(total * self.warmup_epochs / epochs)) if epochs > 0 else 0
        schedule = LambdaLR(optimizer, lambda step: rate(step, warmup=warmup, total=total))
        return [optimizer], [{"scheduler": schedule, "interval": "step", "name": "rate"}]


def rate(step: int, *, warmup: int, total: int) -> float:
    """Share of the learning rate at a step: linear up to 1 over `warmup` steps, then a half cosine down to 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))


def parameter_groups(
    network: nn.Module, *, name: str, lr: float, weight_decay: float, without: nn.Module | None
) -> list[dict[str, Any]]:
    """AdamW groups of a network: decay on the weights of linear layers and convolutions only; empty ones left out.

    without: a part of it that is left out.
    """
    left_out = {id(p) for p in without.parameters()} if without is not None else set()
    decayed = {id(m.weight) for m in network.modules() if isinstance(m, nn.Linear | nn.Conv1d)}
    groups = []
    for suffix, decay in (("", weight_decay), ("-undecayed", 0.0)):
        chosen = [
            p
            for p in network.parameters()
            if p.requires_grad and id(p) not in left_out and (id(p) in decayed) == (suffix == "")
        ]
        if chosen:
            groups.append({"name": name + suffix, "params": chosen, "lr": lr, "weight_decay": decay})
    return groups
