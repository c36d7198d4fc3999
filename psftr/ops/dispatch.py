"""Which path runs: it is chosen once per kind of device and logged once.

PSFTR_OPS=auto|reference|torch|native|cuda in the environment, or `forced_path` in code, chooses it. `auto` takes the
fastest path of this machine. A path that was asked for and cannot run is an error; no other one replaces it. All paths
agree to float32 rounding, so checkpoints do not depend on the path.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from psftr.ops import cuda_path, native_path, reference, torch_path

PATHS = ("auto", "reference", "torch", "native", "cuda")
log = logging.getLogger("psftr.ops")


class PathUnavailable(RuntimeError):
    """A path was asked for by name and cannot run here."""


@dataclass(frozen=True)
class SelectedPath:
    """What computes temporal deformable attention, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


_forced = os.environ.get("PSFTR_OPS", "auto").strip().lower() or "auto"


def forced() -> str:
    """The path asked for: the environment's PSFTR_OPS, or what `forced_path` says; "auto" when neither does."""
    if _forced not in PATHS:
        raise ValueError(f"PSFTR_OPS is {_forced!r}: choose one of {', '.join(PATHS)}")
    return _forced


@contextlib.contextmanager
def forced_path(name: str) -> Iterator[None]:
    """Within this block every call takes the named path (for tests and benchmarks; not per thread)."""
    global _forced
    if name not in PATHS:
        raise ValueError(f"unknown path {name!r}: choose one of {', '.join(PATHS)}")
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before


def selected_path(device: torch.device | str) -> SelectedPath:
    """The path for tensors on this device, as a name and a reason; `str()` of it is one line for a log."""
    return _select(torch.device(device).type, _index(torch.device(device)), forced())


def implementation(values: Tensor, locations: Tensor) -> ModuleType:
    """The module whose forward(...) and backward(...) compute this call."""
    selected = _select(values.device.type, _index(values.device), forced())
    _say_once(values.device.type, selected)
    if values.dtype == torch.float64 and selected.name in ("native", "cuda"):
        return torch_path  # the kernels are float32 and 16 bits; float64 is for checking gradients
    if selected.name == "cuda":
        try:
            cuda_path.prepare(values.device, cuda_path.variant_of(values, locations))
        except cuda_path.CudaUnavailable as error:
            if forced() == "cuda":
                raise PathUnavailable(f"PSFTR_OPS=cuda: {error}") from error
            _warn_once(str(error))
            return torch_path
    return {"reference": reference, "torch": torch_path, "native": native_path, "cuda": cuda_path}[selected.name]


@functools.cache
def _select(device: str, index: int, asked: str) -> SelectedPath:
    if asked in ("reference", "torch"):
        return SelectedPath(asked, "asked for")
    if asked == "native" or (asked == "auto" and device == "cpu"):
        return _native(device, asked)
    if asked == "cuda" or device == "cuda":
        return _cuda(device, index, asked)
    return SelectedPath("reference", f"no kernel for {device}")


def _native(device: str, asked: str) -> SelectedPath:
    if device != "cpu":
        raise PathUnavailable(f"PSFTR_OPS=native computes on the CPU, but the values are on {device}")
    if asked == "auto" and not native_path.LIBRARY.is_file():
        return SelectedPath("torch", "stock PyTorch; the prebuilt library of some wheels is faster")
    try:
        native_path.load()
    except native_path.NativeUnavailable as error:
        if asked == "native":
            raise PathUnavailable(f"PSFTR_OPS=native: {error}; unset it to use PyTorch") from error
        return SelectedPath("torch", str(error))
    return SelectedPath("native", "asked for" if asked == "native" else "prebuilt library found")


def _cuda(device: str, index: int, asked: str) -> SelectedPath:
    if device != "cuda":
        raise PathUnavailable(f"PSFTR_OPS=cuda computes on a CUDA device, but the values are on {device}")
    try:
        architecture = cuda_path.architecture(index)
    except cuda_path.CudaUnavailable as error:
        if asked == "cuda":
            raise PathUnavailable(f"PSFTR_OPS=cuda: {error}") from error
        _warn_once(str(error))
        return SelectedPath("torch", str(error))
    return SelectedPath("cuda", "asked for" if asked == "cuda" else f"kernel for {architecture}")


@functools.cache
def _warn_once(cause: str) -> None:
    log.warning("the CUDA kernel cannot be used and PyTorch computes instead, which is slower: %s", cause)


_said: set[tuple[str, SelectedPath]] = set()


def say_path(device: torch.device | str) -> None:
    """Log what will run on this device; the first call does not say it again."""
    kind, selected = torch.device(device).type, selected_path(device)
    _said.discard((kind, selected))
    _say_once(kind, selected)


def _say_once(device: str, selected: SelectedPath) -> None:
    if (device, selected) not in _said:
        _said.add((device, selected))
        log.info("temporal deformable attention on %s: %s", device, selected)


def _index(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    return torch.cuda.current_device() if device.index is None else device.index
