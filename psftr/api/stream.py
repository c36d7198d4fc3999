"""One long video in memory that does not grow with it: read, encoded and searched chunk by chunk.

A chunk has a core and a margin on either side, which the chunks beside it have in their cores:

    rows   |----margin----|---------core---------|----margin----|
                                  |----margin----|---------core---------|----margin----|

Each chunk is searched like a video of its own. A detection belongs to the chunk whose core holds its middle, so none
comes twice, and what begins before a core is seen from its beginning if it lies in the margin.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from psftr.api.inputs import Frames, encoded
from psftr.errors import PsftrError
from psftr.features.clip import ClipEncoder
from psftr.features.store import VideoFeatures
from psftr.features.video import SampledFrame, probe_video, sample_video
from psftr.predictions import Detection, Localizer

CORE_S, MARGIN_S = 120.0, 60.0
_FRAMES_AHEAD = 64  # decoded and not yet encoded


def stream_detections(
    video: str | os.PathLike[str] | Frames,
    localizer: Localizer,
    names: Sequence[str],
    *,
    encoder: ClipEncoder,
    stride: int,
    core_s: float = CORE_S,
    margin_s: float = MARGIN_S,
) -> Iterator[Detection]:
    """Detections in order of their start within a chunk, chunk after chunk. Raises PsftrError."""
    if isinstance(video, Frames):
        video_id, fps, pictures = video.video_id, video.fps, video.sampled(stride)
    else:
        path = Path(video)
        probe = probe_video(path)
        video_id, fps, pictures = path.stem, float(probe.fps), _decoded(path, stride)
    step_s = stride / fps
    core, margin = max(1, round(core_s / step_s)), round(margin_s / step_s)
    for first, last, start, rows in _chunks(encoded(pictures, encoder), core=core, margin=margin):
        end_s = len(rows) * step_s
        chunk = VideoFeatures(video_id, rows, stride, fps, len(rows) * stride, end_s)
        ((_, found),) = localizer.localize([chunk], names)
        moved = [
            Detection(video_id, d.label, d.start_s + start * step_s, d.end_s + start * step_s, d.score) for d in found
        ]
        yield from sorted(
            (d for d in moved if first * step_s <= (d.start_s + d.end_s) / 2 < last * step_s),
            key=lambda d: (d.start_s, -d.score),
        )


def _chunks(
    batches: Iterator[NDArray[np.float32]], *, core: int, margin: int
) -> Iterator[tuple[float, float, int, NDArray[np.float32]]]:
    """(first row of the core, its end, first row of the chunk, rows [n, D]); the last core has no end."""
    kept, start, first = np.empty((0, 0), np.float32), 0, 0
    for batch in batches:
        kept = np.concatenate([kept, batch]) if len(kept) else batch
        while start + len(kept) > first + core + margin:  # a row beyond: this is not the last chunk
            yield first, first + core, start, kept[: first + core + margin - start]
            first += core
            kept, start = kept[max(0, first - margin - start) :], max(start, first - margin)
    if len(kept):
        yield first, float("inf"), start, kept


def _decoded(path: Path, stride: int) -> Iterator[NDArray[np.uint8]]:
    """The frame of each row, decoded in a thread that waits while `_FRAMES_AHEAD` of them are not fetched."""
    frames: queue.Queue[NDArray[np.uint8] | BaseException | None] = queue.Queue(maxsize=_FRAMES_AHEAD)
    is_over = threading.Event()

    def put(item: NDArray[np.uint8] | BaseException | None) -> None:
        while True:
            if is_over.is_set():
                raise _NobodyListens
            try:
                return frames.put(item, timeout=0.2)
            except queue.Full:
                continue

    def emit(frame: SampledFrame) -> None:
        put(frame.rgb)

    def decode() -> None:
        try:
            sample_video(path, stride=stride, emit=emit)
            put(None)
        except _NobodyListens:
            return
        except Exception as error:  # raised again where the frames are fetched
            put(error)

    thread = threading.Thread(target=decode, name="psftr-stream", daemon=True)
    thread.start()
    try:
        while (item := frames.get()) is not None:
            if isinstance(item, BaseException):
                raise item if isinstance(item, PsftrError) else PsftrError(f"{path}: {item}") from item
            yield item
    finally:
        is_over.set()
        thread.join()


class _NobodyListens(Exception):
    """Raised in the decoder's thread when its frames are not wanted any more."""
