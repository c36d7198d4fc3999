"""Finished videos of a run, one file each, so that going on asks nothing about them again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psftr.errors import PsftrError
from psftr.files import read_json, write_json
from psftr.predictions import Detection


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What came of one video.

    answers: keys of the answers that it is made of, by step. failed: why it is not finished, by kind of question; such
    a video has neither detections nor trace. asked: questions sent for it, by kind.
    """

    detections: tuple[Detection, ...]
    trace: Mapping[str, Any]
    answers: Mapping[str, tuple[str, ...]]
    failed: Mapping[str, str]
    asked: Mapping[str, int]


class Journal:
    """run: everything that decides the outcome; files of another run are not seen. Unfinished videos are not kept."""

    def __init__(self, folder: Path, run: Mapping[str, Any]) -> None:
        self.folder = folder
        self._run = json.dumps(run, sort_keys=True, default=str)

    def _path(self, video_id: str, file: Path) -> Path:
        facts = file.stat()
        name = f"{self._run}/{video_id}/{facts.st_size}/{facts.st_mtime_ns}"
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.json"

    def get(self, video_id: str, file: Path) -> Looked | None:
        """A finished video, or None; `file` as it was then."""
        path = self._path(video_id, file)
        if not path.is_file():
            return None
        content = read_json(path, remedy="remove it, or run again with redo=true")
        try:
            return Looked(
                detections=tuple(Detection(video_id, *row) for row in content["detections"]),
                trace=dict(content["trace"]),
                answers={step: tuple(keys) for step, keys in content["answers"].items()},
                failed={},
                asked={},
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PsftrError(f"{path} is damaged ({error!r}): remove it, or run again with redo=true") from None

    def put(self, video_id: str, file: Path, looked: Looked) -> None:
        """Keep a finished video; one with failed questions is not."""
        if looked.failed:
            return
        rows = [[d.label, d.start_s, d.end_s, d.score] for d in looked.detections]
        content = {"detections": rows, "trace": looked.trace, "answers": looked.answers}
        write_json(self._path(video_id, file), content, indent=None)

    def clear(self) -> None:
        for path in self.folder.glob("*.json"):
            path.unlink()
