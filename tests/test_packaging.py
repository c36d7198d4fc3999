"""A wheel carries conf/ and trains in an empty folder; with PSFTR_BUILD_NATIVE=1 it carries the CPU kernel too."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from front_door import TINY

REPOSITORY = Path(__file__).resolve().parents[1]


def build_wheel(folder: Path, **environment: str) -> Path:
    source = folder / "source"
    folder.mkdir(exist_ok=True)
    source.mkdir()
    leave_out = shutil.ignore_patterns(".*", "__pycache__", "_native")
    for name in ("psftr", "conf"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=leave_out)
    for name in ("setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)],
        check=True,
        capture_output=True,
        env={**os.environ, **environment},
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_wheel_trains_in_an_empty_folder(tmp_path):
    wheel = build_wheel(tmp_path / "wheel", PSFTR_BUILD_NATIVE="0")
    assert wheel.name.endswith("py3-none-any.whl")
    site, empty = tmp_path / "site", tmp_path / "empty"
    site.mkdir()
    empty.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(site)
    assert "psftr/conf/train.yaml" in names
    assert not [name for name in names if name.endswith((".so", ".h5", ".ckpt"))]
    left_out = {".pyc", ".so", ""}  # "": .gitignore
    files = {path for path in (REPOSITORY / "psftr").rglob("*") if path.is_file() and path.suffix not in left_out}
    assert {path.relative_to(REPOSITORY).as_posix() for path in files} <= set(names)
    where = subprocess.run(
        [sys.executable, "-c", "import psftr; print(psftr.__file__)"],
        cwd=empty,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(site)},
    )
    assert where.stdout.startswith(str(site))
    done = subprocess.run(
        [sys.executable, "-m", "psftr", "train", *TINY, "trainer.max_epochs=1", "hydra.run.dir=run"],
        cwd=empty,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert (empty / "run" / "model.safetensors").is_file()


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here to build the kernel with")
def test_wheel_made_with_the_kernel_carries_it_and_names_its_platform(tmp_path):
    wheel = build_wheel(tmp_path, PSFTR_BUILD_NATIVE="1")
    assert "-py3-none-" in wheel.name
    assert not wheel.name.endswith("any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert [name for name in archive.namelist() if name.endswith("ops/_native/libpsftr_ops.so")]
