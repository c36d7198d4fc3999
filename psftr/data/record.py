"""prepared.json: the record beside a prepared dataset, saying where its files came from and what is in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psftr.errors import PsftrError
from psftr.files import read_json, write_json

FORMAT = "psftr-prepared-1"
NAME = "prepared.json"


def write_record(root: Path, facts: Mapping[str, Any]) -> None:
    """Write `root`/prepared.json; facts["synthetic"] says whether any file beside it holds synthetic data."""
    write_json(root / NAME, {"format": FORMAT, **facts})


def read_record(root: Path) -> dict[str, Any] | None:
    """The record of a prepared folder; None where there is none. Raises PsftrError for a damaged or foreign one."""
    path = root / NAME
    if not path.is_file():
        return None
    record = read_json(path, remedy="remove it and run `psftr prepare` again")
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise PsftrError(f"{path} is not a {FORMAT} record: give a folder that `psftr prepare` wrote, or a new one")
    return record
