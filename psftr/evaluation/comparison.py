"""Is run A better than run B? Paired over class splits and seeds, with an interval that says what it speaks about.

Splits differ far more from each other than methods do, so A and B are compared split by split. Within a split the
trainings of several seeds are averaged first; every split then counts once.

Two bootstrap intervals (percentiles of resampled mean differences, 95 %), because two questions are asked:

- of these splits: the splits stay, seeds are drawn anew in each. Would the difference be there if all were trained
  again? Good for that with about five seeds, and for nothing more.
- of splits like these: splits are drawn first, held-out choices within a drawn split next, seeds last. Would it
  be there on other splits? From few splits nobody can say so with 95 %: even the span from the least to the greatest of
  n differences holds the median of all splits in only 1 - 2^(1 - n) of the cases, 75 % for three splits, 94 % for five.
  `reach` is that bound, and the text says it.

A seed is drawn for A and B together where both sides have the same seeds, else for each side by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Any, NamedTuple

import numpy as np

from psftr.errors import PsftrError
from psftr.evaluation.render import aligned, wrap

LEVEL = 0.95
NUM_RESAMPLES = 10_000


class TrainedOn(NamedTuple):
    """What a training is identified by, beside its settings."""

    ratio: int
    split: int
    held_out_seed: int
    seed: int


@dataclass(frozen=True)
class Interval:
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """One split under one choice of held-out classes: mAP of every seed of A and of B."""

    split: int
    held_out_seed: int
    a: tuple[float, ...]
    b: tuple[float, ...]
    same_seeds: bool

    @property
    def difference(self) -> float:
        return fmean(self.a) - fmean(self.b)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """mAP of A and B, as fractions; means are over splits.

    of_these_splits, of_splits_like_these: 95 % intervals of the difference A - B; None where nothing can be drawn (one
    seed; one split). sd_a, sd_b: standard deviation over seeds within a split, pooled over splits (NaN: one seed each).
    num_pairs: trainings of A that have a partner of the same split, held-out choice and seed.
    left_out: what one side has and the other has not.
    """

    ratio: int
    pairings: tuple[Pairing, ...]
    mean_a: float
    mean_b: float
    of_these_splits: Interval | None
    of_splits_like_these: Interval | None
    sd_a: float
    sd_b: float
    num_splits: int
    num_pairs: int
    left_out: tuple[str, ...]

    @property
    def difference(self) -> float:
        return self.mean_a - self.mean_b

    @property
    def reach(self) -> float:
        """How often an interval over so many splits can hold the truth at best."""
        return min(LEVEL, 1 - 2.0 ** (1 - self.num_splits))

    def to_dict(self) -> dict[str, Any]:
        def ends(interval: Interval | None) -> list[float] | None:
            return None if interval is None else [interval.low, interval.high]

        return {
            "ratio": self.ratio,
            "mean_a": self.mean_a,
            "mean_b": self.mean_b,
            "difference": self.difference,
            "of_these_splits": ends(self.of_these_splits),
            "of_splits_like_these": ends(self.of_splits_like_these),
            "reach": self.reach,
            "sd_a": None if math.isnan(self.sd_a) else self.sd_a,
            "sd_b": None if math.isnan(self.sd_b) else self.sd_b,
            "num_splits": self.num_splits,
            "num_pairs": self.num_pairs,
            "left_out": list(self.left_out),
        }


def compare(
    a: Mapping[TrainedOn, float],
    b: Mapping[TrainedOn, float],
    *,
    num_resamples: int = NUM_RESAMPLES,
    bootstrap_seed: int = 0,
) -> Comparison:
    """Pair the trainings of A and B, each with its mAP as a fraction; `bootstrap_seed`: of the resampling.

    Raises:
        PsftrError: nothing to pair, more than one ratio, or an mAP that is no number.
    """
    a, b = ({TrainedOn(*key): float(score) for key, score in side.items()} for side in (a, b))
    for name, side in (("A", a), ("B", b)):
        broken = [key for key, score in side.items() if not math.isfinite(score)]
        if broken:
            raise PsftrError(f"the mAP of {name} on {_words(broken[0])} is {side[broken[0]]}: evaluate that run again")
    ratios = sorted({key.ratio for key in (*a, *b)})
    if len(ratios) > 1:
        raise PsftrError(f"trainings of the ratios {ratios} cannot be paired: compare one ratio at a time")
    tasks_a, tasks_b = _by_task(a), _by_task(b)
    shared = sorted(tasks_a.keys() & tasks_b.keys())
    if not shared:
        raise PsftrError(
            f"no split is in both: A has {_tasks_words(tasks_a)}, B has {_tasks_words(tasks_b)}; "
            "train one of them on the splits (and data.held_out_seed) of the other"
        )
    pairings = tuple(_pairing(task, tasks_a[task], tasks_b[task]) for task in shared)
    splits = _by_split(pairings)
    rng = np.random.default_rng(bootstrap_seed)
    has_seeds = max(min(len(p.a), len(p.b)) for p in pairings) > 1
    fixed = np.mean([_split_draws(p, num_resamples, rng, choices=False) for p in splits.values()], axis=0)
    drawn = _draws(splits, num_resamples, rng)
    return Comparison(
        ratio=ratios[0],
        pairings=pairings,
        mean_a=fmean(fmean(fmean(p.a) for p in group) for group in splits.values()),
        mean_b=fmean(fmean(fmean(p.b) for p in group) for group in splits.values()),
        of_these_splits=_percentiles(fixed) if has_seeds else None,
        of_splits_like_these=_percentiles(drawn) if len(splits) > 1 else None,
        sd_a=_pooled_sd([p.a for p in pairings]),
        sd_b=_pooled_sd([p.b for p in pairings]),
        num_splits=len(splits),
        num_pairs=len(a.keys() & b.keys()),
        left_out=tuple(
            f"{name}: {_words(key)}"
            for name, only in (("A", a.keys() - b.keys()), ("B", b.keys() - a.keys()))
            for key in sorted(only)
        ),
    )


def comparison_text(comparison: Comparison, *, a: str, b: str, synthetic: bool) -> str:
    """One row per split, the means, and both intervals in words; `a` and `b` are what the runs are called."""
    splits = _by_split(comparison.pairings)

    def row(label: str, groups: Sequence[Sequence[Pairing]]) -> list[str]:
        means = [fmean(fmean(fmean(side(p)) for p in group) for group in groups) for side in (_a, _b)]
        sds = [_pooled_sd([side(p) for group in groups for p in group]) for side in (_a, _b)]
        seeds = sum(len(p.a) for group in groups for p in group), sum(len(p.b) for group in groups for p in group)
        counted = str(seeds[0]) if seeds[0] == seeds[1] else f"{seeds[0]} / {seeds[1]}"
        return [
            label,
            _percent(means[0]),
            _percent(means[1]),
            _signed(means[0] - means[1]),
            *map(_percent, sds),
            counted,
        ]

    body = [row(f"split {index}", [group]) for index, group in splits.items()]
    heads = ["mAP, %", "A", "B", "A - B", "sd of A", "sd of B", "trainings"]
    ratio = comparison.ratio
    mark = "[SYNTHETIC] " if synthetic else ""
    told = [
        f"A - B = {_signed(comparison.difference)}, {comparison.num_pairs} pairs (split, held-out choice, seed).",
        _of_these(comparison),
        _of_others(comparison),
    ]
    if comparison.left_out:
        told.append("Without a partner: " + "; ".join(comparison.left_out))
    return "\n".join(
        [
            wrap(f"{mark}A = {a}, B = {b}, {ratio}/{100 - ratio}; sd: over the seeds of a split, pooled"),
            aligned(heads, body, [row("mean", list(splits.values()))]),
            *map(wrap, told),
        ]
    )


def _of_these(comparison: Comparison) -> str:
    if comparison.of_these_splits is None:
        return "No interval over trainings: it takes two seeds at least (seed=0,1,2,3,4)."
    interval = _interval(comparison.of_these_splits)
    return f"Trained again on these splits: {interval} (95 %; seeds drawn within each split)."


def _of_others(comparison: Comparison) -> str:
    if comparison.of_splits_like_these is None:
        return "No interval over splits: it takes two at least (split.index=0,1,2)."
    interval = _interval(comparison.of_splits_like_these)
    level = f"{100 * comparison.reach:.0f} % at best with {comparison.num_splits} splits"
    return f"On splits like these: {interval} ({level}; splits drawn, then seeds)."


def _a(pairing: Pairing) -> tuple[float, ...]:
    return pairing.a


def _b(pairing: Pairing) -> tuple[float, ...]:
    return pairing.b


def _by_task(side: Mapping[TrainedOn, float]) -> dict[tuple[int, int], dict[int, float]]:
    tasks: dict[tuple[int, int], dict[int, float]] = {}
    for key in sorted(side):
        tasks.setdefault((key.split, key.held_out_seed), {})[key.seed] = side[key]
    return tasks


def _pairing(task: tuple[int, int], a: Mapping[int, float], b: Mapping[int, float]) -> Pairing:
    return Pairing(
        split=task[0],
        held_out_seed=task[1],
        a=tuple(a.values()),
        b=tuple(b.values()),
        same_seeds=a.keys() == b.keys(),
    )


def _by_split(pairings: Sequence[Pairing]) -> dict[int, list[Pairing]]:
    splits: dict[int, list[Pairing]] = {}
    for pairing in pairings:
        splits.setdefault(pairing.split, []).append(pairing)
    return splits


def _pairing_draws(pairing: Pairing, count: int, rng: np.random.Generator) -> np.ndarray:
    """[count] mean differences with the seeds of one pairing drawn anew."""
    a, b = np.array(pairing.a), np.array(pairing.b)
    if pairing.same_seeds:
        return (a - b)[rng.integers(len(a), size=(count, len(a)))].mean(axis=1)
    means = [side[rng.integers(len(side), size=(count, len(side)))].mean(axis=1) for side in (a, b)]
    return means[0] - means[1]


def _split_draws(pairings: Sequence[Pairing], count: int, rng: np.random.Generator, *, choices: bool) -> np.ndarray:
    """[count] mean differences of one split; `choices`: its held-out choices are drawn too."""
    total = np.zeros(count)
    for fixed in pairings:
        if not choices:
            total += _pairing_draws(fixed, count, rng)
            continue
        chosen = rng.integers(len(pairings), size=count)
        total += np.stack([_pairing_draws(p, count, rng) for p in pairings])[chosen, np.arange(count)]
    return total / len(pairings)


def _draws(splits: Mapping[int, Sequence[Pairing]], count: int, rng: np.random.Generator) -> np.ndarray:
    """[count] mean differences with splits, held-out choices and seeds drawn anew."""
    total = np.zeros(count)
    for _ in splits:
        chosen = rng.integers(len(splits), size=count)
        draws = np.stack([_split_draws(p, count, rng, choices=True) for p in splits.values()])
        total += draws[chosen, np.arange(count)]
    return total / len(splits)


def _percentiles(draws: np.ndarray) -> Interval:
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def _pooled_sd(groups: Sequence[Sequence[float]]) -> float:
    """Root of the mean variance of the groups, weighted by their degrees of freedom."""
    freedom = sum(len(values) - 1 for values in groups)
    if not freedom:
        return math.nan
    return math.sqrt(sum((len(v) - 1) * variance(v) for v in groups if len(v) > 1) / freedom)


def _words(key: TrainedOn) -> str:
    return f"split {key.split}, held_out_seed {key.held_out_seed}, seed {key.seed}"


def _tasks_words(tasks: Mapping[tuple[int, int], object]) -> str:
    return ", ".join(f"split {split} (held_out_seed {held})" for split, held in sorted(tasks)) or "nothing"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"


def _signed(value: float) -> str:
    return f"{100 * value:+.2f}"


def _interval(interval: Interval) -> str:
    verdict = "excludes 0" if interval.excludes_zero else "holds 0"
    return f"{_signed(interval.low)} to {_signed(interval.high)}, {verdict}"
