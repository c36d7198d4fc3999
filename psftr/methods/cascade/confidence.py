"""Stage-wise confidence: how surely each row shows each stage, from answers of a model or from CLIP similarities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psftr.features.text import spell_out
from psftr.language_models import NO_ANSWER, Frames, Session
from psftr.methods.cascade.settings import QuestionSettings
from psftr.methods.cascade.stages import StagePlan

# What all stages share comes first, so that a model reads it once for all of them.
FRAME_QUESTION = "Answer Yes or No. Does this frame show that {description}?"
_CLIP_QUESTION = "Answer Yes or No. Do these frames, in order of time, show that {description}?"
_TOGETHER_QUESTION = """These are the stages of the action "{action}":
{stages}
Which of them {shown}? Answer with its number, or with 0 for none of them."""
PROMPTS = (FRAME_QUESTION, _CLIP_QUESTION, _TOGETHER_QUESTION)
WITH_BACKGROUND = ("background", "both")  # ways to calibrate that ask about the background
_BY_MEDIAN = ("median", "both")
_CHUNK = 64  # clips asked about at a time: progress is told, and pictures are decoded, in between

Ask = Callable[[Sequence[int]], NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class StageQuestions:
    """Asks a model about the stages of a video's actions.

    clip_frames: frames shown together, the row's own in the middle. tick: called with the number of questions answered.
    """

    session: Session
    frames: Frames
    settings: QuestionSettings
    clip_frames: int
    step_s: float
    tick: Callable[[int], None] = lambda _: None

    def confidence(
        self, plans: Sequence[StagePlan], allowed: Mapping[str, NDArray[np.bool_]]
    ) -> dict[str, NDArray[np.float64]]:
        """[T, S] for each plan's class. allowed: rows worth a look, by class; a class without an entry has all."""
        if self.settings.coarse_s is None and self.settings.frames_share == 1:
            # every row for every stage of every class: a frame is read once for all of them
            tables = self._ask(range(len(self.frames)), plans)
            return {p.label: calibrated(table, self.settings.calibrate) for p, table in zip(plans, tables)}
        found = {}
        for plan in plans:

            def ask(rows: Sequence[int], plan: StagePlan = plan) -> NDArray[np.float64]:
                return self._ask(rows, [plan])[0]

            found[plan.label] = over_time(
                ask, len(self.frames), step_s=self.step_s, settings=self.settings, allowed=allowed.get(plan.label)
            )
        return found

    def _ask(self, rows: Sequence[int], plans: Sequence[StagePlan]) -> list[NDArray[np.float64]]:
        """[rows, S] for each plan; with a background question [rows, S + 1], the background last."""
        rows = list(rows)
        parts = [self._ask_chunk(rows[i : i + _CHUNK], plans) for i in range(0, len(rows), _CHUNK)]
        return [np.concatenate(tables) for tables in zip(*parts)]

    def _ask_chunk(self, rows: Sequence[int], plans: Sequence[StagePlan]) -> list[NDArray[np.float64]]:
        clips = [self._clip(row) for row in rows]
        has_background = self.settings.calibrate in WITH_BACKGROUND
        tables = []
        if self.settings.stages == "each":
            texts = [(*plan.descriptions, *([plan.background] if has_background else ())) for plan in plans]
            prompts = [self._question(text) for sentences in texts for text in sentences]
            answers = self.session.yes_no(clips, prompts)
            for sentences in texts:
                tables.append(answers[:, : len(sentences)])
                answers = answers[:, len(sentences) :]
            self.tick(len(clips) * len(prompts))
            return tables
        for plan in plans:
            options = tuple(str(number) for number in range(len(plan.stages) + 1))
            shares = self.session.choose(clips, [self._together(plan)], options, kind="which stage")[:, 0]
            shares = np.where(np.isnan(shares), NO_ANSWER, shares)
            tables.append(np.roll(shares, -1, axis=1) if has_background else shares[:, 1:])  # 0 is the background
            self.tick(len(clips))
        return tables

    def _clip(self, row: int) -> Frames:
        first = max(0, min(row - self.clip_frames // 2, len(self.frames) - self.clip_frames))
        return self.frames.take(range(first, min(first + self.clip_frames, len(self.frames))))

    def _question(self, description: str) -> str:
        template = FRAME_QUESTION if self.clip_frames == 1 else _CLIP_QUESTION
        return template.format(description=description.rstrip("."))

    def _together(self, plan: StagePlan) -> str:
        stages = "\n".join(f"{number}. {text}" for number, text in enumerate(plan.descriptions, 1))
        shown = "does this frame show" if self.clip_frames == 1 else "do these frames, in order of time, show"
        return _TOGETHER_QUESTION.format(action=spell_out(plan.label), stages=stages, shown=shown)


def over_time(
    ask: Ask, num_rows: int, *, step_s: float, settings: QuestionSettings, allowed: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """[T, S] from as few rows as the settings allow; `ask(rows)` gives [rows, S] (or S + 1 with a background).

    With `coarse_s`, rows so far apart are asked first, then every allowed row between two of them of which one shows
    some stage; rows that are never asked are interpolated. Without it only allowed rows are asked; the others are 0.
    """
    allowed = np.ones(num_rows, dtype=bool) if allowed is None else allowed
    if settings.coarse_s is None:
        rows = np.flatnonzero(allowed)
        asked = calibrated(ask(rows.tolist()), settings.calibrate)
        table = np.zeros((num_rows, asked.shape[1]))
        table[rows] = asked
        return table
    apart = max(1, round(settings.coarse_s / step_s))
    coarse = np.unique([*range(0, num_rows, apart), num_rows - 1])
    first = ask(coarse.tolist())
    zero = np.median(_centred_odds(first, settings.calibrate), axis=0) if settings.calibrate in _BY_MEDIAN else None
    known = {int(row): p for row, p in zip(coarse, calibrated(first, settings.calibrate, zero=zero))}
    hot = [row for row in coarse.tolist() if known[row].max() >= settings.coarse_threshold]
    near = np.zeros(num_rows, dtype=bool)
    for row in hot:
        near[max(0, row - apart) : row + apart + 1] = True
    fine = [row for row in np.flatnonzero(near & allowed).tolist() if row not in known]
    if fine:
        known |= dict(zip(fine, calibrated(ask(fine), settings.calibrate, zero=zero)))
    rows = np.array(sorted(known))
    values = np.stack([known[row] for row in rows.tolist()])
    return np.stack([np.interp(np.arange(num_rows), rows, column) for column in values.T], axis=1)


def calibrated(p: NDArray, how: str, *, zero: NDArray | None = None) -> NDArray[np.float64]:
    """Confidence [T, S] on a scale that stages and videos share.

    none: as it is. background: the log-odds less those of the last column, the scene without the action. median: less
    their median over the video (`zero [S]`, if known from other rows): a model that is inclined to say yes to a
    sentence says so all the time. both: less the background's, then less the median of that.
    """
    if how == "none":
        return p
    odds = _centred_odds(p, how)
    if how in _BY_MEDIAN:
        odds = odds - (np.median(odds, axis=0) if zero is None else zero)
    return _sigmoid(odds)


def _centred_odds(p: NDArray, how: str) -> NDArray[np.float64]:
    return _odds(p[:, :-1]) - _odds(p[:, -1:]) if how in WITH_BACKGROUND else _odds(p)


def _odds(p: NDArray) -> NDArray[np.float64]:
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return np.log(p) - np.log1p(-p)


def _sigmoid(x: NDArray) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-np.clip(x, -500, 500)))


# --- from CLIP features


def stage_similarity(frames: NDArray, stages: NDArray, background: NDArray) -> NDArray[np.float64]:
    """[T, D], [S, D], [D] -> [T, S]: cos(v_t, tau_stage) - cos(v_t, tau_background)."""
    return unit(frames) @ (unit(stages) - unit(background[None])).T


def similarity_confidence(difference: NDArray, *, slope: float, smooth_rows: float, centre: str) -> NDArray[np.float64]:
    """sigmoid(slope * difference) [T, S].

    smooth_rows: width of a moving average before it. centre: `median` first takes each stage's median over the video
    away. Two sentences differ in cosine to any frame by more than what happens in it, so the difference has an offset
    of its own for every pair; with actions in less than half of a video its median is that offset.
    """
    if smooth_rows > 0:
        difference = moving_average(difference, smooth_rows)
    if centre == "median":
        difference = difference - np.median(difference, axis=0)
    return _sigmoid(slope * difference)


def moving_average(values: NDArray, width: float) -> NDArray[np.float64]:
    """Centred over an odd number of rows near `width` along axis 0; fewer at the ends."""
    half = max(0, round((width - 1) / 2))
    total = np.concatenate((np.zeros((1, values.shape[1])), values.cumsum(axis=0, dtype=np.float64)))
    row = np.arange(len(values))
    first, last = np.maximum(row - half, 0), np.minimum(row + half + 1, len(values))
    return (total[last] - total[first]) / (last - first)[:, None]


def unit(rows: NDArray) -> NDArray:
    """Rows of length one; a row of zeros stays zero."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
