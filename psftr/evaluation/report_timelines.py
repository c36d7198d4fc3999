"""What the report page's timelines show, as compact plain data: the page's script draws it.

Rows are flat lists of whole numbers: [class, start, end] for ground truth and [class, start, end, score] for
detections, times in hundredths of a second, scores in ten-thousandths of the file's highest. A file also has "asked",
the classes searched for, each of which has a row; "least", the threshold that its score filter starts at; "with", the
files that can be drawn over it, the best partner first. "n" is how many rows of "p" reach the threshold, exactly. A
scored video has its "ap" in percent.

Where a stage trace is given, a video with traced detections also has "s": {"c": {class: how it was looked for},
"d": [how it was put together, or null, per row of "p"]}; flat [start, end, key stage or -1] for runs, flat [start, end,
confidence in thousandths] for the stretches of a stage.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from psftr.data.annotations import Action, Annotations
from psftr.evaluation.stage_trace import StageTrace
from psftr.files import replacing
from psftr.predictions import Detection, Predictions, canonical_id

MOST_DETECTIONS = 60_000  # on a page; about 1.2 MB
FEWEST_PER_VIDEO = 10
COPIES = "videos"  # folder beside the page
PLAYABLE = (".mp4", ".webm", ".m4v", ".mov", ".mkv", ".ogv")


def timeline_data(
    name: str,
    *,
    method: str,
    asked: Sequence[str],
    least: float,
    marks: Sequence[str],
    partners: Sequence[int],
    detections: Mapping[str, Sequence[Detection]],
    ground_truth: Mapping[str, Sequence[Action]],
    ignored: Mapping[str, Sequence[Action]],
    ap: Mapping[str, float],
    durations_s: Mapping[str, float],
    sources: Mapping[str, str],
    most_per_video: int,
    stages: StageTrace | None = None,
) -> dict[str, Any]:
    """One predictions file. Videos are those of either mapping, by canonical id.

    method: what its bars are called. ap: fractions of 1, by video.
    """
    rows = {canonical_id(video_id): found for video_id, found in detections.items()}
    ids = sorted({*rows, *ground_truth})
    labels = {*asked} | {d.label for found in rows.values() for d in found}
    labels |= {a.label for group in (ground_truth, ignored) for actions in group.values() for a in actions}
    place = {label: number for number, label in enumerate(sorted(labels))}
    best = max((d.score for found in rows.values() for d in found), default=0.0)
    top = best if best > 0 else 1.0
    videos = []
    for video_id in ids:
        found = sorted(rows.get(video_id, ()), key=lambda d: -d.score)
        kept, truth = found[:most_per_video], ground_truth.get(video_id, ())
        left_out = ignored.get(video_id, ())
        duration_s = durations_s.get(video_id, math.nan)
        ends = [d.end_s for d in kept] + [a.end_s for a in (*truth, *left_out)]
        video: dict[str, Any] = {
            "id": video_id,
            "d": _cs(max([0.0 if math.isnan(duration_s) else duration_s, *ends])),
            "t": [n for a in truth for n in (place[a.label], _cs(a.start_s), _cs(a.end_s))],
            "p": [
                n
                for d in kept
                for n in (place[d.label], _cs(d.start_s), _cs(d.end_s), max(0, round(10_000 * d.score / top)))
            ],
            "n": sum(d.score >= least for d in kept),
        }
        if left_out:
            video["x"] = [n for a in left_out for n in (place[a.label], _cs(a.start_s), _cs(a.end_s))]
        if len(found) > len(kept):
            video["cut"] = len(found) - len(kept)
        if video_id in ap and not math.isnan(ap[video_id]):
            video["ap"] = round(100 * ap[video_id], 2)
        if video_id in sources:
            video["src"] = sources[video_id]
        if stages is not None:
            video |= _traced(stages, video_id, kept, place)
        videos.append(video)
    return {
        "name": name,
        "method": method,
        "classes": list(place),
        "asked": [place[label] for label in asked],
        "top": top,
        "least": max(0.0, least),
        "marks": list(marks),
        "with": list(partners),
        "videos": videos,
    }


def _traced(
    trace: StageTrace, video_id: str, detections: Sequence[Detection], place: Mapping[str, int]
) -> dict[str, Any]:
    """{"s": …} of one video; empty where the trace knows none of its detections."""
    known = [trace.of(detection) for detection in detections]
    labels = sorted({one.label for one in known if one})
    classes = {str(place[label]): trace.classes[video_id][label] for label in labels}
    return {"s": {"c": classes, "d": [one and one.stages for one in known]}} if labels else {}


def most_per_video(files: Sequence[Predictions]) -> int:
    """How many detections of a video the page can hold."""
    num_videos = sum(len(file.detections) for file in files)
    return max(FEWEST_PER_VIDEO, MOST_DETECTIONS // max(1, num_videos))


def known_durations(annotations: Annotations | None, given: Mapping[str, float] | None) -> dict[str, float]:
    """Seconds by canonical id; what is given wins over the annotations."""
    durations = {} if annotations is None else {v.video_id: v.duration_s for v in annotations.videos.values()}
    return {**durations, **{canonical_id(video_id): seconds for video_id, seconds in (given or {}).items()}}


def partners_of(videos: Mapping[str, Collection[str]], classes: Mapping[str, Collection[str]]) -> dict[str, list[int]]:
    """Places of the files that can be drawn over each: they share videos, and at least half of all their classes.

    videos, classes: of each file. The one with the most videos in common comes first.
    """
    ids = {name: {canonical_id(video_id) for video_id in own} for name, own in videos.items()}
    names = list(videos)
    found = {}
    for name in names:
        shared = {
            place: len(ids[name] & ids[other])
            for place, other in enumerate(names)
            if other != name
            and 2 * len({*classes[name]} & {*classes[other]}) >= len({*classes[name]} | {*classes[other]})
        }
        found[name] = sorted((place for place, number in shared.items() if number), key=lambda place: -shared[place])
    return found


def videos_in(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """The files of a folder by their stems; none where there is no such folder."""
    folder = Path(folder)
    return {file.stem: file for file in sorted(folder.iterdir())} if folder.is_dir() else {}


def addresses(
    files: Mapping[str, str | os.PathLike[str]], page: Path, *, copies: Collection[str] = ()
) -> dict[str, str]:
    """Canonical id -> address, relative to the page, of the files that exist and that a browser may play.

    copies: ids of videos that are copied into a folder beside the page first.
    """
    found = {}
    for given_id, given in files.items():
        file, video_id = Path(given), canonical_id(given_id)
        if file.suffix.lower() not in PLAYABLE or not file.is_file():
            continue
        if video_id in copies:
            file = _copied(file, page.parent / COPIES / f"{video_id}{file.suffix.lower()}")
        try:
            relative = os.path.relpath(os.path.realpath(file), os.path.realpath(page.parent))
        except ValueError:  # another drive
            found[video_id] = file.resolve().as_uri()
        else:
            found[video_id] = quote(Path(relative).as_posix())
    return found


def _copied(file: Path, copy: Path) -> Path:
    """The copy, made only where there is none of the same size and time."""
    if copy.is_file():
        old, new = copy.stat(), file.stat()
        if os.path.samefile(copy, file) or (old.st_size, old.st_mtime_ns) == (new.st_size, new.st_mtime_ns):
            return copy
    with replacing(copy) as temporary:
        shutil.copy2(file, temporary)
    return copy


def _cs(seconds: float) -> int:
    return round(100 * seconds)
