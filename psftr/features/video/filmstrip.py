"""A few frames of a video at given times, by seeking: for pictures, not for features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psftr.features.video import VideoError
from psftr.features.video.probe import main_stream, open_video

_MOST_DECODED = 400  # frames after a seek; a video with fewer key frames shows an earlier frame


def frames_at(path: Path, times_s: Sequence[float], *, height: int = 160) -> list[NDArray[np.uint8]]:
    """RGB frames `[height, W, 3]` on screen at `times_s` (rising, from the video's first frame); short when it ends.

    Raises VideoError for a file that gives no frame.
    """
    import av

    frames: list[NDArray[np.uint8]] = []
    with open_video(path) as container:
        stream = main_stream(container, path)
        stream.thread_type = "AUTO"
        origin = stream.start_time or 0
        for time_s in times_s:
            try:
                container.seek(origin + round(time_s / stream.time_base), stream=stream)
                picture = _picture_at(container, stream, origin, time_s)
            except (av.FFmpegError, ValueError, OSError):
                continue
            if picture is not None:
                frames.append(_to_rgb(picture, height))
    if not frames:
        raise VideoError(f"{path}: no frame for a picture could be decoded")
    return frames


def _picture_at(container: Any, stream: Any, origin: int, time_s: float) -> Any:
    held = None
    for number, picture in enumerate(container.decode(stream)):
        if picture.pts is not None and float((picture.pts - origin) * stream.time_base) > time_s and held is not None:
            return held
        held = picture
        if number >= _MOST_DECODED:
            break
    return held


def _to_rgb(picture: Any, height: int) -> NDArray[np.uint8]:
    wide = max(1, round(picture.width * height / picture.height))
    rgb = picture.to_ndarray(width=wide, height=height, format="rgb24")
    quarter_turns = round(picture.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(rgb, quarter_turns)) if quarter_turns else rgb
