"""What a user gives (video files, frames, feature stores, arrays) -> a feature store, which alone is searched."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from psftr.errors import PsftrError
from psftr.features.clip import ClipEncoder
from psftr.features.extract import Progress as Progress
from psftr.features.extract import VideoFile, default_batch_size, extract, find_videos
from psftr.features.shards import ShardedStore
from psftr.features.store import FeatureStore, FeatureWriter, VideoFeatures
from psftr.files import read_json, write_json

SOURCES = "sources.json"  # which files the kept features are of


@dataclass(frozen=True, eq=False)
class Frames:
    """A video as pictures: `pictures` is an array `[N, H, W, 3]` of RGB bytes, or gives them one by one `[H, W, 3]`.

    Pictures that come one by one (a camera, a generator) are read once and not kept.
    """

    pictures: Iterable[NDArray[np.uint8]]
    fps: float
    video_id: str = "frames"

    def __post_init__(self) -> None:
        if not self.fps > 0:
            raise PsftrError(f"frames {self.video_id!r}: fps must be above 0, got {self.fps}")

    def sampled(self, stride: int) -> Iterator[NDArray[np.uint8]]:
        """The picture of each row: the middle one of its `stride` frames, or the last where the video ends before."""
        picture, number = None, -1
        for number, given in enumerate(self.pictures):
            picture = np.asarray(given)
            if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
                raise PsftrError(
                    f"frames {self.video_id!r}: frame {number} is {picture.dtype} {list(picture.shape)}; "
                    "give RGB bytes, uint8 [H, W, 3]"
                )
            if number % stride == stride // 2:
                yield picture
        if picture is None:
            raise PsftrError(f"frames {self.video_id!r}: there are none")
        if number % stride < stride // 2:
            yield picture


@dataclass(frozen=True, eq=False)
class Inputs:
    """`ids` of `store` are to be searched. files: video files by id. failed, shortfalls: (id, reason).

    keep: the temporary folder of the store, which goes with the last reference to it.
    """

    store: FeatureStore
    ids: tuple[str, ...]
    files: Mapping[str, Path] = field(default_factory=dict)
    failed: tuple[tuple[str, str], ...] = ()
    shortfalls: tuple[tuple[str, str], ...] = ()
    keep: Any = None


def open_features(
    features: str | os.PathLike[str] | VideoFeatures | Iterable[VideoFeatures],
    video_ids: Sequence[str] | None,
    *,
    encoder: Callable[[], str],
) -> Inputs:
    """A store on disk, or one made of `VideoFeatures`, which are taken to be of `encoder()`. Raises PsftrError."""
    keep = None
    if isinstance(features, str | os.PathLike):
        store = FeatureStore(Path(features))
    else:
        keep = _temporary()
        store = _store_of(features, Path(keep.name) / "features.h5", encoder())
    ids = tuple(store.video_ids if video_ids is None else video_ids)
    absent = [video_id for video_id in ids if video_id not in store]
    if absent:
        raise PsftrError(f"{store.path} has no features of {', '.join(absent[:5])} ({len(store)} videos there)")
    return Inputs(store, ids, keep=keep)


def open_videos(
    videos: Any,
    *,
    encoder: ClipEncoder,
    stride: int,
    keep: str | os.PathLike[str] | None,
    on_progress: Callable[[Progress], None],
) -> Inputs:
    """Extract files and `Frames` into a folder: `keep`, which the next call finds again, or a temporary one.

    Raises PsftrError where no video could be read.
    """
    paths, frames = _sorted_out(videos)
    files = find_videos(paths)
    if not files and not frames:
        raise PsftrError("no videos given")
    ids = [video.video_id for video in files] + [one.video_id for one in frames]
    if twice := sorted({video_id for video_id in ids if ids.count(video_id) > 1}):
        raise PsftrError(f"two videos are called {', '.join(twice)}; give each Frames a video_id of its own")
    temporary = None
    if keep is None:
        temporary = _temporary()
        keep = temporary.name
    # A folder for each encoder and stride: nothing extracted before is in the way, nor lost.
    name = f"{re.sub(r'[^A-Za-z0-9.-]+', '-', encoder.identity)}-stride{stride}"
    folder = Path(keep) / name
    _forget_changed_files(folder, files)
    store = ShardedStore(folder, encoder=encoder.identity, dim=encoder.dim, stride=stride)
    try:
        report = extract(files, encoder=encoder, store=store, progress=on_progress)
        for one in frames:
            add_frames(one, encoder=encoder, store=store)
    finally:
        if not store.videos:
            (folder / SOURCES).unlink(missing_ok=True)
    found = {video.video_id: video.path for video in files if video.video_id in store}
    if not found and not frames:
        raise PsftrError("; ".join(reason for _, reason in report.failed[:3]))
    return Inputs(
        store=FeatureStore(folder),
        ids=(*found, *(one.video_id for one in frames)),
        files=found,
        failed=report.failed,
        shortfalls=tuple((video_id, str(why)) for video_id, why in report.shortfalls),
        keep=temporary,
    )


def add_frames(frames: Frames, *, encoder: ClipEncoder, store: ShardedStore) -> None:
    """Encode frames into the store, in place of an earlier video of the same name."""
    counted = _Counted(frames.pictures)
    rows = list(encoded(Frames(counted, frames.fps, frames.video_id).sampled(store.stride), encoder))
    store.add(
        frames.video_id,
        np.concatenate(rows),
        facts={"source": "frames"},
        fps=frames.fps,
        num_frames=counted.number,
        duration_s=counted.number / frames.fps,
    )


def encoded(pictures: Iterable[NDArray[np.uint8]], encoder: ClipEncoder) -> Iterator[NDArray[np.float32]]:
    """RGB frames `[H, W, 3]` -> features `[n, D]`, a batch of the encoder at a time."""
    size, batch = default_batch_size(encoder.device), []
    for picture in pictures:
        batch.append(encoder.preprocessing.shrink(picture))
        if len(batch) == size:
            yield encoder.encode_frames(torch.from_numpy(np.stack(batch))).cpu().numpy()
            batch = []
    if batch:
        yield encoder.encode_frames(torch.from_numpy(np.stack(batch))).cpu().numpy()


class _Counted:
    """An iterable that knows afterwards how many there were."""

    def __init__(self, items: Iterable[Any]) -> None:
        self.items, self.number = items, 0

    def __iter__(self) -> Iterator[Any]:
        for item in self.items:
            self.number += 1
            yield item


def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="psftr-", ignore_cleanup_errors=True)


def _store_of(features: VideoFeatures | Iterable[VideoFeatures], path: Path, encoder: str) -> FeatureStore:
    given = [features] if isinstance(features, VideoFeatures) else list(features)
    if not given or not all(isinstance(one, VideoFeatures) for one in given):
        raise PsftrError("features are a feature store's path, or VideoFeatures: arrays [T, D] with stride and fps")
    with FeatureWriter(path, encoder=encoder, dim=given[0].features.shape[-1], dtype="float32") as writer:
        for one in given:
            writer.write(
                one.video_id,
                one.features,
                stride=one.stride,
                fps=one.fps,
                num_frames=one.num_frames,
                duration_s=one.duration_s,
            )
    return FeatureStore(path)


def _sorted_out(videos: Any) -> tuple[list[str], list[Frames]]:
    given = [videos] if isinstance(videos, str | os.PathLike | Frames) else list(videos)
    for one in given:
        if not isinstance(one, str | os.PathLike | Frames):
            raise PsftrError(f"a video is a path or psftr.Frames(pictures, fps), got {type(one).__name__}")
    return (
        [os.fspath(one) for one in given if not isinstance(one, Frames)],
        [one for one in given if isinstance(one, Frames)],
    )


def _forget_changed_files(folder: Path, videos: Sequence[VideoFile]) -> None:
    """Remove features of an earlier call whose video was another file, or has changed; note what they are of now."""
    known: dict[str, list[Any]] = {}
    if (folder / SOURCES).is_file():
        known = dict(read_json(folder / SOURCES, remedy="remove it, and the features beside it are made again"))
    for video in videos:
        facts = video.path.stat()
        now = [str(video.path.resolve()), facts.st_size, facts.st_mtime_ns]
        if known.get(video.video_id) != now:
            (folder / f"{video.video_id}.h5").unlink(missing_ok=True)
        known[video.video_id] = now
    write_json(folder / SOURCES, known)
