"""Private names of other packages that psftr uses: each is listed here with its reason, and must still exist.

A name that goes fails here with the file to change, before a user meets it. Names without a leading underscore anywhere
in their path are public and are not listed.
"""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
# dotted name -> (file that uses it, why, what to do when it goes)
PRIVATE = {
    "os._exit": (
        "psftr/engine/rank.py",
        "documented by Python: a rank that has lost the others must end, whatever its threads wait for",
        "end the process by a signal to itself",
    ),
    "torch._C._len_torch_dispatch_stack": (
        "psftr/ops/temporal_deform_attn.py",
        "PyTorch has no public question for active dispatch modes",
        "nothing breaks, but every call on a CPU takes about 0.1 ms longer; find another way to ask",
    ),
}


def private_names() -> Iterator[tuple[str, str]]:
    """(dotted name, file) of every use of another package's name with a private part."""
    for file in sorted(file for folder in ("psftr", "tools") for file in (REPOSITORY / folder).rglob("*.py")):
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        local: dict[str, str] = {}  # name in this file -> dotted name
        for node in nodes:
            if isinstance(node, ast.Import):
                local |= {alias.asname or alias.name.split(".")[0]: alias.asname or alias.name for alias in node.names}
                local |= {alias.name: alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                local |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        used = set(local.values())
        for node in nodes:
            if isinstance(node, ast.Attribute):
                is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                used.add(full_name(node, local) or ("" if is_own else f"an object's.{node.attr}"))
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr":
                used.add(f"{full_name(node.args[0], local)}.{ast.unparse(node.args[1]).strip(chr(39))}")
        for name in used:
            package, *parts = name.split(".")
            if package != "psftr" and any(part.startswith("_") and not part.startswith("__") for part in parts):
                yield name, file.relative_to(REPOSITORY).as_posix()


def full_name(node: ast.expr, local: dict[str, str]) -> str:
    """What a chain of names such as `torch._C.x` stands for, or "" if it is none or does not begin with an import."""
    text = ast.unparse(node)
    first, *rest = text.split(".")
    return ".".join((local[first], *rest)) if first in local and re.fullmatch(r"[\w.]+", text) else ""


def test_every_private_name_is_listed():
    listed = {(name, use[0]) for name, use in PRIVATE.items()}
    for name, file in private_names():
        known = any(file == where and f"{one}.".startswith(f"{name}.") for one, where in listed)
        assert known, f"{file} uses {name}, which is private: use a public name, or list it in {Path(__file__).name}"


def test_every_listed_name_is_used():
    assert set(PRIVATE) <= {name for name, _ in private_names()}


@pytest.mark.parametrize("name", PRIVATE)
def test_it_still_exists(name):
    file, why, what_to_do = PRIVATE[name]
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
            break
        except ImportError:
            continue
    for part in parts[count:]:
        found = getattr(found, part, None)
    assert found is not None, f"{name} is gone. {file} uses it because {why}. What to do: {what_to_do}"
