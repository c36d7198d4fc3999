"""The native CPU path: csrc/temporal_deform_attn.c, compiled ahead of time by whoever builds the wheel.

The library knows neither Python nor PyTorch: it takes pointers through ctypes, which releases the interpreter lock,
and shares its work out among the threads of the OpenMP library that PyTorch itself runs on. Wheels for common
platforms carry it; where it is absent the PyTorch path runs and nothing is missing. No user ever compiles; see
build_native.py for who does.
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
        raise NativeUnavailable("this installation carries no native library")
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
    tensors = _float32(values=values, locations=locations, weights=weights)
    batch, _, heads, dim = values.shape
    tensors["out"] = tensors["values"].new_empty(batch, locations.shape[1], heads, dim)
    _run(tensors, level_lengths, backward=False)
    return tensors["out"].to(values.dtype)


def backward(
    grad_out: Tensor, values: Tensor, locations: Tensor, weights: Tensor, level_lengths: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    tensors = _float32(values=values, locations=locations, weights=weights, grad_out=grad_out)
    for name in ("values", "locations", "weights"):
        tensors[f"grad_{name}"] = torch.empty_like(tensors[name])
    _run(tensors, level_lengths, backward=True)
    return (
        tensors["grad_values"].to(values.dtype),
        tensors["grad_locations"].to(locations.dtype),
        tensors["grad_weights"].to(weights.dtype),
    )


def _float32(**tensors: Tensor) -> dict[str, Tensor]:
    return {name: tensor.float().contiguous() for name, tensor in tensors.items()}


def _run(tensors: dict[str, Tensor], level_lengths: Sequence[int], *, backward: bool) -> None:
    batch, length, heads, dim = tensors["values"].shape
    queries, _, levels, points = tensors["locations"].shape[1:]
    if batch * heads == 0:
        return
    multiplications = (4 if backward else 2) * tensors["locations"].numel() * dim
    threads = max(1, min(_threads(), batch * heads, multiplications // _MULTIPLICATIONS_PER_THREAD))
    if backward:  # whose parts are heads, which lie next to each other in memory: as few as keep all threads busy
        parts = _parts(batch, enough=threads, possible=_divisors(heads))
    else:
        parts = _parts(batch, enough=1 if threads == 1 else 4 * threads, possible=range(1, queries + 1))
    call = _Call(
        batch=batch,
        length=length,
        heads=heads,
        dim=dim,
        queries=queries,
        levels=levels,
        points=points,
        parts=parts,
        units_at_once=max(1, batch * parts // (4 * threads)),
        level_lengths=(ctypes.c_int64 * max(1, levels))(*level_lengths),
        **{name: tensor.data_ptr() for name, tensor in tensors.items()},
    )
    load().psftr_run(call, backward, threads, _openmp())
    if call.out_of_memory:
        raise MemoryError("temporal deformable attention found no memory for its scratch space")


def _parts(batch: int, *, enough: int, possible: Sequence[int]) -> int:
    """Into how many parts, of those possible, to cut each of `batch` elements so that there are enough in all."""
    return next((number for number in possible if batch * number >= enough), max(possible, default=1))


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


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
