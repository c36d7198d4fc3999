"""Which path is taken, what the log says, and what happens when a path cannot run."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from psftr.ops import build_native, cuda_path, dispatch, forced_path, native_path, selected_path, temporal_deform_attn


def small_call() -> torch.Tensor:
    where = torch.full((1, 1, 1, 1, 1), 0.5)
    return temporal_deform_attn(torch.ones(1, 2, 1, 4), where, torch.ones_like(where), [2])


def test_without_the_library_pytorch_runs_and_says_why(library, tmp_path) -> None:
    library(tmp_path / "absent.so")
    with forced_path("auto"):
        assert str(selected_path("cpu")) == "torch (stock PyTorch; the prebuilt library of some wheels is faster)"
        assert small_call().eq(1).all()


def test_with_the_library_it_runs(library, built_library) -> None:
    library(built_library)
    with forced_path("auto"):
        assert selected_path("cpu").name == "native"
        assert small_call().eq(1).all()


def test_the_choice_is_logged_once(library, tmp_path, caplog) -> None:
    library(tmp_path / "absent.so")
    dispatch._said.clear()
    with caplog.at_level(logging.INFO, logger="psftr.ops"), forced_path("torch"):
        for _ in range(3):
            small_call()
        assert [record.message for record in caplog.records] == [
            "temporal deformable attention on cpu: torch (asked for)"
        ]
        dispatch.say_path("cpu")  # what begins says it again, and the first call then does not
        small_call()
    assert len(caplog.records) == 2


def test_a_library_of_another_version_is_refused(library, built_library, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(build_native, "source_hash", lambda: "0123456789abcdef")
    library(build_native.build(tmp_path / "old.so"))
    with pytest.raises(native_path.NativeUnavailable, match=r"built from another version of temporal_deform_attn\.c"):
        native_path.load()


def test_a_file_that_is_no_library_is_refused(library, tmp_path) -> None:
    (tmp_path / "broken.so").write_bytes(b"not a library")
    library(tmp_path / "broken.so")
    assert selected_path("cpu").name == "torch"
    assert "broken.so does not load" in selected_path("cpu").reason


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "native",
            "PSFTR_OPS=native: this installation does not include the prebuilt library; unset it to use PyTorch",
        ),
        ("cuda", "PSFTR_OPS=cuda computes on a CUDA device, but the values are on cpu"),
    ],
)
def test_a_path_asked_for_that_cannot_run_is_an_error(library, tmp_path, name, text) -> None:
    library(tmp_path / "absent.so")
    with forced_path(name), pytest.raises(dispatch.PathUnavailable, match=text):
        small_call()


def test_an_unknown_path_is_an_error(monkeypatch) -> None:
    with pytest.raises(ValueError, match="unknown path 'fast': choose one of auto, reference, torch, native, cuda"):
        forced_path("fast").__enter__()
    monkeypatch.setattr(dispatch, "_forced", "fast")
    with pytest.raises(ValueError, match="PSFTR_OPS is 'fast': choose one of auto"):
        small_call()


def test_the_environment_chooses() -> None:
    code = "from psftr.ops import selected_path; print(selected_path('cpu'))"
    environment = os.environ | {"PSFTR_OPS": "Reference"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.stdout.strip() == "reference (asked for)", result.stderr


def test_a_cuda_kernel_that_fails_is_named_once_and_loudly(monkeypatch, caplog) -> None:
    def unavailable(index: int) -> str:
        raise cuda_path.CudaUnavailable("the library libnvrtc was not found")

    monkeypatch.setattr(cuda_path, "architecture", unavailable)
    dispatch._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger="psftr.ops"):
        for index in range(3):
            assert dispatch._cuda("cuda", index, "auto").name == "torch"
    assert [record.message for record in caplog.records] == [
        "the CUDA kernel cannot be used and PyTorch computes instead, which is slower: "
        "the library libnvrtc was not found"
    ]
    with pytest.raises(dispatch.PathUnavailable, match="PSFTR_OPS=cuda: the library libnvrtc was not found"):
        dispatch._cuda("cuda", 0, "cuda")


def test_a_fork_after_the_first_call_does_not_hang(library, built_library) -> None:
    """A forked data-loading worker may compute too: it must not wait for threads that only its parent has."""
    library(built_library)
    values, where, weights = torch.ones(2, 300, 8, 64), torch.rand(2, 400, 8, 1, 4), torch.rand(2, 400, 8, 1, 4)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        native_path.forward(values, where, weights, [300])
        child = os.fork()
        if child == 0:
            try:
                native_path.forward(values, where, weights, [300])
                os._exit(7)
            finally:
                os._exit(1)
    finally:
        torch.set_num_threads(before)
    deadline = time.monotonic() + 20
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("the forked process hangs")
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(ended[1]) == 7


def test_importing_reads_no_library_and_runs_no_compiler(tmp_path: Path) -> None:
    """With an empty PATH: no compiler can be found, and nothing tries to run one."""
    code = """
import sys
import torch
def refuse(event, arguments):
    if event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system"):
        raise RuntimeError(f"{event} {arguments}")
sys.addaudithook(refuse)
from psftr.ops import selected_path, temporal_deform_attn
torch.manual_seed(0)
project = torch.nn.Linear(8, 20)
optimizer = torch.optim.AdamW(project.parameters(), lr=0.05)
features, target = torch.randn(2, 16, 8), torch.randn(2, 16, 2, 4)
losses = []
for _ in range(20):
    values, where, weights = project(features).split((8, 6, 6), dim=-1)
    where, weights = where.sigmoid().view(2, 16, 2, 1, 3), weights.view(2, 16, 2, 1, 3).softmax(-1)
    loss = (temporal_deform_attn(values.view(2, 16, 2, 4), where, weights, [16]) - target).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
assert losses[-1] < losses[0]
print(selected_path("cpu").name)
"""
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.stdout.strip() in ("torch", "native"), result.stderr
