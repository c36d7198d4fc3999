"""Descriptions of classes by a language model: a file for methods that read more than names."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psftr.errors import PsftrError
from psftr.files import some
from psftr.language_models.settings import (
    BACKENDS,
    LocalSettings,
    NoBackend,
    ReplaySettings,
    ServerSettings,
    backend_settings,
)
from psftr.settings import Checked, DatasetSettings, from_dict, group, setting

if TYPE_CHECKING:
    from psftr.language_models import Session

CONFIG = "describe"
GROUPS = {"backend": BACKENDS}
HELP = """
usage: psftr describe backend=server|qwen|deepseek|replay [dataset=NAME | labels=[NAME,…]] [key=value …]

Have a language model write one description a class: what moves, in which order, from start to end. It is shown no
video. THUMOS14's and the synthetic world's classes come described by hand; this is for others.

examples:
  psftr describe dataset=activitynet13 backend=deepseek dry_run=true
  psftr describe 'labels=[high jump,pole vault]' backend=server backend.base_url=URL backend.model=NAME out=mine.json
  psftr describe dataset=activitynet13 backend=qwen record=answers.json
  psftr describe dataset=activitynet13 backend=replay backend.file=answers.json

A key of a server comes from the environment variable that backend.api_key_env names. Classes that the file `out`
describes already are not asked for again. A run that was interrupted, or had failures, goes on with the same command.
Exit status 1: some classes are without description.
"""
log = logging.getLogger("psftr")


@dataclass(frozen=True, kw_only=True)
class DescribeSettings(Checked):
    """`psftr describe`."""

    data_root: str = setting("data", "folder of the prepared data sets")
    dataset: DatasetSettings = group(DatasetSettings)
    labels: tuple[str, ...] = setting((), "classes to describe, in your words, in place of those of the data set")
    backend: Any = setting(None, "what writes: server, qwen, llava, deepseek, replay")
    out: str | None = setting(None, "description file, .json or .yaml; null: outputs/descriptions/<dataset>.json")
    dry_run: bool = setting(False, "print how many questions the run would ask, and stop")
    redo: bool = setting(False, "describe classes again that the file describes already; kept answers stay")
    record: str | None = setting(None, "add every answer to this file, for backend=replay")
    device: str = setting("auto", "where a local model runs: auto, cpu or cuda")

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.backend, Mapping):
            object.__setattr__(self, "backend", backend_settings(self.backend, where="backend"))


SETTINGS = DescribeSettings


def read_settings(config: Mapping[str, Any]) -> DescribeSettings:
    """Raises PsftrError that names what does not fit together."""
    from psftr.methods.cascade.settings import check_labels

    settings = from_dict(DescribeSettings, config)
    if settings.backend is None or isinstance(settings.backend, NoBackend):
        raise PsftrError("say what writes the descriptions: backend=server, qwen, llava, deepseek or replay")
    if not isinstance(settings.backend, ServerSettings | LocalSettings | ReplaySettings):
        raise PsftrError(f"backend={settings.backend.name} answers no questions; choose server, qwen, llava or replay")
    check_labels(settings.labels)
    if settings.out and Path(settings.out).suffix not in (".json", ".yaml", ".yml"):
        raise PsftrError(f"out={settings.out} must end with .json or .yaml")
    if settings.record and isinstance(settings.backend, ReplaySettings):
        raise PsftrError("backend=replay has nothing new to record: leave out record=FILE")
    return settings


def check(config: Mapping[str, Any]) -> None:
    """Refuse wrong settings before anything is read."""
    read_settings(config)


def run(config: Mapping[str, Any]) -> None:
    from psftr.data.descriptions import read_descriptions
    from psftr.data.descriptions.ask import STEP
    from psftr.features.encoders import pick_device
    from psftr.language_models.build import open_session

    settings = read_settings(config)
    names = settings.labels or class_names(settings)
    name = "own" if settings.labels else settings.dataset.name
    out = Path(settings.out or Path("outputs") / "descriptions" / f"{name}.json")
    before = read_descriptions(out) if out.exists() else {}
    wanted = [one for one in names if settings.redo or one not in before]
    session = open_session(
        settings.backend,
        step=STEP,
        cache=Path(settings.data_root) / "mllm_cache",
        device=pick_device(settings.device),
        seed=0,
        literal=False,
        is_dry=settings.dry_run,
    )
    try:
        if settings.dry_run:
            say_what_would_be_asked(session, wanted, names, out)
        else:
            ask(session, wanted, before, names, out, record=settings.record)
    finally:
        session.cache.close()


def class_names(settings: DescribeSettings) -> tuple[str, ...]:
    """All classes of the data set."""
    from psftr.data.datasets import open_annotations
    from psftr.settings import SplitSettings

    drawn = SplitSettings(kind="random")  # needs no split files, and is not looked at
    return open_annotations(settings.dataset, drawn, data_root=settings.data_root)[2].classes


def say_what_would_be_asked(session: Session, wanted: list[str], names: tuple[str, ...], out: Path) -> None:
    from psftr.data.descriptions.ask import describe

    session.is_quiet = True
    known = sum(isinstance(text, str) for _, text in describe(session, wanted))
    log.info(
        "dry run: %d classes, %d described in %s, %d answers kept: %d questions to ask, repairs not counted",
        len(names), len(names) - len(wanted), out, known, len(wanted) - known,
    )  # fmt: skip


def ask(
    session: Session,
    wanted: list[str],
    before: Mapping[str, str],
    names: tuple[str, ...],
    out: Path,
    *,
    record: str | None,
) -> None:
    """Write the file after every answer. Raises SystemExit(1) where classes stay without description."""
    from psftr.data.descriptions import write_descriptions
    from psftr.data.descriptions.ask import describe

    written, failures = dict(before), {}
    try:
        for name, text in describe(session, wanted):
            if not isinstance(text, str):
                failures[name] = str(text)
                continue
            written[name] = text
            log.info("%s: %s", name, text)
            ordered = [*(one for one in names if one in written), *(one for one in written if one not in names)]
            write_descriptions(out, {one: written[one] for one in ordered})
    finally:
        log.info("%s; %s", session.counts, f"{out} describes {len(written)} classes" if written else "nothing written")
        if record and session.used:
            log.info("answers recorded: %s holds %d", record, record_answers(session, record))
    if failures:
        log.warning("WITHOUT DESCRIPTION: %s; the same command asks again what failed", some(failures))
        for name, why in list(failures.items())[:10]:
            log.warning("  %s: %s", name, why)
        raise SystemExit(1)


def record_answers(session: Session, path: str) -> int:
    from psftr.data.descriptions.ask import STEP
    from psftr.language_models import Recording, add_to_recording

    model = {"identity": session.model.identity, "frame_size": session.model.frame_size}
    answers = {key: session.cache.get(key)[0] for key in sorted(session.used)}  # type: ignore[index]
    return add_to_recording(path, Recording({STEP: model}, answers))
