"""Where `extract` keeps finished videos: one small store file per video, so that a killed run loses none of them.

A video is written to a hidden temporary file, flushed to disk and renamed: its shard is there whole or not at all. A
directory of shards is a feature store as it is. For a single store file the shards gather in `<name>.parts` beside it
and are merged at the end, again into a temporary file that is renamed; a run killed there starts over from the parts.
"""

from __future__ import annotations

import glob
import io
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from psftr import __version__
from psftr.errors import PsftrError
from psftr.features.hdf5 import created
from psftr.features.settings import ExtractSettings
from psftr.features.store import FORMAT, SUFFIXES, VERSION, FeatureStore, FeatureWriter
from psftr.files import replacing
from psftr.predictions import canonical_id


class ShardedStore:
    """The finished videos of a store under `out`: a directory, or a file if `out` ends in .h5 or .hdf5.

    `videos` holds their canonical ids. Raises PsftrError if what is there was made by another encoder or stride.
    """

    def __init__(
        self, out: str | Path, *, encoder: str, dim: int, stride: int, dtype: str = ExtractSettings.dtype
    ) -> None:
        self.out = Path(out)
        self.is_file = self.out.suffix in SUFFIXES
        self.folder = self.out.with_name(f"{self.out.name}.parts") if self.is_file else self.out
        self._writer_arguments: dict[str, Any] = {"encoder": encoder, "dim": dim, "dtype": dtype}
        self._encoder, self._dim, self.stride = encoder, dim, stride
        if self.is_file and self.out.is_dir():
            raise PsftrError(f"{self.out} is a directory; name a store file, or a directory not ending in .h5")
        if not self.is_file and self.out.is_file():
            raise PsftrError(f"{self.out} is a file that does not end in .h5; name a .h5 file or a directory")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.videos: set[str] = set()
        self.broken: list[Path] = []
        if self.is_file and self.out.exists():
            self.videos.update(self._check(self.out))
        for path in sorted(self.folder.iterdir()):
            if path.suffix in SUFFIXES:
                self.videos.update(self._check_shard(path))

    def __contains__(self, video_id: str) -> bool:
        return canonical_id(video_id) in self.videos

    def add(self, video_id: str, features: np.ndarray, *, facts: Mapping[str, Any], **timeline: Any) -> None:
        """Keep a finished video: `features [T, dim]`, `timeline` as FeatureWriter.write, `facts` more attributes."""
        target = self.folder / f"{video_id}.h5"
        # Made in memory: on a full disk Python raises one error, HDF5 prints pages and cannot close its file.
        buffer = io.BytesIO()
        with FeatureWriter(target, **self._writer_arguments, buffer=buffer) as writer:
            writer.write(video_id, features, stride=self.stride, **timeline)
        with h5py.File(buffer, "r+") as file:
            file["videos"][video_id].attrs.update(facts)
        try:
            with _kept_for_good(target) as temporary:
                temporary.write_bytes(buffer.getbuffer())
        except OSError as error:
            error.filename = error.filename or str(target)
            raise
        self.videos.add(canonical_id(video_id))

    def finish(self) -> None:
        """Merge the parts into the store file; in a directory there is nothing to do."""
        if not self.is_file:
            return
        parts = [path for path in sorted(self.folder.iterdir()) if path.suffix in SUFFIXES]
        if parts:
            self._merge(parts)
        shutil.rmtree(self.folder)

    def _merge(self, parts: list[Path]) -> None:
        sources = [self.out, *parts] if self.out.exists() else parts
        needed, free = sum(path.stat().st_size for path in sources), shutil.disk_usage(self.out.parent).free
        if needed > free:
            raise PsftrError(
                f"{self.out} needs {needed / 1e9:.2f} GB, {self.out.parent} has {free / 1e9:.2f} GB left: make room "
                f"and start again, nothing is extracted twice; or read {self.folder}, which is a whole store as it is"
            )
        with _kept_for_good(self.out) as temporary, created(temporary) as merged:
            root = {"format": FORMAT, "version": VERSION, "encoder": self._encoder, "dim": self._dim}
            merged.attrs.update({**root, "synthetic": False, "created_by": f"psftr {__version__}"})
            videos = merged.create_group("videos")
            for source in sources:
                with h5py.File(source, "r") as file:
                    for name in file["videos"]:
                        if name not in videos:  # killed between the merge and the removal of the parts
                            file.copy(file["videos"][name], videos, name=name)

    def _check(self, path: Path) -> Iterator[str]:
        """Canonical ids of a store file that fits what is being extracted."""
        store = FeatureStore(path)
        try:
            there, asked = (store.encoder, store.dim), (self._encoder, self._dim)
            if there != asked or store.synthetic:
                kind = "synthetic features" if store.synthetic else f"{there[0]} with {there[1]} dimensions"
                raise PsftrError(f"{path} holds {kind}, not {asked[0]} with {asked[1]}; choose another --out")
            strides = {store.timeline(video_id).stride for video_id in store.video_ids} - {self.stride}
            if strides:
                raise PsftrError(f"{path} holds stride {min(strides)}, not {self.stride}; choose another --out")
            yield from store.video_ids
        finally:
            store.close()

    def _check_shard(self, path: Path) -> Iterator[str]:
        """Like `_check`, but a file that is no longer HDF5 (a damaged disk) is listed, and its video done again."""
        try:
            h5py.File(path, "r").close()
        except OSError:
            self.broken.append(path)
        else:
            yield from self._check(path)


@contextmanager
def _kept_for_good(target: Path) -> Iterator[Path]:
    """`replacing`, so that the file survives a power loss: its content is on disk before its name.

    What killed runs left of this target is removed first; another machine may be at work on other videos of the folder.
    """
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.{'?' * 32}.part"):
        leftover.unlink(missing_ok=True)
    with replacing(target) as temporary:
        yield temporary
        _flush(temporary)
    _flush(target.parent)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
