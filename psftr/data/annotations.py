"""Temporal action annotations in seconds: the ActivityNet layout (and a plain CSV) in, `Annotations` out.

Nothing is repaired silently. A row that means something odd stays and is named in `Annotations.troubles`; a row that
can mean nothing (no length, not a number, a label outside the vocabulary) is left out and named there too; a file that
cannot be understood is a `PsftrError` naming file, video and row.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from psftr.errors import PsftrError
from psftr.files import csv_number, csv_rows, nearest_names, read_json, write_json
from psftr.predictions import canonical_id

# Containers, frame counts and annotators disagree about a video's length by up to a few frames: a segment may end this
# much after it without being called trouble.
PAST_END_TOLERANCE_S = 0.1

# Kinds of trouble. Those marked "left out" are not among a video's actions; all others are, exactly as written.
PAST_END = "segment past the end of the video"
BEFORE_START = "segment before the start of the video"
DUPLICATE = "duplicate segment"
TWO_LABELS = "two labels on one segment"
NO_DURATION = "missing duration"  # `Video.duration_s` is NaN and the end of the video is not checked
EMPTY = "segment without length"  # left out: start >= end
NON_FINITE = "non-finite number"  # left out
UNKNOWN_LABEL = "label outside the classes"  # left out

IGNORED_LABELS = ("Ambiguous",)  # THUMOS14's mark for what is neither ground truth nor background

CSV_COLUMNS = ("video-id", "t-start", "t-end", "label")
# other tools' names for them
CSV_ALIASES = {"video": "video-id", "start": "t-start", "end": "t-end"}


@dataclass(frozen=True, slots=True)
class Action:
    start_s: float
    end_s: float
    label: str


@dataclass(frozen=True, slots=True)
class Video:
    """`duration_s` is NaN where the file does not say it; `subset` is '' then too."""

    video_id: str
    subset: str
    duration_s: float
    fps: float | None
    actions: tuple[Action, ...]


@dataclass(frozen=True, slots=True)
class Trouble:
    kind: str
    video_id: str
    detail: str


@dataclass(frozen=True)
class Annotations:
    """Videos by canonical id, in the file's order; `ignored` actions are neither ground truth nor background."""

    videos: Mapping[str, Video]
    troubles: tuple[Trouble, ...] = ()
    ignored: Mapping[str, tuple[Action, ...]] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(sorted({action.label for video in self.videos.values() for action in video.actions}))

    @property
    def subsets(self) -> tuple[str, ...]:
        return tuple(sorted({video.subset for video in self.videos.values()}))

    def subset(self, name: str) -> list[Video]:
        """Videos of one subset. Raises PsftrError if no video is in it."""
        videos = [video for video in self.videos.values() if video.subset == name]
        if not videos:
            raise PsftrError(f"no video is in subset {name!r}; there are {', '.join(map(repr, self.subsets))}")
        return videos

    def only_classes(self, names: Iterable[str]) -> Annotations:
        """The same videos with the actions of other labels dropped."""
        kept = frozenset(names)
        return self.with_videos(
            replace(video, actions=tuple(a for a in video.actions if a.label in kept)) for video in self.videos.values()
        )

    def with_videos(self, videos: Iterable[Video]) -> Annotations:
        """These videos in place of all others; troubles and ignored actions of videos that are gone go too."""
        by_id = {video.video_id: video for video in videos}
        return Annotations(
            videos=by_id,
            troubles=tuple(t for t in self.troubles if t.video_id in by_id),
            ignored={video_id: actions for video_id, actions in self.ignored.items() if video_id in by_id},
        )

    def trouble_counts(self) -> dict[str, int]:
        """Kind -> number, most frequent first."""
        return dict(Counter(trouble.kind for trouble in self.troubles).most_common())


def read_annotations(
    path: str | Path, *, ignore_labels: Sequence[str] = IGNORED_LABELS, classes: Iterable[str] | None = None
) -> Annotations:
    """Read an ActivityNet-style JSON, or a CSV whose header names `video-id,t-start,t-end,label` (seconds).

    `video,start,end,label` will do too.

    Labels outside `classes` (default: the file's own `classes` list, if it has one) are left out and named. Of a CSV,
    the columns `subset` and `duration` are used when present; without the second, durations are NaN.
    Raises PsftrError for a file that cannot be understood.
    """
    path = Path(path)
    if path.suffix.lower() == ".csv":
        entries: Mapping[str, Any] = _csv_entries(path)
    else:
        document = read_json(path, remedy="`psftr prepare` makes annotations, or give another file")
        if not isinstance(document, dict) or not isinstance(document.get("database"), dict):
            raise PsftrError(f'{path}: no "database" object; expected {{"database": {{id: …}}}}')
        entries = document["database"]
        if classes is None and isinstance(document.get("classes"), list):
            classes = document["classes"]
    if not entries:
        raise PsftrError(f"{path}: no video in it")
    known = None if classes is None else frozenset(classes)
    videos: dict[str, Video] = {}
    ignored: dict[str, tuple[Action, ...]] = {}
    troubles: list[Trouble] = []
    for key, entry in entries.items():
        video_id = canonical_id(key)
        if video_id in videos:
            raise PsftrError(f"{path}: video {video_id!r} appears twice (with and without 'v_'); remove one")
        where = f"{path}: video {key!r}"
        video, left_out = _read_video(where, video_id, entry, frozenset(ignore_labels), known, troubles)
        videos[video_id] = video
        if left_out:
            ignored[video_id] = left_out
    return Annotations(videos=videos, troubles=tuple(troubles), ignored=ignored)


def holding(videos: Iterable[Video], classes: Iterable[str]) -> tuple[Video, ...]:
    """The videos that hold an action of these classes, without their other actions."""
    kept = frozenset(classes)
    narrowed = (replace(video, actions=tuple(a for a in video.actions if a.label in kept)) for video in videos)
    return tuple(video for video in narrowed if video.actions)


def known_ids(video_ids: Iterable[str], annotations: Annotations) -> frozenset[str]:
    """The canonical ids. Raises PsftrError for one that the annotations do not know, with the nearest they do."""
    known = frozenset(canonical_id(video_id) for video_id in video_ids)
    strangers = sorted(known - annotations.videos.keys())
    if strangers:
        raise PsftrError(f"excluded videos unknown to the annotations: {nearest_names(strangers, annotations.videos)}")
    return known


def write_annotations(path: str | Path, annotations: Annotations) -> None:
    """Write the ActivityNet layout, ignored actions included; whole or not at all."""
    database: dict[str, Any] = {}
    for video_id, video in annotations.videos.items():
        entry: dict[str, Any] = {"subset": video.subset}
        if math.isfinite(video.duration_s):
            entry["duration"] = video.duration_s
        if video.fps is not None:
            entry["fps"] = video.fps
        actions = (*video.actions, *annotations.ignored.get(video_id, ()))
        entry["annotations"] = [{"segment": [a.start_s, a.end_s], "label": a.label} for a in actions]
        database[video_id] = entry
    write_json(path, {"database": database}, indent=None)


def _read_video(
    where: str,
    video_id: str,
    entry: Any,
    ignore_labels: frozenset[str],
    known: frozenset[str] | None,
    troubles: list[Trouble],
) -> tuple[Video, tuple[Action, ...]]:
    if not isinstance(entry, dict) or not isinstance(entry.get("annotations"), list):
        raise PsftrError(f'{where}: expected an object with a list "annotations", got {_short(entry)}')

    def note(kind: str, detail: str) -> None:
        troubles.append(Trouble(kind, video_id, detail))

    duration_s = _positive(entry.get("duration"))
    if duration_s is None and "csv" not in entry:
        note(NO_DURATION, f"duration is {entry.get('duration')!r}")
    if entry.get("fps") is not None and _positive(entry["fps"]) is None:
        note(NON_FINITE, f"fps is {entry['fps']!r}: left out")
    actions: list[Action] = []
    ignored: list[Action] = []
    labels_of: dict[tuple[float, float], list[str]] = {}
    for row, annotation in enumerate(entry["annotations"]):
        action = _read_action(f"{where}, annotation {row}", annotation)
        told = f"{action.start_s:g} to {action.end_s:g} s, {action.label}"
        if not (math.isfinite(action.start_s) and math.isfinite(action.end_s)):
            note(NON_FINITE, f"{told}: left out")
            continue
        if action.start_s >= action.end_s:
            note(EMPTY, f"{told}: left out")
            continue
        if action.label in ignore_labels:
            ignored.append(action)
            continue
        if known is not None and action.label not in known:
            note(UNKNOWN_LABEL, f"{told}: left out; label {nearest_names([action.label], known)}")
            continue
        if duration_s is not None and action.end_s > duration_s + PAST_END_TOLERANCE_S:
            note(PAST_END, f"{told}; the video lasts {duration_s:g} s")
        if action.start_s < -PAST_END_TOLERANCE_S:
            note(BEFORE_START, told)
        if action in actions:
            note(DUPLICATE, told)
        labels_of.setdefault((action.start_s, action.end_s), []).append(action.label)
        actions.append(action)
    for (start_s, end_s), labels in labels_of.items():
        if len(set(labels)) > 1:
            note(TWO_LABELS, f"{start_s:g} to {end_s:g} s: {', '.join(sorted(set(labels)))}")
    video = Video(
        video_id=video_id,
        subset=str(entry.get("subset") or ""),
        duration_s=math.nan if duration_s is None else duration_s,
        fps=_positive(entry.get("fps")),
        actions=tuple(actions),
    )
    return video, tuple(ignored)


def _read_action(where: str, annotation: Any) -> Action:
    if not isinstance(annotation, dict):
        raise PsftrError(f'{where}: expected {{"segment": [start, end], "label"}}, got {_short(annotation)}')
    segment, label = annotation.get("segment"), annotation.get("label")
    if not isinstance(segment, list) or len(segment) != 2 or not all(_is_number(x) for x in segment):
        raise PsftrError(f"{where}: segment must be two numbers in seconds, got {_short(segment)}")
    if not isinstance(label, str) or not label:
        raise PsftrError(f"{where}: label must be a non-empty string, got {_short(label)}")
    return Action(float(segment[0]), float(segment[1]), label)


def _csv_entries(path: Path) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for where, row in csv_rows(path, CSV_COLUMNS, aliases=CSV_ALIASES):
        segment = [csv_number(where, row, "t-start"), csv_number(where, row, "t-end")]
        # `csv` says that a missing duration is the format's, not this file's
        entry = entries.setdefault(row["video-id"], {"csv": True, "subset": row.get("subset"), "annotations": []})
        if row.get("duration"):
            entry["duration"] = csv_number(where, row, "duration")
        if entry["subset"] != row.get("subset"):
            raise PsftrError(f"{where}: video {row['video-id']!r} is in {row['subset']!r} and in {entry['subset']!r}")
        entry["annotations"].append({"segment": segment, "label": row["label"]})
    return entries


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _positive(value: Any) -> float | None:
    return float(value) if _is_number(value) and math.isfinite(value) and value > 0 else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
