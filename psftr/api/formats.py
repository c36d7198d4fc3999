"""Detections in the files other programs read: CSV, SRT and WebVTT subtitles, ActivityNet results, FiftyOne.

`psftr.predictions.write_predictions` writes the one file that keeps everything; these keep what their format can hold.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from psftr import files
from psftr.errors import PsftrError
from psftr.predictions import Detection, Predictions, canonical_id

CSV_COLUMNS = ("video-id", "t-start", "t-end", "label", "score")
ACTIVITYNET_VERSION = "VERSION 1.3"


def write_csv(path: str | os.PathLike[str], detections: Iterable[Detection], *, marks: Sequence[str] = ()) -> Path:
    """One row per detection, in the order given; `read_predictions` reads it back.

    marks: what the detections must not be shown without, such as SYNTHETIC: a last column `note`.
    """
    note = [" ".join(marks)] if marks else []
    rows = ([d.video_id, d.start_s, d.end_s, d.label, d.score, *note] for d in detections)
    return files.write_csv(path, [*CSV_COLUMNS, *(["note"] if marks else [])], rows)


def write_srt(path: str | os.PathLike[str], detections: Iterable[Detection], *, marks: Sequence[str] = ()) -> Path:
    """SubRip subtitles of one video, in time order: marks, the label and its score while the action lasts."""
    cues = [
        f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{_words(d, marks)}\n"
        for number, (start, end, d) in enumerate(_cues(detections), 1)
    ]
    return files.write_text(path, "\n".join(cues))


def write_vtt(path: str | os.PathLike[str], detections: Iterable[Detection], *, marks: Sequence[str] = ()) -> Path:
    """WebVTT subtitles of one video, as browsers show them with a video element's track."""
    cues = [
        f"{_clock(start, '.')} --> {_clock(end, '.')}\n{escape(_words(d, marks), quote=False)}\n"
        for start, end, d in _cues(detections)
    ]
    return files.write_text(path, "\n".join(["WEBVTT\n", *cues]))


def write_activitynet(path: str | os.PathLike[str], predictions: Predictions) -> Path:
    """ActivityNet's results JSON as its evaluation servers and toolkits take it: ids without "v_", no provenance."""
    external = dict(predictions.external_data or {"used": False, "details": ""})
    if predictions.external_data is None and (made := predictions.provenance) is not None:
        details = f"{marked(made.marks)}features: {made.features.get('encoder', 'not stated')}"
        external = {"used": True, "details": details}
    results = {
        canonical_id(video_id): [
            {"label": d.label, "score": d.score, "segment": [d.start_s, d.end_s]} for d in detections
        ]
        for video_id, detections in predictions.detections.items()
    }
    content = {"version": ACTIVITYNET_VERSION, "results": results, "external_data": external}
    return files.write_json(path, content, indent=None)


def write_fiftyone_labels(path: str | os.PathLike[str], predictions: Predictions) -> Path:
    """labels.json of a FiftyOneTemporalDetectionDataset; its videos lie in a folder data/ beside it, named by id.

    Needs no FiftyOne; import with `fiftyone.Dataset.from_dir(dataset_type=fiftyone.types.
    FiftyOneTemporalDetectionDataset, data_path=VIDEOS, labels_path=FILE)`.
    """
    labels = {
        video_id: [{"label": d.label, "timestamps": [d.start_s, d.end_s], "confidence": d.score} for d in detections]
        for video_id, detections in predictions.detections.items()
    }
    content: dict[str, Any] = {"classes": _classes(predictions), "labels": labels}
    if made := predictions.provenance:
        content["info"] = {"marks": list(made.marks)}
    return files.write_json(path, content, indent=None)


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
    known = {canonical_id(video_id): file for video_id, file in videos.items()}
    marks = list(predictions.provenance.marks) if predictions.provenance else []
    samples = []
    for video_id, detections in predictions.detections.items():
        if canonical_id(video_id) not in known:
            continue
        sample = fiftyone.Sample(filepath=str(Path(known[canonical_id(video_id)]).absolute()))
        sample.compute_metadata()  # seconds become frames of this very file
        sample["predictions"] = fiftyone.TemporalDetections(
            detections=[
                fiftyone.TemporalDetection.from_timestamps(
                    [d.start_s, d.end_s], sample=sample, label=d.label, confidence=d.score
                )
                for d in detections
            ]
        )
        if marks:
            sample["marks"] = marks
        samples.append(sample)
    if not samples:
        raise PsftrError(
            f"none of the {len(known)} video files belongs to one of the {len(predictions.detections)} videos of "
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


def marked(marks: Sequence[str]) -> str:
    """What stands before a title or a label: "[SYNTHETIC] ", or nothing."""
    return f"[{', '.join(marks)}] " if marks else ""


def _words(detection: Detection, marks: Sequence[str]) -> str:
    """One line that a subtitle parser cannot take for a time."""
    label = " ".join(detection.label.split()).replace("-->", "->")
    return f"{marked(marks)}{label} ({detection.score:.2g})"
