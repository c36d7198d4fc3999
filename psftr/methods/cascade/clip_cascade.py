"""CASCADE without a multimodal model: the four steps on CLIP features, class names and a stage file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from numpy.typing import NDArray

from psftr.errors import PsftrError
from psftr.features.text import TextEmbeddings
from psftr.language_models.settings import ClipSettings
from psftr.methods.cascade.confidence import (
    moving_average,
    similarity_confidence,
    stage_similarity,
    unit,
)
from psftr.methods.cascade.filtering import filter_by_similarity
from psftr.methods.cascade.settings import ReconstructionSettings
from psftr.methods.cascade.stages import StagePlan
from psftr.methods.cascade.trace import VideoTrace, trace_class
from psftr.predictions import Detection, FrameFeatures


class ClipCascade:
    """`Localizer` over a stage file. names: embeddings of class names; sentences: of descriptions and backgrounds."""

    def __init__(
        self,
        *,
        plans: Mapping[str, StagePlan],
        names: TextEmbeddings,
        sentences: TextEmbeddings,
        settings: ClipSettings,
        reconstruction: ReconstructionSettings,
    ) -> None:
        if names.encoder != sentences.encoder or names.dim != sentences.dim:
            raise PsftrError(
                f"class names are embedded by {names.encoder}, stages by {sentences.encoder}: give one encoder's"
            )
        self.plans, self.names, self.sentences = plans, names, sentences
        self.settings, self.reconstruction = settings, reconstruction

    @property
    def config(self) -> dict[str, Any]:
        """What decides the outcome, for provenance."""
        own = {name: value for name, value in asdict(self.settings).items() if name not in ("kind", "name")}
        return {"backend": "clip", **own, "reconstruction": asdict(self.reconstruction)}

    def localize(
        self, videos: Iterable[FrameFeatures], class_names: Sequence[str]
    ) -> Iterator[tuple[str, tuple[Detection, ...]]]:
        """(video id, detections best first) of each video. Raises PsftrError for names without embedding or plan."""
        for features in videos:
            yield features.video_id, self.trace(features, class_names).detections()

    def trace(self, features: FrameFeatures, class_names: Sequence[str]) -> VideoTrace:
        """The four steps on one video, with everything that led to its detections."""
        step_s = features.timeline.seconds(1.0)
        frames = unit(features.features)
        names = self.names.select(class_names).numpy()
        if frames.shape[1] != names.shape[1]:
            raise PsftrError(
                f"features have {frames.shape[1]} dimensions, class texts of {self.names.encoder} {names.shape[1]}; "
                "use the encoder that made the features"
            )
        similarity = moving_average(frames @ unit(names).T, self.settings.smooth_s / step_s)
        passed = filter_by_similarity(similarity, class_names, min_presence=self.settings.min_presence).confidence
        classes = []
        for label, filter_confidence in passed.items():
            plan, confidence = self._confidence(frames, label, step_s)
            classes.append(
                trace_class(
                    plan,
                    confidence,
                    step_s=step_s,
                    filter_confidence=filter_confidence,
                    config=self.reconstruction,
                )
            )
        return VideoTrace(features.video_id, features.duration_s, step_s, tuple(classes), self.reconstruction.threshold)

    def evidence(self, features: FrameFeatures, label: str) -> NDArray:
        """[T]: the best stage confidence of each row for one class, filter or not."""
        return self._confidence(unit(features.features), label, features.timeline.seconds(1.0))[1].max(axis=1)

    def _confidence(self, frames: NDArray, label: str, step_s: float) -> tuple[StagePlan, NDArray]:
        if label not in self.plans:
            raise PsftrError(f"no stage plan for {label}; add it to the stage file")
        plan = self.plans[label]
        stages = self.sentences.select(plan.descriptions).numpy()
        background = self.sentences.select([plan.background]).numpy()[0]
        confidence = similarity_confidence(
            stage_similarity(frames, stages, background),
            slope=self.settings.slope,
            smooth_rows=self.settings.smooth_s / step_s,
            centre=self.settings.centre,
        )
        return plan, confidence
