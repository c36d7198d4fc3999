"""What PyTorch asks of a registered operator: opcheck, compilation, export, mixed precision, distributed training."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from psftr.ops import forced_path, temporal_deform_attn, temporal_deform_attn_reference


class Sampler(nn.Module):
    """The least module that learns through the operator: values, locations and weights all depend on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Linear(8, 8)
        self.where = nn.Linear(8, 2 * 3)
        self.share = nn.Linear(8, 2 * 3)

    def forward(self, features: Tensor) -> Tensor:
        batch, length, dim = features.shape
        values = self.value(features).view(batch, length, 2, dim // 2)
        locations = self.where(features).sigmoid().view(batch, length, 2, 1, 3)
        weights = self.share(features).view(batch, length, 2, 1, 3).softmax(-1)
        return temporal_deform_attn(values, locations, weights, [length]).flatten(2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_opcheck(case, dtype) -> None:
    one = case(levels=[6, 0, 3], heads=2, dim=4)
    wide = torch.promote_types(dtype, torch.float32)
    values = one.values.to(dtype).requires_grad_()
    locations, weights = (t.to(wide).requires_grad_() for t in (one.locations, one.weights))
    operands = (values, locations, weights, one.level_lengths)
    checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if dtype == torch.float32:  # slow, and the dtype makes no difference to it
        checks.append("test_aot_dispatch_dynamic")
    operators = torch.ops.psftr
    torch.library.opcheck(operators.temporal_deform_attn.default, operands, test_utils=checks)
    grad_out = one.grad_out.to(dtype)
    torch.library.opcheck(operators.temporal_deform_attn_backward.default, (grad_out, *operands), test_utils=checks)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_whole_with_dynamic_shapes(backend, error) -> None:
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("no C++ compiler on this machine, and inductor writes C++; aot_eager is tested")
    torch.compiler.reset()
    torch.manual_seed(0)
    module = Sampler()
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=backend)
    for batch, length in ((2, 9), (3, 14)):
        features = torch.randn(batch, length, 8)
        expected = module(features)
        got = compiled(features)
        torch.testing.assert_close(got, expected)
        parameters = list(module.parameters())
        for a, b in zip(
            torch.autograd.grad(got.square().sum(), parameters),
            torch.autograd.grad(expected.square().sum(), parameters),
            strict=True,
        ):  # as a whole: single elements of either are off from float64 by 2.5e-5 of a gradient that reaches 35
            assert error(a, b) < 2e-6


def test_exports_with_dynamic_shapes_as_one_operator(path) -> None:
    module = Sampler().eval()
    shapes = {"features": {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("length", min=2)}}
    program = torch.export.export(module, (torch.randn(2, 9, 8),), dynamic_shapes=shapes)
    assert "psftr.temporal_deform_attn.default" in program.graph_module.code
    features = torch.randn(5, 17, 8)
    torch.testing.assert_close(program.module()(features), module(features))


@pytest.mark.filterwarnings("ignore")  # tracing is old, and says so
def test_who_intercepts_or_traces_meets_the_registered_operator(path, case) -> None:
    """Plain eager calls go past the dispatcher; dispatch modes and traces must not."""
    one = case(levels=[6], heads=2, dim=4)
    operands = (one.values, one.locations, one.weights)

    class Recorder(TorchDispatchMode):
        names: ClassVar[list[str]] = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.names.append(str(func))
            return func(*args, **(kwargs or {}))

    def loss(values: Tensor) -> Tensor:
        return (temporal_deform_attn(values, *operands[1:], one.level_lengths) * one.grad_out).sum()

    leaf = one.values.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    with Recorder():
        (recorded,) = torch.autograd.grad(loss(leaf), leaf)
    assert {f"psftr.temporal_deform_attn{way}.default" for way in ("", "_backward")} <= set(Recorder.names)
    assert torch.equal(recorded, expected)
    traced = torch.jit.trace(loss, one.values, check_trace=False)
    assert "psftr::temporal_deform_attn" in str(traced.graph)


def test_autocast_lowers_values_and_keeps_locations(path, case, error) -> None:
    one = case(levels=[2304], dim=16, queries=30)
    values, locations, weights = (t.clone().requires_grad_() for t in (one.values, one.locations, one.weights))
    with torch.autocast("cpu", torch.bfloat16):
        out = temporal_deform_attn(values, locations, weights, one.level_lengths)
    assert out.dtype == torch.bfloat16
    exact = temporal_deform_attn_reference(values.double(), locations.double(), weights.double(), one.level_lengths)
    # bfloat16 keeps 8 bits of the values; with bfloat16 locations the rows read would be others altogether
    assert error(out, exact) < 2**-8
    out.float().sum().backward()
    assert [t.grad.dtype for t in (values, locations, weights)] == [torch.float32] * 3


def test_compiled_code_follows_autocast_on_every_path(path, case) -> None:
    one = case(levels=[9], dim=16)
    torch.compiler.reset()
    compiled = torch.compile(temporal_deform_attn, fullgraph=True, backend="aot_eager")
    for name in (path, "reference"):
        for enabled in (False, True, False):
            with forced_path(name), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                got = compiled(one.values, one.locations, one.weights, one.level_lengths)
                expected = temporal_deform_attn(one.values, one.locations, one.weights, one.level_lengths)
            assert got.dtype == (torch.bfloat16 if enabled else torch.float32)
            torch.testing.assert_close(got, expected)


def test_autocast_leaves_float64_alone(path, case) -> None:
    one = case(levels=[5])
    with torch.autocast("cpu", torch.bfloat16):
        out = temporal_deform_attn(one.values.double(), one.locations.double(), one.weights.double(), one.level_lengths)
    assert out.dtype == torch.float64


def test_mixed_precision_training_step(path) -> None:
    torch.manual_seed(0)
    module = Sampler()
    with torch.autocast("cpu", torch.bfloat16):
        loss = module(torch.randn(2, 9, 8)).float().square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in module.parameters())


def test_two_process_distributed_training() -> None:
    """Gradients averaged over two gloo processes are those of one process on the whole batch."""
    script = Path(__file__).with_name("ddp_script.py")
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("agrees") == 2
