"""How many trainings this machine runs at a time, and where: over its cores, or over its GPUs."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from psftr.engine.precision import gain_words, measured_gain
from psftr.engine.slots import Environment, Watcher, run_in_slots
from psftr.engine.trainer import Ranks, check_trainer, is_measured
from psftr.engine.worlds import build_worlds
from psftr.errors import PsftrError
from psftr.settings import TrainSettings

VISIBLE = "CUDA_VISIBLE_DEVICES"
MOST_ON_A_GPU = 4  # a small model's kernels leave room for others, and each process needs a core to start them
MARGIN = 1.5  # free memory of a GPU over what its jobs take on average, before it gets another one

log = logging.getLogger("psftr")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where the jobs of a sweep run.

    slots: environment variables of each; a single one stands for this process, where jobs run one after the other.
    may_fork: worker processes may begin as copies of this one. asks_for_room: a GPU gets a further job only once it has
    shown room for it.
    """

    slots: tuple[Environment, ...]
    may_fork: bool = False
    asks_for_room: bool = False


def plan(settings: Sequence[TrainSettings], *, asked: int | str) -> Plan:
    """Where these trainings run; asked: how many at a time, or auto.

    Trainings that use several devices each, or accelerators that psftr knows nothing of, run one after the other.
    Raises PsftrError where several at a time are asked for then.
    """
    ranks = [check_trainer(one) for one in settings]
    places: list[Environment] | None = None
    asks = False
    if all(_fits_a_slot(one, rank) for one, rank in zip(settings, ranks)):
        if all(rank.accelerator == "cpu" for rank in ranks):
            places = [{}] * asked if isinstance(asked, int) else on_cores([one.trainer.threads for one in settings])
        elif all(rank.accelerator == "cuda" and one.trainer.devices == "auto" for one, rank in zip(settings, ranks)):
            gpus, asks = visible_gpus(), asked == "auto"
            each = -(-asked // len(gpus)) if isinstance(asked, int) else None
            places = on_gpus(gpus, each=each)[: asked if isinstance(asked, int) else None]
    if places is None:
        if isinstance(asked, int) and asked > 1:
            raise PsftrError(
                f"hydra.launcher.jobs={asked}: these trainings choose their devices themselves, so they run one after "
                "the other; leave out trainer.devices, or hydra.launcher.jobs"
            )
        places = [{}]
    fork = sys.platform == "linux" and not torch.cuda.is_available()  # CUDA does not survive a fork
    return Plan(slots=tuple(places[: max(1, len(settings))]), may_fork=fork, asks_for_room=asks)


def _fits_a_slot(common: TrainSettings, ranks: Ranks) -> bool:
    """Whether a training is one process: it asks for one device, or leaves it to us."""
    trainer = common.trainer
    left_to_us = trainer.devices == "auto" and trainer.strategy == "auto" and trainer.num_nodes == 1
    return ranks.num_ranks == 1 or (left_to_us and ranks.on_this_machine > 0)


def prepare(settings: Sequence[TrainSettings], *, forked: bool) -> dict[int | None, float | None]:
    """What trainings share, made once before they start together: the synthetic world, and the gain from bfloat16.

    Each for itself might measure differently, and train in another precision than it would alone.
    """
    build_worlds(settings)
    threads = sorted({one.trainer.threads for one in settings if is_measured(one.trainer)}, key=lambda one: one or 0)
    measured = run_in_slots(measured_gain, threads, slots=[{}], watcher=Watcher(), forked=forked)
    gains = {number: outcome.value for number, outcome in zip(threads, measured)}
    for gain in gains.values():
        if gain is not None:
            log.info("%s", gain_words(gain))
    return gains


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def on_cores(threads: Sequence[int | None]) -> list[Environment]:
    """As many slots as jobs of so many threads fit on the cores; None is PyTorch's choice."""
    most = max(one or torch.get_num_threads() for one in threads)
    return [{}] * max(1, cores() // most)


def on_gpus(devices: Sequence[str], *, each: int | None = None) -> list[Environment]:
    """Slots that take the GPUs in turns. each: on one GPU; None: as many as its share of the cores, at most four."""
    if each is None:
        each = max(1, min(MOST_ON_A_GPU, cores() // len(devices)))
    return [{VISIBLE: device} for _ in range(each) for device in devices]


def visible_gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them."""
    named = [one.strip() for one in os.environ.get(VISIBLE, "").split(",") if one.strip()]
    return named or [str(number) for number in range(torch.cuda.device_count())]


def has_room(
    device: str, beside: Sequence[int], *, has_settled: Callable[[int], bool], memory: Callable[[str], tuple[int, int]]
) -> bool:
    """Whether a GPU has room for one more job beside those that it runs.

    The first may always start. Others start once each job there has settled (its first epoch is over, so its memory is
    known) and the free memory is MARGIN times what they take on average; memory gives (used, total) of a device.
    """
    if not beside:
        return True
    if not all(has_settled(job) for job in beside):
        return False
    used, total = memory(device)
    return total - used >= MARGIN * used / len(beside)


def jobs_beside(slot: int, slots: Sequence[Environment], running: Mapping[int, int]) -> list[int]:
    """The jobs that run on the GPU of this slot; `running` holds {slot: job}."""
    return [job for other, job in running.items() if slots[other].get(VISIBLE) == slots[slot].get(VISIBLE)]


def gpu_memory(device: str) -> tuple[int, int]:
    """(used, total) of a GPU in MiB, as its driver's tool says. Raises PsftrError where that is not there."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        raise PsftrError("nvidia-smi, which knows the free memory of a GPU, is not there: say hydra.launcher.jobs=N")
    asked = [tool, f"--id={device}", "--query-gpu=memory.used,memory.total", "--format=csv,noheader,nounits"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    try:
        used, total = (int(text) for text in done.stdout.strip().split(","))
    except ValueError:
        words = " ".join((done.stdout + done.stderr).split())
        raise PsftrError(f"cannot read the memory of GPU {device} ({words}): say hydra.launcher.jobs=N") from None
    return used, total
