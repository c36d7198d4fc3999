"""Decode a video into one frame per feature row, on an exact timeline, and say what could not be read.

The timeline. Frame k of a video is what is on screen at (k + 1/2) / fps seconds after its first frame. At a constant
frame rate that is simply the k-th frame; at a variable one it follows the timestamps, with fps = frames / duration.
Row i covers frames [i*stride, (i+1)*stride) and shows frame i*stride + stride//2, the centre; a last row that ends
before its centre shows its last frame. So T = ceil(num_frames / stride): no frame of the video is left without a row.
(Peers drop the incomplete last row: T = floor. psftr reads their stores too.)

Frame rate and number come from the packets' timestamps and the decoded frames, never from the container alone; the
length that a container declares only shows whether frames are missing. A file that gives no frame is a VideoError;
one that gives fewer than it should carries a `Shortfall`. (Transport streams and raw streams declare no length: one
that was cut between two frames is a shorter video like any other.)
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psftr.errors import PsftrError
from psftr.features.settings import ExtractSettings
from psftr.features.video.probe import (
    VideoError,
    VideoProbe,
    main_stream,
    one_line_reason,
    open_video,
    probe_video,
    read_packets,
)

DECODERS = ("pyav", "torchcodec")
# Endings that a folder is searched for; a file that is named itself may have any ending.
SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".ts", ".3gp", ".ogv")


@dataclass(frozen=True)
class Shortfall:
    """What a video should have had and did not: its rows stand for less than the file promised."""

    declared_s: float | None
    decoded_s: float
    lost_frames: int
    corrupt_frames: int
    skipped_frames: int

    def __str__(self) -> str:
        parts = []
        if self.declared_s is not None and abs(self.declared_s - self.decoded_s) > 0.05:
            parts.append(f"declares {self.declared_s:.2f} s, {self.decoded_s:.2f} s could be decoded")
        if self.lost_frames:
            parts.append(f"{self.lost_frames} frames lost")
        if self.corrupt_frames:
            parts.append(f"{self.corrupt_frames} frames damaged")
        if self.skipped_frames:
            parts.append(f"timestamps skip {self.skipped_frames} frames")
        return "; ".join(parts) or f"ends {self.decoded_s:.2f} s in, before its data do"


@dataclass(frozen=True)
class SampledFrame:
    """The frame of one row: `rgb [H, W, 3]` uint8, upright; `time_s` its own timestamp from the video's start."""

    row: int
    time_s: float
    rgb: NDArray[np.uint8]


@dataclass(frozen=True)
class VideoSummary:
    """A decoded video: `num_rows` rows of `stride` frames; `duration_s` = num_frames / fps."""

    num_rows: int
    stride: int
    fps: float
    num_frames: int
    is_variable: bool
    shortfall: Shortfall | None

    @property
    def duration_s(self) -> float:
        return self.num_frames / self.fps


def num_rows(num_frames: int, stride: int) -> int:
    """T of a video: every frame belongs to a row."""
    return -(-num_frames // stride)


def row_frame(row: int, *, stride: int, num_frames: int) -> int:
    """The frame a row shows: its centre, or the video's last frame where the last row ends before its centre."""
    return min(row * stride + stride // 2, num_frames - 1)


def check_decoder(decoder: str) -> None:
    """Raise PsftrError if `decoder` is unknown or not installed. PyAV is needed in any case, for the timeline."""
    if decoder not in DECODERS:
        raise PsftrError(f"decoder {decoder!r} is unknown; choose one of {', '.join(DECODERS)}")
    try:
        importlib.import_module("av")
    except ImportError as error:
        raise PsftrError("reading videos needs PyAV: install psftr with its extra 'video'") from error
    if decoder == "torchcodec":
        try:
            importlib.import_module("torchcodec.decoders")
        except (ImportError, RuntimeError, OSError) as error:  # it also fails where it finds no FFmpeg libraries
            reason = one_line_reason(error)[:120]
            raise PsftrError(
                f"decoder=torchcodec cannot be used ({reason}); install torchcodec, or use decoder=pyav"
            ) from error


def sample_video(
    video: str | Path | VideoProbe,
    *,
    stride: int,
    emit: Callable[[SampledFrame], None],
    decoder: str = ExtractSettings.decoder,
    threads: int = 1,
) -> VideoSummary:
    """Decode a file (or what `probe_video` returned for it) and call `emit` for each row in order.

    `threads`: the decoder's own (0: as many as there are cores). An exception of `emit` stops decoding and passes
    through. Raises VideoError, FileNotFoundError or IsADirectoryError, and PsftrError for a missing decoder.
    """
    if stride < 1:
        raise PsftrError(f"stride must be at least 1 frame, got {stride}")
    check_decoder(decoder)
    probe = video if isinstance(video, VideoProbe) else probe_video(video)
    if decoder == "torchcodec":
        return _sample_with_torchcodec(probe, stride=stride, emit=emit, threads=threads)
    tally = _Tally()
    rows, fps = 0, float(probe.fps)
    held: _TimedFrame | None = None
    to_rgb = _RgbConverter()
    for frame in _decode(probe, threads=threads, tally=tally):
        # The centre of row `rows` is (rows*stride + stride//2 + 1/2) / fps; what was on screen then is `held`.
        while held is not None and rows * stride + stride // 2 + 0.5 < frame.time_s * fps:
            emit(SampledFrame(rows, held.time_s, to_rgb(held.picture)))
            rows += 1
        held = frame
    if held is None:
        raise VideoError(f"{probe.path}: none of its {probe.num_packets} video packets decodes to a frame")
    num_frames = _count_frames(probe, held.time_s, tally)
    for row in range(rows, num_rows(num_frames, stride)):
        emit(SampledFrame(row, held.time_s, to_rgb(held.picture)))
    return VideoSummary(
        num_rows=num_rows(num_frames, stride),
        stride=stride,
        fps=fps,
        num_frames=num_frames,
        is_variable=probe.is_variable,
        shortfall=_shortfall(probe, num_frames, tally),
    )


def _count_frames(probe: VideoProbe, last_s: float, tally: _Tally) -> int:
    """Frames of the timeline: up to the last decoded frame, and to the end of its display if it is the last one."""
    last_frame = math.floor(last_s * float(probe.fps) + 0.5)
    if not probe.is_timed or tally.decoded < probe.num_packets:
        return last_frame + 1
    return max(last_frame + 1, round(probe.total_s * probe.fps))


def _shortfall(probe: VideoProbe, num_frames: int, tally: _Tally) -> Shortfall | None:
    fps = float(probe.fps)
    decoded_s = num_frames / fps
    lost = max(0, probe.num_packets - tally.decoded)
    # A declared length is exact but for its rounding and the last frame's; a far too small one is as suspect.
    declared_s = probe.declared_s
    is_off = declared_s is not None and (declared_s - decoded_s > 0.75 / fps or decoded_s > 2 * declared_s + 1)
    if not (is_off or lost or tally.corrupt or probe.is_truncated or probe.num_skipped):
        return None
    return Shortfall(
        declared_s=declared_s,
        decoded_s=decoded_s,
        lost_frames=lost,
        corrupt_frames=tally.corrupt,
        skipped_frames=probe.num_skipped,
    )


@dataclass
class _Tally:
    """What was decoded so far."""

    decoded: int = 0
    corrupt: int = 0


@dataclass(frozen=True)
class _TimedFrame:
    time_s: float
    picture: Any


class _RgbConverter:
    """av.VideoFrame -> `[H, W, 3]` uint8 as it is to be seen; keeps one conversion context per video."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()

    def __call__(self, picture: Any) -> NDArray[np.uint8]:
        # The pixels are those of frame.to_image(); one thread, because a context per core costs more than it saves.
        rgb: Any = self._reformatter.reformat(picture, format="rgb24", threads=1).to_ndarray()
        quarter_turns = round(picture.rotation / 90) % 4  # phones store portrait videos lying down
        return np.ascontiguousarray(np.rot90(rgb, quarter_turns)) if quarter_turns else rgb


def _decode(probe: VideoProbe, *, threads: int, tally: _Tally) -> Iterator[_TimedFrame]:
    """All frames that decode, in display order; damage is counted and skipped."""
    import av

    with open_video(probe.path) as container:
        stream = main_stream(container, probe.path)
        stream.codec_context.thread_count = threads
        if threads != 1:
            stream.codec_context.thread_type = "AUTO"
        time_base = stream.time_base
        fps, origin_s, total_s, latest_s = map(float, (probe.fps, probe.origin_s, probe.total_s, 0))
        for packet in read_packets(container, stream):
            try:
                pictures = stream.codec_context.decode(packet)  # None flushes, as the empty last packet does
            except (av.FFmpegError, LookupError, RuntimeError):
                continue  # its frames are missing from the count, which the summary reports
            for picture in pictures:
                if not probe.is_timed:
                    time_s = tally.decoded / fps
                elif picture.pts is None:
                    time_s = latest_s + 1 / fps
                else:
                    time_s = float(picture.pts * time_base) - origin_s
                # Damaged timestamps may jump; here time never goes back, and ends with the video.
                latest_s = max(latest_s, min(time_s, total_s)) if probe.is_timed else time_s
                tally.decoded += 1
                tally.corrupt += bool(picture.is_corrupt)
                yield _TimedFrame(latest_s, picture)


_TORCHCODEC_CHUNK = 16  # rows per call: bounds the memory of full-size frames


def _sample_with_torchcodec(
    probe: VideoProbe, *, stride: int, emit: Callable[[SampledFrame], None], threads: int
) -> VideoSummary:
    """The same rows through torchcodec, which seeks to each: faster at large strides, blind to damage between rows."""
    from torchcodec.decoders import VideoDecoder

    num_frames = round(probe.total_s * probe.fps)
    total, fps, origin_s = num_rows(num_frames, stride), float(probe.fps), float(probe.origin_s)
    frames = [row_frame(row, stride=stride, num_frames=num_frames) for row in range(total)]
    source = None
    for start in range(0, total, _TORCHCODEC_CHUNK):
        chunk = [(frame + 0.5) / fps + origin_s for frame in frames[start : start + _TORCHCODEC_CHUNK]]
        try:
            source = source or VideoDecoder(
                str(probe.path), dimension_order="NHWC", num_ffmpeg_threads=threads, seek_mode="exact"
            )
            batch = source.get_frames_played_at(chunk)
        except (RuntimeError, ValueError, IndexError) as error:
            reason = one_line_reason(error)[:160]
            raise VideoError(f"{probe.path}: torchcodec failed ({reason}); try decoder=pyav") from error
        for row, (picture, time_s) in enumerate(zip(batch.data, batch.pts_seconds), start):
            emit(SampledFrame(row, float(time_s) - origin_s, picture.numpy()))
    return VideoSummary(
        num_rows=total,
        stride=stride,
        fps=fps,
        num_frames=num_frames,
        is_variable=probe.is_variable,
        shortfall=_shortfall(probe, num_frames, _Tally(decoded=probe.num_packets)),
    )
