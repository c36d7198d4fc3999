"""The native CPU path: csrc/temporal_deform_attn.c, compiled ahead of time by whoever builds the wheel.

The library knows neither Python nor PyTorch: it takes pointers through ctypes, which releases the interpreter lock,
and the (batch, head) slabs are shared out among threads here. Wheels for common platforms carry it; where it is
absent the PyTorch path runs and nothing is missing. No user ever compiles; `python -m psftr.ops.build_native` does.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).parent / "csrc" / "temporal_deform_attn.c"
LIBRARY = Path(__file__).parent / "_native" / "libpsftr_ops.so"

#: below this many multiplications per call, starting a second thread costs more than it saves
_MULTIPLICATIONS_PER_THREAD = 500_000
_KNOT_BYTES = 16  # sizeof(Knot): a pointer and a float, padded


class NativeUnavailable(RuntimeError):
    """Says why the native library cannot be used here."""


def source_hash() -> str:
    return hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]


@functools.cache
def load(path: Path = LIBRARY) -> ctypes.CDLL:
    """Load the library; raises NativeUnavailable with the reason."""
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
    library.psftr_forward.restype = library.psftr_backward.restype = None
    return library


def forward(values: Tensor, locations: Tensor, weights: Tensor, level_lengths: Sequence[int]) -> Tensor:
    library = load()
    rows, where, shares = (tensor.float().contiguous() for tensor in (values, locations, weights))
    batch, _, heads, dim = values.shape
    out = rows.new_empty(batch, locations.shape[1], heads, dim)
    sizes, lengths = _sizes(values, locations), _integers(level_lengths)
    knots = 2 * locations.shape[3] * locations.shape[4]

    def work(first: int, last: int) -> None:
        scratch = ctypes.create_string_buffer(max(1, knots) * _KNOT_BYTES)
        library.psftr_forward(
            rows.data_ptr(), where.data_ptr(), shares.data_ptr(), lengths, out.data_ptr(), sizes,
            first, last, scratch,
        )  # fmt: skip

    _share_out(work, slabs=batch * heads, multiplications=2 * locations.numel() * dim)
    return out.to(values.dtype)


def backward(
    grad_out: Tensor, values: Tensor, locations: Tensor, weights: Tensor, level_lengths: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    library = load()
    grad, rows, where, shares = (tensor.float().contiguous() for tensor in (grad_out, values, locations, weights))
    batch, length, heads, dim = values.shape
    grad_values, grad_locations, grad_weights = (torch.empty_like(t) for t in (rows, where, shares))
    sizes, lengths = _sizes(values, locations), _integers(level_lengths)
    dense = 2 * locations[0, :, 0].numel() >= length if batch and heads else False

    def work(first: int, last: int) -> None:
        scratch = rows.new_empty(length * (dim + 16)) if dense else None
        library.psftr_backward(
            grad.data_ptr(), rows.data_ptr(), where.data_ptr(), shares.data_ptr(), lengths,
            grad_values.data_ptr(), grad_locations.data_ptr(), grad_weights.data_ptr(), sizes,
            first, last, None if scratch is None else scratch.data_ptr(),
        )  # fmt: skip

    _share_out(work, slabs=batch * heads, multiplications=4 * locations.numel() * dim)
    return (
        grad_values.to(values.dtype),
        grad_locations.to(locations.dtype),
        grad_weights.to(weights.dtype),
    )


def _sizes(values: Tensor, locations: Tensor) -> ctypes.Array:
    batch, length, heads, dim = values.shape
    queries, _, levels, points = locations.shape[1:]
    return _integers([batch, length, heads, dim, queries, levels, points])


def _integers(numbers: Sequence[int]) -> ctypes.Array:
    return (ctypes.c_int64 * max(1, len(numbers)))(*numbers)


def _share_out(work: Callable[[int, int], None], *, slabs: int, multiplications: int) -> None:
    """Call work(first, last) for pieces of [0, slabs) on as many threads as PyTorch uses, each taking the next piece
    when it is done with one: on a busy machine threads do not advance alike."""
    threads = min(torch.get_num_threads(), slabs, 1 + multiplications // _MULTIPLICATIONS_PER_THREAD)
    if threads <= 1:
        work(0, slabs)
        return
    size = -(-slabs // (4 * threads))
    starts = iter(range(0, slabs, size))

    def take() -> None:
        for start in starts:
            work(start, min(start + size, slabs))

    others = [_pool().submit(take) for _ in range(threads - 1)]
    take()
    for other in others:
        other.result()


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="psftr-ops")


# a forked child inherits the pool without its threads: it makes its own
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
