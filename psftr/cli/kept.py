"""What an interrupted training leaves on disk, and the command that goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def what_was_kept(run_dirs: Sequence[Path], sweep: Path | None) -> str:
    """Of the trainings that were interrupted, in two lines; with the sweep that they are part of."""
    from psftr.engine.runs import find_runs

    found = [words for folder in run_dirs if (words := _epochs(folder))]
    kept = f"kept: {', '.join(found)}" if found else "no epoch was finished"
    if sweep:
        done = sum(run.read()["status"] == "finished" for run in find_runs(sweep))
        kept += f", and {done} finished {'run' if done == 1 else 'runs'} in {shown(sweep)}"
    folder = sweep or run_dirs[0]
    return f"{kept}\ngo on with: psftr train resume={shell_word(shown(folder))}"


def _epochs(run_dir: Path) -> str:
    import torch

    from psftr.engine.runs import RunFolder

    last = RunFolder(run_dir).last_checkpoint
    if not last.is_file():
        return ""
    epochs = torch.load(last, map_location="cpu", weights_only=True, mmap=True)["epoch"] + 1
    return f"{epochs} {'epoch' if epochs == 1 else 'epochs'} in {shown(last)}"


def shown(path: Path) -> Path:
    """The path as a user would type it here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def shell_word(path: Path) -> str:
    import shlex

    return shlex.quote(str(path))
