"""Hydra at the door: composes the configuration, names mistyped keys before any work, keeps errors to one line.

A Hydra verb is a module with `CONFIG` (its file in conf/), `HELP` and `run(cfg)`; nothing below this package sees
a DictConfig.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from psftr.errors import PsftrError


def conf_dir() -> Path:
    """Where the YAML files are: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / "train.yaml").is_file():
            return candidate
    raise PsftrError(f"no conf/ beside or inside {package}: reinstall psftr")


def run_hydra_verb(verb: str, module: ModuleType, arguments: Sequence[str]) -> int:
    """Run a Hydra verb on `key=value` overrides and Hydra's own flags (`-m`, `--cfg job`, `--info`, …)."""
    if "-h" in arguments or "--help" in arguments:
        print(module.HELP.strip())
        print("\nHydra flags: -m sweeps over comma-separated values, --cfg job prints the configuration and stops,")
        print("--hydra-help explains Hydra's own options.")
        return 0
    arguments = module.rewrite_arguments(list(arguments)) if hasattr(module, "rewrite_arguments") else list(arguments)

    import hydra
    from hydra._internal.utils import get_args_parser
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    check_overrides(module.CONFIG, get_args_parser().parse_args(arguments).overrides)
    # Hydra otherwise prints a trimmed traceback and exits by itself: one line on bad input is ours to print.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    before, sys.argv = sys.argv, [f"psftr {verb}", *arguments]
    try:
        hydra.main(config_path=str(conf_dir()), config_name=module.CONFIG, version_base="1.3")(Task(verb, module))()
    except (HydraException, OmegaConfBaseException) as error:
        raise PsftrError(str(error)) from error
    finally:
        sys.argv = before
    return 0


class Task:
    """The function Hydra calls once per job. Picklable, so that launchers may run it elsewhere."""

    def __init__(self, verb: str, module: ModuleType):
        self.verb, self.module_name = verb, module.__name__
        self.__name__ = self.__qualname__ = f"psftr_{verb}"
        self.__module__ = module.__name__

    def __call__(self, cfg: Any) -> Any:
        import importlib

        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        try:
            return importlib.import_module(self.module_name).run(cfg)
        except (PsftrError, OSError) as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise  # the sweep goes on with the other jobs and ends non-zero
            from psftr.cli import EXIT_BAD_INPUT, one_line

            print(f"psftr {self.verb}: error: {one_line(error)}", file=sys.stderr)
            raise SystemExit(EXIT_BAD_INPUT) from error


def check_overrides(config_name: str, overrides: Sequence[str]) -> None:
    """Name every override whose key does not exist, with the nearest right key, before any work.

    Raises:
        PsftrError: an unknown key or config group, or text that is not `key=value`.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    groups = config_groups()
    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        parsed = []
        for text in overrides:
            try:
                parsed += OverridesParser.create().parse_overrides([text])
            except HydraException as error:
                raise PsftrError(f"cannot read the override '{text}': write key=value ({error})") from error
        choices = []
        for override in parsed:
            key = override.key_or_group
            # '+experiment=x' only adds a config file; hydra/… and optional groups are Hydra's own to check
            if key in groups:
                values = list(override.sweep_string_iterator()) if override.is_sweep_override() else [override.value()]
                for value in values:
                    if value is not None and str(value) not in groups[key]:
                        raise PsftrError(
                            f"no configuration '{key}={value}'{nearest(str(value), groups[key])}; "
                            f"{key} is one of: {', '.join(groups[key])}"
                        )
                if values[0] is not None:
                    choices.append(f"{key}={values[0]}")
        config = compose(config_name, overrides=choices)
    known = list(flatten(OmegaConf.to_container(config, resolve=False)))
    for override in parsed:
        key = override.key_or_group
        if key in groups or key.split("/")[0] == "hydra" or key.split(".")[0] == "hydra":
            continue
        if key not in known:
            raise PsftrError(f"no config key '{key}'{nearest(key, known)}; `--cfg job` prints every key")


def nearest(wrong: str, known: Sequence[str]) -> str:
    """', did you mean …?' for a mistyped name; a right last part under another parent counts as near."""
    same_leaf = [k for k in known if k.rsplit(".", 1)[-1] == wrong.rsplit(".", 1)[-1]]
    near = difflib.get_close_matches(wrong, known, n=1, cutoff=0.6) or same_leaf[:1]
    if not near and "." in wrong:
        parent, leaf = wrong.rsplit(".", 1)
        siblings = {k.rsplit(".", 1)[-1]: k for k in known if k.startswith(parent + ".")}
        near = [siblings[name] for name in difflib.get_close_matches(leaf, siblings, n=1, cutoff=0.4)]
    return f", did you mean '{near[0]}'?" if near else ""


def config_groups() -> dict[str, list[str]]:
    root = conf_dir()
    return {
        folder.relative_to(root).as_posix(): sorted(file.stem for file in folder.glob("*.yaml"))
        for folder in root.rglob("*")
        if folder.is_dir() and any(folder.glob("*.yaml"))
    }


def flatten(tree: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a nested mapping, inner nodes included."""
    if not isinstance(tree, dict):
        return
    for key, value in tree.items():
        yield f"{prefix}{key}"
        yield from flatten(value, f"{prefix}{key}.")


def planned_jobs(task_overrides: Sequence[str]) -> list[dict[str, str]]:
    """The jobs a sweep stands for, as {key: value}: what `multirun.yaml` says should exist."""
    import itertools

    from hydra.core.override_parser.overrides_parser import OverridesParser

    keys, values = [], []
    for override in OverridesParser.create().parse_overrides(list(task_overrides)):
        keys.append(override.get_key_element())
        if override.is_discrete_sweep():
            values.append([str(v) for v in override.sweep_string_iterator()])
        else:
            values.append([override.get_value_element_as_str()])
    return [dict(zip(keys, combination)) for combination in itertools.product(*values)]
