"""How each detection came about: the sidecar `stages.json` beside a predictions file.

    {"version": "psftr-stages-1", "method": "cascade", "threshold": P, "counts": {…} or null,
     "failures": {ID: why the video is not finished},
     "videos": {ID: {
        "duration_s": S, "step_s": S,
        "classes": [{"label", "filter_confidence", "caption": text or null, "is_fallback": bool,
                     "stages": [{"description", "is_key"}], "curve_step_s": S, "curves": [[p, …] per stage],
                     "runs": [{"segment": [s, e], "key": stage or null}]}],
        "detections": [{"label", "segment": [s, e], "score", "key": stage, "coverage": share of key stages seen,
                        "runs": [{"segment": [s, e], "key": stage}],
                        "stages": [[{"segment": [s, e], "confidence": mean p}, …] per stage]}]}}}

Stages are numbered from 0 in their class's list. `detections` are in the order of the predictions file. A run with key
null was dropped. Videos that a model looked at also have `num_frames` and the `counts` of their questions. `curves` are
means over `curve_step_s`; `stages` of a detection are the stretches in which that stage
is the best one above the threshold. Seconds throughout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psftr.files import write_json
from psftr.methods.cascade.reconstruction import Instance, Run, key_coverage, reconstruct
from psftr.methods.cascade.settings import ReconstructionSettings
from psftr.methods.cascade.stages import StagePlan
from psftr.predictions import Detection

VERSION = "psftr-stages-1"
CURVE_POINTS = 200


@dataclass(frozen=True, eq=False)
class ClassTrace:
    """One class in one video; confidence [T, S]."""

    plan: StagePlan
    filter_confidence: float
    confidence: NDArray[np.float64]
    runs: tuple[Run, ...]
    instances: tuple[tuple[Instance, float], ...]
    caption: str | None = None
    is_fallback: bool = False


@dataclass(frozen=True, eq=False)
class VideoTrace:
    """One video; rows last `step_s` seconds. Classes that the filter let pass, in its order."""

    video_id: str
    duration_s: float
    step_s: float
    classes: tuple[ClassTrace, ...]
    threshold: float

    def detections(self) -> tuple[Detection, ...]:
        """In seconds, clipped to the video, best score first, equal ones by class and time."""
        return tuple(detection for detection, _, _ in self._ranked())

    def _ranked(self) -> list[tuple[Detection, ClassTrace, Instance]]:
        ranked = [
            (Detection(self.video_id, one.plan.label, *self._segment(instance), score), one, instance)
            for one in self.classes
            for instance, score in one.instances
        ]
        return sorted((row for row in ranked if row[0].end_s > row[0].start_s), key=lambda row: -row[0].score)

    def _segment(self, span: Run | Instance) -> tuple[float, float]:
        return span.first * self.step_s, min(span.last * self.step_s, self.duration_s)

    def to_dict(self) -> dict[str, Any]:
        return {
            "duration_s": _short(self.duration_s),
            "step_s": _short(self.step_s),
            "classes": [self._class(one) for one in self.classes],
            "detections": [self._detection(*row) for row in self._ranked()],
        }

    def _class(self, one: ClassTrace) -> dict[str, Any]:
        width = max(1, -(-len(one.confidence) // CURVE_POINTS))
        starts = np.arange(0, len(one.confidence), width)
        means = np.add.reduceat(one.confidence, starts) / np.diff([*starts, len(one.confidence)])[:, None]
        return {
            "label": one.plan.label,
            "filter_confidence": _short(one.filter_confidence),
            "caption": one.caption,
            "is_fallback": one.is_fallback,
            "stages": [{"description": s.description, "is_key": s.is_key} for s in one.plan.stages],
            "curve_step_s": _short(width * self.step_s),
            "curves": [[round(float(p), 3) for p in column] for column in means.T],
            "runs": [{"segment": _pair(self._segment(run)), "key": run.key} for run in one.runs],
        }

    def _detection(self, detection: Detection, one: ClassTrace, instance: Instance) -> dict[str, Any]:
        return {
            "label": detection.label,
            "segment": _pair((detection.start_s, detection.end_s)),
            "score": detection.score,
            "key": instance.key,
            "coverage": _short(key_coverage(one.confidence, one.plan.is_key, instance, threshold=self.threshold)),
            "runs": [{"segment": _pair(self._segment(run)), "key": run.key} for run in instance.runs],
            "stages": [self._stretches(one.confidence, instance, stage) for stage in range(len(one.plan.stages))],
        }

    def _stretches(self, confidence: NDArray, instance: Instance, stage: int) -> list[dict[str, Any]]:
        rows = confidence[instance.first : instance.last]
        shows = (rows.argmax(axis=1) == stage) & (rows[:, stage] >= self.threshold)
        edges = np.flatnonzero(np.diff(np.concatenate(([False], shows, [False]))))
        return [
            {
                "segment": _pair(((instance.first + a) * self.step_s, (instance.first + b) * self.step_s)),
                "confidence": round(float(rows[a:b, stage].mean()), 3),
            }
            for a, b in zip(edges[::2].tolist(), edges[1::2].tolist())
        ]


def trace_class(
    plan: StagePlan,
    confidence: NDArray,
    *,
    step_s: float,
    filter_confidence: float,
    config: ReconstructionSettings,
    caption: str | None = None,
    is_fallback: bool = False,
) -> ClassTrace:
    """Reconstruct one class and keep how it was done."""
    runs, instances = reconstruct(
        confidence, plan.is_key, step_s=step_s, filter_confidence=filter_confidence, config=config
    )
    return ClassTrace(plan, filter_confidence, confidence, tuple(runs), tuple(instances), caption, is_fallback)


def write_stages(
    path: Path,
    videos: Mapping[str, Mapping[str, Any]],
    *,
    threshold: float,
    counts: Mapping[str, Any] | None = None,
    failures: Mapping[str, str] | None = None,
) -> Path:
    """Write the sidecar; `videos`: `VideoTrace.to_dict` by video id. The old file stays until the new one is whole."""
    content = {
        "version": VERSION,
        "method": "cascade",
        "threshold": threshold,
        "counts": counts,
        "failures": dict(failures or {}),
        "videos": dict(videos),
    }
    return write_json(path, content, indent=None)


def _short(number: float) -> float:
    return round(float(number), 4)


def _pair(segment: Sequence[float]) -> list[float]:
    return [_short(segment[0]), _short(segment[1])]
