"""Load compiled kernels and launch them on PyTorch's current stream, through the CUDA driver's C interface."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

import torch
from torch import Tensor

Argument = Tensor | int | ctypes.Structure | ctypes.Array


class DriverError(RuntimeError):
    """The CUDA driver is missing or refused a call."""


class Module:
    """The kernels of one cubin, loaded on one device."""

    def __init__(self, cubin: bytes, device: int) -> None:
        driver = find()
        self._device = device
        with torch.cuda.device(device):
            _bind_context(device)
            self._handle = ctypes.c_void_p()
            _check(driver.cuModuleLoadData(ctypes.byref(self._handle), cubin))
        self._functions: dict[str, ctypes.c_void_p] = {}

    def launch(self, name: str, grid: int, block: int, shared_bytes: int, arguments: Sequence[Argument]) -> None:
        """Put kernel `name` on the device's current stream; tensors are passed as pointers, int as 32 bits."""
        driver = find()
        with torch.cuda.device(self._device):
            _bind_context(self._device)
            stream = ctypes.c_void_p(torch.cuda.current_stream(self._device).cuda_stream)
            values = [as_c(argument) for argument in arguments]
            pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
            _check(
                driver.cuLaunchKernel(
                    self._function(name), grid, 1, 1, block, 1, 1, shared_bytes, stream, pointers, None
                )
            )

    def _function(self, name: str) -> ctypes.c_void_p:
        if name not in self._functions:
            function = ctypes.c_void_p()
            _check(find().cuModuleGetFunction(ctypes.byref(function), self._handle, name.encode()))
            self._functions[name] = function
        return self._functions[name]


def as_c(argument: Argument) -> ctypes.c_void_p | ctypes.c_int | ctypes.Structure | ctypes.Array:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    return ctypes.c_int(argument) if isinstance(argument, int) else argument


def _bind_context(device: int) -> None:
    """PyTorch works in the device's primary context; a thread new to CUDA has none bound yet."""
    driver = find()
    current = ctypes.c_void_p()
    _check(driver.cuCtxGetCurrent(ctypes.byref(current)))
    if not current:
        _check(driver.cuCtxSetCurrent(_primary_context(device)))


@functools.cache
def _primary_context(device: int) -> ctypes.c_void_p:
    context = ctypes.c_void_p()
    _check(find().cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
    return context


def _check(status: int) -> None:
    if status != 0:
        words = ctypes.c_char_p()
        find().cuGetErrorString(status, ctypes.byref(words))
        raise DriverError(f"CUDA driver: {(words.value or b'unknown error').decode()} (error {status})")


@functools.cache
def find() -> ctypes.CDLL:
    """The driver's library; raises DriverError where there is none."""
    for name in ("libcuda.so.1", "libcuda.so", "nvcuda.dll"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise DriverError("the CUDA driver library (libcuda.so.1) was not found")
