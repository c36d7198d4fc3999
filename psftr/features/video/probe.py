"""What a video file says before it is decoded: frame rate, number of frames, timestamps, declared length.

Frame rate and count come from the packets' timestamps; the container's own figures are used where they agree with
those, and to notice what is missing. Opening and reading packets turn every kind of damage into a VideoError or a
visible end.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from psftr.errors import PsftrError

# Demuxers that make pictures of text, or follow a file to other files.
_NOT_VIDEO_FORMATS = frozenset({"tty", "concat", "hls", "dash", "lavfi", "sdp", "vobsub"})
# Formats whose clock starts with the file. A picture's reordering and sound's priming take a few frames of it.
_ZERO_BASED_FORMATS = frozenset({"mov", "matroska", "webm", "avi", "flv"})
_LATE_S = Fraction(1, 4)
_SANE_FPS = (Fraction(1, 100), Fraction(1000))


class VideoError(PsftrError):
    """A file that yields no usable video; the message names the file and the reason."""


@dataclass(frozen=True)
class VideoProbe:
    """What a file's packets say before anything is decoded.

    `fps` is the container's where the timestamps agree with it to half a frame over the whole video, else measured.
    `is_timed`: every packet has a timestamp; otherwise frames are counted at the container's rate.
    `is_truncated`: reading breaks off, or no stream reaches the length the container declares.
    `num_skipped`: frames by which the timestamps of an otherwise even video jump, or by which it starts late.
    `declared_s`: the length declared for the video, None where the container declares none that is the video's.
    """

    path: Path
    fps: Fraction
    origin_s: Fraction
    total_s: Fraction
    num_packets: int
    num_skipped: int
    is_timed: bool
    is_variable: bool
    is_truncated: bool
    declared_s: float | None


def probe_video(path: str | Path) -> VideoProbe:
    """Read a file's packets, decoding nothing. Raises VideoError, FileNotFoundError or IsADirectoryError."""
    path = Path(path)
    with open_video(path) as container:
        stream = main_stream(container, path)
        time_base, declared_fps = stream.time_base, _declared_fps(stream)
        declared_s = _stream_s(container, stream)
        is_avi = container.format.name == "avi"
        is_zero_based = bool(_ZERO_BASED_FORMATS & set(container.format.name.split(",")))
        container_s = container.duration / 1e6 if container.duration and declared_s is None else None
        times, durations, num_packets, is_truncated, reached_s = [], [], 0, False, 0.0
        # A container's length covers its longest stream, often the audio: where only it is known, all are read.
        for packet in read_packets(container, *([] if container_s else [stream])):
            if packet is None:
                is_truncated = True
                break
            if container_s and packet.pts is not None and packet.time_base is not None:
                reached_s = max(reached_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index != stream.index or packet.size == 0 or packet.is_discard:
                continue
            is_truncated = is_truncated or packet.is_corrupt
            num_packets += 1
            if packet.pts is not None:
                times.append(packet.pts)
                durations.append(packet.duration or 0)
    if num_packets == 0:
        raise VideoError(f"{path}: its video stream holds no packet; the file is empty or cut off at the start")
    # AVI knows a rate and no timestamps: those of its packets are FFmpeg's guesses, wrong where pictures are reordered.
    is_timed = len(times) == num_packets and time_base is not None and not (is_avi and declared_fps)
    if is_timed:
        last_duration = durations[max(range(num_packets), key=times.__getitem__)]
        times.sort()
        fps, origin_s, total_s, is_variable = _measure(times, last_duration, time_base, declared_fps)
        is_late = is_zero_based and origin_s > _LATE_S
        num_skipped = _count_skipped(times) + (int(origin_s * fps) if is_late else 0)
    elif declared_fps is not None:
        fps, origin_s, total_s, is_variable = declared_fps, Fraction(0), num_packets / declared_fps, False
        num_skipped = 0
    else:
        raise VideoError(f"{path}: has neither timestamps nor a frame rate; convert it to mp4 or mkv")
    if not _SANE_FPS[0] <= fps <= _SANE_FPS[1]:
        raise VideoError(
            f"{path}: {num_packets} frames over {float(total_s):.6g} s is not a frame rate of a video; "
            "its timestamps are damaged"
        )
    if container_s and container_s - max(reached_s, float(origin_s + total_s)) > max(1.5 / fps, 0.1):
        declared_s, is_truncated = container_s, True
    return VideoProbe(
        path=path,
        fps=fps,
        origin_s=origin_s,
        total_s=total_s,
        num_packets=num_packets,
        num_skipped=num_skipped,
        is_timed=is_timed,
        is_variable=is_variable,
        is_truncated=is_truncated,
        declared_s=declared_s,
    )


def _measure(
    times: list[int], last_duration: int, time_base: Fraction, declared_fps: Fraction | None
) -> tuple[Fraction, Fraction, Fraction, bool]:
    """Sorted timestamps (ticks of `time_base`) -> fps, origin in s, length in s, and whether the rate varies."""
    count, span = len(times), (times[-1] - times[0]) * time_base
    if span == 0:
        fps = declared_fps or Fraction(25)
        return fps, times[0] * time_base, max(last_duration * time_base, count / fps), False
    # Containers often leave out or guess how long the last frame lasts: as long as the others, or visibly longer.
    step, last = span / (count - 1), last_duration * time_base
    total = span + (last if last > Fraction(3, 2) * step else step)
    fps = count / total
    if declared_fps is not None and abs(count / declared_fps - total) <= Fraction(1, 2) / declared_fps:
        fps = declared_fps
    off_grid = max(abs((time - times[0]) * time_base * fps - k) for k, time in enumerate(times))
    return fps, times[0] * time_base, total, off_grid > Fraction(1, 2)


def open_video(path: Path) -> Any:
    try:
        import av
    except ImportError as error:
        raise PsftrError("reading videos needs PyAV: install psftr with its extra 'video'") from error
    if not path.exists():
        raise FileNotFoundError(f"video {path} not found")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a video")
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: the file is empty (0 bytes)")
    try:
        # "file:" keeps a name with colons or percent signs from being read as an address or a pattern.
        container = av.open(f"file:{path.absolute()}", metadata_errors="replace")
    except (av.FFmpegError, ValueError, OSError, RuntimeError) as error:
        raise VideoError(f"{path}: not readable as a video ({one_line_reason(error)})") from error
    formats = set(container.format.name.split(","))
    if formats & _NOT_VIDEO_FORMATS:
        container.close()
        raise VideoError(f"{path}: is {container.format.name}, not a video file")
    return container


def main_stream(container: Any, path: Path) -> Any:
    """The main video stream; cover art of an audio file is not one."""
    import av

    candidates = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not candidates:
        kinds = sorted({"cover art" if s.type == "video" else s.type for s in container.streams})
        raise VideoError(f"{path}: has no video stream (only {', '.join(kinds) or 'a header'})")
    best = container.streams.best("video")
    stream = best if best in candidates else candidates[0]
    if stream.codec_context is None:
        raise VideoError(f"{path}: no decoder for its video stream in this build of FFmpeg")
    return stream


def read_packets(container: Any, *streams: Any) -> Iterator[Any]:
    """Packets of `streams` (none: of all), the empty one that flushes last; None, and no more, where reading breaks."""
    packets = container.demux(*streams)
    while True:
        try:
            yield next(packets)
        except StopIteration:
            return
        except Exception:  # FFmpeg's own errors, and PyAV's about streams that a damaged file makes up
            yield None
            return


def _count_skipped(times: list[int]) -> int:
    """Frames missing from sorted timestamps that are one step apart almost everywhere; 0 for a variable rate."""
    steps = [later - earlier for earlier, later in itertools.pairwise(times)]
    step = sorted(steps)[len(steps) // 2] if steps else 0
    if step <= 0:
        return 0
    slack = max(step / 10, 1.5)  # containers round to their own ticks, often milliseconds
    even = sum(abs(s - step) <= slack for s in steps)
    return sum(round(s / step) - 1 for s in steps if s > 1.5 * step) if even >= 0.9 * len(steps) else 0


def _stream_s(container: Any, stream: Any) -> float | None:
    """The length a file states for its video stream itself."""
    fields = stream.metadata.get("DURATION", "").split(":")  # Matroska: 00:00:18.094000000
    if len(fields) == 3 and all(field.replace(".", "", 1).isdigit() for field in fields):
        return int(fields[0]) * 3600 + int(fields[1]) * 60 + float(fields[2])
    if not stream.duration:
        return None
    length = stream.duration * stream.time_base
    if container.format.name == "avi" and stream.frames and stream.average_rate:
        length = max(length, stream.frames / stream.average_rate)  # the former shrinks when the file is cut
    return float(length)


def _declared_fps(stream: Any) -> Fraction | None:
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate and _SANE_FPS[0] <= rate <= _SANE_FPS[1]:
            return Fraction(rate)
    return None


def one_line_reason(error: BaseException) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
