"""Small videos whose pictures tell their own number, and two hundred ways to damage a video."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 48, 64


def numbered_frames(count: int) -> list[np.ndarray]:
    """Frame k is grey of level 8 + 4k (so at most 60 of them)."""
    return [np.full((HEIGHT, WIDTH, 3), 8 + 4 * k, dtype=np.uint8) for k in range(count)]


def number_of(rgb: np.ndarray) -> int:
    return round((float(rgb.mean()) - 8) / 4)


def numbered_clip(path: Path, *, count: int = 60, fps: float = 25, times_s=None, **how) -> Path:
    """`count` numbered frames, at a constant rate or at `times_s`."""
    how.setdefault("options", {"crf": "1", "preset": "ultrafast"} if how.get("codec") in (None, "libx264") else {})
    times_s = [k / fps for k in range(count)] if times_s is None else times_s
    return write_clip(path, numbered_frames(count), times_s=times_s, **how)


def write_clip(
    path: str | Path,
    frames: Iterable[np.ndarray],
    *,
    times_s: Sequence[float],
    codec: str = "libx264",
    options: Mapping[str, str] | None = None,
    container_options: Mapping[str, str] | None = None,
    rotation: int = 0,
    audio_s: float = 0.0,
    tick: Fraction = Fraction(1, 12800),
) -> Path:
    """Write `frames` `[H, W, 3]` uint8, each on screen from its time in `times_s`; `audio_s` seconds of silence.

    `tick`: what times are rounded to. The default divides the frame duration of the usual rates; AVI wants the frame
    duration itself.
    """
    import av

    path = Path(path)
    opened: Any = av.open(str(path), "w", container_options=dict(container_options or {}))
    with opened as container:
        video = container.add_stream(codec, rate=25, options=dict(options or {}))
        video.pix_fmt = "yuv420p"
        video.time_base = video.codec_context.time_base = tick
        if rotation:
            video.set_display_rotation(rotation)
        sound = container.add_stream("aac", rate=8000) if audio_s else None
        for index, (frame, time_s) in enumerate(zip(frames, times_s)):
            if index == 0:
                video.height, video.width = frame.shape[:2]
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = round(time_s / tick), tick
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        if sound is not None:
            silence = np.zeros((1, 1024), dtype=np.float32)
            for start in range(0, round(audio_s * 8000), 1024):
                chunk = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
                chunk.sample_rate, chunk.pts, chunk.time_base = 8000, start, Fraction(1, 8000)
                container.mux(sound.encode(chunk))
            container.mux(sound.encode(None))
    return path


FASTSTART = {"movflags": "faststart"}
SOURCES: dict[str, Callable[[Path], Path]] = {
    "front.mp4": lambda path: numbered_clip(path, container_options=FASTSTART),
    "back.mp4": lambda path: numbered_clip(path, audio_s=1.0),
    "plain.mkv": lambda path: numbered_clip(path, audio_s=3.5),
    "old.avi": lambda path: numbered_clip(path, codec="mpeg4", tick=Fraction(1, 25)),
    "flash.flv": lambda path: numbered_clip(path, codec="flv1", audio_s=1.5),
}


@dataclass(frozen=True)
class DamagedVideo:
    """`true_frames`: how many frames the undamaged video had (0: there never was one)."""

    path: Path
    kind: str
    true_frames: int
    is_harmless: bool = False


def damaged_videos(folder: Path, *, count: int, originals: dict[Path, int]) -> list[DamagedVideo]:
    """`count` videos: every kind of damage in turn, to small clips and to `originals` (with their frame counts)."""
    clips = folder / "sources"
    clips.mkdir(parents=True)
    sources = [(make(clips / name), 60) for name, make in SOURCES.items()]
    sources += originals.items()
    chance = random.Random(0)
    made: list[DamagedVideo] = []
    special = [_empty, _audio_only, _cover_art, _one_frame, _variable_rate, _wrong_ending, _not_a_video, _absurd_length]
    for number in range(count):
        turn, kind = divmod(number, 3)
        source, frames = sources[turn % len(sources)]
        path, data = folder / f"{number:03d}{source.suffix}", source.read_bytes()
        if kind == 0:
            point = turn % 20
            path.write_bytes(data[: max(1, len(data) * point // 20)])
            made.append(DamagedVideo(path, f"{source.name} cut at {point}/20", frames))
        elif kind == 1:
            path.write_bytes(_hurt(bytearray(data), chance))
            made.append(DamagedVideo(path, f"{source.name} with damaged bytes", frames))
        else:
            made.append(special[turn % len(special)](folder, number, source, frames, chance))
    return made


def _hurt(data: bytearray, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    length = min(len(data) - start, chance.choice([1, 16, len(data) // 10]))
    how = chance.randrange(3)
    if how == 0:
        data[start : start + length] = bytes(length)
    elif how == 1:
        data[start : start + length] = chance.randbytes(length)
    else:
        del data[start : start + length]
    return bytes(data)


def _empty(folder, number, source, frames, chance):
    path = folder / f"{number:03d}.mp4"
    path.write_bytes(b"")
    return DamagedVideo(path, "empty", 0)


def _sound(path: Path, codec: str) -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=44100)
        for start in range(0, 44100, 1152):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _audio_only(folder, number, source, frames, chance):
    return DamagedVideo(_sound(folder / f"{number:03d}.mp4", "aac"), "audio only", 0)


def _cover_art(folder, number, source, frames, chance):
    """An MP3 with a picture: FFmpeg shows it as a video stream of one frame."""
    sound = _sound(folder / "sources" / f"{number}.mp3", "libmp3lame").read_bytes()
    picture = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(picture, "jpeg")
    body = b"\0image/jpeg\0\x03\0" + picture.getvalue()
    frame = b"APIC" + struct.pack(">I", len(body)) + b"\0\0" + body
    size = bytes((len(frame) >> shift) & 0x7F for shift in (21, 14, 7, 0))
    path = folder / f"{number:03d}.mp3"
    path.write_bytes(b"ID3\x03\0\0" + size + frame + sound)
    return DamagedVideo(path, "audio with cover art", 0)


def _one_frame(folder, number, source, frames, chance):
    return DamagedVideo(numbered_clip(folder / f"{number:03d}.mp4", count=1), "one frame", 1, is_harmless=True)


def _variable_rate(folder, number, source, frames, chance):
    times_s = np.cumsum([0.0] + [chance.choice([0.04, 0.04, 0.1, 0.5]) for _ in range(39)])
    path = numbered_clip(folder / f"{number:03d}.mkv", count=40, times_s=times_s)
    return DamagedVideo(path, "variable rate", 40, is_harmless=True)


def _wrong_ending(folder, number, source, frames, chance):
    path = folder / f"{number:03d}{chance.choice(['.txt', '.jpg', '.avi', '.ts', ''])}"
    path.write_bytes(source.read_bytes())
    return DamagedVideo(path, f"{source.name} as {path.suffix or 'no ending'}", frames, is_harmless=True)


def _not_a_video(folder, number, source, frames, chance):
    path = folder / f"{number:03d}.mp4"
    path.write_bytes(chance.choice([b"just text\n" * 500, b"#EXTM3U\nother.ts\n", bytes(5000), chance.randbytes(5000)]))
    return DamagedVideo(path, "no video at all", 0)


def _absurd_length(folder, number, source, frames, chance):
    """The length fields of the container, overwritten: an hour too long, for ever, or nothing."""
    data = bytearray(source.read_bytes())
    path = folder / f"{number:03d}{source.suffix}"
    value = chance.choice([2**31 - 1, 10**8, 1])
    if source.suffix == ".mp4":
        for name, field in ((b"mvhd", 20), (b"mdhd", 20), (b"tkhd", 24)):
            start = 0
            while (start := data.find(name, start + 1)) > 0:
                data[start + field : start + field + 4] = struct.pack(">I", value)
    elif source.suffix == ".mkv":
        start = data.find(b"\x44\x89\x88")  # Duration, an 8-byte float in ms
        data[start + 3 : start + 11] = struct.pack(">d", float(value))
    elif source.suffix == ".avi":
        start = data.find(b"vids") + 32  # dwLength of the stream
        data[start : start + 4] = struct.pack("<I", value)
    elif source.suffix == ".flv":
        start = data.find(b"duration") + 9  # an AMF double in s
        data[start : start + 8] = struct.pack(">d", float(value))
    path.write_bytes(data)
    return DamagedVideo(path, f"{source.name} declares {value}", frames)
