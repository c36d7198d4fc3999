"""Check the layout of the code: python tools/check_house.py [CHECKOUT]. Prints what it finds; exits with 1 if anything.

cycles    Files that import each other, directly or through others. Imports inside functions count; those under
          `if TYPE_CHECKING:` do not, because they never run.
ranks     A file imports from its own room and from rooms below (RANKS); a method never imports another method.
          Imports for types count too: a room should not know the rooms above it.
door      Only psftr/cli imports Hydra or OmegaConf.
private   A name that starts with an underscore is used in its own file only.
defaults  The default of a setting (a field of a subclass of psftr.settings.Checked) is written in its class and nowhere
          else: no parameter, dataclass field, flag or `.get(name, …)` of the same name has a literal default, no two
          verbs or methods declare the same key, and no file in conf/ repeats the default. None counts as "not given".
long      Files over 400 lines are listed. They may stay, but should explain themselves.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

RANKS = (  # the lowest first; rooms of one rank do not import each other
    {"errors"},
    {"files"},
    {"settings"},
    {"segments", "ops"},
    {"predictions"},
    {"features", "language_models", "checkpoints"},
    {"data"},
    {"detection"},
    {"methods", "evaluation"},
    {"engine"},
    {"api", "bench"},
    {"cli"},
    {"__init__", "__main__"},
)
RANK = {room: rank for rank, rooms in enumerate(RANKS) for room in rooms}
NEVER = {"ops": set(RANK) - {"errors"}, "evaluation": {"features"}}  # stricter than the ranks
LONG = 400

# Names of settings that mean something else elsewhere: "file:name" or "settings:key", with * -> what they mean there.
EXEMPT = {
    "settings:backend": "of CASCADE; what writes descriptions",
    "settings:data_root": "of every verb that trains or scores; where `psftr describe` finds class names",
    "settings:dry_run": "of CASCADE; of descriptions",
    "settings:labels": "looked for in own videos by CASCADE; described",
    "settings:record": "of CASCADE; of descriptions",
    "settings:method": "cascade is a verb of its own, with one method",
    "settings:baseline": "beside CASCADE always, beside a trained run on demand",
    "settings:redo": "of CASCADE's answers; of a run's predictions",
    "settings:out": "each verb's own output folder",
    "settings:figures": "of an evaluation; of CASCADE, where the page comes from `psftr evaluate`",
    "settings:protocol": "of a training; of an evaluation, where null means as trained",
    "settings:device": "where an evaluation runs; where CASCADE runs",
    "conf/variant/*": "a row of a paper's table states every column of it",
    "psftr/bench/ops.py:*": "the sizes of one measured call",
    "psftr/cli/bench.py:*": "where, and in which precision, something is measured",
    "psftr/data/datasets.py:*": "what is known of a data set: null settings stand for it",
    "psftr/data/prepare.py:[sd]*": "the seed and the width of a synthetic world",
    "psftr/data/splits.py:index": "of a split file that does not say which it is",
    "psftr/data/synthetic*:*": "the numbers of a synthetic world",
    "psftr/e*/*.py:exclude": "of engine and evaluation: no more videos to leave out than the rules do",
    "psftr/evaluation/rules.py:min_action_s": "the peers' rule for test actions, not the filter of training actions",
    "psftr/features/video/sampling.py:threads": "of a video decoder",
    "psftr/methods/psftr/attention.py:levels": "of multi-scale features",
}


@dataclass(frozen=True)
class Import:
    """`module` is a dotted file name if it is one of ours; `name` is what is taken from it, or empty."""

    module: str
    name: str
    line: int
    is_run: bool


@dataclass(frozen=True)
class Setting:
    owner: str  # class that declares it
    default: Any


class House:
    """Every file of psftr/ and tools/ in a checkout, parsed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        files = sorted(file for folder in ("psftr", "tools") for file in (root / folder).rglob("*.py"))
        self.trees = {file.relative_to(root).as_posix(): ast.parse(file.read_text(encoding="utf-8")) for file in files}
        self.file_of = {
            file.removesuffix(".py").removesuffix("/__init__").replace("/", "."): file for file in self.trees
        }
        self.imports = {file: list(self._imports(tree)) for file, tree in self.trees.items()}

    def _imports(self, tree: ast.Module) -> Iterator[Import]:
        guards = (n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test).endswith("TYPE_CHECKING"))
        for_types = {id(inner) for guard in guards for one in guard.body for inner in ast.walk(one)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Import | ast.ImportFrom | ast.Call):
                continue
            pairs: list[tuple[str, str]] = []
            if isinstance(node, ast.Import):
                pairs = [(alias.name, "") for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                pairs = [("." * node.level + (node.module or ""), alias.name) for alias in node.names]
            elif ast.unparse(node.func).endswith(("import_module", "__import__")):
                pairs = [(literal(node.args[0]), "")] if node.args and isinstance(literal(node.args[0]), str) else []
            for module, name in pairs:
                if f"{module}.{name}" in self.file_of:  # from package import file
                    module, name = f"{module}.{name}", ""
                yield Import(module, name, node.lineno, id(node) not in for_types)


def cycles(house: House) -> Iterator[str]:
    graph = {
        file: {house.file_of[one.module] for one in imports if one.is_run and one.module in house.file_of}
        - {file, "psftr/__init__.py"}  # which is asked for its version only
        for file, imports in house.imports.items()
    }
    while True:
        try:
            TopologicalSorter(graph).prepare()
            return
        except CycleError as error:
            first, second, *_ = reversed(error.args[1])
            yield f"import each other: {' -> '.join(reversed(error.args[1]))}"
            graph[first].discard(second)


def ranks(house: House) -> Iterator[str]:
    for file, imports in house.imports.items():
        parts = file.removesuffix(".py").split("/")
        if parts[0] != "psftr":
            continue
        room = parts[1]
        if room not in RANK:
            yield f"{file}: {room} is a new room; give it a rank in tools/check_house.py"
            continue
        for one in imports:
            where = f"{file}:{one.line}"
            target = one.module.split(".")
            if one.module.startswith("."):
                yield f"{where}: relative import; write it from psftr"
            if target[0] != "psftr" or len(target) == 1:  # psftr itself is asked for its version
                continue
            if target[1] == room:
                if (
                    room == "methods"
                    and len(parts) > 2
                    and parts[2] != "__init__"
                    and target[2:3] not in ([], parts[2:3])
                ):
                    yield f"{where}: a method imports another, {one.module}"
            elif RANK.get(target[1], 0) >= RANK[room] or target[1] in NEVER.get(room, ()):
                yield f"{where}: {room} imports {one.module}, which is not below it"


def door(house: House) -> Iterator[str]:
    for file, imports in house.imports.items():
        for one in imports:
            if one.module.split(".")[0] in ("hydra", "omegaconf") and not file.startswith("psftr/cli/"):
                yield f"{file}:{one.line}: imports {one.module}; only psftr/cli may"


def private(house: House) -> Iterator[str]:
    for file, imports in house.imports.items():
        ours = [one for one in imports if one.module in house.file_of]
        for one in ours:
            if is_private(one.name):
                yield f"{file}:{one.line}: imports {one.name} of {one.module}"
        files = {one.module.rsplit(".", 1)[-1] for one in ours if not one.name}
        for node in ast.walk(house.trees[file]):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in files and is_private(node.attr):
                yield f"{file}:{node.lineno}: uses {ast.unparse(node)}"


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def settings_of(house: House) -> tuple[dict[str, dict[str, Setting]], set[str]]:
    """({root class: {dotted key: its declaration}}, names of all classes of settings)."""
    classes = {n.name: n for tree in house.trees.values() for n in ast.walk(tree) if isinstance(n, ast.ClassDef)}
    bases = {name: [ast.unparse(base).rsplit(".", 1)[-1] for base in node.bases] for name, node in classes.items()}
    kinds: set[str] = {"Checked"}
    while more := {name for name, of in bases.items() if kinds & set(of)} - kinds:
        kinds |= more
    groups: set[str] = set()

    def flat(name: str, prefix: str = "") -> dict[str, Setting]:
        found: dict[str, Setting] = {}
        for base in bases.get(name, ()):
            found |= flat(base, prefix) if base in kinds else {}
        for node in classes[name].body if name in classes else ():
            if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call) and node.value.args:
                key, argument = prefix + ast.unparse(node.target), node.value.args[0]
                if ast.unparse(node.value.func) == "group":
                    groups.add(ast.unparse(argument))
                    found |= flat(ast.unparse(argument), f"{key}.")
                elif ast.unparse(node.value.func) == "setting":
                    found[key] = Setting(name, literal(argument))
        return found

    flattened = {name: flat(name) for name in sorted(kinds)}
    below = groups.union(*(bases.get(name, ()) for name in kinds))
    return {name: found for name, found in flattened.items() if name not in below}, kinds


def defaults(house: House) -> Iterator[str]:
    used: set[str] = set()
    roots, kinds = settings_of(house)
    whole: dict[str, dict[str, Setting]] = {}  # {dotted key: {class: declaration}}, of what has groups: verbs, methods
    for found in roots.values():
        for key, one in found.items() if any("." in key for key in found) else ():
            whole.setdefault(key, {})[one.owner] = one
    for key, owners in whole.items():
        if len(owners) > 1 and not is_exempt(f"settings:{key}", used):
            yield f"settings:{key} is declared in {' and '.join(sorted(owners))}"
    names = {key.rsplit(".", 1)[-1] for found in roots.values() for key in found}
    for file, tree in house.trees.items():
        for name, default, line in literal_defaults(tree, kinds):
            if name in names and default is not None and not is_exempt(f"{file}:{name}", used):
                yield f"{file}:{line}: {name}={default!r} is a second default of a setting"
    for path in sorted((house.root / "conf").rglob("*.yaml")):
        text, place = path.read_text(encoding="utf-8"), path.relative_to(house.root / "conf")
        prefix = "" if "@package _global_" in text else "".join(f"{part}." for part in place.parts[:-1])
        for key, value in leaves(yaml.safe_load(text) or {}, prefix):
            same = [one for one in whole.get(key, {}).values() if is_same(one.default, value)]
            if same and not is_exempt(f"conf/{place.as_posix()}:{key}", used):
                yield f"conf/{place.as_posix()}: {key}={value!r} is the default of {same[0].owner}"
    yield from (f"{one} is exempt in tools/check_house.py but not found" for one in EXEMPT if one not in used)


def is_exempt(place: str, used: set[str]) -> bool:
    """Is this place in EXEMPT? Notes the entry in `used`."""
    entries = {one for one in EXEMPT if fnmatch(place, one)}
    used |= entries
    return bool(entries)


def literal_defaults(tree: ast.Module, kinds: set[str]) -> Iterator[tuple[str, Any, int]]:
    """(name, default, line) of parameters, dataclass fields, flags and `.get(name, default)` outside settings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            plain = [*node.args.posonlyargs, *node.args.args]
            pairs = [
                *zip(reversed(plain), reversed(node.args.defaults)),
                *zip(node.args.kwonlyargs, node.args.kw_defaults),
            ]
            for argument, default in pairs:
                yield argument.arg, literal(default), argument.lineno
        elif isinstance(node, ast.ClassDef) and node.name not in kinds:
            for one in node.body:
                if isinstance(one, ast.AnnAssign):
                    yield ast.unparse(one.target), literal(one.value), one.lineno
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            if node.func.attr == "add_argument":
                flag = str(literal(node.args[-1])).lstrip("-").replace("-", "_")
                yield from ((flag, literal(k.value), node.lineno) for k in node.keywords if k.arg == "default")
            elif node.func.attr == "get" and len(node.args) == 2:
                yield str(literal(node.args[0])), literal(node.args[1]), node.lineno


def literal(node: ast.expr | None) -> Any:
    """The value of a literal; None for anything else, which is then no default of its own."""
    try:
        return ast.literal_eval(node) if node is not None else None
    except ValueError:
        return None


def leaves(tree: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items() if isinstance(tree, dict) else ():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" != "defaults" and not f"{prefix}{key}".startswith("hydra."):
            yield f"{prefix}{key}", value


def is_same(default: Any, value: Any) -> bool:
    if isinstance(default, tuple) and isinstance(value, list):
        return list(default) == value
    return default == value and isinstance(default, bool) == isinstance(value, bool)


def long_files(house: House) -> Iterator[str]:
    for path in sorted(p for p in (house.root / "psftr").rglob("*") if p.suffix in (".py", ".js", ".c", ".cu")):
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > LONG:
            yield f"{path.relative_to(house.root)}: {lines} lines"


CHECKS = {"cycles": cycles, "ranks": ranks, "door": door, "private": private, "defaults": defaults}


def main(root: str = str(Path(__file__).resolve().parents[1])) -> int:
    house = House(Path(root))
    roots, _ = settings_of(house)
    found = {name: list(check(house)) for name, check in CHECKS.items()}
    for name, lines in found.items():
        print(*(f"{name}: {line}" for line in lines), sep="\n", end="\n" if lines else "")
    print(*(f"long: {line}" for line in long_files(house)), sep="\n")
    counts = ", ".join(f"{name} {len(lines)}" for name, lines in found.items())
    print(f"{len(house.trees)} files, {len({k for keys in roots.values() for k in keys})} settings; found: {counts}")
    return 1 if any(found.values()) else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
