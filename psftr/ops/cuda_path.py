"""The CUDA path."""

from __future__ import annotations


class CudaUnavailable(RuntimeError):
    """Says why the CUDA kernel cannot be used here."""


def prepare(index: int) -> str:
    raise CudaUnavailable("this version carries no kernel")
