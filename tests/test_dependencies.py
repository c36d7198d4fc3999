"""What the code imports is declared in setup.cfg, and what is declared is used."""

import ast
import configparser
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
# declared but imported by no line of ours: who uses it
USED_BY_NAME = {
    "wandb": "Lightning's WandbLogger",
    "tensorboard": "Lightning's TensorBoardLogger",
    "hydra-optuna-sweeper": "hydra/sweeper=optuna",
    "hydra-submitit-launcher": "hydra/launcher=submitit_slurm",
    "pandas-stubs": "mypy",
    "types-pyyaml": "mypy",
    "mypy": "make types",
    "mkdocs-material": "make docs",
    "mkdocstrings": "make docs",
    "ruff": "make lint",
    "pytest-xdist": "make test",
    "build": "python -m build, in tests/test_packaging.py",
}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(folders: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(distribution, file) of every import of something that is neither ours nor Python's."""
    known = packages_distributions()
    files = [file for folder in folders for file in sorted((REPOSITORY / folder).rglob("*.py"))]
    ours = {"psftr", *(file.stem for file in files)}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            else:
                continue
            for package in {name.split(".")[0] for name in names} - ours - sys.stdlib_module_names:
                yield normalised(known.get(package, [package])[0]), file.relative_to(REPOSITORY).as_posix()


def requirements(text: str) -> set[str]:
    lines = (line.strip() for line in text.splitlines())
    return {normalised(re.split(r"[<>=!;\[ ]", line)[0]) for line in lines if line and line[0] not in "#%"}


@pytest.fixture(scope="module")
def declared() -> dict[str, set[str]]:
    """{"": what everybody installs, extra: what it adds}."""
    config = configparser.RawConfigParser()
    config.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    extras = {name: requirements(text) for name, text in config["options.extras_require"].items()}
    return {"": requirements(config["options"]["install_requires"])} | extras


def test_what_is_imported_is_declared(declared):
    for folders, without in ((["psftr", "tools"], {"dev"}), (["psftr", "tools", "tests"], set())):
        allowed = set().union(*(names for extra, names in declared.items() if extra not in without))
        undeclared = sorted({f"{name} (imported in {file})" for name, file in imported(folders) if name not in allowed})
        assert not undeclared, f"declare in setup.cfg: {', '.join(undeclared)}"


def test_what_is_declared_is_used(declared):
    used = {name for name, _ in imported(["psftr", "tools", "tests"])} | USED_BY_NAME.keys()
    unused = set().union(*declared.values()) - used - {"setuptools"}  # of setup.py
    assert not unused, f"take out of setup.cfg, or say in USED_BY_NAME who uses it: {', '.join(sorted(unused))}"
    assert set(USED_BY_NAME) <= set().union(*declared.values())
