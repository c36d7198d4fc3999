"""What must be known to read a number: printed beside every mAP, stored with it, and part of the report page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from psftr.data.splits import ClassSplit
from psftr.evaluation.rules import Protocol
from psftr.evaluation.selection import Selection
from psftr.predictions import Predictions, Provenance

NOT_STATED = "not stated (the file says nothing about its origin)"


@dataclass(frozen=True, kw_only=True)
class Training:
    """What the model behind a file was trained on, as its run counted it; None where the run did not say.

    held_out: seen classes that were kept out of training.
    """

    videos: int | None = None
    classes: int | None = None
    actions: int | None = None
    windows: int | None = None
    held_out: tuple[str, ...] = ()
    validation: str = ""

    @classmethod
    def of(cls, provenance: Provenance | None) -> Training:
        """Files of other tools, and of a psftr before these counts, do not say it."""
        stated: Mapping[str, Any] = (provenance.training if provenance else None) or {}
        counts = {name: stated.get(name) for name in ("videos", "classes", "actions", "windows")}
        held_out = tuple(stated.get("held_out_classes") or ())
        return cls(**counts, held_out=held_out, validation=str(stated.get("validation") or ""))

    @property
    def text(self) -> str:
        counts = {name: getattr(self, name) for name in ("videos", "classes", "actions", "windows")}
        told = ", ".join(f"{name}: {count}" for name, count in counts.items() if count is not None)
        return told + (f"; validation: {self.validation}" if told and self.validation else "")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Sentences by topic; `notes` says what was given but did not count. `synthetic`: says nothing about video."""

    protocol: str
    dataset: str
    synthetic: bool
    method: str
    checkpoint: str
    features: str
    split: str
    classes: str
    training: str = ""
    videos: str
    counts: str
    tious: str
    external_classifier: str
    ambiguous: str
    double_labels: str
    notes: tuple[str, ...] = ()

    def rows(self) -> list[tuple[str, str]]:
        """(topic, sentence) in reading order, topics without a sentence left out."""
        topics = [f.name for f in fields(self) if f.name not in ("synthetic", "notes")]
        told = [(topic.replace("_", " "), getattr(self, topic)) for topic in topics if getattr(self, topic)]
        return told + [("note", note) for note in self.notes]

    def to_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"notes": list(self.notes)}


def mark(told: Iterable[str]) -> str:
    """What every title begins with where a number needs it: "[SYNTHETIC, PEER PROTOCOL] ", or nothing."""
    words = ", ".join(dict.fromkeys(told))
    return f"[{words}] " if words else ""


def is_synthetic(provenance: Provenance | None) -> bool:
    """The features or the class texts are simulated."""
    parts = (provenance.features, provenance.text or {}) if provenance else ()
    return any(part.get("synthetic") for part in parts)


def state_facts(
    *,
    predictions: Predictions,
    protocol: Protocol,
    split: ClassSplit | None,
    split_from_file: bool,
    selection: Selection,
    training: Training,
    double_labels: str,
) -> Facts:
    """The facts of one evaluation."""
    provenance = predictions.provenance
    synthetic = protocol.is_synthetic or is_synthetic(provenance)
    return Facts(
        protocol=_protocol_text(protocol, stated=provenance is not None),
        dataset=f"{protocol.dataset}{' (synthetic)' if synthetic else ''}",
        synthetic=synthetic,
        method=f"{provenance.method} (psftr {provenance.code_version})" if provenance else NOT_STATED,
        checkpoint=provenance.checkpoint_rule if provenance else NOT_STATED,
        features=_features_text(provenance.features, synthetic) if provenance else NOT_STATED,
        split=_split_text(split, split_from_file, predictions),
        classes=_classes_text(selection, split, training),
        training=training.text,
        videos=f"{protocol.test_subset!r} videos with at least one {'unseen-class' if split else 'annotated'} action",
        counts=_counts_text(selection),
        tious=" ".join(f"{t:.2f}" for t in protocol.tious) + "; Avg is the mean over all of them",
        external_classifier=_external_text(predictions),
        ambiguous=_ambiguous_text(protocol, selection),
        double_labels=double_labels,
        notes=selection.notes,
    )


def provenance_rows(predictions: Predictions) -> list[tuple[str, str]]:
    """(topic, sentence) of a file that was not scored."""
    provenance = predictions.provenance
    if provenance is None:
        return [("origin", "not stated: the file says nothing about what made it")]
    prompt = (provenance.text or {}).get("prompt")
    return [
        ("method", f"{provenance.method} (psftr {provenance.code_version})"),
        ("checkpoint", provenance.checkpoint_rule),
        ("features", str(provenance.features.get("encoder", "not stated"))),
        ("class text", f"prompt “{prompt}”" if prompt else "not stated"),
        ("detections", f"{predictions.num_detections} in {len(predictions.detections)} videos"),
        ("scored", "no: no ground truth with these labels was given"),
    ]


def _protocol_text(protocol: Protocol, *, stated: bool) -> str:
    if not protocol.is_peer:
        whole = not protocol.excluded_videos and not protocol.min_action_s
        training = "no test class in training or model selection"
        if not stated:
            training = "whether test classes touched training or model selection is not stated"
        rest = "nothing left out of the test" if whole else "parts of the test are left out (see notes)"
        return f"clean: {training}; {rest}"
    rules = ["the checkpoint may be the best on the test classes"]
    if protocol.excluded_videos:
        rules.append(f"{len(protocol.excluded_videos)} test videos excluded")
    if protocol.min_action_s:
        rules.append(f"test actions of {protocol.min_action_s:g} s or less dropped")
    if protocol.penalises_ambiguous:
        rules.append("detections on ambiguous stretches penalised")
    return f"PEER, not comparable with clean numbers: {'; '.join(rules)}"


def _features_text(features: Mapping[str, Any], synthetic: bool) -> str:
    parts = [str(features.get("encoder") or "encoder not stated")]
    if features.get("dim"):
        parts.append(f"{features['dim']}-d")
    if features.get("identity"):
        parts.append(f"store {str(features['identity'])[:16]}")
    if synthetic:
        parts.append("SYNTHETIC: says nothing about real videos")
    return ", ".join(parts)


def _split_text(split: ClassSplit | None, from_file: bool, predictions: Predictions) -> str:
    if split is None:
        return "none: every annotated class counts, seen in training or not"
    told = f"{split.ratio}/{100 - split.ratio}, {split.source}"
    if from_file:
        return f"{told} (as the predictions file says)"
    named = bool(predictions.provenance and predictions.provenance.split)
    return told if named else f"{told}; the file does not say which classes its model has seen"


def _classes_text(selection: Selection, split: ClassSplit | None, training: Training) -> str:
    told = f"{len(selection.classes)} {'unseen' if split else 'annotated'} classes"
    if split:
        told += f", {len(split.seen)} seen"
    if training.held_out:
        told += f", of them {training.classes} trained on (held out: {', '.join(training.held_out)})"
    if selection.absent_classes:
        told += f"; left out, having no test action: {', '.join(selection.absent_classes)}"
    return told


def _external_text(predictions: Predictions) -> str:
    if predictions.provenance:
        return "none"
    external = predictions.external_data or {}
    if external.get("used"):
        return f"the file states external data: {external.get('details') or 'without details'}"
    return "the file states no external data" if external else NOT_STATED


def _counts_text(selection: Selection) -> str:
    told = f"videos: {len(selection.ground_truth)} of {selection.num_candidates}, actions: {selection.num_actions}"
    ambiguous = sum(map(len, selection.ignored.values()))
    return told + (f", ambiguous instances: {ambiguous}" if ambiguous else "")


def _ambiguous_text(protocol: Protocol, selection: Selection) -> str:
    if protocol.penalises_ambiguous:
        return "no ground truth; detections on them are penalised"
    if not any(selection.ignored.values()):
        return ""
    return (
        "neither ground truth nor penalised: a detection that shares time with one and matches no action does not "
        "count (THUMOS14's own rule)"
    )
