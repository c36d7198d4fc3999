"""Training PSFTR with Lightning: steps, logs, optimizer, validation in mAP."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler, MultiStepLR

from psftr.data.batches import Batch
from psftr.data.ranks import Means, gathered
from psftr.errors import PsftrError
from psftr.features.text import TextEmbeddings
from psftr.methods.psftr.build import (
    build_criterion,
    build_gated_training,
    build_network,
    build_postprocessor,
    network_config,
)
from psftr.methods.psftr.denoising import Denoising
from psftr.methods.psftr.network import Outputs, Texts
from psftr.methods.psftr.postprocess import WindowDetections
from psftr.methods.psftr.settings import OptimizerSettings, PsftrSettings
from psftr.ops import say_path
from psftr.predictions import Detection
from psftr.settings import from_dict

Score = Callable[[Mapping[str, tuple[Detection, ...]]], Mapping[str, float]]
"""Detections by video -> figures by name, e.g. {"mAP": 0.31}."""


class PsftrModule(pl.LightningModule):
    """A network, its objective, and the names it is trained and validated on.

    settings: `psftr.settings.to_dict` of `PsftrSettings`. feature_dim, text_dim: widths of frame and text vectors.
    train_classes, val_classes: names in the order of the loaders' labels. text: embeddings of all of them; without it
    the module predicts but does not train. score: validation detections -> figures, logged as val/<name>; None logs
    losses only. is_peer: windows are merged as GAP does, and the validation loader brings no targets.

    All but `text` and `score` are hyper-parameters: `PsftrModule.load_from_checkpoint(path)` builds the network again.
    Raises PsftrError for settings that do not fit and for text that does not know a name.
    """

    def __init__(
        self,
        *,
        settings: Mapping[str, Any],
        feature_dim: int,
        text_dim: int,
        train_classes: Sequence[str],
        val_classes: Sequence[str],
        is_peer: bool = False,
        text: TextEmbeddings | None = None,
        score: Score | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["text", "score"])
        own = from_dict(PsftrSettings, settings)
        self.network = build_network(network_config(own.model, feature_dim=feature_dim, text_dim=text_dim))
        self.criterion = build_criterion(own.loss, own.matcher)
        self.postprocessor = build_postprocessor(own.postprocess, is_peer=is_peer)
        self.optimizer_settings = own.optimizer
        self.gated_training = build_gated_training(self.network, num_classes=len(train_classes))
        self.advantage_weight, self.denoising_weight = own.loss.advantage, own.loss.denoising
        self.denoising = Denoising(dim=own.model.dim) if own.loss.denoising else None
        self.train_classes, self.val_classes = tuple(train_classes), tuple(val_classes)
        self.predict_classes = self.val_classes  # of predict_step; may be set at any time
        self.text = text
        self.score = score
        self.is_peer = is_peer
        self._found: list[WindowDetections] = []
        self._train_losses, self._val_losses = Means(), Means()

    def names(self, class_names: Sequence[str]) -> Tensor:
        """[K, text_dim] embeddings of the names on the module's device. Raises PsftrError without text."""
        if self.text is None:
            raise PsftrError("this module has no class texts: give text=TextEmbeddings(…) when you make or load it")
        return self.text.select(class_names).to(self.device)

    def forward(self, batch: Batch, text: Tensor) -> Outputs:
        return self.network(batch.features, batch.is_padding, text)

    def on_fit_start(self) -> None:
        say_path(self.device)
        self._train_text = self.names(self.train_classes)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses = self._losses(batch)
        self._train_losses.add(losses, len(batch))
        return losses["total"]

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        """Of one step: the criterion's, denoising queries and, with language gates, the advantage; and their total."""
        if self.gated_training is not None:
            self.gated_training.begin_step(self.global_step)
        beside = self.denoising.queries(batch.targets) if self.denoising else None
        texts = Texts(encoder=self._train_text, queries=self._train_text, classifier=self._train_text)
        outputs, denoised = self.network.read_beside(batch.features, batch.is_padding, texts, beside)
        losses = self.criterion(outputs, batch)
        further: dict[str, Tensor] = {}
        if self.denoising is not None:
            further["denoising"] = self.denoising_weight * self.denoising.loss(denoised, batch.targets, self.criterion)
        if self.gated_training is not None:
            advantage = self.gated_training.advantage_loss(outputs, batch, self.criterion)
            further["advantage"] = self.advantage_weight * advantage
        if not further:
            return losses
        return {**losses, **further, "total": losses["total"] + torch.stack([*further.values()]).sum()}

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Log with an epoch's last batch: what reads the epoch's losses runs before `on_train_epoch_end`."""
        if self.trainer.is_last_batch or self.trainer.global_step == self.trainer.max_steps:
            self._log_losses("train", self._train_losses)

    def on_validation_epoch_start(self) -> None:
        self._val_text = self.names(self.val_classes)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        outputs = self(batch, self._val_text)
        if not self.is_peer:
            self._val_losses.add(self.criterion(outputs, batch), len(batch))
        self._found += self.postprocessor.detect(outputs.final, batch, self._val_text, self.val_classes)

    def on_validation_epoch_end(self) -> None:
        self._log_losses("val", self._val_losses)
        found, self._found = gathered(self._found), []
        if self.score is None or self.trainer.sanity_checking:  # a sanity check sees a few windows only
            return
        figures = self.score(self.postprocessor.merge_videos(found))
        # every rank scored the same detections
        self.log_dict({f"val/{name}": float(value) for name, value in figures.items()}, sync_dist=True)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> list[WindowDetections]:
        """Detections per window over `predict_classes`; `merge_predictions` makes them those of videos."""
        text = self.names(self.predict_classes)
        outputs = self.network.forward_final(batch.features, batch.is_padding, text)
        return self.postprocessor.detect(outputs, batch, text, self.predict_classes)

    def merge_predictions(self, predicted: Iterable[Sequence[WindowDetections]]) -> dict[str, tuple[Detection, ...]]:
        """What Trainer.predict returned -> detections by video id."""
        return self.postprocessor.merge_videos(chain.from_iterable(predicted))

    def configure_optimizers(self) -> Any:
        config = self.optimizer_settings
        # not under 16-mixed, where a fused optimizer takes scaled gradients, nor where a strategy cuts parameters up
        may_fuse = self.trainer.precision != "16-mixed" and self.device.type in ("cpu", "cuda")
        is_whole = isinstance(self.trainer.strategy, SingleDeviceStrategy | DDPStrategy)
        optimizer = make_optimizer(self.network, config, fused=may_fuse and is_whole)
        if self.denoising is not None:
            parameters = list(self.denoising.parameters())
            optimizer.add_param_group({"name": "denoising", "params": parameters, "lr": config.lr, "weight_decay": 0.0})
        schedules: list[dict[str, Any]] = []
        if config.warmup_steps:
            first = 1 / (config.warmup_steps + 1)
            warmup: LRScheduler = LinearLR(optimizer, start_factor=first, total_iters=config.warmup_steps)
            schedules.append({"scheduler": warmup, "interval": "step", "name": "warmup"})
        if config.drop_epoch is not None:
            drop = MultiStepLR(optimizer, milestones=[config.drop_epoch], gamma=config.drop_factor)
            schedules.append({"scheduler": drop, "interval": "epoch", "name": "drop"})
        return [optimizer], schedules

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take checkpoints of before: they read whole frames, know no seen names or have no denoising queries.

        A training cannot go on without the last of these.
        """
        goes_on = self._trainer is not None and self.trainer.training
        if goes_on and self.network.seen_text is not None:
            for key in {"state_dict", "current_model_state"} & checkpoint.keys():  # the second beside averaged weights
                checkpoint[key].setdefault("network.seen_text", self.network.seen_text)
        else:
            saved = checkpoint["state_dict"].items()
            self.network.expect({name.removeprefix("network."): value for name, value in saved})
        if "network.convolution.basis" not in checkpoint["state_dict"]:
            self.network.convolution.basis = None
        own = {} if self.denoising is None else self.denoising.state_dict(prefix="denoising.")
        if absent := {name: value for name, value in own.items() if name not in checkpoint["state_dict"]}:
            if goes_on:
                raise PsftrError(
                    "this training was begun by a psftr that had no denoising queries, and cannot go on with them: "
                    "train again (with loss.denoising=0 as it was)"
                )
            checkpoint["state_dict"].update(absent)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Step, then free the gradients: Lightning would keep them beside the activations of the next forward pass."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        optimizer.zero_grad(set_to_none=True)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm. Under bf16-mixed Lightning's own way refuses fused optimizers, though nothing is scaled."""
        if not optimizer.defaults["fused"] or gradient_clip_algorithm not in (None, "norm"):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, gradient_clip_val)

    def _log_losses(self, stage: str, losses: Means) -> None:
        values = {f"{stage}/{name}": value for name, value in losses.take().items()}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=1, rank_zero_only=False)


def make_optimizer(network: nn.Module, config: OptimizerSettings, *, fused: bool) -> AdamW:
    """AdamW over `parameter_groups`. fused: one pass over the memory for each step; same result up to rounding."""
    return AdamW(parameter_groups(network, config), lr=config.lr, fused=fused)


def parameter_groups(network: nn.Module, config: OptimizerSettings) -> list[dict[str, Any]]:
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
