"""Imports go one way (README, map of the code): a file imports its own room and rooms below, never sideways or up."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "psftr"
LEVEL = {
    "errors": 0, "segments": 1, "ops": 1, "text": 2, "clip": 2, "video": 2, "mllm": 2, "predictions": 2,
    "data": 3, "extract": 4, "methods": 5, "evaluation": 5, "exports": 4, "api": 6, "bench": 7, "cli": 8,
    "__init__": 8, "__main__": 9,
}  # fmt: skip


def imported_rooms(file: Path) -> set[tuple[str, ...]]:
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import; write it from psftr"
            names = [node.module]
            if node.module == "psftr":  # `from psftr import clip` names a room too
                names = [f"psftr.{alias.name}" for alias in node.names]
        else:
            continue
        rooms |= {tuple(name.split(".")[1:3]) for name in names if name.split(".")[0] == "psftr" and "." in name}
    return {room for room in rooms if room and not room[0].startswith("__version")}


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_imports_go_one_way(file: Path):
    parts = file.relative_to(PACKAGE).parts
    room = parts[0].removesuffix(".py")
    assert room in LEVEL, f"{file}: a new room; give it a level here and a line in the README's map"
    for other in imported_rooms(file):
        if other[0] == room:
            if room == "methods" and len(other) > 1 and len(parts) > 2:
                assert other[1] == parts[1], f"{file} imports another method: {'.'.join(other)}"
            continue
        assert LEVEL.get(other[0], 0) < LEVEL[room], f"{file} imports {'.'.join(other)}, which is not below {room}"
        assert not (room == "ops" and other[0] != "errors"), f"{file}: ops imports nothing of ours"


def test_only_the_cli_knows_hydra():
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        if "cli" not in file.relative_to(PACKAGE).parts:
            assert not {"hydra", "omegaconf"} & set(text.lower().split()), f"{file}: config stops at the door"
