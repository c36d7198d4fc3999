"""A run folder: what a training run leaves behind, and what `evaluate` and `predict` read again.

run.json            what the run is: settings, split, seen and unseen classes, feature store, code version, status
checkpoints/        Lightning checkpoints: last.ckpt, and best.ckpt under checkpoint.rule=best-seen-val
model.safetensors   weights for use and sharing, with config.json beside them
logs/               every logged value
.lock               held while a training writes here
predictions.json    written by `evaluate`, with evaluation/ for tables, figures and the page
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from psftr.checkpoints import config_of_0_2, current_config, training_of_format_1
from psftr.errors import PsftrError
from psftr.files import read_json, write_json

FORMAT, FORMAT_1 = "psftr-run-2", "psftr-run-1"


@dataclass(frozen=True)
class RunFolder:
    """One training run on disk."""

    path: Path

    @property
    def last_checkpoint(self) -> Path:
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def best_checkpoint(self) -> Path:
        return self.path / "checkpoints" / "best.ckpt"

    @property
    def facts_file(self) -> Path:
        return self.path / "run.json"

    def read(self) -> dict[str, Any]:
        """The run's facts, those of psftr 0.1 by today's names.

        Raises PsftrError where this is not a run folder, or one of a later version.
        """
        if not self.facts_file.is_file():
            raise PsftrError(f"no run.json in {self.path}: give a folder written by `psftr train`")
        facts = read_json(self.facts_file, remedy="train again")
        if facts.get("format") == FORMAT_1:
            return {
                **facts,
                "format": FORMAT,
                "method": "psftr",
                "config": current_config(facts["config"]),
                "training": training_of_format_1(facts.get("data") or {}, facts.get("train_classes") or ()),
            }
        if facts.get("format") != FORMAT:
            raise PsftrError(
                f"{self.facts_file} has format {facts.get('format')!r}, this psftr reads {FORMAT!r}: "
                f"use the psftr version that wrote it ({facts.get('code_version', 'unknown')})"
            )
        return {**facts, "config": config_of_0_2(facts["config"], method=facts.get("method"))}

    def write(self, **facts: Any) -> None:
        write_json(self.facts_file, {**facts, "format": FORMAT}, indent=2)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else trains into the folder meanwhile. The lock is the system's: it ends with the process that has it.

        Raises PsftrError where another process has it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.lock_file)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise PsftrError(self.busy()) from None
        try:
            yield
        finally:
            lock.release()

    @property
    def lock_file(self) -> Path:
        return self.path / ".lock"

    def is_held(self) -> bool:
        """Whether another process trains into the folder at this moment; a folder that is not there is not made."""
        if not self.lock_file.is_file():
            return False
        try:
            with self.held():
                return False
        except PsftrError:
            return True

    def busy(self) -> str:
        return f"another training writes into {self.path} now: wait for its end, or choose another hydra.run.dir"

    def update(self, **facts: Any) -> None:
        self.write(**self.read() | facts)


def find_runs(folder: Path) -> list[RunFolder]:
    """The run itself, or the runs one level below a multirun folder, in job order.

    Raises PsftrError where the folder does not exist or holds no run.
    """
    if not folder.is_dir():
        raise PsftrError(f"no folder {folder}: give a run or a multirun folder written by `psftr train`")
    if (folder / "run.json").is_file():
        return [RunFolder(folder)]
    folders = [child.parent for child in folder.glob("*/run.json")]
    # job numbers in numeric order, other names after them
    folders.sort(key=lambda path: (0, int(path.name), "") if path.name.isdigit() else (1, 0, path.name))
    if not folders and not (folder / "multirun.yaml").is_file():
        raise PsftrError(
            f"no run.json in {folder} or one level below it: give a folder written by `psftr train` or `psftr cascade`"
        )
    return [RunFolder(path) for path in folders]


def different_keys(old: Any, new: Any, prefix: str = "") -> list[str]:
    """The dotted keys in which two configurations differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = {**old, **new}
        return [k for key in keys for k in different_keys(old.get(key), new.get(key), f"{prefix}{key}.")]
    return [] if old == new else [prefix.rstrip(".")]


def lookup(config: Any, key: str) -> Any:
    """The value of a dotted key; None where it is not there."""
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config
