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
    keep = shutil.ignore_patterns(".*", "outputs", "build", "dist", "tests", "docs", "data", "*.egg-info", "_native")
    shutil.copytree(REPOSITORY, source, ignore=keep)
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
