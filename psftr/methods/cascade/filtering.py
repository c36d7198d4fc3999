"""Context-guided filtering: which of the candidate actions happen in a video at all, and how surely.

Asked of a model, or read off similarities to the class names (`presence`), which needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psftr.features.text import spell_out
from psftr.language_models import AnswerError, Frames, Schema, Session
from psftr.language_models.answers import json_object, number_in_unit_range, object_list

Nearest = Callable[[str], str | None]
_LOGIT_SCALE = 100.0  # CLIP's inverse temperature
_SHARE = 8

SCHEMA = Schema(
    "ActionFilter",
    {
        "type": "object",
        "properties": {
            "actions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"name": {"type": "string"}, "confidence": {"type": "number"}},
                    "required": ["name", "confidence"],
                    "additionalProperties": False,
                },
            }
        },
        "required": ["actions"],
        "additionalProperties": False,
    },
)
_PROMPT = """These are frames of one video, in order of time. Which of the following actions happen in it?

{names}

Answer with one JSON object: {{"actions": [{{"name": one of the list, "confidence": from 0 to 1}}]}}. Leave out \
actions that do not happen; an empty list is a valid answer."""
_COMPAT_PROMPT = """These are frames of one video, in order of time. Which of the following actions happen in it?

{names}

Answer with the names only."""
PROMPTS = (_PROMPT, _COMPAT_PROMPT)


@dataclass(frozen=True)
class Filtered:
    """Surviving candidates -> confidence in (0, 1]; `unknown`: names answered that are no candidate's."""

    confidence: Mapping[str, float]
    unknown: tuple[str, ...] = ()


def filter_by_answer(
    session: Session,
    frames: Frames,
    names: Sequence[str],
    *,
    min_confidence: float,
    nearest: Nearest | None = None,
) -> Filtered:
    """Ask the model. Without a usable answer nothing is known: raises MllmError.

    nearest: names that are no candidate's -> the candidate meant, or None to drop them.
    """
    prompt = _PROMPT.format(names="\n".join(f"- {spell_out(name)}" for name in names))
    answer = session.ask(frames, prompt, kind="filter", parse=parse_actions, schema=SCHEMA, has_fallback=False)
    return resolve(answer or [], names, min_confidence=min_confidence, nearest=nearest)


def filter_compat(session: Session, frames: Frames, names: Sequence[str]) -> Filtered:
    """As observed in the released code: free text, unparsed; an answer of several classes is one strange action."""
    prompt = _COMPAT_PROMPT.format(names=", ".join(names))
    answer = session.ask(frames, prompt, kind="filter", parse=str.strip, has_fallback=False)
    return Filtered({answer: 1.0} if answer else {})


def parse_actions(text: str) -> list[tuple[str, float]]:
    """(name, confidence) in order. Raises AnswerError unless the text is what SCHEMA describes."""
    rows = object_list(json_object(text, required=("actions",)), "actions")
    parsed = []
    for row in rows:
        if not isinstance(row.get("name"), str) or not row["name"].strip():
            raise AnswerError('each action needs a "name" that is text')
        parsed.append((row["name"].strip(), number_in_unit_range(row, "confidence")))
    return parsed


def resolve(
    answer: Sequence[tuple[str, float]],
    names: Sequence[str],
    *,
    min_confidence: float,
    nearest: Nearest | None = None,
) -> Filtered:
    """Answered names -> candidates: the same letters up to case and spelling out, else `nearest`, else dropped.

    A candidate named twice has its higher confidence; confidence 0 means absent.
    """
    known = {_plain(form): name for name in names for form in (name, spell_out(name))}
    confidence: dict[str, float] = {}
    unknown = []
    for said, value in answer:
        name = known.get(_plain(said))
        if name is None:
            unknown.append(said)
            name = nearest(said) if nearest else None
        if name is not None and value > 0 and value >= min_confidence:
            confidence[name] = max(value, confidence.get(name, 0.0))
    return Filtered({name: confidence[name] for name in names if name in confidence}, tuple(unknown))


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def nearest_by_embedding(
    names: Sequence[str], embeddings: NDArray, encode: Callable[[str], NDArray], *, min_cosine: float
) -> Nearest:
    """The candidate whose text embedding is closest to the answer's, if its cosine reaches `min_cosine`.

    embeddings [K, D] of `names`; encode: an answer -> [D], by the same encoder.
    """
    candidates = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)

    def nearest(said: str) -> str | None:
        vector = encode(said)
        cosines = candidates @ (vector / np.linalg.norm(vector))
        best = int(cosines.argmax())
        return names[best] if cosines[best] >= min_cosine else None

    return nearest


def presence(similarity: NDArray) -> NDArray:
    """[T, K] cosines of frames and class names -> [K] in (0, 1): mean probability over each class's best rows.

    The probability is the softmax over the K candidates; an eighth of the rows counts, at least one.
    """
    logits = _LOGIT_SCALE * similarity
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability = raised / raised.sum(axis=1, keepdims=True)
    count = max(1, len(similarity) // _SHARE)
    return np.partition(probability, len(similarity) - count, axis=0)[-count:].mean(axis=0)


def filter_by_similarity(similarity: NDArray, names: Sequence[str], *, min_presence: float) -> Filtered:
    """Candidates whose `presence` reaches `min_presence`; the best one always stays."""
    present = presence(similarity)
    least = min(min_presence, float(present.max()))
    return Filtered({name: float(p) for name, p in zip(names, present) if p >= least})
