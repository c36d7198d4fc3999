"""Detections, the file they travel in, and what a localizer is: the seam between every method and evaluation.

The file is the ActivityNet results JSON with a version string and one more key, "psftr": what produced it.
A detection may carry "language_advantage" beside segment, label and score; readers that do not know it pass over it.
Files of other tools lack the key "psftr" and read as `Predictions` whose `provenance` is None. A CSV whose header
names video-id, t-start, t-end, label and score (any order, other columns ignored) reads the same way.

Video ids are kept exactly as written; where predictions meet annotations, ids are compared by the rule of
`canonical_id` (ActivityNet's leading "v_" does not matter).
"""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from psftr import __version__
from psftr.errors import PsftrError
from psftr.files import csv_number, csv_rows, read_json, replacing

if TYPE_CHECKING:
    from psftr.segments import Timeline

VERSION = "psftr-predictions-1"

# what must stand beside detections that say nothing about real videos (`Provenance.marks`), and why
MARKS = {
    "SYNTHETIC": "made from simulated features; says nothing about real videos",
    "UNTRAINED ENCODER": "its weights are random; this only tries the pipeline and means nothing",
}

CHECKPOINT_LAST = "last"
CHECKPOINT_BEST_SEEN = "best-seen-val"
CHECKPOINT_NONE = "none (training-free)"
CHECKPOINT_PEER = "peer: best on test classes"
CHECKPOINT_RULES = (CHECKPOINT_LAST, CHECKPOINT_BEST_SEEN, CHECKPOINT_NONE, CHECKPOINT_PEER)


@cache
def code_version() -> str:
    """Package version; in a checkout also the commit and whether files were changed. Never raises."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return __version__
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return __version__
    return f"{__version__}+g{done.stdout.strip()}"


def canonical_id(video_id: str) -> str:
    """The one rule that joins annotation, feature and prediction files: `v_` before an 11-character id is dropped.

    ActivityNet's ids are YouTube ids, always 11 characters, and its feature files write `v_` before them. Ids of any
    other length (THUMOS14's `video_test_0000004`, the YouTube id `v_UmAH95xls` itself) stay as they are.
    """
    return video_id[2:] if len(video_id) == 13 and video_id.startswith("v_") else video_id


@dataclass(frozen=True, slots=True)
class Detection:
    """`label` happens between `start_s` and `end_s` seconds of `video_id`; a higher score is surer.

    language_advantage: of a method that predicts how much language helps, the mean over the detection's frames.
    """

    video_id: str
    label: str
    start_s: float
    end_s: float
    score: float
    language_advantage: float | None = None


def marks_of(encoder: str, *, synthetic: bool) -> tuple[str, ...]:
    """The names among `MARKS` of what is made with features of this encoder."""
    return ("SYNTHETIC",) * synthetic + ("UNTRAINED ENCODER",) * (":random-seed" in encoder)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What produced a predictions file.

    split: dataset, source, ratio, index, seen, unseen; None where no classes were trained on or chosen.
    features: encoder, dim, identity, synthetic.
    training: what the run was trained on, told by the run itself: videos, classes, names, actions, windows,
    held_out_classes (names kept out of training) and validation (a sentence). None: not trained, or unknown.
    """

    method: str
    checkpoint_rule: str
    config: Mapping[str, Any] = field(default_factory=dict)
    split: Mapping[str, Any] | None = None
    features: Mapping[str, Any] = field(default_factory=dict)
    text: Mapping[str, Any] | None = None
    training: Mapping[str, Any] | None = None
    code_version: str = field(default_factory=code_version)

    def __post_init__(self) -> None:
        if self.checkpoint_rule not in CHECKPOINT_RULES:
            raise PsftrError(
                f"checkpoint rule {self.checkpoint_rule!r} is unknown; give one of {', '.join(CHECKPOINT_RULES)}"
            )

    @property
    def marks(self) -> tuple[str, ...]:
        """Those of `MARKS` that everything made of these detections must carry."""
        synthetic = bool(self.features.get("synthetic") or (self.text or {}).get("synthetic"))
        return marks_of(str(self.features.get("encoder")), synthetic=synthetic)

    def to_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Provenance:
        """Raises PsftrError naming keys that are unknown or absent."""
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise PsftrError(
                f"provenance has unknown keys {', '.join(unknown)}; this psftr ({__version__}) knows "
                f"{', '.join(known)}: read the file with the psftr that wrote it"
            )
        absent = [name for name in known if name not in values and name != "training"]  # older files lack it
        if absent:
            raise PsftrError(f"provenance lacks {', '.join(absent)}; write it with psftr {__version__}")
        return cls(**values)


@dataclass(frozen=True)
class Predictions:
    """`detections` by video id; a video looked at without finding anything maps to an empty tuple.

    external_data: the ActivityNet results key ({"used", "details"}), as written by whoever made the file.
    """

    detections: Mapping[str, tuple[Detection, ...]]
    provenance: Provenance | None = None
    external_data: Mapping[str, Any] | None = None

    @property
    def num_detections(self) -> int:
        return sum(map(len, self.detections.values()))


class FrameFeatures(Protocol):
    """What a localizer needs of a video.

    features: [T, D] float32, one row per step of `timeline`.
    """

    @property
    def video_id(self) -> str: ...
    @property
    def features(self) -> np.ndarray: ...
    @property
    def duration_s(self) -> float: ...
    @property
    def timeline(self) -> Timeline: ...


class Localizer(Protocol):
    """Anything that finds actions, named in plain words, in the features of whole videos."""

    def localize(
        self, videos: Iterable[FrameFeatures], class_names: Sequence[str]
    ) -> Iterator[tuple[str, tuple[Detection, ...]]]:
        """(video id, its detections, best first) of each video, in the order of `videos`, which may be endless."""
        ...


def write_predictions(path: str | os.PathLike[str], predictions: Predictions) -> Path:
    """Write the JSON form, best score first in each video, replacing `path` only once the file is complete.

    Raises PsftrError for a detection that could not be read back.
    """
    path = Path(path)
    results = {}
    for video_id, detections in predictions.detections.items():
        for number, detection in enumerate(detections, 1):
            if detection.video_id != video_id:
                raise PsftrError(f"{path}: detection {number} under {video_id} says {detection.video_id}")
            if complaint := _complaint(detection):
                raise PsftrError(f"{path}: {video_id}, detection {number}: {complaint}")
        results[video_id] = [_row(d) for d in sorted(detections, key=lambda d: -d.score)]
    content: dict[str, Any] = {"version": VERSION, "results": results}
    content["external_data"] = dict(predictions.external_data or {"used": False, "details": ""})
    if predictions.provenance is not None:
        content["psftr"] = predictions.provenance.to_dict()
        if predictions.external_data is None:
            encoder = predictions.provenance.features.get("encoder", "not stated")
            details = f"features: {encoder}; no external classifier"
            content["external_data"] = {"used": True, "details": details}
    with replacing(path) as temporary:
        # json.dump would skip the fast encoder
        temporary.write_text(json.dumps(content, allow_nan=False, default=_plain), encoding="utf-8")
    return path


def read_predictions(path: str | os.PathLike[str]) -> Predictions:
    """Read JSON (ours or any ActivityNet results file) or a .csv. Raises PsftrError naming file and row."""
    path = Path(path)
    return _read_csv(path) if path.suffix.lower() == ".csv" else _read_json(path)


def group_by_video(detections: Iterable[Detection]) -> dict[str, tuple[Detection, ...]]:
    """Detections in any order -> by video id, in order of first appearance."""
    grouped: dict[str, list[Detection]] = {}
    for video_id, run in groupby(detections, key=lambda d: d.video_id):
        grouped.setdefault(video_id, []).extend(run)
    return {video_id: tuple(found) for video_id, found in grouped.items()}


def _read_csv(path: Path) -> Predictions:
    detections = []
    for where, row in csv_rows(path, ("video-id", "t-start", "t-end", "label", "score")):
        start_s, end_s, score = (csv_number(where, row, name) for name in ("t-start", "t-end", "score"))
        detections.append(Detection(row["video-id"], row["label"], start_s, end_s, score))
        if complaint := _complaint(detections[-1]):
            raise PsftrError(f"{where}: {complaint}")
    return Predictions(group_by_video(detections))


def _read_json(path: Path) -> Predictions:
    content = read_json(path, remedy="give an ActivityNet results JSON or a .csv")
    if not isinstance(content, dict) or not isinstance(content.get("results"), dict):
        raise PsftrError(
            f'{path}: no "results" object; an ActivityNet results JSON is '
            '{"results": {ID: [{"segment": [START, END], "label": NAME, "score": NUMBER}]}}'
        )
    version = str(content.get("version", ""))
    if version.startswith("psftr-predictions-") and version != VERSION:
        raise PsftrError(f"{path}: version {version}; this psftr reads {VERSION}: use the one that wrote it")
    provenance = None
    if content.get("psftr") is not None:
        try:
            provenance = Provenance.from_dict(content["psftr"])
        except PsftrError as error:
            raise PsftrError(f"{path}: {error}") from None
    detections = {}
    for video_id, rows in content["results"].items():
        if not isinstance(rows, list):
            raise PsftrError(f"{path}: {video_id} holds {type(rows).__name__}, not a list of detections")
        detections[video_id] = tuple(_detection(path, video_id, n, row) for n, row in enumerate(rows, 1))
    external = content.get("external_data")
    return Predictions(detections, provenance, external if isinstance(external, dict) else None)


def _row(detection: Detection) -> dict[str, Any]:
    row: dict[str, Any] = {"segment": [float(detection.start_s), float(detection.end_s)], "label": detection.label}
    row["score"] = float(detection.score)
    if detection.language_advantage is not None:
        row["language_advantage"] = float(detection.language_advantage)
    return row


def _detection(path: Path, video_id: str, number: int, row: Any) -> Detection:
    try:
        start_s, end_s = row["segment"]
        advantage = row.get("language_advantage")
        advantage = None if advantage is None else float(advantage)
        detection = Detection(video_id, row["label"], float(start_s), float(end_s), float(row["score"]), advantage)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise PsftrError(
            f"{path}: {video_id}, detection {number}: {json.dumps(row)[:120]} is not "
            f'{{"segment": [START, END], "label": NAME, "score": NUMBER}}'
        ) from None
    if not isinstance(detection.label, str):
        raise PsftrError(f"{path}: {video_id}, detection {number}: label {detection.label!r} is not a string")
    if complaint := _complaint(detection):
        raise PsftrError(f"{path}: {video_id}, detection {number}: {complaint}")
    return detection


def _complaint(detection: Detection) -> str | None:
    """What makes a detection unreadable, or None."""
    start_s, end_s, score = detection.start_s, detection.end_s, detection.score
    if not (math.isfinite(start_s) and math.isfinite(end_s) and math.isfinite(score)):
        return f"segment [{start_s}, {end_s}] with score {score} is not finite; every number must be"
    if detection.language_advantage is not None and not math.isfinite(detection.language_advantage):
        return f"language_advantage {detection.language_advantage} is not finite; leave it out where it is not known"
    if end_s < start_s:
        return f"segment [{start_s}, {end_s}] ends before it starts"
    if not detection.label or not detection.video_id:
        return f"{'label' if detection.video_id else 'video id'} is empty"
    return None


def _plain(value: Any) -> Any:
    """NumPy scalars, tuples' kin, paths and dataclasses inside a config, as JSON."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "__dataclass_fields__"):
        return asdict(value)
    raise PsftrError(f"provenance holds {value!r}, not plain data; store numbers, strings, lists and dicts")
