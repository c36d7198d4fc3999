"""The CUDA source compiles for every architecture, without spills and with 128-bit accesses. No GPU needed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from psftr.ops import cuda_path, nvrtc
from psftr.ops.cuda_path import Variant

ARCHITECTURES = [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)]
EMPTY = 'extern "C" __global__ void empty() {}'


@pytest.fixture(autouse=True)
def _needs_nvrtc(request: pytest.FixtureRequest) -> None:
    if "nvcc" in request.node.name:
        return
    try:
        nvrtc.nvrtc_version()
    except nvrtc.NvrtcError as error:
        pytest.skip(f"NVRTC is not installed here: {error}")


@pytest.fixture(scope="module")
def disassembler() -> str:
    beside = Path(sys.prefix).glob("lib/python*/site-packages/triton/backends/nvidia/bin/nvdisasm")
    found = shutil.which("nvdisasm") or next((str(file) for file in beside), None)
    if found is None:
        pytest.skip("no nvdisasm on this machine (CUDA and triton bring it): the machine code cannot be read")
    return found


def accesses(disassembler: str, cubin: bytes, folder: Path) -> dict[str, set[str]]:
    """The memory instructions of every kernel: {"forward": {"LDG.E.128", ...}, ...}."""
    file = folder / "kernel.cubin"
    file.write_bytes(cubin)
    listing = subprocess.run([disassembler, str(file)], capture_output=True, text=True, check=True).stdout
    sections = re.split(r"\.section\s+\.text\.(\w+)", listing)
    return {
        name: set(re.findall(r"\b(?:LDG|STG|LDL|STL|RED|ATOMG)\b[.\w]*", body))
        for name, body in zip(sections[1::2], sections[2::2], strict=True)
    }


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        *((capability, torch.float32) for capability in ARCHITECTURES),
        ((7, 5), torch.bfloat16),
        ((7, 5), torch.float16),
        ((9, 0), torch.bfloat16),
        ((9, 0), torch.float16),
    ],
    ids=str,
)
def test_nvrtc_code_has_wide_accesses_and_no_spills(capability, dtype, disassembler, tmp_path) -> None:
    architecture = nvrtc.architecture_for(capability)
    assert architecture == f"sm_{capability[0]}{capability[1]}"
    macros = Variant(dtype, 64, 1, 4).macros
    cubin = nvrtc.compile_cubin(cuda_path.SOURCE.read_text(), architecture=architecture, macros=macros)
    kernels = accesses(disassembler, cubin, tmp_path)
    assert set(kernels) == {"forward", "sort_points", "walk_rows"}
    for name, instructions in kernels.items():
        local = {i for i in instructions if i.startswith(("LDL", "STL"))}
        assert not local, f"{name} keeps registers in memory"
        assert not {i for i in instructions if i.startswith(("RED", "ATOMG"))}, f"{name} has global atomics"
        assert any(i.startswith("STG") and ".128" in i for i in instructions), name
        if name != "sort_points":  # which reads single numbers
            assert any(i.startswith("LDG") and ".128" in i for i in instructions), name


def test_nvcc_reports_no_spills(tmp_path) -> None:
    compiler = shutil.which("nvcc")
    if compiler is None:
        pytest.skip("no nvcc on this machine; NVRTC compiles the same source")
    macros = [f"-D{name}={value}" for name, value in Variant(torch.float32, 64, 2, 3).macros.items()]
    targets = [f"-gencode=arch=compute_{a}{b},code=sm_{a}{b}" for a, b in ARCHITECTURES]
    output = ["-fatbin", "-Xptxas", "-v", "-o", str(tmp_path / "kernel.fatbin"), str(cuda_path.SOURCE)]
    result = subprocess.run([compiler, *macros, *targets, *output], capture_output=True, text=True)
    if "Unsupported gpu architecture" in result.stderr:
        pytest.skip(f"this nvcc does not know every architecture: {result.stderr.strip()}")
    assert result.returncode == 0, result.stderr
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", result.stderr)
    assert spills == [("0", "0")] * (3 * len(ARCHITECTURES))


def test_every_lane_count_of_the_plan_is_the_kernels() -> None:
    lanes = {dim: Variant(torch.float32, dim, 1, 4).lanes for dim in (1, 4, 13, 16, 24, 64, 96, 200, 512)}
    assert lanes == {1: 1, 4: 1, 13: 16, 16: 4, 24: 8, 64: 16, 96: 32, 200: 32, 512: 32}
    assert Variant(torch.bfloat16, 64, 1, 4).lanes == 8


def test_heads_too_wide_for_the_registers_are_refused() -> None:
    Variant(torch.float32, 512, 1, 4).check()
    with pytest.raises(cuda_path.CudaUnavailable, match=r"heads of 1024 torch\.float32 channels are too wide"):
        Variant(torch.float32, 1024, 1, 4).check()
    with pytest.raises(cuda_path.CudaUnavailable, match="or a multiple of 4 channels"):
        Variant(torch.float32, 131, 1, 4).check()


def test_compiled_code_is_kept_and_a_damaged_file_is_replaced(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiled = nvrtc.load_or_compile(EMPTY, architecture="sm_90", macros={})
    (file,) = (tmp_path / "psftr" / "kernels").iterdir()
    compile_cubin = nvrtc.compile_cubin
    monkeypatch.setattr(nvrtc, "compile_cubin", lambda *_, **__: pytest.fail("compiled again"))
    assert nvrtc.load_or_compile(EMPTY, architecture="sm_90", macros={}) == compiled
    monkeypatch.setattr(nvrtc, "compile_cubin", compile_cubin)
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    assert nvrtc.load_or_compile(EMPTY, architecture="sm_90", macros={}) == compiled
    assert file.read_bytes() == content


def test_each_source_architecture_and_macro_has_its_own_file(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for source, architecture, macros in (
        (EMPTY, "sm_80", {}),
        (EMPTY, "sm_90", {}),
        (EMPTY, "sm_90", {"DIM": 8}),
        (EMPTY + "\n", "sm_90", {}),
    ):
        nvrtc.load_or_compile(source, architecture=architecture, macros=macros)
    assert len(list((tmp_path / "psftr" / "kernels").iterdir())) == 4


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path, monkeypatch) -> None:
    (tmp_path / "psftr").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert nvrtc.load_or_compile(EMPTY, architecture="sm_90", macros={})


def test_the_compilers_words_reach_the_user() -> None:
    with pytest.raises(nvrtc.NvrtcError, match=r'on sm_90: kernel.cu\(1\): error: identifier "nonsense"'):
        nvrtc.compile_cubin("__device__ int x = nonsense;", architecture="sm_90", macros={})


def test_architectures_newer_and_older_than_nvrtc() -> None:
    assert nvrtc.architecture_for((9, 9)).startswith("sm_90")
    with pytest.raises(nvrtc.NvrtcError, match=r"has no code for compute capability 3\.5"):
        nvrtc.architecture_for((3, 5))
