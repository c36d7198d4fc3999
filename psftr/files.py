"""The doors to files that people and other programs share: whole-or-nothing writes, JSON, CSV, and nearest names."""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from psftr.errors import PsftrError


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place once the block ends without an error.

    A reader sees the old file or the whole new one, and a failed write leaves nothing behind. Missing folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk is told without one
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write UTF-8 text, whole or not at all; returns the path."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: str | os.PathLike[str], value: Any, *, indent: int | None = 1) -> Path:
    """Write JSON, whole or not at all; returns the path. NaN and infinity are refused with ValueError."""
    return write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str], *, remedy: str) -> Any:
    """The content of a JSON file. `remedy` ends the message: what to do where the file is missing or damaged.

    Raises PsftrError for a missing file, for what is not JSON, and for a key that one object holds twice.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_repeats)
    except FileNotFoundError:
        raise PsftrError(f"{path}: no such file; {remedy}") from None
    except PsftrError as error:
        raise PsftrError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise PsftrError(f"{path}: not valid JSON ({error}); {remedy}") from None


def read_yaml(path: str | os.PathLike[str], *, missing: str) -> Any:
    """The content of a YAML file. `missing`: what to say of one that is not there.

    Raises PsftrError for that, for what is not YAML, and for a key that one mapping holds twice.
    """
    path = Path(path)
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PsftrError(f"{path}: {missing}") from None
    except PsftrError as error:
        raise PsftrError(f"{path}: {error}") from None
    except ValueError as error:
        raise PsftrError(f"{path}: not valid YAML: {error}") from None


def parse_yaml(text: str) -> Any:
    """Raises ValueError, in one line, for what is not YAML, and PsftrError for a key that one mapping holds twice."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    _refuse_repeats(node)
    return content


def read_lines(path: str | os.PathLike[str], what: str) -> list[str]:
    """The lines of a text file without blank ones and those that begin with "#". `what`: what a line holds.

    Raises PsftrError for a missing file and for one that is no text, OSError for one that cannot be read.
    """
    path = Path(path)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except FileNotFoundError:
        raise PsftrError(f"{path}: no such file; it should hold {what}, one per line") from None
    except UnicodeDecodeError:
        raise PsftrError(f"{path} is not a text file in UTF-8; it should hold {what}, one per line") from None
    return [line for line in lines if line and not line.startswith("#")]


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def csv_rows(
    path: str | os.PathLike[str], columns: Sequence[str], *, aliases: Mapping[str, str] | None = None
) -> Iterator[tuple[str, dict[str, str]]]:
    """("FILE row N", cells by column) of each line below a header that names at least `columns`; the header is row 1.

    aliases: other names of columns, used where the header does not have their own.

    Raises PsftrError for a missing file or column, and for a line that is longer or shorter than the header.
    """
    path = Path(path)
    if not path.is_file():
        raise PsftrError(f"{path}: no such file")
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, skipinitialspace=True)
        given = [name.strip() for name in next(reader, [])]
        header = [name if aliases is None or aliases.get(name) in given else aliases.get(name, name) for name in given]
        absent = [name for name in columns if name not in header]
        if absent:
            raise PsftrError(
                f"{path}: the header names {', '.join(given) or 'nothing'} but not {', '.join(absent)}; "
                f"the first line must name {','.join(columns)}"
            )
        for cells in reader:
            if not cells:
                continue
            where = f"{path} row {reader.line_num}"
            if len(cells) != len(header):
                raise PsftrError(f"{where}: {len(cells)} cells where the header has {len(header)}")
            yield where, dict(zip(header, (cell.strip() for cell in cells)))


def csv_number(where: str, row: Mapping[str, str], column: str) -> float:
    """The number in `column`. Raises PsftrError that names row and column."""
    try:
        return float(row[column])
    except ValueError:
        raise PsftrError(f"{where}: {column} is {row[column]!r}, not a number") from None


def write_csv(path: str | os.PathLike[str], header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Write a CSV with a header, whole or not at all; returns the path."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return Path(path)


def nearest(wrong: str, known: Iterable[str]) -> str:
    """ ", did you mean 'right'?" for a mistyped name, or "" where nothing is near.

    Upper and lower case do not matter. In dotted keys a right last part under another parent is near.
    """
    names = sorted(known)
    by_lower = {name.lower(): name for name in names}
    close = [by_lower[name] for name in difflib.get_close_matches(wrong.lower(), by_lower, n=1, cutoff=0.6)]
    parent, _, leaf = wrong.rpartition(".")
    if not close:
        close = [name for name in names if name.rpartition(".")[2] == leaf]
    if not close and not parent:  # `epochs`: the nearest last part of a dotted key
        leaves = {name.rpartition(".")[2]: name for name in reversed(names)}
        close = [leaves[name] for name in difflib.get_close_matches(wrong, leaves, n=1, cutoff=0.7)]
    if not close and parent:
        siblings = {name.rpartition(".")[2]: name for name in names if name.startswith(f"{parent}.")}
        close = [siblings[name] for name in difflib.get_close_matches(leaf, siblings, n=1, cutoff=0.4)]
    return f", did you mean {close[0]!r}?" if close else ""


def nearest_names(names: Iterable[str], known: Iterable[str]) -> str:
    """`'GolfSwng' (nearest known: 'GolfSwing')` for each of at most five names, for one-line errors."""
    by_lower = {name.lower(): name for name in sorted(known)}
    told = []
    names = list(names)
    for name in names[:5]:
        near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
        told.append(f"{name!r}" + (f" (nearest known: {by_lower[near[0]]!r})" if near else ""))
    return ", ".join(told) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def some(names: Iterable[str], most: int = 5) -> str:
    """The first names of a list and how many more there are: "a, b and 3 more"."""
    names = list(names)
    return (", ".join(names[:most]) or "none") + (f" and {len(names) - most} more" if len(names) > most else "")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):  # json keeps the last of two equal keys and says nothing
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise PsftrError(f"key {twice!r} appears twice in one object; remove one")
    return made


def _refuse_repeats(node: yaml.Node | None) -> None:
    """YAML keeps the last of two equal keys and says nothing."""
    if isinstance(node, yaml.MappingNode):
        keys = [str(key.value) for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise PsftrError(f"{twice[0]!r} is there twice; keep one")
        for _, value in node.value:
            _refuse_repeats(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_repeats(value)
