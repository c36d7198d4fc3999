"""Which videos to extract: files, folders and lists -> one entry per video id; shares of them for many machines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from psftr.errors import PsftrError
from psftr.features.video import SUFFIXES
from psftr.files import read_lines
from psftr.predictions import canonical_id


@dataclass(frozen=True)
class VideoFile:
    """A video to extract; `video_id` is the file's name without its ending."""

    video_id: str
    path: Path


def find_videos(inputs: Iterable[str | Path]) -> list[VideoFile]:
    """Files, folders (searched with their subfolders for known endings) and `@lists` (one of either per line).

    Sorted by id. Raises PsftrError for what is not there, for an address, and for two files of one id.
    """
    found: dict[str, VideoFile] = {}
    for path in _expand(inputs, listed_in=None):
        video = VideoFile(path.stem, path)
        other = found.setdefault(canonical_id(video.video_id), video)
        if other.path.resolve() != path.resolve():
            raise PsftrError(f"two files of one video id {video.video_id!r}: {other.path} and {path}; rename one")
    return sorted(found.values(), key=lambda video: video.video_id)


def _expand(inputs: Iterable[str | Path], *, listed_in: Path | None) -> Iterable[Path]:
    for name in inputs:
        if str(name).startswith("@") and listed_in is None:
            listing = Path(str(name)[1:])
            yield from _expand(read_lines(listing, "videos or folders of them"), listed_in=listing)
            continue
        if not name or "://" in str(name):
            raise PsftrError(f"{str(name)!r} is not a video file or a folder; download it first, then give its path")
        path = Path(name)
        if not path.exists() and listed_in is not None:
            path = listed_in.parent / name  # a list may also name what lies beside it
        if path.is_dir():
            inside = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in SUFFIXES and file.is_file()]
            if not inside:
                raise PsftrError(f"folder {path} holds no video ({', '.join(SUFFIXES)})")
            yield from inside
        elif path.exists():
            yield path
        else:
            raise PsftrError(f"video {name} not found" + (f" (listed in {listed_in})" if listed_in else ""))


def select_shard(videos: Sequence[VideoFile], shard: str) -> list[VideoFile]:
    """`i/n`, i from 1 to n: every n-th video, so that n machines share a corpus evenly."""
    index, _, count = shard.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise PsftrError(f"shard {shard!r} is not i/n with i from 1 to n; for four machines: 1/4, 2/4, 3/4, 4/4")
    return list(videos[int(index) - 1 :: int(count)])
