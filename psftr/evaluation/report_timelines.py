"""What the report page's timeline browser shows, as compact plain data: the page's script draws it.

Rows are flat lists of whole numbers: [class, start, end] for ground truth and [class, start, end, score] for
detections, times in hundredths of a second, scores in ten-thousandths of the file's highest.

Where a stage trace is given, a video with traced detections also has "s": {"c": {class: how it was looked for},
"d": [how it was put together, or null, per row of "p"]}; flat [start, end, key stage or -1] for runs, flat [start, end,
confidence in thousandths] for the stretches of a stage.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from psftr.data.annotations import Action, Annotations
from psftr.evaluation.stage_trace import StageTrace
from psftr.predictions import Detection, Predictions, canonical_id

MOST_DETECTIONS = 60_000  # on a page; about 1.2 MB
FEWEST_PER_VIDEO = 10
SHOWN_PER_VIDEO = 10  # the score filter starts where this many are left on average
PLAYABLE = (".mp4", ".webm", ".m4v", ".mov", ".mkv", ".ogv")


def timeline_data(
    name: str,
    *,
    detections: Mapping[str, Sequence[Detection]],
    ground_truth: Mapping[str, Sequence[Action]],
    ignored: Mapping[str, Sequence[Action]],
    durations_s: Mapping[str, float],
    sources: Mapping[str, str],
    most_per_video: int,
    stages: StageTrace | None = None,
) -> dict[str, Any]:
    """One predictions file. Videos are those of either mapping, by canonical id."""
    rows = {canonical_id(video_id): found for video_id, found in detections.items()}
    ids = sorted({*rows, *ground_truth})
    labels = {d.label for found in rows.values() for d in found}
    labels |= {a.label for group in (ground_truth, ignored) for actions in group.values() for a in actions}
    place = {label: number for number, label in enumerate(sorted(labels))}
    scores = sorted((d.score for found in rows.values() for d in found), reverse=True)
    top = scores[0] if scores and scores[0] > 0 else 1.0
    least = scores[min(len(scores), SHOWN_PER_VIDEO * len(ids)) - 1] if scores else 0.0
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
        }
        if left_out:
            video["x"] = [n for a in left_out for n in (place[a.label], _cs(a.start_s), _cs(a.end_s))]
        if len(found) > len(kept):
            video["cut"] = len(found) - len(kept)
        if video_id in sources:
            video["src"] = sources[video_id]
        if stages is not None:
            video |= _traced(stages, video_id, kept, place)
        videos.append(video)
    return {"name": name, "classes": list(place), "top": top, "least": max(0.0, least), "videos": videos}


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


def video_sources(folder: str | os.PathLike[str], page: Path) -> dict[str, str]:
    """Canonical id -> address, relative to the page, of every video in `folder` that a browser may play."""
    folder = Path(folder)
    if not folder.is_dir():
        return {}
    return file_addresses({file.stem: file for file in sorted(folder.iterdir())}, page)


def file_addresses(files: Mapping[str, str | os.PathLike[str]], page: Path) -> dict[str, str]:
    """Canonical id -> address, relative to the page, of the files that exist and that a browser may play."""
    return {
        canonical_id(video_id): quote(Path(os.path.relpath(file, page.parent)).as_posix())
        for video_id, file in files.items()
        if Path(file).suffix.lower() in PLAYABLE and Path(file).is_file()
    }


def _cs(seconds: float) -> int:
    return round(100 * seconds)
