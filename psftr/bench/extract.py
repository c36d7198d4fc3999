"""`psftr bench extract`: the whole pipeline against the encoder alone on pre-decoded frames, in one run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

_TICK = Fraction(1, 12800)  # divides the frame duration of the usual rates


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
    tick: Fraction = _TICK,
) -> Path:
    """Write `frames` `[H, W, 3]` uint8, each on screen from its time in `times_s`; `audio_s` seconds of silence.

    `tick`: what times are rounded to (AVI wants the frame duration).
    """
    import av

    path = Path(path)
    with av.open(str(path), "w", container_options=dict(container_options or {})) as container:
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
