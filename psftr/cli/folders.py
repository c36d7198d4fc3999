"""Where a call writes: never over an earlier call's results unasked, and nothing where it fails at the start."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path

from psftr.errors import PsftrError


@contextmanager
def no_remains(*folders: Path) -> Iterator[None]:
    """Where the block fails, folders that it made are removed again as far as they are empty."""
    made = [path for folder in folders for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        inside = chain.from_iterable(path.rglob("*") for path in made if path.is_dir())
        for path in sorted({*made, *(p for p in inside if p.is_dir())}, key=lambda p: -len(p.parts)):
            try:
                path.rmdir()
            except OSError:  # not empty, or never made
                continue
        raise


def writable_folder(flag: str, path: str) -> Path:
    """The folder that `flag` names, which need not exist yet. Raises PsftrError where it can never be one."""
    if not path:
        raise PsftrError(f"{flag} is empty; name a folder")
    folder = Path(path)
    for part in (folder, *folder.parents):
        if part.exists():
            if not part.is_dir():
                raise PsftrError(f"{flag} {path}: {part} is a file; name a folder")
            if not os.access(part, os.W_OK):
                raise PsftrError(f"{flag} {path}: {part} cannot be written to; name another folder")
            break
    return folder


def free_folder(folder: Path, result: str) -> Path:
    """`folder`, or the first of FOLDER-2, FOLDER-3, … where it holds the file `result` of an earlier call."""
    for number in count(1):
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        if not (candidate / result).exists():
            return candidate
    raise AssertionError("count() ends")
