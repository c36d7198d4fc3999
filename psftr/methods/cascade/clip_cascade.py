"""CASCADE without a multimodal model: the four steps on CLIP features, class names and a stage file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psftr.errors import PsftrError
from psftr.features.text import TextEmbeddings
from psftr.methods.cascade.confidence import (
    CENTRES,
    moving_average,
    similarity_confidence,
    stage_similarity,
    unit,
)
from psftr.methods.cascade.filtering import filter_by_similarity
from psftr.methods.cascade.reconstruction import ReconstructionConfig
from psftr.methods.cascade.stages import StagePlan
from psftr.methods.cascade.trace import VideoTrace, trace_class
from psftr.predictions import Detection, FrameFeatures


@dataclass(frozen=True, kw_only=True)
class ClipCascadeConfig:
    """slope, centre, smooth_s: of `similarity_confidence`. min_presence: of the filter."""

    slope: float = 150.0
    centre: str = "median"
    smooth_s: float = 1.0
    min_presence: float = 0.1
    reconstruction: ReconstructionConfig = field(default_factory=ReconstructionConfig)

    def __post_init__(self) -> None:
        if self.slope <= 0 or self.smooth_s < 0:
            raise PsftrError(f"slope {self.slope} must be above 0 and smooth_s {self.smooth_s} not below")
        if self.centre not in CENTRES:
            raise PsftrError(f"centre {self.centre!r} is unknown; choose {' or '.join(CENTRES)}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class ClipCascade:
    """`Localizer` over a stage file. names: embeddings of class names; sentences: of descriptions and backgrounds."""

    def __init__(
        self,
        *,
        plans: Mapping[str, StagePlan],
        names: TextEmbeddings,
        sentences: TextEmbeddings,
        config: ClipCascadeConfig | None = None,
    ) -> None:
        if names.encoder != sentences.encoder or names.dim != sentences.dim:
            raise PsftrError(
                f"class names are embedded by {names.encoder}, stages by {sentences.encoder}: give one encoder's"
            )
        self.plans, self.names, self.sentences = plans, names, sentences
        self.config = config or ClipCascadeConfig()

    def localize(self, features: FrameFeatures, class_names: Sequence[str]) -> list[Detection]:
        """Detections of one video, best first. Raises PsftrError for names without embedding or plan."""
        return list(self.trace(features, class_names).detections())

    def trace(self, features: FrameFeatures, class_names: Sequence[str]) -> VideoTrace:
        """The four steps on one video, with everything that led to its detections."""
        config, step_s = self.config, features.timeline.seconds(1.0)
        frames = unit(features.features)
        names = self.names.select(class_names).numpy()
        if frames.shape[1] != names.shape[1]:
            raise PsftrError(
                f"features have {frames.shape[1]} dimensions, class texts of {self.names.encoder} {names.shape[1]}; "
                "use the encoder that made the features"
            )
        similarity = moving_average(frames @ unit(names).T, config.smooth_s / step_s)
        passed = filter_by_similarity(similarity, class_names, min_presence=config.min_presence).confidence
        classes = []
        for label, filter_confidence in passed.items():
            plan, confidence = self._confidence(frames, label, step_s)
            classes.append(
                trace_class(
                    plan,
                    confidence,
                    step_s=step_s,
                    filter_confidence=filter_confidence,
                    config=config.reconstruction,
                )
            )
        return VideoTrace(
            features.video_id, features.duration_s, step_s, tuple(classes), config.reconstruction.threshold
        )

    def evidence(self, features: FrameFeatures, label: str) -> NDArray[np.float64]:
        """[T]: the best stage confidence of each row for one class, filter or not."""
        return self._confidence(unit(features.features), label, features.timeline.seconds(1.0))[1].max(axis=1)

    def _confidence(self, frames: NDArray, label: str, step_s: float) -> tuple[StagePlan, NDArray[np.float64]]:
        if label not in self.plans:
            raise PsftrError(f"no stage plan for {label}; add it to the stage file")
        plan = self.plans[label]
        stages = self.sentences.select(plan.descriptions).numpy()
        background = self.sentences.select([plan.background]).numpy()[0]
        confidence = similarity_confidence(
            stage_similarity(frames, stages, background),
            slope=self.config.slope,
            smooth_rows=self.config.smooth_s / step_s,
            centre=self.config.centre,
        )
        return plan, confidence
