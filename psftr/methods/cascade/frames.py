"""Frames of a video for a model to look at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from psftr.features.video import SampledFrame, VideoProbe, num_rows, probe_video, sample_video
from psftr.language_models import Frame, Frames, Pictures


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
    return num_rows(round(probe.total_s * probe.fps), frame_stride(probe, fps=fps, max_frames=max_frames))


def read_frames(path: str | Path, video_id: str, *, fps: float, max_frames: int | None, size: int) -> VideoFrames:
    """Decode a video, frames reduced to `size` pixels on the longer side. Raises VideoError, FileNotFoundError."""
    probe = probe_video(path)
    frames: list[Frame] = []
    pictures = Pictures()

    def emit(frame: SampledFrame) -> None:
        frames.append(Frame.of(frame.rgb, frame.time_s, size=size, pictures=pictures))

    stride = frame_stride(probe, fps=fps, max_frames=max_frames)
    summary = sample_video(probe, stride=stride, emit=emit)
    return VideoFrames(video_id, Frames(tuple(frames)), stride / summary.fps, summary.duration_s)
