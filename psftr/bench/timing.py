"""Clocks for benchmarks: versions take turns in one run, so that other work on the machine slows all of them alike."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from psftr.engine.memory import keep_freed_memory


@dataclass(frozen=True)
class Times:
    """Seconds of every round, in the order the rounds ran."""

    rounds: tuple[float, ...]

    @property
    def median_s(self) -> float:
        return statistics.median(self.rounds)

    def times_faster_than(self, slower: Times) -> float:
        """Median over the rounds of what `slower` took in the same round, divided by what this took."""
        return statistics.median(b / a for a, b in zip(self.rounds, slower.rounds, strict=True))


#: seconds of counted calls per turn: short calls are repeated, so that the effects of the turn before fade
TURN_S = 0.02


def take_turns(versions: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, Times]:
    """Seconds per call on the CPU. In every round each version is called once uncounted, which sets up caches and
    allocator, and then for TURN_S, at least once; the mean counts.

    With one thread it is the CPU time of that thread, so other work on the machine does not count. With several threads
    it is wall-clock time, and the machine should be idle.
    """
    keep_freed_memory()
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in versions}
    for _ in range(rounds):
        for name, version in versions.items():
            version()
            calls, start = 0, clock()
            while calls == 0 or clock() - start < TURN_S:
                version()
                calls += 1
            seconds[name].append((clock() - start) / calls)
    return {name: Times(tuple(values)) for name, values in seconds.items()}


def replay_in_turns(versions: Mapping[str, Sequence[Callable[[], object]]], *, rounds: int) -> dict[str, Times]:
    """Seconds per call on the GPU. Each version is a sequence of calls on inputs of their own, captured into one CUDA
    graph: together they exceed the L2 cache, so that every call reads its inputs from memory. All versions are timed,
    then all once more; a round's time is the mean of the two."""
    graphs = {name: _capture(calls) for name, calls in versions.items()}
    passes = []
    for _ in range(2):
        seconds: dict[str, list[float]] = {name: [] for name in versions}
        for counted in [False] + [True] * rounds:
            for name, graph in graphs.items():
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                graph.replay()
                end.record()
                end.synchronize()
                if counted:
                    seconds[name].append(begin.elapsed_time(end) / 1e3 / len(versions[name]))
        passes.append(seconds)
    first, second = passes
    return {name: Times(tuple((a + b) / 2 for a, b in zip(first[name], second[name]))) for name in versions}


def _capture(calls: Sequence[Callable[[], object]]) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # kernels are loaded and libraries set up before anything is captured
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph


def memory_bandwidth(device: torch.device, *, rounds: int) -> float:
    """Bytes per second of a large copy, read and write together, on this machine in this run."""
    size = 2**28 if device.type == "cuda" else 2**25
    source = torch.empty(size, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)

    if device.type == "cuda":
        times = replay_in_turns({"copy": [copy] * 4}, rounds=rounds)
    else:
        times = take_turns({"copy": copy}, rounds=rounds)
    return 2 * size / times["copy"].median_s


def least_kernel(device: torch.device, *, rounds: int) -> float:
    """Seconds that adding to one number takes in a CUDA graph: next to nothing but the launch."""
    number = torch.zeros(1, device=device)
    return replay_in_turns({"least": [lambda: number.add_(1)] * 16}, rounds=rounds)["least"].median_s


def describe_machine(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}, PyTorch {torch.__version__}"
    capability = torch.backends.cpu.get_cpu_capability()
    threads = "1 thread"
    if torch.get_num_threads() > 1:  # whose threads may spin between operations, which makes short ones faster
        names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
        settings = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
        threads = " ".join([f"{torch.get_num_threads()} threads", *settings])
    return f"{platform.machine()} {capability}, {threads}, PyTorch {torch.__version__}"
