"""PSFTR: a DETR-like localizer whose encoder, queries and classifier read the class names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from psftr.methods import AuditSetup, LocalizerSetup, Method, Training, TrainingSetup
from psftr.methods.psftr.settings import PsftrSettings

if TYPE_CHECKING:
    from pytorch_lightning import Callback

    from psftr.methods.psftr.localizer import PsftrLocalizer
    from psftr.predictions import Detection
    from psftr.settings import TrainSettings


def _training(setup: TrainingSetup) -> Training:
    import torch

    from psftr.data.datamodule import ZstalDataModule, val_share
    from psftr.methods.psftr.build import build_window_policy, network_config
    from psftr.methods.psftr.module import PsftrModule
    from psftr.settings import to_dict

    own, common, dataset = setup.own, setup.common, setup.dataset
    is_peer = common.protocol == "peer"
    data = ZstalDataModule(
        dataset=dataset,
        policy=build_window_policy(own.window, is_peer=is_peer),
        data=common.data,
        val_fraction=val_share(common.data, chooses_checkpoint=common.checkpoint.rule != "last"),
        exclude=common.dataset.exclude,
        seed=common.seed,
        protocol=common.protocol,
    )
    data.setup("fit")
    # under protocol=clean the names of unseen classes are not even embedded here
    text = setup.text(tuple(dict.fromkeys((*data.train_classes, *data.val_classes))))
    module = PsftrModule(
        settings=to_dict(own),
        feature_dim=dataset.store.dim,
        text_dim=text.dim,
        train_classes=list(data.train_classes),
        val_classes=list(data.val_classes),
        is_peer=is_peer,
        text=text,
        score=setup.score(data.val_annotations, data.val_classes) if data.val_annotations.videos else None,
    )
    module.network.convolution.fit(map(torch.from_numpy, data.training_frames()))
    module.network.remember_seen(text.select(data.train_classes))
    count = sum(p.numel() for p in module.network.parameters()) / 1e6
    return Training(
        module=module,
        data=data,
        network=module.network,
        train_classes=data.train_classes,
        text=text,
        facts=data.training_facts(),
        summary=data.summary(),
        callbacks=_callbacks(own.optimizer.average_share, common),
        network_facts=to_dict(network_config(own.model, feature_dim=dataset.store.dim, text_dim=text.dim)),
        lines=(f"PSFTR {count:.1f} M parameters, dim {own.model.dim}",),
    )


def _callbacks(average_share: float, common: TrainSettings) -> tuple[Callback, ...]:
    """The average of the last epochs, unless a running average of all steps or the best epoch is asked for."""
    from psftr.methods.psftr.averaging import LastEpochsAverage

    chooses = common.checkpoint.rule != "last" or common.protocol == "peer"
    if not average_share or chooses or common.trainer.ema_decay is not None:
        return ()
    return (LastEpochsAverage(share=average_share, max_epochs=common.trainer.max_epochs),)


def _localizer(setup: LocalizerSetup) -> PsftrLocalizer:
    from psftr.errors import PsftrError
    from psftr.methods.psftr.build import NetworkConfig, build_network, build_postprocessor, build_window_policy
    from psftr.methods.psftr.localizer import PsftrLocalizer

    saved = setup.saved
    assert saved is not None  # of a trained method
    try:
        network = build_network(NetworkConfig(**saved.facts["network"]))
    except (PsftrError, TypeError) as error:
        raise PsftrError(f"{saved.where}: {error}") from None
    network.expect(saved.weights)
    saved.fill(network)
    if setup.own.postprocess.seen_weight and network.seen_text is None:
        raise PsftrError(
            f"{saved.where} was trained before psftr kept the seen names with the weights, so "
            f"postprocess.seen_weight={setup.own.postprocess.seen_weight} cannot be used: give 0, or train again"
        )
    is_peer = setup.protocol == "peer"
    assert setup.text is not None  # this method reads text
    return PsftrLocalizer(
        network=network,
        text=setup.text,
        postprocessor=build_postprocessor(setup.own.postprocess, is_peer=is_peer),
        policy=build_window_policy(setup.own.window, is_peer=is_peer),
        batch_size=setup.batch_size,
        device=setup.device,
        precision=setup.precision(network),
    )


def _audit(setup: AuditSetup) -> Iterator[tuple[str, Mapping[str, tuple[Detection, ...]]]]:
    from psftr.methods.psftr.audit import audit, mean_unit_frame

    return audit(
        setup.localizer,
        setup.videos,
        setup.class_names,
        seen_text=setup.seen_text,
        frame_mean=mean_unit_frame(setup.training_videos),
        ground_truth=setup.ground_truth,
    )


METHOD = Method(
    name="psftr",
    settings=PsftrSettings,
    localizer=_localizer,
    training=_training,
    inference_groups=("postprocess", "window.test_overlap"),
    audit=_audit,
)
