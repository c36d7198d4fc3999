"""Frames of a video for a model to look at, and what became of videos already looked at."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psftr.errors import PsftrError
from psftr.features.video import SampledFrame, VideoProbe, probe_video, sample_video
from psftr.language_models import Frames
from psftr.predictions import Detection


@dataclass(frozen=True, eq=False)
class VideoFrames:
    """One frame per `step_s` seconds of a video; `video_id` stays here and is no model's business."""

    video_id: str
    frames: Frames
    step_s: float
    duration_s: float


def frame_stride(probe: VideoProbe, *, fps: float, max_frames: int | None) -> int:
    """Frames of the video per frame looked at: at least `fps` of them a second, at most `max_frames` in all."""
    stride = max(1, math.floor(float(probe.fps) / fps))
    if max_frames is not None:
        stride = max(stride, math.ceil(float(probe.total_s * probe.fps) / max_frames))
    return stride


def count_frames(path: str | Path, *, fps: float, max_frames: int | None) -> int:
    """How many frames `read_frames` would give, without decoding. Raises VideoError, FileNotFoundError."""
    probe = probe_video(path)
    return math.ceil(round(float(probe.total_s * probe.fps)) / frame_stride(probe, fps=fps, max_frames=max_frames))


def read_frames(
    path: str | Path, video_id: str, *, fps: float, max_frames: int | None = None, size: int = 448
) -> VideoFrames:
    """Decode a video, frames reduced to `size` pixels on the longer side. Raises VideoError, FileNotFoundError."""
    probe = probe_video(path)
    pictures: list[NDArray[np.uint8]] = []
    times_s: list[float] = []

    def emit(frame: SampledFrame) -> None:
        from PIL import Image

        image = Image.fromarray(frame.rgb)
        image.thumbnail((size, size))
        pictures.append(np.asarray(image))
        times_s.append(frame.time_s)

    stride = frame_stride(probe, fps=fps, max_frames=max_frames)
    summary = sample_video(probe, stride=stride, emit=emit)
    return VideoFrames(video_id, Frames(tuple(pictures), tuple(times_s)), stride / summary.fps, summary.duration_s)


class Journal:
    """Finished videos of a run, one file each, so that going on asks nothing about them again, failures included.

    run: everything that decides the outcome; files of another run are not seen.
    """

    def __init__(self, folder: Path, run: dict[str, Any]) -> None:
        self.folder = folder
        self._run = json.dumps(run, sort_keys=True, default=str)
        folder.mkdir(parents=True, exist_ok=True)

    def _path(self, video_id: str) -> Path:
        return self.folder / f"{hashlib.sha256(f'{self._run}/{video_id}'.encode()).hexdigest()[:24]}.json"

    def get(self, video_id: str) -> tuple[tuple[Detection, ...], dict[str, Any]] | None:
        """(detections, trace) of a finished video, or None."""
        path = self._path(video_id)
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            detections = tuple(Detection(video_id, *row) for row in content["detections"])
            return detections, content["trace"]
        except (ValueError, KeyError, TypeError) as error:
            raise PsftrError(f"{path} is damaged ({error!r}): remove it, or run again with redo=true") from None

    def put(self, video_id: str, detections: tuple[Detection, ...], trace: dict[str, Any]) -> None:
        rows = [[d.label, d.start_s, d.end_s, d.score] for d in detections]
        path = self._path(video_id)
        partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        partial.write_text(json.dumps({"detections": rows, "trace": trace}), encoding="utf-8")
        os.replace(partial, path)

    def clear(self) -> None:
        for path in self.folder.glob("*.json"):
            path.unlink()
