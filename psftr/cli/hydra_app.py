"""Hydra at the door: composes the configuration, names mistyped keys before any work, keeps errors to one line.

A Hydra verb is a module with CONFIG (its file in conf/), SETTINGS (its class), HELP, `run(config)`, which takes
plain values, and, where the verb knows more, `check(config)`, which refuses values before any folder is made, and
`check_folder(config, folder, is_sweep=…)`, which refuses the folder that Hydra would write into. `register()` makes
known to Hydra what the verb brings beside its settings.
GROUPS, {group: {name: class}}, are config groups whose options are settings classes: `settings_NAME`, on which files in
conf/ build. Nothing below this package sees a DictConfig.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import os
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from psftr.cli.errors import EXIT_BAD_INPUT, one_line
from psftr.cli.search_path import SEARCH_PATH, add_groups, as_list, groups_below, refuse_own_hydra, search_path
from psftr.errors import PsftrError
from psftr.files import nearest
from psftr.methods import find_method, method_names
from psftr.settings import describe


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
        print(help_text(module, arguments))
        return 0
    arguments = module.rewrite_arguments(list(arguments)) if hasattr(module, "rewrite_arguments") else list(arguments)
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from psftr.cli.dataset_file import with_dataset_file

    register_settings(module)
    try:
        if "dataset" in fields_of(module.SETTINGS):
            arguments = with_dataset_file(arguments, config_groups()["dataset"])
        is_sweep = bool({"-m", "--multirun"} & set(arguments))
        check_overrides(module, overrides_among(arguments), is_sweep=is_sweep, config_dir=config_dir_among(arguments))
        # Hydra otherwise prints a trimmed traceback and exits by itself: one line on bad input is ours to print.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        before, sys.argv = sys.argv, [f"psftr {verb}", *arguments]
        try:
            hydra.main(config_path=str(conf_dir()), config_name=module.CONFIG, version_base="1.3")(Task(verb, module))()
        finally:
            sys.argv = before
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        raise PsftrError((f"{key}: " if key else "") + str(error).splitlines()[0]) from error
    except HydraException as error:
        cause = str(error.__cause__).splitlines()[0] if str(error.__cause__ or "") else ""
        raise PsftrError(str(error).splitlines()[0] + (f": {cause}" if cause else "")) from error
    return 0


def fields_of(settings: type) -> list[str]:
    return [field.name for field in dataclasses.fields(settings)]


def overrides_among(arguments: Sequence[str]) -> list[str]:
    """The `key=value` arguments, without Hydra's own flags and their values."""
    return [text for text in _hydra_flags().parse_known_args(list(arguments))[1] if not text.startswith("-")]


def config_dir_among(arguments: Sequence[str]) -> str | None:
    """What follows Hydra's flag `--config-dir`."""
    return _hydra_flags().parse_known_args(list(arguments))[0].config_dir


def _hydra_flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for names in (["--cfg", "-c"], ["--package", "-p"], ["--config-path", "-cp"], ["--config-name", "-cn"]):
        parser.add_argument(*names)
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("--experimental-rerun")
    parser.add_argument("--info", "-i", nargs="?")
    return parser


def help_text(module: ModuleType, arguments: Sequence[str]) -> str:
    """The verb's own words, then every key with its default, kind of value and meaning."""
    chosen = [text.partition("=")[2] for text in arguments if text.startswith("method=")]
    kinds = [module.SETTINGS]
    if "method" in fields_of(module.SETTINGS):
        name = (chosen or [module.SETTINGS().method])[0]
        kinds += [find_method(name).settings] if name in method_names() or chosen else []
    rows = [row for kind in kinds for row in describe(kind)]
    for group, options in getattr(module, "GROUPS", {}).items():
        rows += [row for kind in options.values() for row in describe(kind, f"{group}.")]
    first = min(34, max(len(f"{row.key}={row.default}") for row in rows))
    lines = [f"  {f'{row.key}={row.default}'.ljust(first)}  {row.help} [{row.values}]" for row in rows]
    return (
        f"{module.HELP.strip()}\n\nevery key, with its default and the values it takes"
        f" (a data set may set others: --cfg job prints what holds):\n"
        + "\n".join(lines)
        + "\n\nHydra flags: -m sweeps over comma-separated values, --cfg job prints the configuration and stops,\n"
        "--hydra-help explains Hydra's own options."
    )


def register_settings(module: ModuleType) -> None:
    """Hydra's structured configs: `settings/<config>` of the verb, and of every method the groups it adds."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(group="settings", name=module.CONFIG, node=structured(module.SETTINGS), package="_global_")
    for group, kinds in getattr(module, "GROUPS", {}).items():
        for name, kind in kinds.items():
            store.store(group=group, name=f"settings_{name}", node=structured(kind))
    for name in method_names():
        node = structured(find_method(name).settings)
        node["method"] = name
        store.store(group="method", name=name, node=node, package="_global_")
    if hasattr(module, "register"):
        module.register()


def structured(kind: type) -> Any:
    """A settings class as a configuration: its groups are structured, typed and closed to other keys."""
    from omegaconf import OmegaConf

    hints, node = typing.get_type_hints(kind), {}
    defaults = kind()
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[field.name]):
            child = OmegaConf.structured(hints[field.name])
            OmegaConf.set_readonly(child, None)  # frozen classes make read-only nodes
            node[field.name] = child
        else:
            value = getattr(defaults, field.name)
            node[field.name] = list(value) if isinstance(value, tuple) else value
    return OmegaConf.create(node)


class Task:
    """The function Hydra calls once per job. Picklable, so that launchers may run it elsewhere."""

    def __init__(self, verb: str, module: ModuleType):
        self.verb, self.module_name = verb, module.__name__
        self.__name__ = self.__qualname__ = f"psftr_{verb}"
        self.__module__ = module.__name__

    def __call__(self, cfg: Any) -> Any:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        try:
            return importlib.import_module(self.module_name).run(plain(cfg))
        except (PsftrError, OSError) as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise  # the sweep goes on with the other jobs and ends non-zero
            print(f"psftr {self.verb}: error: {one_line(error)}", file=sys.stderr)
            raise SystemExit(EXIT_BAD_INPUT) from error


def plain(cfg: Any) -> dict[str, Any]:
    """A resolved configuration as dicts, lists and scalars."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # type: ignore[return-value]


def given_overrides() -> tuple[str, ...]:
    """The overrides of the running job, as the user wrote them, Hydra's own left out."""
    from hydra.core.hydra_config import HydraConfig

    return tuple(HydraConfig.get().overrides.task)


def output_dir() -> Path:
    """The folder of the running job."""
    from hydra.core.hydra_config import HydraConfig

    return Path(HydraConfig.get().runtime.output_dir)


def sweep_dir() -> Path | None:
    """The folder of the sweep that the running job is part of."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    return Path(hydra.sweep.dir).absolute() if hydra.mode == RunMode.MULTIRUN else None


def job_logging() -> dict[str, Any]:
    """How the running job logs, as logging.config takes it."""
    from hydra.core.hydra_config import HydraConfig

    return plain(HydraConfig.get().job_logging)


def given_keys() -> list[str]:
    """The keys of the overrides that the user typed."""
    return [text.lstrip("+").partition("=")[0] for text in given_overrides()]


def compose_with(config_name: str, *overrides: str) -> dict[str, Any]:
    """The configuration that the running job would have with these overrides too."""
    from hydra import compose

    return plain(compose(config_name, overrides=[*given_overrides(), *overrides]))


def check_overrides(module: ModuleType, overrides: Sequence[str], *, is_sweep: bool, config_dir: str | None) -> None:
    """Name every override whose key or value is wrong, with the nearest right one, before any work.

    Raises PsftrError for an unknown key or config group, and for text that is not `key=value`. Values are checked where
    the verb has `check`: of a sweep, each swept value once; the folder where it has `check_folder`.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf import OmegaConf, open_dict

    groups, further = config_groups(), [config_dir] if config_dir else []
    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        parsed = []
        for text in overrides:
            if "=" not in text and not text.startswith("~"):
                hint = f", such as run={text}" if Path(text).exists() and "run" in fields_of(module.SETTINGS) else ""
                raise PsftrError(f"cannot read the override '{text}': write key=value{hint}")
            try:
                parsed += OverridesParser.create().parse_overrides([text])
            except HydraException as error:
                raise PsftrError(f"cannot read the override '{text}': write key=value ({one_line(error)})") from error
        own = [o for o in parsed if o.key_or_group.split("/")[0].split(".")[0] != "hydra"]
        hydras = [str(o.input_line) for o in parsed if o not in own and o.key_or_group != SEARCH_PATH]
        further += [str(place) for o in parsed if o.key_or_group == SEARCH_PATH for place in as_list(o.value())]
        add_groups(groups, further)
        path = search_path(further)
        choices = list(path)
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
                    choices.append(f"{override.get_key_element()}={values[0]}")
        config = compose(module.CONFIG, overrides=choices)
        known = list(flatten(OmegaConf.to_container(config, resolve=False)))
        for override in own:
            key = override.key_or_group
            if key not in groups and key not in known:
                raise PsftrError(f"no config key '{key}'{nearest(key, known)}; `--cfg job` prints every key")
        for job in _one_change_each(own):
            if further:
                refuse_own_hydra(module.CONFIG, [*job, *hydras, *path], hydras, further)
            if hasattr(module, "check"):
                module.check(plain(compose(module.CONFIG, overrides=[*job, *path])))
        if hasattr(module, "check_folder"):
            whole = compose(
                module.CONFIG, overrides=[*next(_one_change_each(own)), *hydras, *path], return_hydra_config=True
            )
            is_sweep = is_sweep or whole.hydra.mode == RunMode.MULTIRUN
            folder = Path(whole.hydra.sweep.dir if is_sweep else whole.hydra.run.dir)
            with open_dict(whole):
                del whole["hydra"]
            module.check_folder(plain(whole), folder, is_sweep=is_sweep)


def _one_change_each(overrides: Sequence[Any]) -> Iterator[list[str]]:
    """The overrides with the first value of every sweep, then with each other value in turn."""

    def first(override: Any) -> str:
        if not override.is_discrete_sweep():
            return override.input_line
        return f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"

    firsts = [first(o) for o in overrides if not o.is_sweep_override() or o.is_discrete_sweep()]
    yield firsts
    for number, override in enumerate(o for o in overrides if not o.is_sweep_override() or o.is_discrete_sweep()):
        if override.is_discrete_sweep():
            for value in list(override.sweep_string_iterator())[1:]:
                yield [*firsts[:number], f"{override.get_key_element()}={value}", *firsts[number + 1 :]]


def config_groups() -> dict[str, list[str]]:
    """The options of every config group: files in conf/, and the methods."""
    return groups_below(conf_dir()) | {"method": list(method_names())}


def flatten(tree: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a nested mapping, inner nodes included."""
    if not isinstance(tree, Mapping):
        return
    for key, value in tree.items():
        yield f"{prefix}{key}"
        yield from flatten(value, f"{prefix}{key}.")


def planned_overrides(folder: Path) -> list[dict[str, str]]:
    """The jobs that a multirun folder was meant to hold, as {key: value}, from its multirun.yaml; empty for one run."""
    import yaml

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


def planned_jobs(task_overrides: Sequence[str]) -> list[dict[str, str]]:
    """The jobs that a sweep stands for, as {key: value}."""
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
