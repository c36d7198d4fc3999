"""The CUDA path on a GPU. All of it in one command: `python -m pytest -m gpu`."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from psftr.ops import forced_path, selected_path, temporal_deform_attn, temporal_deform_attn_reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(),
        reason="no CUDA device: run `python -m pytest -m gpu` where there is one",
    ),
]

SHAPES = {
    "encoder": {"levels": [128], "heads": 8, "dim": 64, "queries": 128, "points": 4, "batch": 4},
    "decoder": {"levels": [128], "heads": 8, "dim": 64, "queries": 40, "points": 4, "batch": 16},
    "long windows": {"levels": [2304], "heads": 8, "dim": 64, "queries": 2304, "points": 4},
    "very long": {"levels": [16384], "heads": 2, "dim": 64, "queries": 16384, "points": 4, "batch": 1},
    "uneven levels": {"levels": [33, 0, 7, 1], "heads": 3, "dim": 24, "queries": 9, "points": 3},
    "odd channels": {"levels": [9, 4], "heads": 3, "dim": 13},
    "wide heads": {"levels": [21], "heads": 1, "dim": 512, "queries": 50},
}


@pytest.fixture
def on_gpu(case):
    """A case on the GPU, the CUDA path forced: on_gpu(dtype, **shape)."""

    def build(dtype: torch.dtype = torch.float32, **shape):
        one = case(**shape)
        for name in ("values", "locations", "weights", "grad_out"):
            tensor = getattr(one, name).cuda()
            object.__setattr__(one, name, tensor.to(dtype) if name in ("values", "grad_out") else tensor)
        return one

    with forced_path("cuda"):
        yield build


def run(one, function=temporal_deform_attn, dtype: torch.dtype | None = None):
    inputs = [
        (t if dtype is None else t.to(dtype)).detach().requires_grad_()
        for t in (one.values, one.locations, one.weights)
    ]
    out = function(*inputs, one.level_lengths)
    return out, *torch.autograd.grad(out, inputs, one.grad_out.to(out.dtype))


def test_auto_takes_the_kernel() -> None:
    with forced_path("auto"):
        assert selected_path("cuda").name == "cuda", selected_path("cuda").reason


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_agrees_with_float64(on_gpu, error, shape, dtype) -> None:
    one = on_gpu(dtype, **shape)
    exact = run(one, temporal_deform_attn_reference, torch.float64)
    half = torch.finfo(dtype).eps / 2
    bounds = (2e-7, 2e-7, 1e-6, 1e-6) if dtype == torch.float32 else (half, half, 1e-6, 1e-6)
    for got, expected, bound in zip(run(one), exact, bounds, strict=True):
        assert error(got, expected) < bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_hundred_runs_give_the_same_bits(on_gpu, dtype) -> None:
    one = on_gpu(dtype, levels=[2304], heads=8, dim=64, queries=2304, points=4)
    first = run(one)
    for _ in range(100):
        assert all(torch.equal(a, b) for a, b in zip(first, run(one), strict=True))


def test_deterministic_mode_is_honoured(on_gpu) -> None:
    one = on_gpu(levels=[128], heads=8, dim=64, queries=128)
    torch.use_deterministic_algorithms(True)
    try:
        run(one)
        with forced_path("torch"):
            run(one)
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_current_stream_is_used(on_gpu) -> None:
    one = on_gpu(levels=[2304], heads=8, dim=64, queries=2304, points=4)
    expected = run(one)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        values = one.values.clone()
        got = temporal_deform_attn(values, one.locations, one.weights, one.level_lengths)
    stream.synchronize()
    assert torch.equal(got, expected[0])


def test_captured_in_a_graph(on_gpu) -> None:
    one = on_gpu(levels=[128], heads=8, dim=64, queries=128)
    expected = run(one)
    run(one)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = run(one)
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_views_that_start_between_vectors(on_gpu) -> None:
    one = on_gpu(levels=[12], heads=2, dim=8)
    shifted = torch.cat((one.values.new_zeros(1), one.values.flatten()))[1:].view_as(one.values)
    assert shifted.data_ptr() % 16 != 0
    rest = (one.locations, one.weights, one.level_lengths)
    assert torch.equal(temporal_deform_attn(shifted, *rest), temporal_deform_attn(one.values, *rest))


def test_autocast(on_gpu, error) -> None:
    one = on_gpu(levels=[2304], heads=8, dim=64, queries=100)
    with torch.autocast("cuda", torch.bfloat16):
        out = temporal_deform_attn(one.values, one.locations, one.weights, one.level_lengths)
    assert out.dtype == torch.bfloat16
    exact = temporal_deform_attn_reference(
        one.values.double(), one.locations.double(), one.weights.double(), one.level_lengths
    )
    assert error(out, exact) < 2**-7


def test_compiles_whole_with_dynamic_shapes(on_gpu) -> None:
    compiled = torch.compile(temporal_deform_attn, fullgraph=True, dynamic=True)
    for length in (64, 100):
        one = on_gpu(levels=[length], heads=8, dim=64)
        for got, expected in zip(run(one, compiled), run(one), strict=True):
            assert torch.equal(got, expected)


def test_the_pytorch_path_on_the_gpu(on_gpu, error) -> None:
    one = on_gpu(levels=[300, 20], heads=2, dim=16, queries=50)
    exact = run(one, temporal_deform_attn_reference, torch.float64)
    with forced_path("torch"):
        first, again = run(one), run(one)
    for got, same, expected in zip(first, again, exact, strict=True):
        assert torch.equal(got, same)
        assert error(got, expected) < 1e-6


def test_second_device(on_gpu) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device only")
    one = on_gpu(levels=[128], heads=8, dim=64)
    expected = run(one)
    for name in ("values", "locations", "weights", "grad_out"):
        object.__setattr__(one, name, getattr(one, name).to("cuda:1"))
    assert all(torch.equal(a.to("cuda:0"), b) for a, b in zip(run(one), expected, strict=True))


def test_first_call_takes_a_second_and_from_the_disk_twenty_milliseconds(tmp_path) -> None:
    code = """
import time, torch
from psftr.ops import cuda_path
torch.zeros(1, device="cuda")
start = time.perf_counter()
cuda_path.prepare(torch.device("cuda", 0), cuda_path.Variant(torch.float32, 64, 1, 4))
print(time.perf_counter() - start)
"""
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "PATH": str(tmp_path)}
    seconds = [
        float(
            subprocess.run(
                [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
            ).stdout
        )
        for _ in range(2)
    ]
    assert seconds[0] < 1
    assert seconds[1] < 0.02
