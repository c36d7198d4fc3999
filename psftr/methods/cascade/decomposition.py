"""Stage-aware decomposition: a caption of how an action looks in this video, then its stages in order of time."""

from __future__ import annotations

from typing import Any

from psftr.features.text import spell_out
from psftr.language_models import AnswerError, Frames, Schema, Session
from psftr.language_models.answers import json_object, object_list
from psftr.methods.cascade.stages import MAX_STAGES, Stage, StagePlan, one_stage_plan

MIN_STAGES = 2
TEMPERATURE = 0.5  # of the released code's stage requests

CAPTION_SCHEMA = Schema(
    "Caption",
    {
        "type": "object",
        "properties": {"action": {"type": "string"}, "caption": {"type": "string"}},
        "required": ["action", "caption"],
        "additionalProperties": False,
    },
)
PLAN_SCHEMA = Schema(
    "StagePlan",
    {
        "type": "object",
        "properties": {
            "action": {"type": "string"},
            "stages": {
                "type": "array",
                "minItems": MIN_STAGES,
                "maxItems": MAX_STAGES,
                "items": {
                    "type": "object",
                    "properties": {
                        "index": {"type": "integer"},
                        "description": {"type": "string"},
                        "is_key": {"type": "boolean"},
                    },
                    "required": ["index", "description", "is_key"],
                    "additionalProperties": False,
                },
            },
        },
        "required": ["action", "stages"],
        "additionalProperties": False,
    },
)
_CAPTION_PROMPT = """These are frames of one video, in order of time. The action "{action}" happens in it. Describe in \
one or two sentences how people move and hold themselves while they do it, and nothing else of the scene.

Answer with one JSON object: {{"action": "{action}", "caption": text}}."""
_PLAN_PROMPT = """The action "{action}" looks like this in a video: {caption}

Divide it into {least} to {most} stages that follow each other in time and do not overlap. Describe what can be seen \
in each in the form "people do X", and mark the stages that are distinctive of this action as key.

Answer with one JSON object: {{"action": "{action}", "stages": [{{"index": from 1, "description": text, "is_key": true \
or false}}]}}."""

PROMPTS = (_CAPTION_PROMPT, _PLAN_PROMPT)


def caption_action(session: Session, frames: Frames, label: str) -> str:
    """What `label` looks like in these frames; its name in words where there is no usable answer (counted)."""
    action = spell_out(label)
    prompt = _CAPTION_PROMPT.format(action=action)
    caption = session.ask(frames, prompt, kind="caption", parse=parse_caption, schema=CAPTION_SCHEMA)
    return caption if caption is not None else f"people are {action}"


def parse_caption(text: str) -> str:
    """Raises AnswerError unless the text is what CAPTION_SCHEMA describes."""
    caption = json_object(text, required=("caption",))["caption"]
    if not isinstance(caption, str) or not caption.strip():
        raise AnswerError('"caption" is not text')
    return " ".join(caption.split())


def plan_stages(session: Session, label: str, caption: str) -> tuple[StagePlan, bool]:
    """(the plan of `label`, whether it is the one-stage fallback, which the session counts as failed)."""
    prompt = _PLAN_PROMPT.format(action=spell_out(label), caption=caption, least=MIN_STAGES, most=MAX_STAGES)
    stages = session.ask(
        Frames(), prompt, kind="stages", parse=parse_stages, schema=PLAN_SCHEMA, temperature=TEMPERATURE
    )
    return (one_stage_plan(label), True) if stages is None else (StagePlan(label, stages), False)


def parse_stages(text: str) -> tuple[Stage, ...]:
    """Stages by index. Raises AnswerError unless the text is what PLAN_SCHEMA describes."""
    rows = object_list(json_object(text, required=("stages",)), "stages")
    if not MIN_STAGES <= len(rows) <= MAX_STAGES:
        raise AnswerError(f"it has {len(rows)} stages, not {MIN_STAGES} to {MAX_STAGES}")
    indexed = sorted(((_index(row), _stage(row)) for row in rows), key=lambda pair: pair[0])
    if len({index for index, _ in indexed}) != len(indexed):
        raise AnswerError('two stages have the same "index"')
    stages = tuple(stage for _, stage in indexed)
    if len({stage.description.casefold() for stage in stages}) != len(stages):
        raise AnswerError("two stages have the same description")
    return stages


def _index(row: dict[str, Any]) -> int:
    if isinstance(row.get("index"), bool) or not isinstance(row.get("index"), int):
        raise AnswerError('"index" is not a whole number')
    return row["index"]


def _stage(row: dict[str, Any]) -> Stage:
    description, is_key = row.get("description"), row.get("is_key")
    if not isinstance(description, str) or not description.strip():
        raise AnswerError('"description" is not text')
    if not isinstance(is_key, bool):
        raise AnswerError('"is_key" is neither true nor false')
    return Stage(" ".join(description.split()), is_key)
