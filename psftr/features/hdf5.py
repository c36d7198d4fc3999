"""HDF5 files on disks that may be full."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py


class PatientFile(io.FileIO):
    """A file whose failed write is raised by `check`, not at once.

    HDF5 goes on writing after an error, prints pages about it and cannot close its file. It is told that all went well;
    whoever writes asks afterwards.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        size, done = memoryview(data).nbytes, 0
        while self.error is None and done < size:  # a write may be a part of what was asked
            try:
                done += super().write(memoryview(data).cast("B")[done:]) or 0
            except OSError as error:
                self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size) if self.error is None else size or 0
        except OSError as error:
            self.error = error
            return size or 0

    def check(self) -> None:
        """Raises OSError with the file's name where a write has failed."""
        if self.error is not None:
            self.error.filename = str(self.name)
            raise self.error


@contextmanager
def created(path: Path) -> Iterator[h5py.File]:
    """A new HDF5 file, overwriting one that is there. Raises OSError, once, where the disk is full."""
    with PatientFile(path, "w+") as raw:
        with h5py.File(raw, "w") as file:
            yield file
        raw.check()
