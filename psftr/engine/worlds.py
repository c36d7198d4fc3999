"""The synthetic world of a sweep, built beside the imports that its trainings need."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from psftr.errors import PsftrError
from psftr.settings import TrainSettings

__all__ = ["build_worlds", "built_meanwhile"]


@contextmanager
def built_meanwhile(settings: Sequence[TrainSettings]) -> Iterator[None]:
    """On Linux another process builds the worlds that are missing, while this one imports Lightning; it ends with this.

    Either takes about 6 s of one core. Where Lightning is there already nothing is started: there is nothing to save,
    and a process whose threads have worked is not to be copied. `build_worlds` says whatever goes wrong.
    """
    if sys.platform != "linux" or "pytorch_lightning" in sys.modules:
        yield
        return
    process = multiprocessing.get_context("fork").Process(target=_build_quietly, args=(settings,), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.join()


def build_worlds(settings: Sequence[TrainSettings]) -> None:
    """Once for each data set. What is missing is left to whoever needs it and says so."""
    from psftr.data.datasets import open_annotations

    for where in {(one.data_root, one.dataset): one for one in settings}.values():
        with suppress(PsftrError):
            open_annotations(where.dataset, where.split, data_root=where.data_root)


def _build_quietly(settings: Sequence[TrainSettings]) -> None:
    with suppress(OSError, KeyboardInterrupt):  # a full disk shows again where the world is needed
        build_worlds(settings)
