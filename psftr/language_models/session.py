"""A model with a memory: cache, one repair request, and a record of everything that did not go as asked."""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from psftr.errors import PsftrError
from psftr.language_models.cache import AnswerCache, question_key
from psftr.language_models.protocol import MLLM, YES_NO, AnswerError, Frames, MllmError, Schema

log = logging.getLogger("psftr.language_models")
T = TypeVar("T")

NO_ANSWER = 0.5  # neither yes nor no: below any threshold worth the name
_REPAIR = """{prompt}

Your last answer was:
{answer}

It cannot be used: {complaint}. Answer again, with nothing but the JSON object."""


class GivenUp(PsftrError):
    """Questions of one kind failed one after the other: asking on would only cost time."""


@dataclass
class Counts:
    """What a run asked and got, by kind of question.

    `repaired`: usable at the second try. `unusable`: answered twice, but not as asked, so that a fallback stands in.
    `failed`: no answer at all. `undecided`: choices that were none of the words. `reasons`: the last unusable answer
    or failure of each kind.
    """

    asked: Counter[str] = field(default_factory=Counter)
    from_cache: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    unusable: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    undecided: int = 0
    reasons: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        by_kind = {name: dict(sorted(getattr(self, name).items())) for name in _BY_KIND}
        return {**by_kind, "undecided": self.undecided, "reasons": dict(sorted(self.reasons.items()))}

    def __str__(self) -> str:
        parts = [f"questions asked: {self.asked.total()}", f"answered from the cache: {self.from_cache.total()}"]
        for name in ("repaired", "unusable", "failed"):
            if by_kind := getattr(self, name):
                parts.append(f"{name}: " + ", ".join(f"{kind} {n}" for kind, n in sorted(by_kind.items())))
        if self.undecided:
            parts.append(f"neither yes nor no (counted as {NO_ANSWER}): {self.undecided}")
        return "; ".join(parts)


_BY_KIND = ("asked", "from_cache", "repaired", "unusable", "failed")


class Session:
    """Asks `model` and remembers in `cache`. Threads may share it; each video asks through a `view` of its own.

    give_up_after: so many failed questions of one kind in a row raise GivenUp; None: never. before_asking: called
    before a question that the cache cannot answer. is_quiet: failures are counted and not logged.
    """

    def __init__(
        self,
        model: MLLM,
        cache: AnswerCache | None = None,
        *,
        give_up_after: int | None = None,
        before_asking: Callable[[], None] | None = None,
        is_quiet: bool = False,
    ) -> None:
        self.model = model
        self.cache = AnswerCache() if cache is None else cache  # an empty one is falsy
        self.give_up_after, self.before_asking, self.is_quiet = give_up_after, before_asking, is_quiet
        self.counts = Counts()
        self.used: set[str] = set()
        self.in_a_row: Counter[str] = Counter()
        self.lock = threading.RLock()
        self.views: tuple[Session, ...] = ()

    def view(self) -> Session:
        """The same model, cache and limits with counts of its own, which also reach this session's."""
        view = Session(self.model, self.cache, give_up_after=self.give_up_after, is_quiet=self.is_quiet)
        view.in_a_row, view.lock, view.views = self.in_a_row, self.lock, (self,)
        view.before_asking = self._prepare
        return view

    def ask(
        self,
        frames: Frames,
        prompt: str,
        *,
        kind: str,
        parse: Callable[[str], T],
        schema: Schema | None = None,
        temperature: float = 0.0,
        answer_tokens: int = 512,
        has_fallback: bool = True,
    ) -> T | None:
        """`parse` of the answer, or None (counted as unusable) if the model answers, but not as asked.

        `parse` raises AnswerError for an unusable answer; the model is told why and asked once more. A repaired answer
        is kept as the answer to the first question. Without a fallback an unusable answer is a failure. Raises
        MllmError for a failure (counted), BudgetExhausted, GivenUp.
        """
        options: dict[str, Any] = {"schema": schema, "temperature": temperature, "answer_tokens": answer_tokens}
        key = question_key("generate", self.model.identity, prompt, frames, **options)
        kept = self.cache.get(key)
        if kept is not None:
            try:
                parsed = parse(kept[0])
            except (AnswerError, TypeError):
                pass  # what was kept is not what is needed now: asked again
            else:
                self._count("from_cache", kind)
                self.used.add(key)
                return parsed
        self._prepare()
        try:
            answer, parsed = self._answer(frames, prompt, kind, parse, options)
        except AnswerError as error:
            self._note_trouble("unusable" if has_fallback else "failed", kind, str(error))
            if has_fallback:
                return None
            raise MllmError(str(error)) from None
        except MllmError as error:
            self._note_trouble("failed", kind, str(error))
            raise
        self.in_a_row[kind] = 0
        self.cache.put(key, answer)
        self.used.add(key)
        return parsed

    def _answer(
        self, frames: Frames, prompt: str, kind: str, parse: Callable[[str], T], options: dict[str, Any]
    ) -> tuple[str, T]:
        self._count("asked", kind)
        answer = self.model.generate(frames, prompt, **options)
        try:
            return answer, parse(answer)
        except AnswerError as error:
            complaint = str(error)
        self._count("asked", kind)
        repair = _REPAIR.format(prompt=prompt, answer=answer[:2000], complaint=complaint)
        answer = self.model.generate(frames, repair, **options)
        try:
            parsed = parse(answer)
        except AnswerError as error:
            raise AnswerError(f"the answer cannot be used: {error}: {' '.join(answer.split())[:80]!r}") from None
        self._count("repaired", kind)
        return answer, parsed

    def yes_no(self, clips: Sequence[Frames], prompts: Sequence[str]) -> NDArray[np.float64]:
        """[T, S]: p(yes) / (p(yes) + p(no)) at the first answer word, each clip by itself with each prompt.

        What failed or was neither is 0.5 and counted. Raises as `ask` does.
        """
        table = self.choose(clips, prompts, YES_NO, kind="yes/no")[..., 0]
        return np.where(np.isnan(table), NO_ANSWER, table)

    def choose(
        self, clips: Sequence[Frames], prompts: Sequence[str], options: Sequence[str], *, kind: str
    ) -> NDArray[np.float64]:
        """[T, S, K]: shares of the K options at the first answer word; NaN where it was none of them or the question
        failed (both counted). Clips are asked only for what is not known."""
        shape = (len(clips), len(prompts))
        table = np.full((*shape, len(options)), np.nan)
        keys = [
            [question_key("choose", self.model.identity, prompt, clip, options=options) for prompt in prompts]
            for clip in clips
        ]
        known = np.zeros(shape, dtype=bool)
        undecided = 0
        for t, s in np.ndindex(shape):
            kept = self.cache.get(keys[t][s])
            if kept is None or not _is_shares(kept[0], len(options)):
                continue
            known[t, s] = True
            undecided += kept[0] is None
            table[t, s] = math.nan if kept[0] is None else kept[0]
            self.used.add(keys[t][s])
        self._count("from_cache", kind, int(known.sum()))
        # Clips that lack the same answers are asked together, so that a clip is looked at once for all its prompts.
        groups: dict[tuple[int, ...], list[int]] = {}
        for t in range(len(clips)):
            if lacking := tuple(np.flatnonzero(~known[t]).tolist()):
                groups.setdefault(lacking, []).append(t)
        if groups:
            self._prepare()
        for stages, rows in groups.items():

            def keep(t: int, s: int, found: tuple[float, ...] | None, rows: Any = rows, stages: Any = stages) -> None:
                nonlocal undecided
                key = keys[rows[t]][stages[s]]
                self.cache.put(key, found if found is None else list(found))
                with self.lock:
                    self.used.add(key)
                    undecided += found is None
                    self.in_a_row[kind] = 0
                table[rows[t], stages[s]] = math.nan if found is None else found

            def fail(t: int, s: int, error: MllmError) -> None:
                self._note_trouble("failed", kind, str(error))

            self._count("asked", kind, len(rows) * len(stages))
            self.model.choose([clips[row] for row in rows], [prompts[s] for s in stages], options, keep=keep, fail=fail)
        for one in (self, *self.views):
            with self.lock:
                one.counts.undecided += undecided
        return table

    def _prepare(self) -> None:
        if self.before_asking is not None:
            self.before_asking()

    def _count(self, what: str, kind: str, number: int = 1) -> None:
        with self.lock:
            for one in (self, *self.views):
                if number:
                    getattr(one.counts, what)[kind] += number

    def _note_trouble(self, what: str, kind: str, reason: str) -> None:
        """Count what is unusable or failed, and say it the first time. Raises GivenUp after too many in a row."""
        with self.lock:
            is_new = all(one.counts.reasons.get(kind) != reason for one in (self, *self.views))
            for one in (self, *self.views):
                getattr(one.counts, what)[kind] += 1
                one.counts.reasons[kind] = reason
            self.in_a_row[kind] += 1
            failed = self.in_a_row[kind]
        if is_new and not self.is_quiet:
            log.warning("a %s question %s: %s", kind, "failed" if what == "failed" else "got no usable answer", reason)
        if self.give_up_after is not None and failed >= self.give_up_after:
            raise GivenUp(
                f"{failed} {kind} questions in a row failed, the last with: {reason}; answers so far are kept: mend "
                "the cause and run the same command again"
            )


def _is_shares(value: Any, count: int) -> bool:
    """Whether a kept value is an answer to a choice: null, or `count` shares."""
    return value is None or (
        isinstance(value, list)
        and len(value) == count
        and all(isinstance(v, int | float) and 0 <= v <= 1 for v in value)
    )
