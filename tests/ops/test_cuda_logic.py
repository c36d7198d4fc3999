"""The CUDA source itself, run on the CPU thread by thread, against float64: what can be tested without a GPU."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from psftr.ops import cuda_driver, cuda_path, temporal_deform_attn_reference
from psftr.ops.cuda_path import Variant

HARNESS = Path(__file__).with_name("cuda_on_cpu.cpp")


class OnCpu:
    """Launches kernels of the CUDA source on the CPU; `backwards` reverses the order of the threads."""

    def __init__(self, library: ctypes.CDLL, *, backwards: bool = False) -> None:
        self._library, self._backwards = library, backwards

    def launch(
        self, name: str, grid: int, block: int, shared_bytes: int, arguments: Sequence[cuda_driver.Argument]
    ) -> None:
        values = [cuda_driver.as_c(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        status = self._library.launch(name.encode(), grid, block, shared_bytes, pointers, self._backwards)
        assert status == 0, f"{name} asks for more than 48 KiB of shared memory"


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory):
    """on_cpu(variant) compiles the CUDA source for the CPU with the variant's macros, once per variant."""
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler on this machine: the CUDA source cannot be run on the CPU")
    folder = tmp_path_factory.mktemp("cuda_on_cpu")

    @functools.cache
    def build(variant: Variant) -> ctypes.CDLL:
        macros = [f"-D{name}={value}" for name, value in variant.macros.items()]
        target = folder / f"{'_'.join(map(str, variant.macros.values()))}.so"
        subprocess.run(
            [
                compiler, "-std=c++20", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-w",
                f'-DKERNEL="{cuda_path.SOURCE}"', *macros, "-o", str(target), str(HARNESS),
            ],
            check=True,
        )  # fmt: skip
        return ctypes.CDLL(str(target))

    return build


def run(module: OnCpu, case, dtype: torch.dtype, multiprocessors: int = 4):
    """Forward and backward of a case through the planned launches."""
    tensors = (case.values.to(dtype), case.locations, case.weights, case.level_lengths)
    out = cuda_path.launch_forward(module, multiprocessors, *tensors)
    grads = cuda_path.launch_backward(module, multiprocessors, case.grad_out.to(dtype), *tensors)
    return out, *grads


SHAPES = {
    "a THUMOS14 window": {"levels": [128], "heads": 2, "dim": 64, "queries": 40, "points": 4, "batch": 1},
    "uneven levels": {"levels": [33, 0, 7, 1], "heads": 2, "dim": 24, "queries": 9, "points": 3},
    "odd channels": {"levels": [9, 4], "heads": 3, "dim": 13, "queries": 5, "points": 2},
    "wide heads": {"levels": [21], "heads": 1, "dim": 264, "queries": 6, "points": 8, "batch": 1},
    "few channels": {"levels": [50], "heads": 1, "dim": 4, "queries": 70, "points": 1},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_kernels_agree_with_float64(on_cpu, case, error, shape) -> None:
    one = case(**shape)
    library = on_cpu(Variant(torch.float32, shape["dim"], len(shape["levels"]), shape["points"]))
    exact = one.gradients(temporal_deform_attn_reference, torch.float64)
    results = [run(OnCpu(library, backwards=order), one, torch.float32) for order in (False, True)]
    for got, bound, expected in zip(results[0], (2e-7, 2e-7, 1e-6, 1e-6), exact, strict=True):
        assert error(got, expected) < bound
    for got, again in zip(*results, strict=True):
        assert torch.equal(got, again), "the result depends on the order in which threads run"


@pytest.mark.parametrize(("dtype", "dim"), [(torch.float16, 10), (torch.bfloat16, 64)])
def test_half_precision_values(on_cpu, case, error, dtype, dim) -> None:
    one = case(levels=[40], heads=2, dim=dim, queries=20, points=4, batch=1)
    rounded = dataclasses.replace(one, values=one.values.to(dtype), grad_out=one.grad_out.to(dtype))
    exact = rounded.gradients(temporal_deform_attn_reference, torch.float64)
    out, grad_values, grad_locations, grad_weights = run(OnCpu(on_cpu(Variant(dtype, dim, 1, 4))), one, dtype)
    assert out.dtype == grad_values.dtype == dtype
    assert error(out, exact[0]) < torch.finfo(dtype).eps / 2
    assert error(grad_values, exact[1]) < torch.finfo(dtype).eps / 2
    assert error(grad_locations, exact[2]) < 1e-6  # summed in float32: only the inputs are rounded
    assert error(grad_weights, exact[3]) < 1e-6


def test_points_are_sorted_the_same_by_one_block_and_by_several(on_cpu, case, error) -> None:
    one = case(levels=[600], heads=1, dim=4, queries=8200, points=1, batch=1)
    library = on_cpu(Variant(torch.float32, 4, 1, 1))
    exact = one.gradients(temporal_deform_attn_reference, torch.float64)
    alone = run(OnCpu(library), one, torch.float32, multiprocessors=1)
    shared = run(OnCpu(library), one, torch.float32, multiprocessors=6)  # six blocks of 101 bins each
    for a, b, expected, bound in zip(alone[1:], shared[1:], exact[1:], (4e-7, 1e-6, 1e-6), strict=True):
        assert torch.equal(a, b)
        assert error(a, expected) < bound


def test_all_points_on_one_row_and_rows_without_points(on_cpu, case, error) -> None:
    one = case(levels=[64], heads=1, dim=4, queries=100, points=1, batch=1)
    one.locations.fill_(17.8 / 64)
    exact = one.gradients(temporal_deform_attn_reference, torch.float64)
    got = run(OnCpu(on_cpu(Variant(torch.float32, 4, 1, 1))), one, torch.float32)
    assert error(got[1], exact[1]) < 1e-6
    assert got[1].flatten(0, 2).any(dim=1).nonzero().flatten().tolist() == [17, 18]


def test_infinity_reads_zero_and_nan_shows(on_cpu) -> None:
    module = OnCpu(on_cpu(Variant(torch.float32, 4, 1, 1)))
    values = torch.ones(1, 4, 1, 4)
    locations = torch.tensor([float("inf"), -float("inf"), float("nan"), 0.5, 1e30]).view(1, 5, 1, 1, 1)
    weights = torch.ones_like(locations)
    out = cuda_path.launch_forward(module, 1, values, locations, weights, [4])
    assert out[0, :, 0, 0].nan_to_num(-1).tolist() == [0, 0, -1, 1, 0]
    grads = cuda_path.launch_backward(module, 1, torch.ones_like(out), values, locations, weights, [4])
    assert grads[2][0, [0, 1, 3, 4], 0, 0, 0].tolist() == [0, 0, 4, 0]  # four channels of ones


def test_poisoned_results_are_overwritten(on_cpu, case, monkeypatch) -> None:
    one = case(levels=[33, 0, 7, 1], heads=2, dim=24, queries=9, points=3)
    module = OnCpu(on_cpu(Variant(torch.float32, 24, 4, 3)))
    clean = run(module, one, torch.float32)
    empty, empty_like = torch.Tensor.new_empty, torch.empty_like
    poison = {torch.float32: float("nan"), torch.int32: 2**30}
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: (t := empty(*a, **k)).fill_(poison[t.dtype]))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: (t := empty_like(*a, **k)).fill_(poison[t.dtype]))
    for got, expected in zip(run(module, one, torch.float32), clean, strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("length", [128, 2304, 16384])
def test_row_positions_of_the_kernel(on_cpu, length) -> None:
    """Reading values[t] = t gives the position itself; reading t % 2 gives the fraction without the rounding of t."""
    generator = torch.Generator().manual_seed(length)
    position = torch.rand(512, generator=generator, dtype=torch.float64) * (length - 1)
    locations = ((position + 0.5) / length).float().view(1, -1, 1, 1, 1)
    exact = locations.double().flatten() * length - 0.5
    ramp = torch.arange(length).float().view(1, length, 1, 1).expand(1, length, 1, 4).contiguous()
    below = exact.floor()
    module = OnCpu(on_cpu(Variant(torch.float32, 4, 1, 1)))
    whole = cuda_path.launch_forward(module, 1, ramp, locations, torch.ones_like(locations), [length])
    assert (whole[0, :, 0, 0].double() - exact).abs().max() < 4 * length * 2**-24
    steps = (torch.arange(length) % 2).float().view(1, length, 1, 1).expand(1, length, 1, 4).contiguous()
    read = cuda_path.launch_forward(module, 1, steps, locations, torch.ones_like(locations), [length])
    odd = below.long() % 2 == 1
    fraction = torch.where(odd, 1 - read[0, :, 0, 0].double(), read[0, :, 0, 0].double())
    assert (fraction - (exact - below)).abs().max() < 1e-7
