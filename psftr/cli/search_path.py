"""Folders of one's own configuration: `--config-dir=DIR` and `hydra.searchpath=[DIR]`.

Their files are options of config groups beside psftr's, checked by the same settings classes. What Hydra builds objects
from is not theirs to set.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from psftr.errors import PsftrError

SEARCH_PATH = "hydra.searchpath"
# what files of one's own may set of Hydra, as psftr's experiments do
FREE_OF_HYDRA = (
    "mode", "run", "sweep", "verbose", "searchpath", "runtime", "overrides", "job.name", "job.override_dirname",
)  # fmt: skip


def as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value] if value else []


def search_path(folders: Sequence[str]) -> list[str]:
    """The override that puts folders of one's own into Hydra's search path; none where there are none."""
    return [f"{SEARCH_PATH}=[{','.join(repr(searched(one)) for one in folders)}]"] if folders else []


def groups_below(root: Path) -> dict[str, list[str]]:
    return {
        folder.relative_to(root).as_posix(): sorted(file.stem for file in folder.glob("*.yaml"))
        for folder in root.rglob("*")
        if folder.is_dir() and any(folder.glob("*.yaml"))
    }


def searched(folder: str) -> str:
    """A folder of one's own configuration as Hydra's search path names it."""
    return folder if "://" in folder else f"file://{Path(folder).absolute()}"


def add_groups(groups: dict[str, list[str]], folders: Sequence[str]) -> None:
    """The options in folders of one's own beside psftr's. Raises PsftrError for a folder that is not there."""
    from importlib import resources

    for folder in folders:
        scheme, _, place = searched(folder).partition("://")
        try:
            root = Path(place) if scheme == "file" else Path(str(resources.files(place.replace("/", "."))))
        except ModuleNotFoundError as error:
            raise PsftrError(f"{folder}: {error}") from None
        if not root.is_dir():
            raise PsftrError(f"no folder {root}, which --config-dir or hydra.searchpath names")
        for group, options in groups_below(root).items():
            groups[group] = sorted({*groups.get(group, ()), *options})


def refuse_own_hydra(config_name: str, with_them: list[str], without: list[str], folders: Sequence[str]) -> None:
    """Raises PsftrError where a file of one's own writes into Hydra's own part of the configuration.

    From that part Hydra builds objects of any class that is named there, and sets environment variables. with_them,
    without: overrides with and without the options of those files.
    """
    from hydra import compose
    from omegaconf import OmegaConf

    from psftr.engine.runs import different_keys

    theirs, ours = (
        OmegaConf.to_container(compose(config_name, overrides=given, return_hydra_config=True).hydra, resolve=False)
        for given in (with_them, without)
    )
    for part in (theirs, ours):
        (part.get("sweeper") or {}).pop("params", None)  # type: ignore[union-attr,index]
    for key in different_keys(ours, theirs):
        if not any(key == free or key.startswith(f"{free}.") for free in FREE_OF_HYDRA):
            raise PsftrError(
                f"a file in {', '.join(folders)} sets hydra.{key}: files of your own may set hydra.mode, hydra.run, "
                "hydra.sweep and hydra.sweeper.params only"
            )
