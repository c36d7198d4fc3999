"""Averages of the last epochs: one weight whose value after epoch e is e."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from psftr.errors import PsftrError
from psftr.methods.psftr.averaging import LastEpochsAverage


class Counting(pl.LightningModule):
    """Plain gradient descent on -w with a rate of 1: w is 1 after the first epoch, 2 after the second, …"""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen_in_validation = []

    def training_step(self, batch, batch_idx):
        return -self.weight

    def validation_step(self, batch, batch_idx):
        self.seen_in_validation.append(self.weight.item())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def train(folder, share):
    module = Counting()
    loader = DataLoader([0])
    trainer = pl.Trainer(
        max_epochs=5, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=folder,
        callbacks=[LastEpochsAverage(share=share, max_epochs=5)],
    )  # fmt: skip
    trainer.fit(module, loader, loader)
    return module


@pytest.mark.parametrize(("share", "mean"), [(0.01, 5.0), (0.4, 4.5), (1.0, 3.0)])
def test_the_result_is_the_mean_of_the_last_epochs(tmp_path, share, mean):
    assert train(tmp_path, share).weight.item() == pytest.approx(mean)


def test_validation_sees_the_epoch_that_has_just_ended(tmp_path):
    assert train(tmp_path, 0.4).seen_in_validation == [1.0, 2.0, 3.0, 4.0, 4.5]


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_is_a_share(share):
    with pytest.raises(PsftrError, match="share of epochs"):
        LastEpochsAverage(share=share, max_epochs=5)
