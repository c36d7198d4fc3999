"""What the methods over this detector share in building a training and a localizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psftr.data.splits import CLOSED
from psftr.data.windows import WindowPolicy
from psftr.errors import PsftrError
from psftr.settings import WindowSettings, to_dict

if TYPE_CHECKING:
    from psftr.data.datamodule import ZstalDataModule
    from psftr.data.datasets import Dataset
    from psftr.settings import TrainSettings


def closed_data(common: TrainSettings, dataset: Dataset, window: WindowSettings) -> ZstalDataModule:
    """The loaders of a closed-set training, set up. Raises PsftrError for a split with unseen classes."""
    from psftr.data.datamodule import ZstalDataModule, val_share

    if dataset.split.source != CLOSED:
        raise PsftrError(
            f"method={common.method} finds only the classes it was trained on: give split=closed, "
            "or a zero-shot method such as psftr"
        )
    if common.data.held_out_classes:
        raise PsftrError(f"method={common.method} cannot find classes held out of training: data.held_out_classes=0")
    if common.protocol == "peer":
        raise PsftrError("protocol=peer is a habit of zero-shot repositories: leave it out with split=closed")
    data = ZstalDataModule(
        dataset=dataset,
        policy=WindowPolicy(**to_dict(window)),
        data=common.data,
        val_fraction=val_share(common.data, chooses_checkpoint=common.checkpoint.rule != "last"),
        exclude=common.dataset.exclude,
        seed=common.seed,
        protocol=common.protocol,
    )
    data.setup("fit")
    return data
