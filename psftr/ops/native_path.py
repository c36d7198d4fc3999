"""The native CPU path: csrc/temporal_deform_attn.c, compiled ahead of time by whoever builds the wheel.

The library knows neither Python nor PyTorch: it takes pointers through ctypes, which releases the interpreter lock,
and its units of work are shared out among threads here. Wheels for common platforms carry it; where it is
absent the PyTorch path runs and nothing is missing. No user ever compiles; `python -m psftr.ops.build_native` does.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, cast

import torch
from torch import Tensor

from psftr.ops.build_native import LIBRARY, SOURCE, source_hash

#: below this many multiplications per call, starting a second thread costs more than it saves
_MULTIPLICATIONS_PER_THREAD = 500_000


class NativeUnavailable(RuntimeError):
    """Says why the native library cannot be used here."""


@functools.cache
def load() -> ctypes.CDLL:
    """Load the library; raises NativeUnavailable with the reason."""
    path = LIBRARY
    if not path.is_file():
        raise NativeUnavailable("this installation carries no native library")
    try:
        library = ctypes.CDLL(str(path))
        library.psftr_source_hash.restype = ctypes.c_char_p
        built_from = library.psftr_source_hash().decode()
    except (OSError, AttributeError) as error:
        raise NativeUnavailable(f"{path.name} does not load: {error}") from error
    if built_from != source_hash():
        raise NativeUnavailable(f"{path.name} was built from another version of {SOURCE.name}: build it again")
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    library.psftr_forward.argtypes = [pointer] * 6 + [integer] * 2 + [pointer]
    library.psftr_backward.argtypes = [pointer] * 9 + [integer] * 2 + [pointer]
    library.psftr_scratch_bytes.argtypes, library.psftr_scratch_bytes.restype = [pointer], integer
    library.psftr_forward.restype = library.psftr_backward.restype = None
    return library


def forward(values: Tensor, locations: Tensor, weights: Tensor, level_lengths: Sequence[int]) -> Tensor:
    library = load()
    rows, where, shares = (tensor.float().contiguous() for tensor in (values, locations, weights))
    batch, _, heads, dim = values.shape
    out = rows.new_empty(batch, locations.shape[1], heads, dim)
    plan = _plan(values, locations, multiplications=2 * locations.numel() * dim)
    pointers = (rows, where, shares, _integers(level_lengths), out, plan.sizes)

    def work(first: int, last: int) -> None:
        scratch = _scratch(plan)
        library.psftr_forward(*map(_address, pointers), first, last, _address(scratch))

    _share_out(work, plan)
    return out.to(values.dtype)


def backward(
    grad_out: Tensor, values: Tensor, locations: Tensor, weights: Tensor, level_lengths: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    library = load()
    inputs = [tensor.float().contiguous() for tensor in (grad_out, values, locations, weights)]
    grads = [torch.empty_like(tensor) for tensor in inputs[1:]]
    plan = _plan(values, locations, multiplications=4 * locations.numel() * values.shape[3])
    pointers = (*inputs, _integers(level_lengths), *grads, plan.sizes)

    def work(first: int, last: int) -> None:
        scratch = _scratch(plan)
        library.psftr_backward(*map(_address, pointers), first, last, _address(scratch))

    _share_out(work, plan)
    return grads[0].to(values.dtype), grads[1].to(locations.dtype), grads[2].to(weights.dtype)


class _Plan(NamedTuple):
    """How one call is cut: `units` pieces of work, independent of each other, for `threads` threads."""

    units: int
    threads: int
    sizes: ctypes.Array


def _plan(values: Tensor, locations: Tensor, *, multiplications: int) -> _Plan:
    batch, length, heads, dim = values.shape
    queries, _, levels, points = locations.shape[1:]
    threads = max(1, min(torch.get_num_threads(), batch * heads, multiplications // _MULTIPLICATIONS_PER_THREAD))
    # heads lie next to each other in memory: split them only to occupy every thread
    splits = next((n for n in range(1, heads + 1) if heads % n == 0 and batch * n >= 4 * threads), heads)
    unit_heads = max(1, heads // max(1, splits)) if threads > 1 else max(1, heads)
    sizes = _integers([batch, length, heads, dim, queries, levels, points, unit_heads])
    return _Plan(batch * heads // unit_heads, threads, sizes)


def _scratch(plan: _Plan) -> Tensor:
    return torch.empty(load().psftr_scratch_bytes(_address(plan.sizes)), dtype=torch.uint8)


def _share_out(work: Callable[[int, int], None], plan: _Plan) -> None:
    """Call work(first, last) for all units, every thread taking the next few when it is done with the last: on a busy
    machine threads do not advance alike."""
    if plan.threads == 1:
        work(0, plan.units)
        return
    size = -(-plan.units // (4 * plan.threads))
    starts = iter(range(0, plan.units, size))

    def take() -> None:
        for start in starts:
            work(start, min(start + size, plan.units))

    others = [_pool().submit(take) for _ in range(plan.threads - 1)]
    take()
    for other in others:
        other.result()


def _address(memory: object) -> int:
    return memory.data_ptr() if isinstance(memory, Tensor) else ctypes.addressof(cast(ctypes.Array, memory))


def _integers(numbers: Sequence[int]) -> ctypes.Array:
    return (ctypes.c_int64 * max(1, len(numbers)))(*numbers)


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="psftr-ops")


# a forked child inherits the pool without its threads: it makes its own
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
