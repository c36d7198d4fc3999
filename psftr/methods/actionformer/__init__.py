"""ActionFormer (Zhang et al., 2022): vision only, the baseline of ActionVLM. The detector itself is psftr.detection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psftr.detection.settings import DetectionsSettings, DetectorSettings, LearningSettings
from psftr.methods import LocalizerSetup, Method, Training, TrainingSetup
from psftr.settings import Checked, WindowSettings, group

if TYPE_CHECKING:
    from psftr.detection.localizer import DetectionLocalizer


@dataclass(frozen=True, kw_only=True)
class ActionFormerSettings(Checked):
    """The groups that ActionFormer adds to the shared settings."""

    window: WindowSettings = group(WindowSettings)
    detector: DetectorSettings = group(DetectorSettings)
    learning: LearningSettings = group(LearningSettings)
    detections: DetectionsSettings = group(DetectionsSettings)


def _training(setup: TrainingSetup) -> Training:
    from psftr.detection.criterion import build_criterion
    from psftr.detection.decode import Decoder
    from psftr.detection.module import DetectionModule, parameter_groups
    from psftr.detection.network import build_detector
    from psftr.detection.training import closed_data
    from psftr.methods.actionformer.objective import VisionObjective
    from psftr.settings import to_dict

    own, dataset = setup.own, setup.dataset
    data = closed_data(setup.common, dataset, own.window)
    names = data.train_classes
    network = build_detector(own.detector, feature_dim=dataset.store.dim, num_classes=len(names))
    module = DetectionModule(
        network=network,
        objective=VisionObjective(criterion=build_criterion(own.detector, network.levels)),
        decoder=Decoder(levels=network.levels, class_names=names, settings=own.detections),
        groups=parameter_groups(
            network, name="detector", lr=own.learning.lr, weight_decay=own.learning.weight_decay, without=None
        ),
        warmup_epochs=own.learning.warmup_epochs,
        score=setup.score(data.val_annotations, names) if data.val_annotations.videos else None,
    )
    count = sum(p.numel() for p in network.parameters()) / 1e6
    return Training(
        module=module,
        data=data,
        network=network,
        train_classes=names,
        text=None,
        facts=data.training_facts(),
        summary=data.summary(),
        network_facts={
            "feature_dim": dataset.store.dim, "num_classes": len(names), "detector": to_dict(own.detector),
        },
        lines=(f"ActionFormer {count:.1f} M parameters, dim {own.detector.dim}",),
    )  # fmt: skip


def _localizer(setup: LocalizerSetup) -> DetectionLocalizer:
    from psftr.data.windows import WindowPolicy
    from psftr.detection.decode import Decoder
    from psftr.detection.localizer import DetectionLocalizer
    from psftr.detection.network import rebuild_detector
    from psftr.settings import to_dict

    saved = setup.saved
    assert saved is not None  # of a trained method
    network = rebuild_detector(saved.facts["network"])
    saved.fill(network)
    return DetectionLocalizer(
        network=network,
        decoder=Decoder(
            levels=network.levels, class_names=tuple(saved.facts["train_classes"]), settings=setup.own.detections
        ),
        policy=WindowPolicy(**to_dict(setup.own.window)),
        batch_size=setup.batch_size,
        device=setup.device,
    )


METHOD = Method(
    name="actionformer",
    settings=ActionFormerSettings,
    localizer=_localizer,
    training=_training,
    inference_groups=("detections", "window.test_overlap"),
    reads_text=False,
)
