"""The CUDA path: csrc/temporal_deform_attn.cu, compiled for the device and the shape at the first call.

This file plans the launches (grids, scratch memory, limits); nvrtc.py compiles and cuda_driver.py launches. Shape
letters as in temporal_deform_attn.py.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from psftr.ops import cuda_driver, nvrtc

SOURCE = Path(__file__).parent / "csrc" / "temporal_deform_attn.cu"
SCALARS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}

# These mirror constants of the kernel.
_THREADS = 256
_WARP_SUMS = 32
_MAX_STEPS = 4  # accesses per lane and row: more would not fit into the registers
_MAX_BINS = 8192  # of one block of sort_points: 32 KiB of shared memory, which every device has
_MAX_ROWS = 2**23  # beyond it a float32 row position has no half


class CudaUnavailable(RuntimeError):
    """Says why the CUDA kernel cannot be used for this device or these shapes."""


class Launcher(Protocol):
    """What launches a kernel: a loaded module, or in the tests the same source run on the CPU."""

    def launch(
        self, name: str, grid: int, block: int, shared_bytes: int, arguments: Sequence[cuda_driver.Argument]
    ) -> None: ...


@dataclass(frozen=True)
class Variant:
    """What the kernel is compiled for."""

    dtype: torch.dtype
    dim: int
    levels: int
    points: int

    @property
    def macros(self) -> dict[str, int]:
        return {
            "SCALAR": SCALARS[self.dtype],
            "DIM": self.dim,
            "LEVELS": self.levels,
            "POINTS": self.points,
        }

    @property
    def lanes(self) -> int:
        """Threads that share one row of D channels: LANES of the kernel."""
        return min(32, 1 << (self._vectors - 1).bit_length())

    @property
    def _vectors(self) -> int:
        size = 16 // self.dtype.itemsize
        while self.dim % size:
            size //= 2
        return self.dim // size

    def check(self) -> None:
        """Raise CudaUnavailable for channels that do not fit into a group's registers."""
        if self._vectors > 32 * _MAX_STEPS:
            raise CudaUnavailable(
                f"heads of {self.dim} {self.dtype} channels are too wide for the kernel: "
                f"use more heads, or a multiple of {16 // self.dtype.itemsize} channels"
            )


@functools.cache
def architecture(index: int) -> str:
    """What to compile for on this device, e.g. "sm_90"; raises CudaUnavailable where the kernel cannot run.

    Quick: it finds the compiler and the driver but compiles nothing.
    """
    if torch.version.hip is not None:
        raise CudaUnavailable("this PyTorch is built for AMD devices")
    capability = torch.cuda.get_device_capability(index)
    if capability < (7, 0):
        raise CudaUnavailable(f"compute capability {capability[0]}.{capability[1]} is too old: the kernel needs 7.0")
    try:
        cuda_driver.find()
        return nvrtc.architecture_for(capability)
    except (nvrtc.NvrtcError, cuda_driver.DriverError) as error:
        raise CudaUnavailable(str(error)) from error


def prepare(device: torch.device, variant: Variant) -> Launcher:
    """Compile the kernel, or read it from the disk, and load it; raises CudaUnavailable with the cause."""
    found = _prepare(torch.cuda.current_device() if device.index is None else device.index, variant)
    if isinstance(found, str):
        raise CudaUnavailable(found)
    return found


@functools.cache
def _prepare(index: int, variant: Variant) -> Launcher | str:
    """The loaded kernel, or why there is none: a failure is remembered like a success."""
    try:
        variant.check()
        cubin = nvrtc.load_or_compile(SOURCE.read_text(), architecture=architecture(index), macros=variant.macros)
        return cuda_driver.Module(cubin, index)
    except (CudaUnavailable, nvrtc.NvrtcError, cuda_driver.DriverError, OSError) as error:
        return str(error)


def variant_of(values: Tensor, locations: Tensor) -> Variant:
    return Variant(values.dtype, values.shape[3], locations.shape[3], locations.shape[4])


def forward(values: Tensor, locations: Tensor, weights: Tensor, level_lengths: Sequence[int]) -> Tensor:
    batch, _, heads, dim = values.shape
    if 0 in (values.numel(), locations.numel()):
        return values.new_zeros(batch, locations.shape[1], heads, dim)
    module = prepare(values.device, variant_of(values, locations))
    return launch_forward(module, _multiprocessors(values.device), values, locations, weights, level_lengths)


def backward(
    grad_out: Tensor, values: Tensor, locations: Tensor, weights: Tensor, level_lengths: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    if 0 in (values.numel(), locations.numel()):
        return torch.zeros_like(values), torch.zeros_like(locations), torch.zeros_like(weights)
    module = prepare(values.device, variant_of(values, locations))
    return launch_backward(module, _multiprocessors(values.device), grad_out, values, locations, weights, level_lengths)


def launch_forward(
    module: Launcher,
    multiprocessors: int,
    values: Tensor,
    locations: Tensor,
    weights: Tensor,
    level_lengths: Sequence[int],
) -> Tensor:
    _check_sizes(values, locations)
    values, locations, weights = _aligned(values), _aligned(locations.float()), _aligned(weights.float())
    batch, length, heads, dim = values.shape
    queries = locations.shape[1]
    groups = _THREADS // variant_of(values, locations).lanes
    # several queries per group let neighbours find each other's rows in the L1 cache, once the device is full anyway
    per_group = max(1, min(4, batch * heads * queries // (groups * multiprocessors * 16)))
    query_blocks = -(-queries // (groups * per_group))
    out = values.new_empty(batch, queries, heads, dim)
    tensors, sizes = [values, locations, weights, out], [length, heads, queries, query_blocks, groups * per_group]
    blocks = batch * heads * query_blocks
    module.launch("forward", blocks, _THREADS, 0, [*tensors, _levels(level_lengths), *sizes])
    return out


def launch_backward(
    module: Launcher,
    multiprocessors: int,
    grad_out: Tensor,
    values: Tensor,
    locations: Tensor,
    weights: Tensor,
    level_lengths: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    _check_sizes(values, locations)
    values, grad_out = _aligned(values), _aligned(grad_out.to(values.dtype))
    locations, weights = _aligned(locations.float()), _aligned(weights.float())
    batch, length, heads, _ = values.shape
    queries, _, levels, points = locations.shape[1:]
    grad_values, grad_locations, grad_weights = map(torch.empty_like, (values, locations, weights))
    lengths = _levels(level_lengths)

    slabs, level_points = batch * heads, queries * points
    bin_start = locations.new_empty(slabs * (length + 2 * levels), dtype=torch.int32)
    order = locations.new_empty(slabs * levels * level_points, dtype=torch.int32)
    records = locations.new_empty(slabs * levels * level_points * 4, dtype=torch.int32)
    bins = max(level_lengths) + 1
    # many points of few slabs: several blocks read all points of a level and sort those of their own rows
    wanted = min(8, multiprocessors // (slabs * levels)) if level_points >= 8192 else 1
    splits = max(1, wanted, -(-bins // _MAX_BINS))
    bins_per_block = -(-bins // splits)
    tensors = [locations, weights, bin_start, order, records, grad_locations, grad_weights]
    module.launch(
        "sort_points",
        slabs * levels * splits,
        1024 if level_points > 4096 else 256,
        4 * (_WARP_SUMS + bins_per_block + 1),
        [*tensors, lengths, length, heads, queries, splits, bins_per_block],
    )
    groups = _THREADS // variant_of(values, locations).lanes
    # every walk meets the points below its first row once more: long walks, as far as they keep the device busy
    per_group = max(1, min(8, slabs * length // (groups * multiprocessors * 6)))
    row_blocks = sum(-(-level // (groups * per_group)) for level in level_lengths)
    tensors = [grad_out, values, bin_start, records, grad_values, grad_locations, grad_weights]
    sizes = [length, heads, queries, row_blocks, per_group]
    module.launch("walk_rows", slabs * row_blocks, _THREADS, 0, [*tensors, lengths, *sizes])
    return grad_values, grad_locations, grad_weights


def _levels(level_lengths: Sequence[int]) -> ctypes.Array:
    """The kernel's struct Levels: lengths, then first rows."""
    starts = [sum(level_lengths[:level]) for level in range(len(level_lengths))]
    return (ctypes.c_int * (2 * len(level_lengths)))(*level_lengths, *starts)


def _aligned(tensor: Tensor) -> Tensor:
    """Contiguous and on a 16-byte boundary, as the kernel's vector accesses need; a copy only where it is not."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


def _check_sizes(values: Tensor, locations: Tensor) -> None:
    """Offsets into tensors are 64 bits; single counts are 32 bits and must fit."""
    batch, length, heads, _ = values.shape
    queries, _, levels, points = locations.shape[1:]
    if length >= _MAX_ROWS or queries * points >= 2**31 or batch * heads * levels * max(queries, length) >= 2**31:
        raise ValueError(
            f"values {list(values.shape)} with locations {list(locations.shape)} are too many rows or queries for "
            "one call of the CUDA kernel: split the batch, or set PSFTR_OPS=torch"
        )


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count
