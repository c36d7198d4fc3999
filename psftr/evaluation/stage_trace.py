"""Reads the sidecar `stages.json` (`psftr-stages-1`): how a stage-wise method came by each detection.

docs/cascade.md describes the format. Curves and counts are not read: the report page does not draw them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psftr.errors import PsftrError
from psftr.files import read_json
from psftr.predictions import Detection, canonical_id

VERSION = "psftr-stages-1"
SIDECAR = "stages.json"
REMEDY = "make it again with `psftr cascade`"
NEAR_S = 0.005  # the sidecar rounds its seconds


@dataclass(frozen=True)
class Traced:
    """One detection of the sidecar. `stages`: as in the page's data, see report_timelines."""

    label: str
    start_s: float
    end_s: float
    stages: Mapping[str, Any]


@dataclass(frozen=True)
class StageTrace:
    """A sidecar, by canonical video id. classes: how each class was looked for, in the form of the page's data."""

    classes: Mapping[str, Mapping[str, Mapping[str, Any]]]
    detections: Mapping[str, tuple[Traced, ...]]

    def of(self, detection: Detection) -> Traced | None:
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
    content = read_json(path, remedy=REMEDY)
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        raise PsftrError(f"{path} has version {version!r}, this psftr reads {VERSION!r}: {REMEDY}")
    try:
        videos = {canonical_id(video_id): video for video_id, video in content["videos"].items()}
        classes = {v: {str(one["label"]): _class(one) for one in video["classes"]} for v, video in videos.items()}
        detections = {v: tuple(map(_detection, video["detections"])) for v, video in videos.items()}
        for video_id, found in detections.items():
            for one in found:
                if len(one.stages["stages"]) != len(classes[video_id][one.label]["stages"]):
                    raise ValueError(f"a detection in {video_id} has not the stages of {one.label}")
        return StageTrace(classes, detections)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        told = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise PsftrError(f"{path} is damaged ({told}): {REMEDY}") from error


def _class(one: Mapping[str, Any]) -> dict[str, Any]:
    stages = [[str(stage["description"]), int(bool(stage["is_key"]))] for stage in one["stages"]]
    fallback = {"fallback": 1} if one["is_fallback"] else {}
    return {"stages": stages, "filter": round(float(one["filter_confidence"]), 3), "runs": _runs(one), **fallback}


def _detection(one: Mapping[str, Any]) -> Traced:
    start_s, end_s = map(float, one["segment"])
    stages = {
        "key": int(one["key"]),
        "coverage": round(float(one["coverage"]), 3),
        "runs": _runs(one),
        "stages": [
            [n for part in parts for n in (*_times(part), round(1000 * (part["confidence"] or 0)))]
            for parts in one["stages"]
        ],
    }
    return Traced(str(one["label"]), start_s, end_s, stages)


def _runs(one: Mapping[str, Any]) -> list[int]:
    return [n for run in one["runs"] for n in (*_times(run), -1 if run["key"] is None else int(run["key"]))]


def _times(entry: Mapping[str, Any]) -> tuple[int, int]:
    start_s, end_s = entry["segment"]
    return round(100 * start_s), round(100 * end_s)
