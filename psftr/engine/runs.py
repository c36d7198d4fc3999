"""A run folder: what a training run leaves behind, and what `evaluate` and `predict` read again.

run.json            what the run is: config, split, seen and unseen classes, feature store, code version, status
checkpoints/        Lightning checkpoints: last.ckpt, and best.ckpt under checkpoint.rule=best
model.safetensors   weights for use and sharing, with config.json beside them
metrics.csv         every logged value
predictions.json    written by `evaluate`, with evaluation.json and figures
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psftr.errors import PsftrError

FORMAT = "psftr-run-1"


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
        """The run's facts.

        Raises:
            PsftrError: not a run folder, or one of another version.
        """
        if not self.facts_file.is_file():
            raise PsftrError(f"no run.json in {self.path}: give a folder written by `psftr train`")
        try:
            facts = json.loads(self.facts_file.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise PsftrError(f"{self.facts_file} is damaged ({error}): train again") from error
        if facts.get("format") != FORMAT:
            raise PsftrError(
                f"{self.facts_file} has format {facts.get('format')!r}, this psftr reads {FORMAT!r}: "
                f"use the psftr version that wrote it ({facts.get('code_version', 'unknown')})"
            )
        return facts

    def write(self, **facts: Any) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.facts_file, {"format": FORMAT, **facts})

    def update(self, **facts: Any) -> None:
        self.write(**{**{k: v for k, v in self.read().items() if k != "format"}, **facts})


def write_json(path: Path, value: Any) -> None:
    """Write atomically: a reader sees the old file or the new one, never half of one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def find_runs(folder: Path) -> list[RunFolder]:
    """The run itself, or the runs one level below a multirun folder, in job order.

    Raises:
        PsftrError: the folder does not exist or holds no run.
    """
    if not folder.is_dir():
        raise PsftrError(f"no folder {folder}: give a run or a multirun folder written by `psftr train`")
    if (folder / "run.json").is_file():
        return [RunFolder(folder)]
    folders = [child.parent for child in folder.glob("*/run.json")]
    # job numbers in numeric order, other names after them
    folders.sort(key=lambda path: (0, int(path.name), "") if path.name.isdigit() else (1, 0, path.name))
    runs = [RunFolder(path) for path in folders]
    if not runs and not (folder / "multirun.yaml").is_file():
        raise PsftrError(
            f"no run.json in {folder} or one level below it: give a folder written by `psftr train` or `psftr cascade`"
        )
    return runs


def planned_overrides(folder: Path) -> list[dict[str, str]]:
    """What a multirun folder was meant to hold, from its multirun.yaml; empty for a single run."""
    import yaml

    from psftr.cli.hydra_app import planned_jobs

    file = folder / "multirun.yaml"
    if not file.is_file():
        return []
    try:
        hydra = yaml.safe_load(file.read_text(encoding="utf-8"))["hydra"]
        parameters = (hydra.get("sweeper") or {}).get("params") or {}
        swept = [f"{key}={value}" for key, value in parameters.items()] + list(hydra["overrides"]["task"])
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise PsftrError(f"{file} is damaged ({error}): evaluate its runs one by one") from error
    return planned_jobs([text for text in swept if not text.startswith("hydra.")])
