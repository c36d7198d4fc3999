"""Reading JSON out of a model's answer; a complaint names what is wrong, for the repair request."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from psftr.language_models.protocol import AnswerError


def json_object(text: str, *, required: Sequence[str]) -> dict[str, Any]:
    """The JSON object in `text`, which may stand in a code fence or between words. Raises AnswerError."""
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        raise AnswerError("there is no JSON object in it")
    try:
        value = json.loads(text[start : end + 1])
    except ValueError as error:
        raise AnswerError(f"it is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise AnswerError("it is not a JSON object")
    absent = [key for key in required if key not in value]
    if absent:
        raise AnswerError(f"it lacks {', '.join(absent)}")
    return value


def object_list(value: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """`value[key]`, a list of objects. Raises AnswerError."""
    rows = value[key]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise AnswerError(f'"{key}" is not a list of objects')
    return rows


def number_in_unit_range(row: Mapping[str, Any], key: str) -> float:
    """`row[key]` from 0 to 1. Raises AnswerError."""
    number = row.get(key)
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise AnswerError(f'"{key}" is not a number')
    if not 0 <= number <= 1:
        raise AnswerError(f'"{key}" is not between 0 and 1')
    return float(number)
