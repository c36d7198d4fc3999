"""A wheel carries conf/ and trains in an empty folder; with PSFTR_BUILD_NATIVE=1 it carries the CPU kernel too."""

import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from front_door import TINY

REPOSITORY = Path(__file__).resolve().parents[1]


def copy_source(source: Path) -> Path:
    """What a wheel is made of, in a folder where a build may leave its remains."""
    leave_out = shutil.ignore_patterns(".*", "__pycache__", "_native")
    for name in ("psftr", "conf"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=leave_out)
    for name in ("setup.cfg", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    return source


def build_wheel(folder: Path, **environment: str) -> Path:
    folder.mkdir(exist_ok=True)
    source = copy_source(folder / "source")
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
    """As the workflow builds and tests it: with the environment and the command of [tool.cibuildwheel]."""
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["cibuildwheel"]
    assert settings["environment"] == {"PSFTR_BUILD_NATIVE": "1"}
    wheel = build_wheel(tmp_path, **settings["environment"])
    assert "-py3-none-" in wheel.name
    assert not wheel.name.endswith("any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert "psftr/ops/_native/libpsftr_ops.so" in archive.namelist()  # at the top: in platlib
        assert "psftr/conf/train.yaml" in archive.namelist()
        archive.extractall(tmp_path / "site")
    done = subprocess.run(
        [sys.executable, *shlex.split(settings["test-command"])[1:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "native (prebuilt library found)\n"


def test_the_source_distribution_holds_what_a_wheel_is_made_of(tmp_path):
    source = copy_source(tmp_path / "source")
    build = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {"conf/train.yaml", "psftr/ops/csrc/temporal_deform_attn.c", "psftr/evaluation/report.html"} <= names


def test_the_workflow_builds_wheels_for_three_systems():
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/wheels.yml").read_text())
    runners = workflow["jobs"]["wheel"]["strategy"]["matrix"]["runner"]
    assert {runner.partition("-")[0] for runner in runners} == {"ubuntu", "macos", "windows"}
    used = [step.get("uses", "").partition("@")[0] for step in workflow["jobs"]["wheel"]["steps"]]
    assert "pypa/cibuildwheel" in used
    assert "env" not in workflow["jobs"]["wheel"]["steps"][1]  # settings are in pyproject.toml, for a local run too
