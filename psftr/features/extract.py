"""Videos -> feature store: decoding, preprocessing and the encoder overlapped, resumable per video.

    decoder threads --(frames, bounded queue)--> batches across videos --> encoder --> rows per video --> writer thread

Decoder threads take one video each and turn its sampled frames into the encoder's uint8 input; PyAV and Pillow release
the interpreter lock while they work. The calling thread fills batches across videos, so that a short video does not
make a small batch; on a GPU one batch is always in flight. An encoder that computes on all cores of the CPU leaves none
for decoding: a decoder thread would slow down every core's share of the matrix product. Then the two take turns, each
on all cores. A video is written as soon as its rows are complete, and a killed run keeps it.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from psftr.errors import PsftrError
from psftr.features.clip import ClipEncoder
from psftr.features.settings import ExtractSettings
from psftr.features.shards import ShardedStore
from psftr.features.video import (
    SampledFrame,
    Shortfall,
    VideoSummary,
    check_decoder,
    num_rows,
    probe_video,
    sample_video,
)
from psftr.features.video.files import VideoFile
from psftr.features.video.files import find_videos as find_videos
from psftr.features.video.files import select_shard as select_shard

_POLL_S = 0.2  # how soon a blocked decoder thread notices that the run is over


@dataclass(frozen=True)
class Progress:
    """A run so far. `rows_expected` grows more exact as videos are opened; rates count encoded frames."""

    videos_done: int
    videos_total: int
    rows_done: int
    rows_expected: float
    elapsed_s: float

    @property
    def frames_per_s(self) -> float:
        return self.rows_done / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        if self.rows_done == 0:
            return None
        return max(0.0, self.rows_expected - self.rows_done) / self.frames_per_s


@dataclass(frozen=True)
class ExtractReport:
    """What became of every video: ids, and why for those that failed or fell short."""

    written: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]
    shortfalls: tuple[tuple[str, Shortfall], ...]
    num_frames_encoded: int
    elapsed_s: float


def default_workers(device: torch.device) -> int:
    """Decoder threads: one per core that the encoder leaves free; if it leaves none, one per core, in turns with it."""
    spare = _num_cores() - (torch.get_num_threads() if device.type == "cpu" else 0)
    return min(16, spare if spare > 0 else _num_cores())


def _takes_turns(device: torch.device) -> bool:
    """Whether the encoder leaves no core to the decoders while it computes."""
    return device.type == "cpu" and torch.get_num_threads() >= _num_cores()


def _num_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_batch_size(device: torch.device) -> int:
    return 32 if device.type == "cpu" else 256


def extract(
    videos: Sequence[VideoFile],
    *,
    encoder: ClipEncoder,
    store: ShardedStore,
    batch_size: int | None = None,
    workers: int | None = None,
    decoder: str = ExtractSettings.decoder,
    progress: Callable[[Progress], None] = lambda _: None,
) -> ExtractReport:
    """Extract every video that `store` does not hold, at the store's stride, and `store.finish()`.

    A video that cannot be read is reported and the others go on; what cannot be written (OSError) ends the run.
    """
    check_decoder(decoder)
    todo = [video for video in videos if video.video_id not in store]
    run = _Run(
        todo,
        encoder=encoder,
        store=store,
        batch_size=batch_size or default_batch_size(encoder.device),
        workers=workers or default_workers(encoder.device),
        decoder=decoder,
        progress=progress,
    )
    started = time.monotonic()
    run.encode_all()
    store.finish()
    return ExtractReport(
        written=tuple(sorted(run.written)),
        skipped=tuple(sorted({video.video_id for video in videos} - {video.video_id for video in todo})),
        failed=tuple(sorted(run.failed)),
        shortfalls=tuple(sorted(run.shortfalls, key=lambda pair: pair[0])),
        num_frames_encoded=run.rows_done,
        elapsed_s=time.monotonic() - started,
    )


class _Stopped(Exception):
    """Raised in a decoder thread when the run is over."""


@dataclass(eq=False)
class _Work:
    """A video in progress. `summary` and `failure` come from its decoder thread, rows from the encoder."""

    video: VideoFile
    size: int
    rows_expected: int | None = None
    rows: list[np.ndarray] = field(default_factory=list)
    summary: VideoSummary | None = None
    failure: str | None = None
    is_counted: bool = False
    is_ended: bool = False


# What decoder threads send: a shrunk frame of a video (rows come in order), or None when the video ends.
_Item = tuple[_Work, np.ndarray | None]


class _Run:
    """One call of `extract`: the threads, the batch in hand, and the videos in progress."""

    def __init__(
        self,
        videos: Sequence[VideoFile],
        *,
        encoder: ClipEncoder,
        store: ShardedStore,
        batch_size: int,
        workers: int,
        decoder: str,
        progress: Callable[[Progress], None],
    ) -> None:
        self.encoder, self.store, self.stride = encoder, store, store.stride
        self.batch_size, self.decoder, self.progress = batch_size, decoder, progress
        self.works = [_Work(video, _size(video.path)) for video in videos]
        self.waiting: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        for work in self.works:
            self.waiting.put(work)
        self.items: queue.Queue[_Item] = queue.Queue(maxsize=max(2 * batch_size, 64))
        self.workers = max(1, min(workers, len(videos)))
        # One video at a time may use all cores; several share them by themselves.
        self.decoder_threads = 0 if self.workers == 1 else 1
        self.stop = threading.Event()
        self.takes_turns = _takes_turns(encoder.device)
        self.may_decode = threading.Event()
        self.may_decode.set()
        self.writer = ThreadPoolExecutor(1, thread_name_prefix="psftr-write")
        self.writes: deque[Future[None]] = deque()
        self.in_flight: deque[tuple[torch.Tensor, list[_Work]]] = deque()
        self.written: list[str] = []
        self.failed: list[tuple[str, str]] = []
        self.shortfalls: list[tuple[str, Shortfall]] = []
        self.ended = self.rows_done = self.known_rows = self.known_size = 0
        self.total_size = sum(work.size for work in self.works)
        self.started = time.monotonic()

    def encode_all(self) -> None:
        threads = [
            threading.Thread(target=self._decode_videos, name=f"psftr-decode-{index}", daemon=True)
            for index in range(self.workers if self.works else 0)
        ]
        for thread in threads:
            thread.start()
        try:
            self._consume()
            self.writer.shutdown(wait=True)
            self._collect_writes()
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()
            self.writer.shutdown(wait=True, cancel_futures=True)

    # Decoder threads

    def _decode_videos(self) -> None:
        while not self.stop.is_set():
            try:
                work = self.waiting.get_nowait()
            except queue.Empty:
                return
            try:
                probe = probe_video(work.video.path)
                work.rows_expected = num_rows(round(probe.total_s * probe.fps), self.stride)
                work.summary = sample_video(
                    probe,
                    stride=self.stride,
                    decoder=self.decoder,
                    threads=self.decoder_threads,
                    emit=partial(self._send_shrunk, work),
                )
            except _Stopped:
                return
            except (PsftrError, OSError) as error:
                work.failure = " ".join(str(error).split())
            except Exception as error:  # an error in one video must not stop the others
                work.failure = f"{work.video.path}: {type(error).__name__}: {' '.join(str(error).split())}"
            try:
                self._send(work, None)
            except _Stopped:
                return

    def _send_shrunk(self, work: _Work, frame: SampledFrame) -> None:
        self._send(work, self.encoder.preprocessing.shrink(frame.rgb))

    def _send(self, work: _Work, frame: np.ndarray | None) -> None:
        while not self.stop.is_set():
            try:
                if self.may_decode.wait(_POLL_S):
                    return self.items.put((work, frame), timeout=_POLL_S)
            except queue.Full:
                continue
        raise _Stopped

    # The calling thread

    def _consume(self) -> None:
        frames: list[np.ndarray] = []
        owners: list[_Work] = []
        decoded = 0
        while decoded < len(self.works):
            work, frame = self.items.get()
            if work.rows_expected is not None and not work.is_counted:
                work.is_counted = True
                self.known_rows += work.rows_expected
                self.known_size += work.size
            if frame is None:
                decoded += 1
                self._close(work)
                continue
            frames.append(frame)
            owners.append(work)
            if len(frames) == self.batch_size:
                self._encode(frames, owners)
                frames, owners = [], []
        if frames:
            self._encode(frames, owners)
        while self.in_flight:
            self._take_rows()

    def _encode(self, frames: list[np.ndarray], owners: list[_Work]) -> None:
        batch = torch.from_numpy(np.stack(frames))
        if self.encoder.device.type == "cuda":
            batch = batch.pin_memory()
        if self.takes_turns:
            self.may_decode.clear()
        self.in_flight.append((self.encoder.encode_frames(batch), owners))
        self.may_decode.set()
        # CUDA works on this batch while the next one is formed; only the one before is waited for.
        while len(self.in_flight) > (1 if self.encoder.device.type == "cuda" else 0):
            self._take_rows()

    def _take_rows(self) -> None:
        features, owners = self.in_flight.popleft()
        for row, work in zip(features.cpu().numpy(), owners):
            if not work.is_ended:  # a video that failed half way
                work.rows.append(row)
        self.rows_done += len(owners)
        for work in dict.fromkeys(owners):
            self._close(work)
        self._collect_writes()
        self._tell()

    def _close(self, work: _Work) -> None:
        """End a video whose decoder has finished and, if it was read, whose rows are all encoded."""
        if work.is_ended:
            return
        if work.failure is not None:
            self.failed.append((work.video.video_id, work.failure))
            self._end(work)
        elif work.summary is not None and len(work.rows) == work.summary.num_rows:
            if work.summary.shortfall is not None:
                self.shortfalls.append((work.video.video_id, work.summary.shortfall))
            self.writes.append(self.writer.submit(self._write, work, np.stack(work.rows)))
            self._end(work)

    def _end(self, work: _Work) -> None:
        work.is_ended, work.rows = True, []
        self.ended += 1
        self._tell()

    def _write(self, work: _Work, features: np.ndarray) -> None:
        summary = work.summary
        assert summary is not None
        facts: dict[str, Any] = {
            "source": work.video.path.name,
            "precision": self.encoder.precision,
            "decoder": self.decoder,
            "is_variable_rate": summary.is_variable,
        }
        if summary.shortfall is not None:
            facts["shortfall"] = str(summary.shortfall)
            numbers = asdict(summary.shortfall)
            facts.update({name: value for name, value in numbers.items() if value is not None})
        timeline = {"fps": summary.fps, "num_frames": summary.num_frames, "duration_s": summary.duration_s}
        try:
            self.store.add(work.video.video_id, features, facts=facts, **timeline)
        except PsftrError as error:  # features that are not finite in the store's precision
            self.failed.append((work.video.video_id, str(error)))
        else:
            self.written.append(work.video.video_id)

    def _collect_writes(self) -> None:
        """Raise an error of the writer, such as a full disk, as soon as it is known."""
        while self.writes and self.writes[0].done():
            self.writes.popleft().result()

    def _tell(self) -> None:
        # Videos not opened yet count by their bytes, at the rows per byte of those that are.
        expected = self.known_rows * self.total_size / self.known_size if self.known_size else 0.0
        elapsed_s = time.monotonic() - self.started
        self.progress(Progress(self.ended, len(self.works), self.rows_done, expected, elapsed_s))


def _size(path: Path) -> int:
    return path.stat().st_size
