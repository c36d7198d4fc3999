"""The Dockerfile, as far as it can be checked without Docker: what it copies is there and makes the wheel."""

import configparser
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY

INSTRUCTIONS = {"ARG", "FROM", "RUN", "WORKDIR", "COPY", "USER", "ENTRYPOINT", "CMD"}


def instructions() -> list[tuple[str, str]]:
    """(instruction, its words), comments left out."""
    lines = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines if line and not line.startswith("#")]


def copied() -> list[tuple[list[str], str]]:
    """([sources in the repository], target) of every COPY from there."""
    found = [words.split() for name, words in instructions() if name == "COPY" and not words.startswith("--from")]
    return [(words[:-1], words[-1]) for words in found]


def is_ignored(path: str) -> bool:
    """Whether .dockerignore keeps a file or folder at the top of the repository out; the last rule decides."""
    ignored = False
    for rule in (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if rule and not rule.startswith("#") and fnmatch.fnmatch(path, rule.lstrip("!")):
            ignored = not rule.startswith("!")
    return ignored


def test_every_instruction_is_known_and_every_variable_is_declared():
    assert {name for name, _ in instructions()} <= INSTRUCTIONS
    declared = {words.partition("=")[0]: words.partition("=")[2] for name, words in instructions() if name == "ARG"}
    used = {name for _, words in instructions() for name in re.findall(r"\$\{(\w+)\}", words)}
    assert used == set(declared)
    assert declared["TORCH"] == "cpu"
    stages = [re.search(r" AS (\w+)", words) for name, words in instructions() if name == "FROM"]
    sources = [re.search(r"--from=(\w+)", words) for name, words in instructions() if name == "COPY"]
    assert {found[1] for found in sources if found} <= {found[1] for found in stages if found}


def test_what_is_copied_exists_and_is_sent_to_docker():
    for sources, _ in copied():
        for source in sources:
            assert (REPOSITORY / source).exists(), source
            assert not is_ignored(source), f"{source} is in .dockerignore"
    assert all(is_ignored(name) for name in ("tests", ".git", "outputs", "data", ".venv"))


def test_python_and_pytorch_are_supported_ones_and_the_command_is_ours():
    config = configparser.RawConfigParser()
    config.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    text = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    assert f"Python :: {re.search('PYTHON=(.+)', text)[1]}\n" in config["metadata"]["classifiers"] + "\n"
    for package in ("torch", "torchvision"):
        needed = re.search(rf"^{package}>=.+$", config["options"]["install_requires"], flags=re.MULTILINE)
        assert f'"{needed[0]}"' in text
    (entry,) = [json.loads(words) for name, words in instructions() if name == "ENTRYPOINT"]
    assert f"\n{entry[0]} =" in config["options.entry_points"]["console_scripts"]


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here to build the kernel with")
def test_what_is_copied_makes_the_wheel_with_the_kernel(tmp_path):
    """The command of the first stage, in a folder that holds what it copies and nothing else."""
    for sources, target in copied():
        for source in map(Path, sources):
            place = tmp_path / "source" / target / (source.name if target == "./" else "")
            if (REPOSITORY / source).is_dir():
                shutil.copytree(REPOSITORY / source, place, ignore=shutil.ignore_patterns("__pycache__", "_native"))
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(REPOSITORY / source, place)
    (command,) = [words for name, words in instructions() if name == "RUN" and "pip wheel" in words]
    setting, _, rest = command.partition(" ")
    assert rest == "pip wheel --no-deps --wheel-dir /wheels ."
    subprocess.run(
        [sys.executable, "-m", *rest.replace("/wheels", str(tmp_path)).split(), "--no-build-isolation", "--no-index"],
        cwd=tmp_path / "source",
        check=True,
        capture_output=True,
        env={**os.environ, **dict([setting.split("=")])},
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "psftr/conf/train.yaml" in names
    assert "psftr/ops/_native/libpsftr_ops.so" in names
