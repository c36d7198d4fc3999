"""ActionVLM: a detector of actions that language refines, frame by frame, where it helps (docs/actionvlm.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psftr.methods import LocalizerSetup, Method, Training, TrainingSetup
from psftr.methods.actionvlm.settings import ActionVlmSettings

if TYPE_CHECKING:
    from torch import nn

    from psftr.detection.localizer import DetectionLocalizer
    from psftr.methods.actionvlm.advantage import LanguageAdvantage
    from psftr.methods.actionvlm.network import ActionVlm


def _training(setup: TrainingSetup) -> Training:
    from psftr.detection.criterion import build_criterion
    from psftr.detection.decode import Decoder
    from psftr.detection.module import DetectionModule
    from psftr.detection.training import closed_data
    from psftr.methods.actionvlm.build import NetworkFacts, build_network, language_weights, read_class_descriptions
    from psftr.methods.actionvlm.objective import ActionVlmObjective

    own, dataset = setup.own, setup.dataset
    data = closed_data(setup.common, dataset, own.window)
    names = data.train_classes
    descriptions = None
    if own.language.is_read:
        descriptions = read_class_descriptions(own.descriptions, names, dataset=dataset.name, root=dataset.root)
    facts = NetworkFacts(
        feature_dim=dataset.store.dim,
        class_names=names,
        detector=own.detector,
        language=own.language,
        position=own.descriptions.position,
        descriptions=descriptions,
        weights=language_weights(own.language),
    )
    network = build_network(facts, own.mismatch)
    objective = ActionVlmObjective(
        criterion=build_criterion(own.detector, network.detector.levels),
        advantage=_advantage(own, len(names)),
        advantage_weight=own.language.advantage_weight,
        text_weight=own.language.text_weight,
        alternates=own.language.alternates and network.language is not None,
        class_names=names,
    )
    module = DetectionModule(
        network=network,
        objective=objective,
        decoder=Decoder(levels=network.detector.levels, class_names=names, settings=own.detections),
        groups=_groups(network, own),
        warmup_epochs=own.learning.warmup_epochs,
        score=setup.score(data.val_annotations, names) if data.val_annotations.videos else None,
    )
    return Training(
        module=module,
        data=data,
        network=network,
        train_classes=names,
        text=None,
        facts=data.training_facts(),
        summary=data.summary(),
        network_facts=facts.to_dict(),
        lines=(_in_words(network, own),),
    )


def _advantage(own: ActionVlmSettings, num_classes: int) -> LanguageAdvantage | None:
    from psftr.methods.actionvlm.advantage import LanguageAdvantage

    if not own.language.uses_advantage:
        return None
    return LanguageAdvantage(num_classes=num_classes, in_means=own.language.advantage_unit == "mean")


def _groups(network: ActionVlm, own: ActionVlmSettings) -> list[dict[str, Any]]:
    """The language model learns at its own rate; the rest, the stream's projections and tokens too, as the detector."""
    from psftr.detection.module import parameter_groups

    decay = own.learning.weight_decay
    model = network.language.language_model if network.language is not None else None
    groups = parameter_groups(network, name="detector", lr=own.learning.lr, weight_decay=decay, without=model)
    if model is not None:
        groups += parameter_groups(model, name="language", lr=own.language.rate, weight_decay=decay, without=None)
    return groups


def _in_words(network: ActionVlm, own: ActionVlmSettings) -> str:
    told = f"ActionVLM {_millions(network.detector)} parameters in the detector"
    if network.language is None:
        return f"{told}, vision only: no language model is loaded"
    model = network.language.language_model
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6
    return f"{told}; language model {own.language.model} {_millions(model)}, {trained:.1f} M of them trained"


def _millions(module: nn.Module) -> str:
    return f"{sum(p.numel() for p in module.parameters()) / 1e6:.1f} M"


def _localizer(setup: LocalizerSetup) -> DetectionLocalizer:
    from psftr.data.windows import WindowPolicy
    from psftr.detection.decode import Decoder
    from psftr.detection.localizer import DetectionLocalizer
    from psftr.methods.actionvlm.build import NetworkFacts, build_network
    from psftr.settings import to_dict

    saved = setup.saved
    assert saved is not None  # of a trained method
    facts = NetworkFacts.from_dict(saved.facts["network"])
    network = build_network(facts, setup.own.mismatch)
    saved.fill(network)
    return DetectionLocalizer(
        network=network,
        decoder=Decoder(
            levels=network.detector.levels, class_names=facts.class_names, settings=setup.own.detections
        ),
        policy=WindowPolicy(**to_dict(setup.own.window)),
        batch_size=setup.batch_size,
        device=setup.device,
    )  # fmt: skip


METHOD = Method(
    name="actionvlm",
    settings=ActionVlmSettings,
    localizer=_localizer,
    training=_training,
    inference_groups=("detections", "mismatch", "window.test_overlap"),
    reads_text=False,
    condition=lambda own: "mismatched" if own.mismatch.descriptions else "",
)
