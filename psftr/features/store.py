"""The `psftr-features` store (HDF5, one file or a directory of shards): reader and writer."""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from psftr import __version__
from psftr.errors import PsftrError
from psftr.features.hdf5 import PatientFile
from psftr.features.settings import ExtractSettings
from psftr.predictions import canonical_id
from psftr.segments import Timeline

FORMAT = "psftr-features"
VERSION = 1
SUFFIXES = (".h5", ".hdf5")
VIDEO_ATTRIBUTES = ("stride", "fps", "num_frames", "duration_s")
DTYPES = ("float16", "float32")
_MAX_OPEN_FILES = 32  # shard directories may hold one file per video


@dataclass(frozen=True)
class VideoFeatures:
    """`features [T, D]` float32, not normalised; row i covers frames [i*stride, (i+1)*stride)."""

    video_id: str
    features: NDArray[np.float32]
    stride: int
    fps: float
    num_frames: int
    duration_s: float

    @property
    def timeline(self) -> Timeline:
        return Timeline(self.stride, self.fps, len(self.features), self.duration_s)


@dataclass(frozen=True, slots=True)
class _Entry:
    shard: int
    group: str
    num_frames: int
    timeline: Timeline


class FeatureStore:
    """Reads a store. Attributes are indexed here; features open lazily, once per process, safe after fork and pickle.

    `encoder`, `dim`, `synthetic` come from the root attributes (equal in all shards); `incomplete` names groups that a
    crashed writer left behind, which are not listed. Raises PsftrError for anything that is not such a store.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._shards = _shard_paths(self.path)
        self._entries: dict[str, _Entry] = {}
        self._handles: OrderedDict[int, h5py.File] = OrderedDict()
        self._handles_pid = os.getpid()
        self._checked: set[str] = set()
        incomplete: list[str] = []
        roots = []
        for number, shard in enumerate(self._shards):
            with _open(shard) as file:
                roots.append(_root_attributes(shard, file))
                if roots[number] != roots[0]:
                    raise PsftrError(
                        f"shards disagree: {self._shards[0].name} has {roots[0]}, {shard.name} has {roots[number]}; "
                        "keep one encoder's shards per directory"
                    )
                for key, entry in _entries_of(file, shard, number, int(roots[0]["dim"]), incomplete):
                    if key in self._entries:
                        other = self._shards[self._entries[key].shard].name
                        raise PsftrError(f"{self.path}: video {key!r} is in {other} and in {shard.name}; remove one")
                    self._entries[key] = entry
        self.encoder = str(roots[0]["encoder"])
        self.dim = int(roots[0]["dim"])
        self.synthetic = bool(roots[0]["synthetic"])
        self.incomplete = tuple(incomplete)
        self._entries = dict(sorted(self._entries.items()))

    @property
    def video_ids(self) -> tuple[str, ...]:
        """Canonical ids (see `canonical_id`), sorted."""
        return tuple(self._entries)

    @property
    def identity(self) -> str:
        """Encoder, dim, strides and a hash of all ids and lengths: equal for equal content, however it is sharded."""
        digest = hashlib.sha256()
        for video_id, entry in self._entries.items():
            digest.update(f"{video_id}\0{entry.timeline.num_steps}\0{entry.timeline.stride}\n".encode())
        strides = ",".join(map(str, sorted({e.timeline.stride for e in self._entries.values()})))
        return f"{self.encoder} dim={self.dim} stride={strides} videos={len(self._entries)} {digest.hexdigest()[:16]}"

    def provenance(self) -> dict[str, Any]:
        """The `features` entry of a predictions file."""
        return {name: getattr(self, name) for name in ("encoder", "dim", "identity", "synthetic")}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, video_id: object) -> bool:
        return isinstance(video_id, str) and canonical_id(video_id) in self._entries

    def timeline(self, video_id: str) -> Timeline:
        """Without reading features. Raises PsftrError for an unknown video, as `read` does."""
        return self._entry(video_id).timeline

    def read(self, video_id: str) -> VideoFeatures:
        """All rows of a video as float32."""
        entry, timeline = self._entry(video_id), self.timeline(video_id)
        features = self.read_rows(video_id).astype(np.float32)
        key = canonical_id(video_id)
        return VideoFeatures(key, features, timeline.stride, timeline.fps, entry.num_frames, timeline.duration_s)

    def read_rows(self, video_id: str, start: int = 0, stop: int | None = None) -> NDArray[np.floating]:
        """Rows [start, stop) as stored (float16 or float32), checked to be finite."""
        entry = self._entry(video_id)
        rows = self._file(entry.shard)["videos"][entry.group]["features"][start:stop]
        key = canonical_id(video_id)
        if key not in self._checked:
            if not np.isfinite(rows).all():
                bad = start + int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
                raise PsftrError(
                    f"{self._shards[entry.shard]}: video {key!r} has non-finite features at row {bad}; extract it again"
                )
            if len(rows) == entry.timeline.num_steps:
                self._checked.add(key)
        return rows

    def close(self) -> None:
        """Close this process's files; the next read opens them again."""
        while self._handles:
            self._handles.popitem()[1].close()

    def _entry(self, video_id: str) -> _Entry:
        try:
            return self._entries[canonical_id(video_id)]
        except KeyError:
            raise PsftrError(f"{self.path}: no features of video {video_id!r} ({len(self)} videos there)") from None

    def _file(self, shard: int) -> h5py.File:
        if self._handles_pid != os.getpid():
            # After a fork, HDF5 would hand out the parent's descriptor for the same file, offset and all: close first.
            self.close()
            self._handles_pid = os.getpid()
        file = self._handles.get(shard)
        if file is None:
            if len(self._handles) >= _MAX_OPEN_FILES:
                self._handles.popitem(last=False)[1].close()
            file = self._handles[shard] = _open(self._shards[shard])
        return file

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": OrderedDict()}


class FeatureWriter:
    """Writes one store file, video by video; a video counts only when its attributes are complete.

    A new file, or with `append=True` also an existing one made with the same arguments: what a crashed writer left
    incomplete is written anew, `video_id in writer` tells what is done. Use as a context manager. `buffer`: write into
    it in place of the file `path`, which then only names the store in errors.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        encoder: str,
        dim: int,
        created_by: str | None = None,
        dtype: str = ExtractSettings.dtype,
        synthetic: bool = False,
        append: bool = False,
        buffer: io.BytesIO | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise PsftrError(f"feature dtype must be {' or '.join(DTYPES)}, got {dtype!r}")
        self.path, self.dim, self.dtype = Path(path), dim, dtype
        if buffer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        exists = buffer is None and self.path.exists()
        if exists and not append:
            raise PsftrError(f"{self.path} exists already; remove it, or append to it")
        if exists:
            with _open(self.path) as file:
                there = _root_attributes(self.path, file)
            asked = {"encoder": encoder, "dim": dim, "synthetic": synthetic}
            if there != asked:
                raise PsftrError(f"{self.path} was made with {there}, not with {asked}; write to another file")
        self._raw = PatientFile(self.path, "r+" if exists else "w+") if buffer is None else None
        self._file = h5py.File(buffer or self._raw, "r+" if exists else "w")
        if not exists:
            root = {"format": FORMAT, "version": VERSION, "encoder": encoder, "dim": dim, "synthetic": synthetic}
            self._file.attrs.update({**root, "created_by": created_by or f"psftr {__version__}"})
        self._videos = self._file.require_group("videos")

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with suppress(OSError) if kind else nullcontext():  # the first error is on its way
            self.close()

    def __contains__(self, video_id: str) -> bool:
        return video_id in self._videos and _is_complete(self._videos[video_id])

    def write(
        self, video_id: str, features: NDArray[Any], *, stride: int, fps: float, num_frames: int, duration_s: float
    ) -> None:
        """Write `features [T, dim]`. Raises PsftrError naming the video if it cannot be stored."""
        if not video_id or "/" in video_id or video_id in (".", ".."):
            raise PsftrError(f"video id {video_id!r} cannot name a group of the store; it must not contain '/'")
        if video_id in self:
            raise PsftrError(f"{self.path}: video {video_id!r} is in the store already")
        where = f"{self.path}: video {video_id!r}"
        stored = np.asarray(features)
        if stored.ndim != 2 or len(stored) == 0 or stored.shape[1] != self.dim:
            raise PsftrError(f"{where}: features must be [T >= 1, {self.dim}], got {list(stored.shape)}")
        with np.errstate(over="ignore"):
            stored = stored.astype(self.dtype)
        if not np.isfinite(stored).all():
            raise PsftrError(f"{where}: features are not finite (as {self.dtype}); nothing of it was written")
        attributes = {"stride": stride, "fps": fps, "num_frames": num_frames, "duration_s": duration_s}
        _check_attributes(where, attributes)
        if video_id in self._videos:
            del self._videos[video_id]  # incomplete: a writer crashed here
        group = self._videos.create_group(video_id)
        group.create_dataset("features", data=stored)  # contiguous: one seek and one read per window
        group.attrs.update(attributes)
        self._file.flush()
        if self._raw is not None:
            self._raw.check()

    def close(self) -> None:
        """Raises OSError where the disk is full."""
        self._file.close()
        if self._raw is not None:
            self._raw.close()
            self._raw.check()


def _shard_paths(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise PsftrError(f"{path}: no feature store there; make one with `psftr extract` or `psftr prepare`")
    shards = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
    if not shards:
        raise PsftrError(f"{path}: no {' or '.join(SUFFIXES)} file in this directory")
    return shards


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        reason = str(error).split("(")[-1].rstrip(")")
        raise PsftrError(f"{path}: not readable as HDF5 ({reason}); if its writer crashed, remove it") from None


def _root_attributes(path: Path, file: h5py.File) -> dict[str, Any]:
    kind, version = file.attrs.get("format"), file.attrs.get("version")
    if kind != FORMAT:
        raise PsftrError(f"{path}: not a feature store (format is {kind!r}, not {FORMAT!r}); run `psftr extract`")
    if version != VERSION:
        advice = "update psftr" if isinstance(version, (int, np.integer)) and version > VERSION else "extract again"
        raise PsftrError(f"{path}: {FORMAT} version {version}, this psftr reads version {VERSION}; {advice}")
    if "encoder" not in file.attrs or "dim" not in file.attrs:
        raise PsftrError(f"{path}: root attributes encoder and dim are missing; extract again")
    dim = int(file.attrs["dim"])
    return {"encoder": str(file.attrs["encoder"]), "dim": dim, "synthetic": bool(file.attrs.get("synthetic", False))}


def _entries_of(
    file: h5py.File, path: Path, shard: int, dim: int, incomplete: list[str]
) -> Iterator[tuple[str, _Entry]]:
    for name, group in file["videos"].items() if "videos" in file else ():
        try:
            attributes = {key: group.attrs[key].item() for key in VIDEO_ATTRIBUTES}
            shape = group["features"].shape
        except (KeyError, AttributeError, ValueError):
            incomplete.append(name)
            continue
        where = f"{path}: video {name!r}"
        _check_attributes(where, attributes)
        if len(shape) != 2 or shape[0] == 0 or shape[1] != dim:
            raise PsftrError(f"{where}: features must be [T >= 1, {dim}], got {list(shape)}; extract it again")
        timeline = Timeline(
            int(attributes["stride"]), float(attributes["fps"]), int(shape[0]), float(attributes["duration_s"])
        )
        yield canonical_id(name), _Entry(shard, name, int(attributes["num_frames"]), timeline)


def _is_complete(group: Any) -> bool:
    return isinstance(group, h5py.Group) and "features" in group and all(k in group.attrs for k in VIDEO_ATTRIBUTES)


def _check_attributes(where: str, attributes: dict[str, Any]) -> None:
    for key, value in attributes.items():
        whole = key in ("stride", "num_frames")
        if not math.isfinite(value) or value <= 0 or (whole and int(value) != value):
            raise PsftrError(f"{where}: {key} must be a positive {'whole ' if whole else ''}number, got {value!r}")
