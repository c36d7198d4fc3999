"""Descriptions from a language model: one question a class, in words only; no video is shown.

Answers are kept in the session's cache, so an interrupted run goes on where it was. The shape of the question, from the
start pose to the end pose, is that of ActionVLM, appendix B.1; its words are ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from psftr.features.text import spell_out
from psftr.language_models import AnswerError, Frames, MllmError, Schema, Session
from psftr.language_models.answers import json_object

MAX_WORDS = 80  # longer answers tell a story; some tokenizers of text encoders read fewer still
KIND = "description"
STEP = "describe"  # of a recording: the model that answers these questions

SCHEMA = Schema(
    "Description",
    {
        "type": "object",
        "properties": {"action": {"type": "string"}, "description": {"type": "string"}},
        "required": ["action", "description"],
        "additionalProperties": False,
    },
)
_PROMPT = """Somebody who does not know the action "{action}" looks for it in a video without sound. Tell them in one \
or two sentences what moves and in which order: the pose it starts from, what follows, and the pose or event that it \
ends with. Say only what can be seen of people and of the things they handle, and nothing that other actions share \
with it. Use at most {most} words.

Answer with one JSON object: {{"action": "{action}", "description": text}}."""


def describe(session: Session, names: Sequence[str]) -> Iterator[tuple[str, str | MllmError]]:
    """(class, its description or why there is none) of each name, in order, as soon as it is known.

    Raises BudgetExhausted and GivenUp, as the session does: what came before is in its cache.
    """
    for name in names:
        prompt = _PROMPT.format(action=spell_out(name), most=MAX_WORDS)
        try:
            text = session.ask(Frames(), prompt, kind=KIND, parse=parse_description, schema=SCHEMA, has_fallback=False)
        except MllmError as error:
            yield name, error
        else:
            assert text is not None  # only a question with a fallback may go without
            yield name, text


def parse_description(text: str) -> str:
    """Raises AnswerError unless the text holds what SCHEMA describes, of at most MAX_WORDS words."""
    description = json_object(text, required=("description",))["description"]
    if not isinstance(description, str) or not description.strip():
        raise AnswerError('"description" is not text')
    words = description.split()
    if len(words) > MAX_WORDS:
        raise AnswerError(f'"description" has {len(words)} words, more than {MAX_WORDS}')
    return " ".join(words)
