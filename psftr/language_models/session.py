"""A model with a memory: cache, one repair request, and a count of everything that did not go as asked."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from psftr.language_models.cache import AnswerCache, question_key
from psftr.language_models.protocol import MLLM, AnswerError, Frames, MllmError, Schema

log = logging.getLogger("psftr.language_models")
T = TypeVar("T")

NO_ANSWER = 0.5  # neither yes nor no: below any threshold worth the name
RECORDING = "psftr-answers-1"
_REPAIR = """{prompt}

Your last answer was:
{answer}

It cannot be used: {complaint}. Answer again, with nothing but the JSON object."""


@dataclass
class Counts:
    """What a run asked and got.

    repaired, failed: by kind of question. `undecided`: yes/no answers that were neither.
    """

    asked: int = 0
    from_cache: int = 0
    repaired: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    undecided: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {
            "asked": self.asked,
            "from_cache": self.from_cache,
            "repaired": dict(sorted(self.repaired.items())),
            "failed": dict(sorted(self.failed.items())),
            "undecided": self.undecided,
        }

    def __str__(self) -> str:
        parts = [f"questions asked: {self.asked}", f"answered from the cache: {self.from_cache}"]
        for text, by_kind in (("repaired", self.repaired), ("failed", self.failed)):
            if by_kind:
                parts.append(f"{text}: " + ", ".join(f"{kind} {n}" for kind, n in sorted(by_kind.items())))
        if self.undecided:
            parts.append(f"neither yes nor no (counted as {NO_ANSWER}): {self.undecided}")
        return "; ".join(parts)


class Session:
    """Asks `model`, remembers in `cache`. Not for use by several threads; a model may use threads of its own."""

    def __init__(self, model: MLLM, cache: AnswerCache | None = None) -> None:
        self.model = model
        self.cache = AnswerCache() if cache is None else cache  # an empty one is falsy
        self.counts = Counts()
        self._used: dict[str, Any] = {}

    def ask(
        self,
        frames: Frames,
        prompt: str,
        *,
        kind: str,
        parse: Callable[[str], T],
        schema: Schema | None = None,
        temperature: float = 0.0,
        max_tokens: int = 512,
    ) -> T | None:
        """`parse` of the answer, or None (counted under `kind`) if there is none that parses.

        `parse` raises AnswerError for an unusable answer; the model is told why and asked once more. A repaired answer
        is kept as the answer to the first question. Raises BudgetExhausted.
        """
        options: dict[str, Any] = {"schema": schema, "temperature": temperature, "max_tokens": max_tokens}
        key = question_key("generate", self.model.identity, prompt, frames, **options)
        kept = self.cache.get(key)
        if kept is not None:
            self.counts.from_cache += 1
            self._used[key] = kept[0]
            return parse(kept[0])
        try:
            answer, parsed = self._answer(frames, prompt, kind, parse, options)
        except (MllmError, AnswerError) as error:
            self.counts.failed[kind] += 1
            log.warning("a %s question failed: %s", kind, error)
            return None
        self.cache.put(key, answer)
        self._used[key] = answer
        return parsed

    def _answer(
        self, frames: Frames, prompt: str, kind: str, parse: Callable[[str], T], options: dict[str, Any]
    ) -> tuple[str, T]:
        self.counts.asked += 1
        answer = self.model.generate(frames, prompt, **options)
        try:
            return answer, parse(answer)
        except AnswerError as error:
            complaint = str(error)
        self.counts.asked += 1
        repair = _REPAIR.format(prompt=prompt, answer=answer[:2000], complaint=complaint)
        answer = self.model.generate(frames, repair, **options)
        parsed = parse(answer)
        self.counts.repaired[kind] += 1
        return answer, parsed

    def yes_no(self, frames: Frames, prompts: Sequence[str]) -> NDArray[np.float64]:
        """[T, S] in [0, 1]; what failed or was neither is 0.5 and counted. Frames are asked only what is not known."""
        table = np.full((len(frames), len(prompts)), np.nan)
        identity = self.model.identity
        keys = [
            [question_key("yes_no", identity, prompt, frames.take([t])) for prompt in prompts]
            for t in range(len(frames))
        ]
        known = np.zeros(table.shape, dtype=bool)
        for t, s in np.ndindex(table.shape):
            kept = self.cache.get(keys[t][s])
            if kept is not None:
                known[t, s] = True
                table[t, s] = math.nan if kept[0] is None else kept[0]
                self._used[keys[t][s]] = kept[0]
        self.counts.from_cache += int(known.sum())
        # Frames that lack the same answers are asked together, so that a frame is encoded once for all its prompts.
        groups: dict[tuple[int, ...], list[int]] = {}
        for t in range(len(frames)):
            lacking = tuple(np.flatnonzero(~known[t]).tolist())
            if lacking:
                groups.setdefault(lacking, []).append(t)
        for stages, rows in groups.items():
            self.counts.asked += len(rows) * len(stages)

            def keep(t: int, s: int, p: float, rows: list[int] = rows, stages: tuple[int, ...] = stages) -> None:
                row, stage = rows[t], stages[s]
                answer = None if math.isnan(p) else float(p)
                self.cache.put(keys[row][stage], answer)
                self._used[keys[row][stage]] = answer
                table[row, stage], known[row, stage] = p, True

            self.model.yes_no(frames.take(rows), [prompts[s] for s in stages], keep=keep)
        failed = int((~known).sum())
        if failed:
            self.counts.failed["yes/no"] += failed
            log.warning("%d of %d yes/no questions failed and count as %s", failed, table.size, NO_ANSWER)
        undecided = np.isnan(table) & known
        if undecided.any():
            self.counts.undecided += int(undecided.sum())
            log.warning("%d answers were neither yes nor no and count as %s", int(undecided.sum()), NO_ANSWER)
        return np.where(np.isnan(table), NO_ANSWER, table)

    def write_recording(self, path: Path) -> None:
        """Every answer this session used, for `ReplayMLLM`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"format": RECORDING, "model": self.model.identity, "answers": self._used}
        path.write_text(json.dumps(content, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
