"""Reads the sidecar `stages.json` (`psftr-stages-1`): how a stage-wise method came by each detection.

docs/cascade.md describes the format. Curves and counts are not read: the report page does not draw them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psftr.errors import PsftrError
from psftr.predictions import Detection, canonical_id

VERSION = "psftr-stages-1"
SIDECAR = "stages.json"
NEAR_S = 0.005  # the sidecar rounds its seconds


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds. `value`: of a run its key stage, None for a dropped one; of a stage's stretch its mean confidence."""

    start_s: float
    end_s: float
    value: float | None


@dataclass(frozen=True)
class ClassStages:
    """How one class was looked for in one video; stages are numbered from 0 in this order."""

    label: str
    descriptions: tuple[str, ...]
    is_key: tuple[bool, ...]
    filter_confidence: float
    is_fallback: bool
    runs: tuple[Span, ...]


@dataclass(frozen=True)
class DetectionStages:
    """How one detection was put together: runs that were merged, and per stage the stretches where it is the best."""

    label: str
    start_s: float
    end_s: float
    key: int
    coverage: float
    runs: tuple[Span, ...]
    stages: tuple[tuple[Span, ...], ...]


@dataclass(frozen=True)
class StageTrace:
    """A sidecar; both mappings by canonical video id."""

    threshold: float
    classes: Mapping[str, Mapping[str, ClassStages]]
    detections: Mapping[str, tuple[DetectionStages, ...]]

    def of(self, detection: Detection) -> DetectionStages | None:
        """The trace of a detection, told by video, class and times; None where the sidecar has none."""
        for traced in self.detections.get(canonical_id(detection.video_id), ()):
            apart_s = max(abs(traced.start_s - detection.start_s), abs(traced.end_s - detection.end_s))
            if traced.label == detection.label and apart_s <= NEAR_S:
                return traced
        return None


def find_stage_trace(predictions: str | os.PathLike[str]) -> Path | None:
    """The sidecar beside a predictions file; None where there is none, or `stages.json` is a plan or the like."""
    file = Path(predictions).parent / SIDECAR
    if not file.is_file():
        return None
    with file.open(encoding="utf-8", errors="replace") as opened:
        return file if "psftr-stages-" in opened.read(200) else None


def read_stage_trace(path: str | os.PathLike[str]) -> StageTrace:
    """Read a sidecar.

    Raises:
        PsftrError: no such file, not JSON, another version, or an entry that is not as the format has it.
    """
    path = Path(path)
    if not path.is_file():
        raise PsftrError(f"no stage trace {path}: give the stages.json that `psftr cascade` wrote")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PsftrError(f"{path} is no JSON ({error}): make it again with `psftr cascade`") from error
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        raise PsftrError(
            f"{path} has version {version!r}, this psftr reads {VERSION!r}: make it again with `psftr cascade`"
        )
    try:
        videos = {canonical_id(video_id): video for video_id, video in content["videos"].items()}
        classes = {v: {one["label"]: _class(one) for one in video["classes"]} for v, video in videos.items()}
        detections = {v: tuple(map(_detection, video["detections"])) for v, video in videos.items()}
        for video_id, found in detections.items():
            for one in found:
                if len(one.stages) != len(classes[video_id][one.label].descriptions):
                    raise ValueError(f"a detection in {video_id} has not the stages of {one.label}")
        return StageTrace(float(content["threshold"]), classes, detections)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        told = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise PsftrError(f"{path} is damaged ({told}): make it again with `psftr cascade`") from error


def _class(one: Mapping[str, Any]) -> ClassStages:
    return ClassStages(
        label=str(one["label"]),
        descriptions=tuple(str(stage["description"]) for stage in one["stages"]),
        is_key=tuple(bool(stage["is_key"]) for stage in one["stages"]),
        filter_confidence=float(one["filter_confidence"]),
        is_fallback=bool(one["is_fallback"]),
        runs=tuple(_span(run, "key") for run in one["runs"]),
    )


def _detection(one: Mapping[str, Any]) -> DetectionStages:
    start, end = map(float, one["segment"])
    return DetectionStages(
        label=str(one["label"]),
        start_s=start,
        end_s=end,
        key=int(one["key"]),
        coverage=float(one["coverage"]),
        runs=tuple(_span(run, "key") for run in one["runs"]),
        stages=tuple(tuple(_span(part, "confidence") for part in parts) for parts in one["stages"]),
    )


def _span(entry: Mapping[str, Any], value: str) -> Span:
    start, end = map(float, entry["segment"])
    return Span(start, end, None if entry[value] is None else float(entry[value]))
