"""Whether bfloat16 makes a network faster on this CPU: asked of the processor, then measured."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import nn

log = logging.getLogger("psftr")

LEAST_GAIN = 1.3  # below it, rounding to 8 bits buys too little
_ROWS, _WIDTH = 2048, 512  # a THUMOS14 batch: 16 windows of 128 rows
_BUDGET_S = 1.0
LEAST_PARAMETERS = 5_000_000  # below it, detections cost little in any precision, and the measurement more


def inference_precision(asked: str, network: nn.Module, device: torch.device) -> str:
    """What finds detections with this network: "32-true", or "bf16-mixed", which is autocast to bfloat16.

    asked: one of these, or "auto": bfloat16 for a network of at least LEAST_PARAMETERS on a CPU that gains from it.
    """
    if asked != "auto":
        return asked
    is_large = sum(parameter.numel() for parameter in network.parameters()) >= LEAST_PARAMETERS
    may_gain = is_large and device.type == "cpu"
    return "bf16-mixed" if may_gain and cpu_gains_from_bf16(torch.get_num_threads()) else "32-true"


_known: dict[int | None, float | None] = {}  # of this process


def cpu_gains_from_bf16(threads: int | None) -> bool:
    """Has this CPU bfloat16 instructions, and is a feed-forward block trained LEAST_GAIN times faster with them?

    threads: those the training will use, None for PyTorch's choice. Measured once per process.
    """
    if threads not in _known:
        gain = measured_gain(threads)
        _known[threads] = gain
        if gain is not None:
            log.info("%s", gain_words(gain))
    return (_known[threads] or 0.0) >= LEAST_GAIN


def measured_gain(threads: int | None) -> float | None:
    """How many times as fast as float32 bfloat16 is; None on a CPU without such instructions."""
    if not has_bf16_instructions(_capabilities()):
        return None
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        return _gain(time.perf_counter)
    finally:
        torch.set_num_threads(before)


def remember_gains(gains: Mapping[int | None, float | None]) -> None:
    """What another process of the same work measured: all of them then choose the same precision."""
    _known.update(gains)


def gain_words(gain: float) -> str:
    chosen = "bf16-mixed" if gain >= LEAST_GAIN else "32-true"
    return f"precision: bf16 runs {gain:.1f} times as fast as float32 on this CPU, so auto is {chosen}"


def has_bf16_instructions(capabilities: Mapping[str, object]) -> bool:
    """AVX-512 BF16, AMX or ARM's, as PyTorch names them."""
    return any(name.endswith("bf16") and value is True for name, value in capabilities.items())


def _capabilities() -> Mapping[str, object]:
    return getattr(torch.cpu, "get_capabilities", dict)()


def _gain(clock: Callable[[], float]) -> float:
    """Median over rounds in turns of float32's time over bfloat16's: forward and backward of a feed-forward block."""
    with torch.random.fork_rng(devices=[]):  # the training's own random numbers stay what they were
        block = nn.Sequential(nn.Linear(_WIDTH, 4 * _WIDTH), nn.ReLU(), nn.Linear(4 * _WIDTH, _WIDTH))
        rows = torch.randn(_ROWS, _WIDTH)

    def seconds(is_bf16: bool) -> float:
        start = clock()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
            total = block(rows).float().sum()
        total.backward()
        return clock() - start

    ratios: list[float] = []
    started = clock()
    for is_bf16 in (False, True):  # first calls choose kernels
        seconds(is_bf16)
    while not ratios or clock() - started < _BUDGET_S:
        ratios.append(seconds(False) / seconds(True))
    return statistics.median(ratios)
