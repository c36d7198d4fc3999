"""Stage plans: an action as two to five steps in order of time, some of them distinctive of it ("key").

A stage file holds plans written or recorded beforehand, YAML or JSON, class name -> list of stages:

    Baking cookies:
      background: a kitchen where nobody is baking          # optional, what is there without the action
      stages:
        - {description: people prepare ingredients, is_key: false}
        - {description: people bake, is_key: true}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from psftr.errors import PsftrError
from psftr.features.text import TextEmbeddings, spell_out
from psftr.files import parse_yaml, read_json, some, write_json, write_text

MAX_STAGES = 5
BACKGROUND = "people doing nothing in particular"


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of an action, phrased "people do X"; `is_key`: distinctive of the action."""

    description: str
    is_key: bool


@dataclass(frozen=True, slots=True)
class StagePlan:
    """The steps of `label` in order of time; `background`: the same surroundings without the action.

    A plan none of whose stages is key has only key stages.
    """

    label: str
    stages: tuple[Stage, ...]
    background: str = BACKGROUND

    def __post_init__(self) -> None:
        if not 1 <= len(self.stages) <= MAX_STAGES:
            raise PsftrError(f"{self.label}: {len(self.stages)} stages; a plan has 1 to {MAX_STAGES}")
        if not all(stage.description.strip() for stage in self.stages):
            raise PsftrError(f"{self.label}: a stage without description")
        if not any(stage.is_key for stage in self.stages):
            object.__setattr__(self, "stages", tuple(Stage(stage.description, True) for stage in self.stages))

    @property
    def is_key(self) -> tuple[bool, ...]:
        return tuple(stage.is_key for stage in self.stages)

    @property
    def descriptions(self) -> tuple[str, ...]:
        return tuple(stage.description for stage in self.stages)


def one_stage_plan(label: str) -> StagePlan:
    """The action itself as its only stage."""
    return StagePlan(label, (Stage(f"people are {spell_out(label)}", True),))


def read_stage_file(path: str | Path) -> dict[str, StagePlan]:
    """Plans by class name. Raises FileNotFoundError, or PsftrError naming file and class."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"stage file {path} not found")
    if path.suffix == ".json":
        content = read_json(path, remedy="write `class name: {stages: [{description, is_key}, …]}`")
    else:
        try:
            content = parse_yaml(path.read_text(encoding="utf-8"))
        except PsftrError as error:
            raise PsftrError(f"{path}: {error}") from None
        except ValueError as error:
            raise PsftrError(f"{path} is neither YAML nor JSON ({str(error)[:120]})") from None
    if not isinstance(content, Mapping) or not content:
        raise PsftrError(f"{path} holds no plans; write `class name: {{stages: [{{description, is_key}}, …]}}`")
    plans = {str(label): _plan(path, str(label), entry) for label, entry in content.items()}
    in_words: dict[str, str] = {}
    for label in plans:
        other = in_words.setdefault(spell_out(label).casefold(), label)
        if other != label:
            raise PsftrError(f"{path}: {other!r} and {label!r} are the same in words; keep one plan")
    return plans


def _plan(path: Path, label: str, entry: Any) -> StagePlan:
    try:
        stages = tuple(Stage(_text(row["description"]), _flag(row["is_key"])) for row in entry["stages"])
        return StagePlan(label, stages, _text(entry.get("background", BACKGROUND)))
    except (KeyError, TypeError, AttributeError):
        raise PsftrError(f"{path}: {label} needs stages, each with description (text) and is_key (bool)") from None
    except PsftrError as error:
        raise PsftrError(f"{path}: {error}") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def write_stage_file(path: str | Path, plans: Mapping[str, StagePlan]) -> Path:
    """Write plans as YAML (or JSON, by suffix); whoever reads `path` sees the old file or the whole new one."""
    path = Path(path)
    content = {
        label: {
            "background": plan.background,
            "stages": [{"description": s.description, "is_key": s.is_key} for s in plan.stages],
        }
        for label, plan in plans.items()
    }
    if path.suffix == ".json":
        return write_json(path, content)
    return write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110))


def stage_sentences(
    plans: Mapping[str, StagePlan], names: Sequence[str], *, file: str | Path | None = None
) -> tuple[str, ...]:
    """Every description and background of `names`, each once, in order: what a stage text file must hold.

    file: where the plans are from, for the message about a name that has none.
    """
    absent = [name for name in names if name not in plans]
    if absent:
        raise PsftrError(f"no stage plan for {some(absent)}; add them to {file or 'the stage file'}")
    sentences = [text for name in names for text in (*plans[name].descriptions, plans[name].background)]
    return tuple(dict.fromkeys(sentences))


def check_stage_text(text: TextEmbeddings, plans: Mapping[str, StagePlan], names: Sequence[str]) -> None:
    """Raises PsftrError unless `text` knows every sentence the plans of `names` need."""
    text.select(stage_sentences(plans, names))
