"""One process for each device: started, watched and ended from here. Each of them runs `python -m psftr.engine.rank`.

Lightning would start them with the command line again; here the settings travel, as plain values, through a pipe. So it
does not matter whether a training was asked for by `psftr`, by one job of a sweep or by a Python program. The process
that starts them trains nothing itself: it holds the lock of the run folder, and its own state stays clean for the next
job of a sweep.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from psftr.errors import PsftrError
from psftr.files import write_text

POLL_S = 0.05
GRACE_S = 60.0  # after Ctrl-C, for the batch at hand and the loggers
FAILURE = "failure-{}.json"  # what a rank leaves where it is told to, when it fails


def run_ranks(job: Mapping[str, Any], *, num_ranks: int, num_nodes: int, folder: Path) -> None:
    """Start `num_ranks` processes of this machine on a job, which is plain values, and wait for all of them.

    Raises PsftrError where one fails, with its own words, after the others were ended; KeyboardInterrupt after passing
    Ctrl-C on to them. The traceback of an error that nobody expected goes to `folder`.
    """
    environment = meeting_point(num_nodes=num_nodes)
    with tempfile.TemporaryDirectory(prefix="psftr-ranks-") as failures:
        ranks: list[subprocess.Popen[str]] = []
        try:
            for number in range(num_ranks):
                place = {"failures": failures, "rank": int(environment["NODE_RANK"]) * num_ranks + number}
                ranks.append(_start({**job, **place}, {**environment, "LOCAL_RANK": str(number)}))
            while any(rank.poll() is None for rank in ranks) and not any(rank.poll() for rank in ranks):
                time.sleep(POLL_S)
            codes = [rank.poll() or 0 for rank in ranks]  # of those that ended by themselves
        except KeyboardInterrupt:
            _interrupt(ranks)
            raise
        finally:
            for rank in ranks:
                if rank.poll() is None:
                    rank.kill()
                rank.wait()
                with suppress(OSError):  # the pipe of one that is gone
                    rank.stdin.close()  # type: ignore[union-attr]
        if any(codes):
            raise PsftrError(_what_failed(Path(failures), codes, folder))


def meeting_point(*, num_nodes: int) -> dict[str, str]:
    """MASTER_ADDR, MASTER_PORT and NODE_RANK: on one machine as they are set, or free ones.

    Raises PsftrError where they are not set and there are several machines, which cannot guess.
    """
    names = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
    if num_nodes > 1:
        if absent := [name for name in names if name not in os.environ]:
            raise PsftrError(
                f"trainer.num_nodes={num_nodes} needs {', '.join(absent)} in the environment: the address and a free "
                "port of the first machine, and the number of this one, from 0"
            )
        return {name: os.environ[name] for name in names}
    found = {"MASTER_ADDR": os.environ.get("MASTER_ADDR", "127.0.0.1"), "NODE_RANK": "0"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found["MASTER_PORT"] = os.environ.get("MASTER_PORT") or str(free.getsockname()[1])
    # processes of one machine meet inside it, whatever its host name resolves to
    inside = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    if inside and not {"MASTER_ADDR", "GLOO_SOCKET_IFNAME"} & os.environ.keys():
        found["GLOO_SOCKET_IFNAME"] = inside[0]
    return found


def _start(job: Mapping[str, Any], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    rank = subprocess.Popen(
        [sys.executable, "-m", "psftr.engine.rank"],
        stdin=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        start_new_session=True,  # a terminal's Ctrl-C reaches the starting process only, which passes it on once
    )
    assert rank.stdin is not None
    # the pipe stays open: its end tells the rank that nobody waits for it any more
    with suppress(OSError):  # one that is gone already says why by how it ended
        rank.stdin.write(json.dumps(job) + "\n")
        rank.stdin.flush()
    return rank


def _interrupt(ranks: Sequence[subprocess.Popen[str]]) -> None:
    """Ctrl-C for every rank, and time to end well."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for rank in ranks:
            if rank.poll() is None:
                rank.send_signal(signal.SIGINT if os.name == "posix" else signal.SIGTERM)
        end = time.monotonic() + GRACE_S
        while any(rank.poll() is None for rank in ranks) and time.monotonic() < end:
            time.sleep(POLL_S)
    finally:
        signal.signal(signal.SIGINT, before)


def _what_failed(failures: Path, codes: Sequence[int], folder: Path) -> str:
    """The words of the rank that failed first: whoever lost it only because of that is not heard."""
    told = [json.loads(file.read_text(encoding="utf-8")) for file in failures.glob(FAILURE.format("*"))]
    explained = {one["process"] for one in told}
    for number, code in enumerate(codes):
        if code and number not in explained:
            how = f"was killed (signal {-code}; out of memory?)" if code < 0 else f"ended with status {code}"
            return f"process {number} of {len(codes)} {how}; the others were ended"
    first = min(told, key=lambda one: one["time"])
    if first["traceback"] is None:
        return str(first["message"])
    place = write_text(folder / "traceback.txt", first["traceback"])
    return (
        f"process {first['process']} of {len(codes)} failed: {first['message']}; the others were ended "
        f"(its traceback is in {place})"
    )
