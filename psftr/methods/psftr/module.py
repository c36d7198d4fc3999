"""Training PSFTR with Lightning: steps, logs, optimiser, validation in mAP, and what a checkpoint records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pytorch_lightning as pl
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LinearLR, LRScheduler, MultiStepLR

from psftr.checkpoints import CHECKPOINT_KEY, check_same_training, training_facts
from psftr.data.batches import Batch
from psftr.errors import PsftrError
from psftr.features.text import TextEmbeddings
from psftr.methods.psftr.criterion import Criterion
from psftr.methods.psftr.network import Outputs
from psftr.methods.psftr.postprocess import Decoder, WindowDetections
from psftr.predictions import Detection

Score = Callable[[Mapping[str, tuple[Detection, ...]]], Mapping[str, float]]
"""Detections by video -> figures by name, e.g. {"mAP": 0.31}."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with two learning rates (Table 5, THUMOS14), a linear warm-up in steps and a drop at an epoch."""

    lr: float = 1e-4
    lr_backbone: float = 1e-5
    weight_decay: float = 1e-4
    warmup_steps: int = 0
    drop_epoch: int | None = None
    drop_factor: float = 0.1

    def __post_init__(self) -> None:
        for name in ("lr", "lr_backbone", "drop_factor"):
            if not getattr(self, name) > 0:
                raise PsftrError(f"optimizer {name} must be > 0, got {getattr(self, name)}")
        for name in ("weight_decay", "warmup_steps"):
            if not getattr(self, name) >= 0:
                raise PsftrError(f"optimizer {name} must be >= 0, got {getattr(self, name)}")


class PsftrModule(pl.LightningModule):
    """A network, its objective, and the words it is trained and validated on.

    train_classes, val_classes: names in the order of the loaders' labels; text must know them all.
    predict_classes: names of predict_step, val_classes unless given; may be set at any time.
    score: validation detections -> figures, logged as val/<name>; None logs losses only.
    log_val_losses: False where the validation loader brings no targets (protocol=peer).
    checkpoint_facts: plain values kept in every checkpoint; "network" (the NetworkConfig as a dict) is required.
    """

    train_text: Tensor
    val_text: Tensor

    def __init__(
        self,
        *,
        network: nn.Module,
        criterion: Criterion,
        decoder: Decoder,
        text: TextEmbeddings,
        train_classes: Sequence[str],
        val_classes: Sequence[str],
        optimizer: OptimizerConfig,
        score: Score | None = None,
        checkpoint_facts: Mapping[str, Any],
        predict_classes: Sequence[str] | None = None,
        log_val_losses: bool = True,
    ) -> None:
        super().__init__()
        self.network = network
        self.criterion = criterion
        self.decoder = decoder
        self.text = text
        self.train_classes = tuple(train_classes)
        self.val_classes = tuple(val_classes)
        self.predict_classes = tuple(val_classes if predict_classes is None else predict_classes)
        self.optimizer_config = optimizer
        self.score = score
        self.log_val_losses = log_val_losses
        self.facts = training_facts(
            checkpoint_facts, seen_classes=self.train_classes, encoder=text.encoder, synthetic=text.synthetic
        )
        # Not persistent: the weights serve any vocabulary, so none belongs to them.
        self.register_buffer("train_text", text.select(self.train_classes), persistent=False)
        self.register_buffer("val_text", text.select(self.val_classes), persistent=False)
        self._found: list[WindowDetections] = []

    def forward(self, batch: Batch, text: Tensor) -> Outputs:
        return self.network(batch.features, batch.is_padding, text)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses = self.criterion(self(batch, self.train_text), batch)
        self._log_losses("train", losses, batch)
        return losses["total"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        outputs = self(batch, self.val_text)
        if self.log_val_losses:
            self._log_losses("val", self.criterion(outputs, batch), batch)
        self._found += self.decoder.decode(outputs, batch, self.val_text, self.val_classes)

    def on_validation_epoch_end(self) -> None:
        found, self._found = _gather_ranks(self._found), []
        if self.score is None or self.trainer.sanity_checking:  # a sanity check sees a few windows only
            return
        figures = self.score(self.decoder.merge_videos(found))
        # Every rank scored the same detections.
        self.log_dict({f"val/{name}": float(value) for name, value in figures.items()}, rank_zero_only=False)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> list[WindowDetections]:
        """Detections per window over `predict_classes`; `merge_predictions` makes them those of videos."""
        text = self.text.select(self.predict_classes).to(self.device)
        return self.decoder.decode(self(batch, text), batch, text, self.predict_classes)

    def merge_predictions(self, predicted: Iterable[Sequence[WindowDetections]]) -> dict[str, tuple[Detection, ...]]:
        """What Trainer.predict returned -> detections by video id."""
        return self.decoder.merge_videos(chain.from_iterable(predicted))

    def configure_optimizers(self) -> Any:
        config = self.optimizer_config
        optimizer = AdamW(parameter_groups(self.network, config), lr=config.lr)
        schedules: list[dict[str, Any]] = []
        if config.warmup_steps:
            first = 1 / (config.warmup_steps + 1)
            warmup: LRScheduler = LinearLR(optimizer, start_factor=first, total_iters=config.warmup_steps)
            schedules.append({"scheduler": warmup, "interval": "step", "name": "warmup"})
        if config.drop_epoch is not None:
            drop = MultiStepLR(optimizer, milestones=[config.drop_epoch], gamma=config.drop_factor)
            schedules.append({"scheduler": drop, "interval": "epoch", "name": "drop"})
        return [optimizer], schedules

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[CHECKPOINT_KEY] = self.facts

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if CHECKPOINT_KEY not in checkpoint:
            raise PsftrError("not a checkpoint of PSFTR; give a .ckpt that `psftr train` wrote")
        check_same_training(checkpoint[CHECKPOINT_KEY], self.facts)

    def _log_losses(self, stage: str, losses: Mapping[str, Tensor], batch: Batch) -> None:
        values = {f"{stage}/{name}": value.detach() for name, value in losses.items()}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(batch), sync_dist=stage == "val")


def parameter_groups(network: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """AdamW groups: the backbone at its own rate; decay on the weights of Linear and Conv1d only.

    Norms, biases, learnable queries and scales are not decayed. Groups that would be empty are left out.
    """
    backbone = {id(p) for p in network.backbone_parameters()}  # type: ignore[operator]
    decayed = {id(m.weight) for m in network.modules() if isinstance(m, nn.Linear | nn.Conv1d)}
    groups = []
    for part, lr in (("network", config.lr), ("backbone", config.lr_backbone)):
        for suffix, decay in (("", config.weight_decay), ("-undecayed", 0.0)):
            parameters = [
                p
                for p in network.parameters()
                if p.requires_grad
                and (id(p) in backbone) == (part == "backbone")
                and (id(p) in decayed) == (suffix == "")
            ]
            if parameters:
                groups.append({"name": part + suffix, "params": parameters, "lr": lr, "weight_decay": decay})
    return groups


def _gather_ranks(found: list[WindowDetections]) -> list[WindowDetections]:
    """Every rank's windows, on every rank."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return found
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, found)
    return list(chain.from_iterable(parts))
