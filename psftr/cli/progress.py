"""How far a long call has come, for the verbs with plain flags: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINE_EVERY_S = 5.0


@contextmanager
def progress() -> Iterator[Callable[[float, str], None]]:
    """Yields tell(share done in [0, 1], text). What is over before the first line is due says nothing."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        with Progress(BarColumn(), TextColumn("{task.fields[text]}"), console=Console(stderr=True)) as bars:
            task = bars.add_task("", total=1.0, text="")
            yield lambda share, text: bars.update(task, completed=min(1.0, share), text=text)
        return
    last = time.monotonic()

    def line(share: float, text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    yield line


def counter(tell: Callable[[float, str], None], what: str) -> Callable[[int, int], None]:
    """tell for work that counts its pieces: `12/40 files checked`."""
    return lambda done, total: tell(done / max(total, 1), f"{done}/{total} {what}")


def duration(seconds: float) -> str:
    """Seconds as people say them: `1 h 5 min`, `2 min 3 s`, `4 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
