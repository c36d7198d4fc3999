"""One sentence of description a class: what moves, from the first pose to the last. For methods that read language.

A description file is JSON or YAML, class name -> text:

    HighJump: The jumper runs up in a curve toward a bar …; it ends when the body drops onto the mat.

Beside this file are those that come with psftr, DATASET.json, written by hand; no video was looked at. `psftr describe`
has a language model write others. The form (start pose to end pose) is that of ActionVLM, appendix B.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from psftr.errors import PsftrError
from psftr.features.text import spell_out
from psftr.files import nearest, nearest_names, read_json, read_yaml, some, write_json, write_text

_SHIPPED = Path(__file__).parent
_REMEDY = "write `class name: text` for every class, or let `psftr describe` write it"


def shipped_names() -> tuple[str, ...]:
    """The data sets whose descriptions come with psftr."""
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.json")))


def description_file(given: str | Path | None, *, dataset: str) -> Path:
    """The file that is meant: a path, the name of one that comes with psftr, or by default that of the data set.

    Raises PsftrError where the data set has none, and for what is neither a file nor such a name.
    """
    name = dataset if given is None else str(given)
    shipped = _SHIPPED / f"{name}.json"
    if given is not None and Path(given).is_file():
        return Path(given)
    if name in shipped_names():
        return shipped
    if given is None:
        raise PsftrError(f"no descriptions of {dataset} come with psftr; let `psftr describe` write a file and give it")
    near = nearest(name, shipped_names()) or ";"
    raise PsftrError(f"no description file {name}{near} give a file, or {', '.join(shipped_names())}")


def read_descriptions(path: str | Path) -> dict[str, str]:
    """Texts by class name, with single spaces. Raises PsftrError that names the file and the class."""
    path = Path(path)
    if path.suffix == ".json":
        content = read_json(path, remedy=_REMEDY)
    else:
        content = read_yaml(path, missing=f"no such file; {_REMEDY}")
    if not isinstance(content, Mapping) or not content:
        raise PsftrError(f"{path} holds no descriptions; {_REMEDY}")
    for name, text in content.items():
        if not isinstance(name, str) or not name.strip():
            raise PsftrError(f"{path}: the class name {name!r} is not text; put it in quotes")
        if not isinstance(text, str):
            raise PsftrError(f"{path}: the description of {name!r} is {type(text).__name__}, not text")
        if not text.strip():
            raise PsftrError(f"{path}: the description of {name!r} is empty; write what moves, from start to end")
    in_words: dict[str, str] = {}
    for name in content:
        other = in_words.setdefault(spell_out(name).casefold(), name)
        if other != name:
            raise PsftrError(f"{path}: {other!r} and {name!r} are the same in words; keep one description")
    return {name: " ".join(text.split()) for name, text in content.items()}


def describe_classes(
    given: str | Path | None, classes: Sequence[str], *, dataset: str, known: Sequence[str] | None = None
) -> dict[str, str]:
    """The description of each of `classes`, in their order, from the file that `description_file` finds.

    known: all classes of the data set; with them a file that names another class is refused, which a mistyped name is.
    Raises PsftrError for that, and for a class without description, with the nearest name that the file has.
    """
    path = description_file(given, dataset=dataset)
    found = read_descriptions(path)
    unknown = [name for name in found if name not in known] if known is not None else []
    absent = [name for name in classes if name not in found]
    if absent:
        raise PsftrError(f"{path} has no description of {nearest_names(absent, found)}; add one line for each class")
    if unknown:
        raise PsftrError(f"{path} describes {nearest_names(unknown, known or ())}, no class of {dataset}; remove it")
    return {name: found[name] for name in classes}


def mismatched(descriptions: Mapping[str, str], *, seed: int) -> dict[str, str]:
    """Every class with the description of another one: the conflicting language of ActionVLM's LAP (section 4.3).

    The texts move around in one random circle, so none stays and each is used once; the same for the same seed.
    Raises PsftrError for fewer than two classes.
    """
    names = list(descriptions)
    if len(names) < 2:
        raise PsftrError(f"descriptions of {some(names)} cannot be mismatched: two classes are needed at least")
    circle = np.random.default_rng(seed).permutation(len(names))
    takes_from = dict(zip(circle.tolist(), np.roll(circle, -1).tolist()))
    return {name: descriptions[names[takes_from[i]]] for i, name in enumerate(names)}


def write_descriptions(path: str | Path, descriptions: Mapping[str, str]) -> Path:
    """Write a description file, JSON or YAML by its suffix, whole or not at all; returns the path."""
    path = Path(path)
    if path.suffix == ".json":
        return write_json(path, dict(descriptions))
    return write_text(path, yaml.safe_dump(dict(descriptions), sort_keys=False, allow_unicode=True, width=110))
