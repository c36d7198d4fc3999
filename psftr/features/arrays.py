"""Features that exist as a folder of `.npy` arrays with an info JSON, into a feature store."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psftr.errors import PsftrError
from psftr.features.settings import ExtractSettings
from psftr.features.store import FeatureWriter
from psftr.files import read_json
from psftr.segments import Timeline


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """One row of an info JSON: frame rate, frames, feature rows and length of a video."""

    fps: float
    num_frames: int
    num_steps: int
    duration_s: float

    def timeline(self, stride: int) -> Timeline:
        return Timeline(stride, self.fps, self.num_steps, self.duration_s)


@dataclass(frozen=True)
class ImportReport:
    """What an import did. `other_length`: (id, rows of the array, rows in the info); the array won."""

    imported: tuple[str, ...]
    without_array: tuple[str, ...]
    without_info: tuple[str, ...]
    other_length: tuple[tuple[str, int, int], ...]


def read_info(path: str | Path) -> dict[str, VideoInfo]:
    """Read `{id: {video_fps, frame_length, snippet_length, frame_duration}}`; ids stay as written."""
    document = read_json(path, remedy="give the info JSON of the features")
    infos = {}
    for video_id, row in document.items() if isinstance(document, dict) else ():
        try:
            numbers = [float(row[k]) for k in ("video_fps", "frame_length", "snippet_length", "frame_duration")]
        except (KeyError, TypeError, ValueError):
            numbers = [math.nan]
        if not all(math.isfinite(n) and n > 0 for n in numbers):
            raise PsftrError(
                f"{path}: video {video_id!r}: needs positive video_fps, frame_length, snippet_length and frame_duration"
            )
        infos[video_id] = VideoInfo(numbers[0], int(numbers[1]), int(numbers[2]), numbers[3])
    if not infos:
        raise PsftrError(f"{path}: no video in it; expected {{id: {{video_fps, frame_length, …}}}}")
    return infos


def import_npy_folder(
    folder: str | Path,
    info_json: str | Path,
    out: str | Path,
    *,
    encoder: str,
    stride: int,
    dtype: str = ExtractSettings.dtype,
    synthetic: bool = False,
) -> ImportReport:
    """Import `<video id>.npy` arrays `[T, D]` with their info JSON into a new store file.

    Raises PsftrError for pickled or misshapen arrays and when nothing matches; every mismatch is in the report.
    """
    infos = read_info(info_json)
    arrays = {path.stem: path for path in sorted(Path(folder).glob("*.npy"))}
    both = [video_id for video_id in arrays if video_id in infos]
    if not both:
        raise PsftrError(f"{folder}: none of its {len(arrays)} .npy files is a video of {info_json}; check the ids")
    dim = _load_array(arrays[both[0]]).shape[1]
    other_length = []
    with FeatureWriter(out, encoder=encoder, dim=dim, dtype=dtype, synthetic=synthetic) as writer:
        for video_id in both:
            array, info = _load_array(arrays[video_id]), infos[video_id]
            if len(array) != info.num_steps:
                other_length.append((video_id, len(array), info.num_steps))
            writer.write(
                video_id, array, stride=stride, fps=info.fps, num_frames=info.num_frames, duration_s=info.duration_s
            )
    return ImportReport(
        imported=tuple(both),
        without_array=tuple(sorted(infos.keys() - arrays.keys())),
        without_info=tuple(sorted(arrays.keys() - infos.keys())),
        other_length=tuple(other_length),
    )


def _load_array(path: Path) -> NDArray[Any]:
    try:
        array = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise PsftrError(
            f"{path}: not a plain array, and pickled ones are refused; save it with np.save ({error})"
        ) from None
    if array.ndim != 2 or array.dtype.kind != "f":
        raise PsftrError(f"{path}: expected floats [T, D], got {array.dtype} {list(array.shape)}")
    return array
