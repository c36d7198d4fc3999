"""`dataset=FILE`: the file of one's own data set becomes the settings it holds, before Hydra sees the command."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any


def with_dataset_file(arguments: Sequence[str], known: Collection[str]) -> list[str]:
    """The arguments with every `dataset=FILE` written out; `known` are names, which come before files and folders.

    A split is chosen too unless one was: that of the folder's split.yaml, its published lists, or one that is drawn.
    """
    given = [text for text in arguments if text.startswith("dataset=")]
    files = [text for text in given if _is_file(text.partition("=")[2].strip("'\""), known)]
    if not files:
        return list(arguments)
    from psftr.data.custom import read_dataset_file
    from psftr.errors import PsftrError

    if len(given) > 1:
        raise PsftrError(f"{' '.join(given)}: give one data set")
    settings = read_dataset_file(files[0].partition("=")[2].strip("'\""))
    place = list(arguments).index(files[0])
    written = ["dataset=custom", *(f"dataset.{key}={_written(value)}" for key, value in settings.items())]
    named = [text for text in arguments if text.startswith(("split=", "split."))]
    # somebody's predictions are of every class unless a split is asked for
    is_asked = bool(named) or not any(text.startswith("predictions=") for text in arguments)
    if is_asked and not any(text.startswith(("split=", "split.kind=", "split.file=")) for text in named):
        written += _split(settings)
    return [*arguments[:place], *written, *arguments[place + 1 :]]


def _is_file(value: str, known: Collection[str]) -> bool:
    from psftr.data.custom import FILE

    is_yaml = Path(value).suffix in (".yaml", ".yml")
    return value not in known and "," not in value and (is_yaml or (Path(value) / FILE).is_file())


def _split(settings: dict[str, Any]) -> list[str]:
    from psftr.data.custom import SPLIT

    root = Path(settings["root"])
    if (root / SPLIT).is_file():
        return ["split=file", f"split.file={_written(str(root / SPLIT))}"]
    lists = Path(settings.get("splits") or root / "splits")
    return [] if any(lists.glob("train_*_test_*")) else ["split=random"]


def _written(value: Any) -> str:
    """A value as Hydra reads it on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", r"\'") + "'"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
