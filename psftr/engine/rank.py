"""`python -m psftr.engine.rank`: one of the processes of a training, started by launch.py.

Its job is the first line of its standard input. The end of that input says that the process which started it is gone;
then it ends too.
"""

from __future__ import annotations

import json
import logging
import logging.config
import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psftr.engine.launch import FAILURE
from psftr.errors import PsftrError

INTERRUPTED = 130


def main() -> int:
    """The exit status: 0, 1 or 2 after a failure that is told in a file, 130 when interrupted."""
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_starter, daemon=True).start()
    try:
        _set_up_logging(job["logging"], is_first=job["rank"] == 0)
        _train(job)
    except (KeyboardInterrupt, SystemExit):  # Lightning makes the second of the first
        return INTERRUPTED
    except Exception as error:
        _tell(error, Path(job["failures"]))
        return 1
    return 0


def _train(job: Mapping[str, Any]) -> None:
    from psftr.engine.configuration import read_config
    from psftr.engine.runs import RunFolder
    from psftr.engine.train import train_here
    from psftr.settings import TrainSettings

    common, method, own = read_config(TrainSettings, job["config"])
    train_here(common, method, own, RunFolder(Path(job["folder"])))


def _set_up_logging(config: Mapping[str, Any] | None, *, is_first: bool) -> None:
    """Rank 0 logs as the starting process does; the others would say the same, and do not speak."""
    if not is_first:
        logging.disable(logging.CRITICAL)
        warnings.simplefilter("ignore")
    elif config is not None:
        logging.config.dictConfig(dict(config))


def _end_with_the_starter() -> None:
    sys.stdin.read()
    os._exit(INTERRUPTED)


def _tell(error: Exception, failures: Path) -> None:
    """Leave what went wrong where the starting process looks for it; of what nobody expected, the traceback too."""
    process = int(os.environ["LOCAL_RANK"])
    message, told = " ".join(str(error).split()) or type(error).__name__, None
    if not isinstance(error, PsftrError | OSError):
        message, told = f"{type(error).__name__}: {message}", "".join(traceback.format_exception(error))
    failure = {"process": process, "time": time.time(), "message": message, "traceback": told}
    (failures / FAILURE.format(process)).write_text(json.dumps(failure), encoding="utf-8")


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # threads of a process group that has lost a rank would keep this process alive
