"""prepared.json: the record beside a prepared dataset, saying where its files came from and what is in them."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psftr.errors import PsftrError

FORMAT = "psftr-prepared-1"
NAME = "prepared.json"


def sha256_of(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: str | Path, value: Any) -> None:
    """Readable JSON; whoever reads `path` sees the old file or the whole new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_record(root: Path, facts: Mapping[str, Any]) -> None:
    """Write `root`/prepared.json; facts["synthetic"] says whether any file beside it holds synthetic data."""
    write_json(root / NAME, {"format": FORMAT, **facts})


def read_record(root: Path) -> dict[str, Any] | None:
    """The record of a prepared folder; None where there is none. Raises PsftrError for a damaged or foreign one."""
    path = root / NAME
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PsftrError(f"{path} is damaged ({error}): remove it and run `psftr prepare` again") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise PsftrError(f"{path} is not a {FORMAT} record: give a folder that `psftr prepare` wrote, or a new one")
    return record
