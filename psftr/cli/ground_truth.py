"""Annotations that a user names on the command line: read, and refused where a number against them would mislead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psftr.errors import PsftrError

if TYPE_CHECKING:
    from psftr.data.annotations import Annotations


def read_ground_truth(path: str, **how: Any) -> Annotations:
    """`read_annotations`. Raises PsftrError also for an action that begins before its video."""
    from psftr.data.annotations import BEFORE_START, read_annotations

    annotations = read_annotations(path, **how)
    early = [trouble for trouble in annotations.troubles if trouble.kind == BEFORE_START]
    if early:
        more = f" (and {len(early) - 1} more such)" if len(early) > 1 else ""
        raise PsftrError(
            f"{path}: video {early[0].video_id!r} has an action before its start: {early[0].detail}{more}; "
            "times are seconds from the first frame: correct the file"
        )
    return annotations
