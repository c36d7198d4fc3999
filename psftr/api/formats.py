"""Detections in the files other programs read: CSV, SRT and WebVTT subtitles, ActivityNet results, FiftyOne.

`psftr.predictions.write_predictions` writes the one file that keeps everything; these keep what their format can hold.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from psftr.errors import PsftrError
from psftr.predictions import Detection, Predictions, canonical_id

CSV_COLUMNS = ("video-id", "t-start", "t-end", "label", "score")
ACTIVITYNET_VERSION = "VERSION 1.3"


def write_csv(path: str | os.PathLike[str], detections: Iterable[Detection]) -> Path:
    """One row per detection, in the order given; `read_predictions` reads it back."""
    path = _ready(path)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(CSV_COLUMNS)
        writer.writerows((d.video_id, d.start_s, d.end_s, d.label, d.score) for d in detections)
    return path


def write_srt(path: str | os.PathLike[str], detections: Iterable[Detection]) -> Path:
    """SubRip subtitles of one video, in time order: the label and its score while the action lasts."""
    cues = [
        f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{_plain(d.label)} ({d.score:.2g})\n"
        for number, (start, end, d) in enumerate(_cues(detections), 1)
    ]
    path = _ready(path)
    path.write_text("\n".join(cues), encoding="utf-8")
    return path


def write_vtt(path: str | os.PathLike[str], detections: Iterable[Detection]) -> Path:
    """WebVTT subtitles of one video, as browsers show them with a video element's track."""
    cues = [
        f"{_clock(start, '.')} --> {_clock(end, '.')}\n{escape(_plain(d.label), quote=False)} ({d.score:.2g})\n"
        for start, end, d in _cues(detections)
    ]
    path = _ready(path)
    path.write_text("\n".join(["WEBVTT\n", *cues]), encoding="utf-8")
    return path


def write_activitynet(path: str | os.PathLike[str], predictions: Predictions) -> Path:
    """ActivityNet's results JSON as its evaluation servers and toolkits take it: ids without "v_", no provenance."""
    external = dict(predictions.external_data or {"used": False, "details": ""})
    if predictions.external_data is None and predictions.provenance is not None:
        details = f"features: {predictions.provenance.features.get('encoder', 'not stated')}"
        external = {"used": True, "details": details}
    results = {
        canonical_id(video_id): [
            {"label": d.label, "score": d.score, "segment": [d.start_s, d.end_s]} for d in detections
        ]
        for video_id, detections in predictions.detections.items()
    }
    path = _ready(path)
    content = {"version": ACTIVITYNET_VERSION, "results": results, "external_data": external}
    path.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
    return path


def write_fiftyone_labels(path: str | os.PathLike[str], predictions: Predictions) -> Path:
    """labels.json of a FiftyOneTemporalDetectionDataset; its videos lie in a folder data/ beside it, named by id.

    Needs no FiftyOne; import with `fiftyone.Dataset.from_dir(dataset_type=fiftyone.types.
    FiftyOneTemporalDetectionDataset, data_path=VIDEOS, labels_path=FILE)`.
    """
    labels = {
        video_id: [{"label": d.label, "timestamps": [d.start_s, d.end_s], "confidence": d.score} for d in detections]
        for video_id, detections in predictions.detections.items()
    }
    path = _ready(path)
    path.write_text(json.dumps({"classes": _classes(predictions), "labels": labels}, allow_nan=False), encoding="utf-8")
    return path


def fiftyone_dataset(
    predictions: Predictions, videos: Mapping[str, str | os.PathLike[str]], *, name: str | None = None
) -> Any:
    """A FiftyOne dataset of the videos whose files are given, with their detections as `predictions`.

    Raises PsftrError where FiftyOne is not installed, or no file belongs to a video of the predictions.
    """
    try:
        import fiftyone
    except ImportError as error:
        raise PsftrError("FiftyOne is not installed: install psftr with its extra 'fiftyone'") from error
    files = {canonical_id(video_id): file for video_id, file in videos.items()}
    samples = []
    for video_id, detections in predictions.detections.items():
        if canonical_id(video_id) not in files:
            continue
        sample = fiftyone.Sample(filepath=str(Path(files[canonical_id(video_id)]).absolute()))
        sample.compute_metadata()  # seconds become frames of this very file
        sample["predictions"] = fiftyone.TemporalDetections(
            detections=[
                fiftyone.TemporalDetection.from_timestamps(
                    [d.start_s, d.end_s], sample=sample, label=d.label, confidence=d.score
                )
                for d in detections
            ]
        )
        samples.append(sample)
    if not samples:
        raise PsftrError(
            f"none of the {len(files)} video files belongs to one of the {len(predictions.detections)} videos of "
            "the predictions; give files by video id"
        )
    dataset = fiftyone.Dataset(name)
    dataset.add_samples(samples)
    return dataset


def _classes(predictions: Predictions) -> list[str]:
    return sorted({d.label for detections in predictions.detections.values() for d in detections})


def _cues(detections: Iterable[Detection]) -> list[tuple[int, int, Detection]]:
    """(start, end, detection) in milliseconds, in time order, none without length."""
    timed = [(round(1000 * d.start_s), round(1000 * d.end_s), d) for d in detections]
    timed.sort(key=lambda cue: (cue[0], -cue[2].score, cue[1]))
    return [(max(0, start), max(start + 1, end, 1), d) for start, end, d in timed]


def _clock(milliseconds: int, mark: str) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{mark}{rest:03d}"


def _plain(label: str) -> str:
    """One line that a subtitle parser cannot take for a time."""
    return " ".join(label.split()).replace("-->", "->")


def _ready(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
