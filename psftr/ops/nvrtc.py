"""Compile CUDA source with NVRTC, the compiler library that CUDA builds of PyTorch bring, and keep the result on disk.

No nvcc, no host compiler, no CUDA headers. Compiled code is kept under $XDG_CACHE_HOME/psftr/kernels (or
~/.cache/psftr/kernels), one file per source, architecture, NVRTC version and set of macros.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

log = logging.getLogger("psftr.ops")
OPTIONS = ("--std=c++17", "--fmad=true")


class NvrtcError(RuntimeError):
    """NVRTC is missing, or refused the source; the message says which and why."""


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "psftr" / "kernels"


def load_or_compile(source: str, *, architecture: str, macros: Mapping[str, int]) -> bytes:
    """The compiled kernel (cubin), from the disk if it is there. `architecture` is e.g. "sm_90".

    Raises NvrtcError. A cache that cannot be read or written costs time, never a failure.
    """
    text = repr((source, architecture, sorted(macros.items()), OPTIONS, nvrtc_version()))
    file = cache_folder() / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.cubin"
    kept = _read(file)
    if kept is not None:
        return kept
    cubin = compile_cubin(source, architecture=architecture, macros=macros)
    _write(file, cubin)
    return cubin


def _read(file: Path) -> bytes | None:
    """The kept cubin, or None if there is none or it is damaged: its first 32 bytes are the digest of the rest."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    digest, cubin = content[:32], content[32:]
    return cubin if hashlib.sha256(cubin).digest() == digest else None


def _write(file: Path, cubin: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as unfinished:
            unfinished.write(hashlib.sha256(cubin).digest() + cubin)
        os.replace(unfinished.name, file)  # whole or not at all, even if others write it too
    except OSError as error:
        log.debug("compiled kernel not kept in %s: %s", file.parent, error)


def compile_cubin(source: str, *, architecture: str, macros: Mapping[str, int]) -> bytes:
    """Compile to machine code for one architecture; raises NvrtcError with the compiler's message."""
    library = _library()
    program = ctypes.c_void_p()
    _check(library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None))
    try:
        options = [f"--gpu-architecture={architecture}", *OPTIONS, *(f"-D{k}={v}" for k, v in macros.items())]
        arguments = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        if library.nvrtcCompileProgram(program, len(options), arguments) != 0:
            words = _text(library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog, program)
            raise NvrtcError(f"NVRTC {nvrtc_version()} on {architecture}: {words.decode().strip()}")
        return _text(library.nvrtcGetCUBINSize, library.nvrtcGetCUBIN, program)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


@functools.cache
def nvrtc_version() -> str:
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(_library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return f"{major.value}.{minor.value}"


def architecture_for(capability: tuple[int, int]) -> str:
    """The newest architecture NVRTC knows whose code runs on a device of this compute capability."""
    library = _library()
    count = ctypes.c_int()
    _check(library.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
    known = (ctypes.c_int * count.value)()
    _check(library.nvrtcGetSupportedArchs(known))
    major, minor = capability
    # machine code runs on later minor versions of its own major version only
    fitting = [arch for arch in known if arch // 10 == major and arch % 10 <= minor]
    if not fitting:
        raise NvrtcError(f"NVRTC {nvrtc_version()} has no code for compute capability {major}.{minor}")
    return f"sm_{max(fitting)}"


def _text(size_of: Callable[..., int], read: Callable[..., int], program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    _check(size_of(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(read(program, buffer))
    return buffer.raw


def _check(status: int) -> None:
    if status != 0:
        library = _library()
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise NvrtcError(f"NVRTC: {library.nvrtcGetErrorString(status).decode()}")


@functools.cache
def _library() -> ctypes.CDLL:
    for name in _candidates():
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise NvrtcError(
        "the library libnvrtc was not found: install the NVRTC package of PyTorch's CUDA version "
        f"({torch.version.cuda or 'this PyTorch is built without CUDA'})"
    )


def _candidates() -> list[str]:
    """Where libnvrtc may be: beside PyTorch in the packages it depends on, or where the loader finds it."""
    packages = Path(torch.__file__).parents[1] / "nvidia"
    beside = sorted(packages.glob("*/lib/libnvrtc.so.*")) + sorted(packages.glob("*/bin/nvrtc64_*.dll"))
    named = [f"libnvrtc.so.{major}" for major in (torch.version.cuda or "").split(".")[:1] if major]
    return [*(str(file) for file in beside), *named, "libnvrtc.so"]
