"""The examples of docs/extending.md, copied from the page and run: what a person adds is all that is touched."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY
from front_door import TINY

PAGE = (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")


def code_after(words: str) -> str:
    """The first block of code on the page after these words."""
    found = re.search(r"```\w*\n(.*?)```", PAGE[PAGE.index(words) :], flags=re.DOTALL)
    assert found, f"docs/extending.md has no code after {words!r}"
    return found[1]


def psftr(*arguments: str, cwd: Path, path: str) -> str:
    """`psftr …` as a program of its own with `path` in front of what Python knows."""
    done = subprocess.run(
        [sys.executable, "-m", "psftr", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with data/synthetic in it."""
    from psftr.data.synthetic import ensure_world

    folder = tmp_path_factory.mktemp("extending")
    ensure_world(folder / "data" / "synthetic", num_train=24, num_test=16)
    return folder


@pytest.fixture
def copy(tmp_path) -> Path:
    """A copy of the package and its configuration, to be changed."""
    for name in ("psftr", "conf"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def changed(copy: Path) -> list[str]:
    """The files of the copy that differ from the checkout's."""
    files = (f for name in ("psftr", "conf") for f in (copy / name).rglob("*") if f.suffix in (".py", ".yaml"))
    relative = (file.relative_to(copy) for file in files)
    return sorted(
        str(r)
        for r in relative
        if not (REPOSITORY / r).is_file() or (REPOSITORY / r).read_bytes() != (copy / r).read_bytes()
    )


def test_a_method_from_another_package(world, tmp_path):
    package, site = tmp_path / "package", tmp_path / "site"
    package.mkdir()
    (package / "pyproject.toml").write_text(code_after("`pyproject.toml`:"), encoding="utf-8")
    (package / "psftr_peaks.py").write_text(code_after("`psftr_peaks.py`:"), encoding="utf-8")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*install, "--target", str(site), str(package)], check=True, capture_output=True)
    path = f"{site}{os.pathsep}{REPOSITORY}"
    told = psftr("train", "method=peaks", "trainer.max_epochs=2", "hydra.run.dir=run", cwd=world, path=path)
    assert "epoch 2/2" in told
    assert "peaks.threshold=0.5" in psftr("train", "method=peaks", "--help", cwd=world, path=path)
    scored = psftr("evaluate", "run=run", "baseline=true", cwd=world, path=path)
    assert re.search(r"^peaks +\d", scored, flags=re.MULTILINE)
    psftr(
        "report", "run/predictions.json", "--annotations", "data/synthetic/annotations.json", "--out", "page.html",
        cwd=world, path=path,
    )  # fmt: skip
    assert "peaks" in (world / "page.html").read_text(encoding="utf-8")


def test_a_data_set(world, copy):
    specs = copy / "psftr" / "data" / "datasets.py"
    text = specs.read_text(encoding="utf-8")
    entry = code_after("one more entry of `_SPECS`").rstrip()
    specs.write_text(text.replace("_SPECS = (\n", f"_SPECS = (\n{entry},\n"), encoding="utf-8")
    (copy / "conf" / "dataset" / "kitchen.yaml").write_text(code_after("and `conf/dataset/kitchen.yaml`:"))
    assert changed(copy) == ["conf/dataset/kitchen.yaml", "psftr/data/datasets.py"]
    shutil.copytree(world / "data" / "synthetic", copy / "data" / "kitchen")
    (copy / "data" / "kitchen" / "prepared.json").unlink()
    run = ["train", "dataset=kitchen", "split=random", *TINY, "trainer.max_epochs=1", "hydra.run.dir=run"]
    assert "kitchen, SYNTHETIC features · random split 75/0" in psftr(*run, cwd=copy, path=str(copy))
    assert "[SYNTHETIC] kitchen 75/25" in psftr("evaluate", "run=run", "figures=false", cwd=copy, path=str(copy))


def test_a_head(world, copy):
    package = copy / "psftr" / "methods" / "psftr"
    (package / "mean_head.py").write_text(code_after("## A head"), encoding="utf-8")
    settings, line = package / "settings.py", code_after("The line in `CLASS_HEADS`")
    assert line.count("\n") == 1
    text = settings.read_text(encoding="utf-8")
    settings.write_text(text.replace("CLASS_HEADS = {\n", f"CLASS_HEADS = {{\n{line}"), encoding="utf-8")
    assert changed(copy) == ["psftr/methods/psftr/mean_head.py", "psftr/methods/psftr/settings.py"]
    shutil.copytree(world / "data", copy / "data")
    run = ["train", "model.class_head=mean", *TINY, "trainer.max_epochs=1", "hydra.run.dir=run"]
    psftr(*run, cwd=copy, path=str(copy))
    assert "75/25" in psftr("evaluate", "run=run", "figures=false", cwd=copy, path=str(copy))


def test_an_ablation(world, copy):
    (copy / "conf" / "experiment" / "queries.yaml").write_text(code_after("## An ablation"))
    assert changed(copy) == ["conf/experiment/queries.yaml"]
    shutil.copytree(world / "data", copy / "data")
    tiny = [text for text in TINY if not text.startswith("model.queries")]
    psftr("train", "experiment=queries", *tiny, "trainer.max_epochs=1", cwd=copy, path=str(copy))
    sweep = "run=outputs/experiments/queries"
    scored = psftr("evaluate", sweep, "figures=false", cwd=copy, path=str(copy))
    assert [label for label in ("queries 12", "queries 24", "queries 48") if f"=== {label}" in scored] == [
        "queries 12", "queries 24", "queries 48",
    ]  # fmt: skip
