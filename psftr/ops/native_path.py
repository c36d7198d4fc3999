"""The native CPU path: csrc/temporal_deform_attn.c, compiled when a wheel is built.

The library depends on neither Python nor PyTorch: it takes pointers through ctypes, which releases the interpreter
lock, and uses the threads of the OpenMP library that PyTorch itself runs on. Wheels for common platforms contain it;
where it is missing, the PyTorch path runs. Users never compile; build_native.py is for those who make wheels.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Sequence
from pathlib import Path

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
        raise NativeUnavailable("this installation does not include the prebuilt library")
    try:
        library = ctypes.CDLL(str(path))
        library.psftr_source_hash.restype = ctypes.c_char_p
        built_from = library.psftr_source_hash().decode()
    except (OSError, AttributeError) as error:
        raise NativeUnavailable(f"{path.name} does not load: {error}") from error
    if built_from != source_hash():
        raise NativeUnavailable(f"{path.name} was built from another version of {SOURCE.name}: build it again")
    library.psftr_run.argtypes = [ctypes.POINTER(_Call), ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
    library.psftr_run.restype = None
    return library


class _Call(ctypes.Structure):
    """`Call` of the C source."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "length", "heads", "dim", "queries", "levels", "points")),
        *((name, ctypes.c_int64) for name in ("parts", "units_at_once", "next_unit", "out_of_memory")),
        ("level_lengths", ctypes.POINTER(ctypes.c_int64)),
        *((name, ctypes.c_void_p) for name in ("values", "locations", "weights", "grad_out")),
        *((name, ctypes.c_void_p) for name in ("out", "grad_values", "grad_locations", "grad_weights")),
    )


def forward(values: Tensor, locations: Tensor, weights: Tensor, level_lengths: Sequence[int]) -> Tensor:
    values32, locations, weights = _float32(values), _float32(locations), _float32(weights)
    batch, _, heads, dim = values.shape
    out = values32.new_empty(batch, locations.shape[1], heads, dim)
    _run(level_lengths, (values32, locations, weights), (out,))
    return out.to(values.dtype)


def backward(
    grad_out: Tensor, values: Tensor, locations: Tensor, weights: Tensor, level_lengths: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = (_float32(values), _float32(locations), _float32(weights))
    grads = tuple(torch.empty_like(tensor) for tensor in inputs)
    _run(level_lengths, inputs, grads, grad_out=_float32(grad_out))
    return grads[0].to(values.dtype), grads[1].to(locations.dtype), grads[2].to(weights.dtype)


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float().contiguous()


def _run(
    level_lengths: Sequence[int],
    inputs: tuple[Tensor, Tensor, Tensor],
    results: Sequence[Tensor],
    *,
    grad_out: Tensor | None = None,
) -> None:
    """Compute the one result from the inputs or, given `grad_out`, the three gradients of the inputs."""
    values, locations, weights = inputs
    batch, length, heads, dim = values.shape
    queries, _, levels, points = locations.shape[1:]
    if batch * heads == 0:
        return
    multiplications = (2 if grad_out is None else 4) * locations.numel() * dim
    threads = max(1, min(_threads(), batch * heads, multiplications // _MULTIPLICATIONS_PER_THREAD))
    # neighbouring heads share cache lines and pages, so as few parts as keep all threads busy
    parts = next((n for n in range(1, heads) if heads % n == 0 and batch * n >= threads), heads)
    call = _Call(batch, length, heads, dim, queries, levels, points, parts, max(1, batch * parts // (4 * threads)))
    call.level_lengths = (ctypes.c_int64 * max(1, levels))(*level_lengths)
    call.values, call.locations, call.weights = values.data_ptr(), locations.data_ptr(), weights.data_ptr()
    if grad_out is None:
        call.out = results[0].data_ptr()
    else:
        call.grad_out = grad_out.data_ptr()
        call.grad_values, call.grad_locations, call.grad_weights = (result.data_ptr() for result in results)
    load().psftr_run(call, grad_out is not None, threads, _openmp())
    if call.out_of_memory:
        raise MemoryError("temporal deformable attention found no memory for its scratch space")


def _threads() -> int:
    """As many as PyTorch uses; one in a forked process, where OpenMP's threads are missing and would be waited for."""
    return 1 if os.getpid() != _IMPORTED_IN else torch.get_num_threads()


_IMPORTED_IN = os.getpid()


@functools.cache
def _openmp() -> int | None:
    """Address of GOMP_parallel in the OpenMP library PyTorch has loaded (GNU, LLVM and Intel have it), or None."""
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return ctypes.cast(library.GOMP_parallel, ctypes.c_void_p).value
    except (OSError, AttributeError):
        return None
