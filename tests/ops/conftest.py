"""Inputs away from knots, and the native library built on the spot where there is a compiler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from psftr.ops import build_native, dispatch, forced_path, native_path


@dataclass(frozen=True)
class Case:
    """Float32 inputs of one call, and what flows back into it."""

    values: Tensor
    locations: Tensor
    weights: Tensor
    level_lengths: list[int]
    grad_out: Tensor

    def gradients(self, function: Callable, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
        """(result, and the gradients of values, locations and weights) with all inputs in `dtype`."""
        tensors = (self.values, self.locations, self.weights)
        inputs = [tensor.to(dtype).detach().requires_grad_() for tensor in tensors]
        out = function(*inputs, self.level_lengths)
        return out, *torch.autograd.grad(out, inputs, self.grad_out.to(dtype))


def make_case(
    *, batch: int = 2, levels: list[int], heads: int = 2, dim: int = 8, queries: int = 5, points: int = 3
) -> Case:
    """Random inputs; every location lies at least a tenth of a row away from a knot, some outside their level."""
    generator = torch.Generator().manual_seed(sum(levels) + dim)
    shape = (batch, queries, heads, len(levels), points)
    lengths = torch.tensor(levels).view(-1, 1).double()
    row = (torch.rand(shape, generator=generator).double() * (lengths + 4) - 2).floor()
    inside_row = 0.1 + 0.8 * torch.rand(shape, generator=generator).double()
    locations = ((row + 0.5 + inside_row) / lengths.clamp(min=1)).float()
    return Case(
        values=torch.randn(batch, sum(levels), heads, dim, generator=generator),
        locations=locations,
        weights=torch.rand(shape, generator=generator),
        level_lengths=levels,
        grad_out=torch.randn(batch, queries, heads, dim, generator=generator),
    )


@pytest.fixture
def case() -> Callable[..., Case]:
    return make_case


def relative_error(got: Tensor, exact: Tensor) -> float:
    """|got - exact| / |exact| over all elements."""
    return float((got.detach().double() - exact.detach()).norm() / exact.detach().norm())


@pytest.fixture
def error() -> Callable[[Tensor, Tensor], float]:
    return relative_error


@pytest.fixture(scope="session")
def built_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if build_native.compiler() is None:
        if build_native.LIBRARY.is_file():  # the one this installation came with
            return build_native.LIBRARY
        pytest.skip("no C compiler on this machine and no prebuilt library: the native path cannot be tested")
    return build_native.build(tmp_path_factory.mktemp("native") / "libpsftr_ops.so")


def use_library(monkeypatch: pytest.MonkeyPatch, library: Path) -> None:
    """Make the native path load this file, or find it absent."""
    monkeypatch.setattr(native_path, "LIBRARY", library)
    native_path.load.cache_clear()
    dispatch._select.cache_clear()


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    yield lambda path: use_library(monkeypatch, path)
    monkeypatch.undo()
    native_path.load.cache_clear()
    dispatch._select.cache_clear()


@pytest.fixture(params=["torch", "native"])
def path(request: pytest.FixtureRequest, library: Callable[[Path], None]) -> Iterator[str]:
    """Run the test once per CPU path."""
    if request.param == "native":
        library(request.getfixturevalue("built_library"))
    with forced_path(request.param):
        yield request.param
