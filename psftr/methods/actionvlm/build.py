"""From settings, or from the facts of a checkpoint, to a network; the only place that reads names of variants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from psftr.data.descriptions import describe_classes, mismatched
from psftr.detection.network import build_detector
from psftr.detection.settings import DetectorSettings
from psftr.errors import PsftrError
from psftr.methods.actionvlm.alignment import read_alignment
from psftr.methods.actionvlm.language_model import find_language_model, identity, load_language_model
from psftr.methods.actionvlm.network import ActionVlm, FixedWeight, PredictedWeight, alone, embedded, residual, stored
from psftr.methods.actionvlm.prompt import INSTRUCTION, candidates_text
from psftr.methods.actionvlm.settings import DescriptionSettings, LanguageSettings, MismatchSettings
from psftr.methods.actionvlm.stream import LanguageStream
from psftr.settings import from_dict, to_dict

SPECIAL = {"separate": (1, 2, 3), "shared": (1, 1, 2), "frames": (0, 0, 0)}


@dataclass(frozen=True, kw_only=True)
class NetworkFacts:
    """All that decides the network. descriptions: None: only names are told. weights: of the language model."""

    feature_dim: int
    class_names: tuple[str, ...]
    detector: DetectorSettings
    language: LanguageSettings
    position: str
    descriptions: Mapping[str, str] | None
    weights: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "feature_dim": self.feature_dim,
            "class_names": list(self.class_names),
            "detector": to_dict(self.detector),
            "language": to_dict(self.language),
            "position": self.position,
            "descriptions": None if self.descriptions is None else dict(self.descriptions),
            "weights": self.weights,
        }

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> NetworkFacts:
        return cls(
            feature_dim=facts["feature_dim"],
            class_names=tuple(facts["class_names"]),
            detector=from_dict(DetectorSettings, facts["detector"]),
            language=from_dict(LanguageSettings, facts["language"]),
            position=facts["position"],
            descriptions=facts["descriptions"],
            weights=facts["weights"],
        )


def read_class_descriptions(
    settings: DescriptionSettings, class_names: Sequence[str], *, dataset: str, root: Path
) -> dict[str, str] | None:
    """Of every class, in order; None where only names are told. Raises PsftrError for a class without one."""
    if not settings.used:
        return None
    own = root / "descriptions.json"
    given = settings.file or (own if own.is_file() else None)
    return describe_classes(given, class_names, dataset=dataset)


def build_network(facts: NetworkFacts, mismatch: MismatchSettings) -> ActionVlm:
    """A freshly initialised network. The detector comes first, so a seed starts it as ActionFormer's.

    Raises PsftrError where the language model is not available, or not the one that was trained with.
    """
    detector = build_detector(facts.detector, feature_dim=facts.feature_dim, num_classes=len(facts.class_names))
    if not facts.language.is_read:
        return ActionVlm(detector=detector, language=None, weighting=None, join=residual, sight=embedded)
    folder = find_language_model(facts.language.model)
    if facts.weights is not None and identity(folder) != facts.weights:
        raise PsftrError(
            f"the language model {facts.language.model} has other weights than the one of the training: restore it"
        )
    descriptions = facts.descriptions
    if mismatch.descriptions:
        if descriptions is None:
            raise PsftrError("mismatch.descriptions=true, but this network was told no descriptions")
        descriptions = mismatched(descriptions, seed=mismatch.circle)
    told = candidates_text(facts.class_names, descriptions)
    reads_stored = facts.language.sees == "stored"
    is_before = facts.position == "before"
    stream = LanguageStream(
        language_model=load_language_model(facts.language, folder),
        frame_dim=facts.feature_dim if reads_stored else facts.detector.dim,
        dim=facts.detector.dim,
        keeps_states=facts.language.keeps_states,
        before=f"{INSTRUCTION} {told}" if is_before else INSTRUCTION,
        after="" if is_before else told,
        special=SPECIAL[facts.language.tokens],
    )
    alignment = read_alignment(folder)
    if alignment is not None:
        if not reads_stored:
            raise PsftrError(
                f"the language model {facts.language.model} was taught on stored features: set language.sees=stored"
            )
        alignment.fill(stream, frozen=facts.language.tuning == "frozen")
    weighting: nn.Module = PredictedWeight(dim=facts.detector.dim, first=facts.language.first_advantage)
    if facts.language.weighting == "fixed" or facts.language.joins == "alone":
        weighting = FixedWeight(weight=facts.language.fixed_weight)
    join = {"residual": residual, "alone": alone}[facts.language.joins]
    sight = stored if reads_stored else embedded
    return ActionVlm(detector=detector, language=stream, weighting=weighting, join=join, sight=sight)


def language_weights(settings: LanguageSettings) -> str | None:
    """The weights of the language model by content; None where there is none."""
    return identity(find_language_model(settings.model)) if settings.is_read else None
