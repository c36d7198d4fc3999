"""Compositional reconstruction: stage confidences of one class in one video -> runs -> instances -> scores.

Rows are steps of equal length `step_s`; a span [first, last) of rows is [first, last) * step_s seconds. `P` is a row's
best stage confidence. A run is a stretch with P above a threshold; it carries the *key stage* most of its rows agree
on, and one without a key stage is dropped: what is not distinctive of the action extends it but never makes it. Runs
are put together in order of time: the same key stage going on, or a later key stage following an earlier one. An
earlier key stage after a later one begins the next instance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psftr.errors import PsftrError

KEY_RULES = ("majority", "first")
_ROUNDING = 1e-9  # 24 rows of 1/30 s are 0.8 s, whatever floating point says


@dataclass(frozen=True, slots=True)
class Run:
    """Rows [first, last) whose P reaches the threshold; `key`: index of its key stage, None if it has none."""

    first: int
    last: int
    key: int | None


@dataclass(frozen=True, slots=True)
class Instance:
    """Rows [first, last) put together from `runs`; `key`: the key stage of the last of them."""

    first: int
    last: int
    key: int
    runs: tuple[Run, ...]


@dataclass(frozen=True, kw_only=True)
class ReconstructionConfig:
    """Constants of the four steps. The defaults are the source's where it is known, ours where it is silent.

    gap_s: a run may dip below the threshold for this long. key_rule: majority | first key stage of a run.
    same_key_fill: runs of one key stage are joined if more than this share of their common span is not gap.
    later_key_gap_s: a run of a later key stage is joined if it follows within so many seconds; None: never.
    filter_power, coverage_power, margin_weight, margin: see `score_instance`. scored: False gives every detection 1.
    """

    threshold: float = 0.7
    min_run_s: float = 0.8
    gap_s: float = 0.5
    key_rule: str = "majority"
    same_key_fill: float = 0.9
    later_key_gap_s: float | None = 3.0
    margin: float = 0.25
    margin_weight: float = 0.2
    filter_power: float = 0.5
    coverage_power: float = 0.5
    scored: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise PsftrError(f"threshold {self.threshold} must lie in (0, 1]; the source's is 0.7")
        if self.key_rule not in KEY_RULES:
            raise PsftrError(f"key_rule {self.key_rule!r} is unknown; choose {' or '.join(KEY_RULES)}")
        if min(self.min_run_s, self.gap_s, self.margin, self.later_key_gap_s or 0.0) < 0:
            raise PsftrError("min_run_s, gap_s, margin and later_key_gap_s are lengths and must not be negative")


def find_runs(
    confidence: NDArray,
    is_key: Sequence[bool],
    *,
    step_s: float,
    threshold: float,
    min_run_s: float,
    gap_s: float = 0.0,
    key_rule: str = "majority",
) -> list[Run]:
    """Runs of P >= threshold lasting at least `min_run_s`, in order of time, keyless ones included.

    confidence [T, S]: rows by stages. The key stage is decided by rows above the threshold whose best stage is a key
    stage (the earlier stage where two are equally good): the one most of them have, the earlier on a tie, or the first.
    """
    if confidence.ndim != 2 or confidence.shape[1] != len(is_key):
        raise PsftrError(f"confidence of shape {confidence.shape} for {len(is_key)} stages; [rows, stages] is needed")
    peak, best = confidence.max(axis=1), confidence.argmax(axis=1)
    above = peak >= threshold
    edges = np.flatnonzero(np.diff(np.concatenate(([False], above, [False]))))
    spans: list[tuple[int, int]] = []
    for first, last in zip(edges[::2].tolist(), edges[1::2].tolist()):
        if spans and (first - spans[-1][1]) * step_s <= gap_s + _ROUNDING:
            spans[-1] = spans[-1][0], last
        else:
            spans.append((first, last))
    keys = np.asarray(is_key, dtype=bool)
    runs = []
    for first, last in spans:
        if (last - first) * step_s < min_run_s - _ROUNDING:
            continue
        stages = best[first:last][above[first:last]]
        stages = stages[keys[stages]]
        key = None
        if len(stages):
            key = int(stages[0]) if key_rule == "first" else int(np.bincount(stages).argmax())
        runs.append(Run(first, last, key))
    return runs


def merge_runs(
    runs: Sequence[Run], *, step_s: float, same_key_fill: float = 0.9, later_key_gap_s: float | None = None
) -> list[Instance]:
    """Join runs of one class by start; keyless runs are dropped first.

    Same key: joined iff 1 - gap / span > same_key_fill, for runs that do not overlap the observed
    (len_a + len_b) / span. Later key: joined iff enabled and the gap is at most `later_key_gap_s`.
    """
    instances: list[Instance] = []
    for run in sorted((run for run in runs if run.key is not None), key=lambda run: run.first):
        assert run.key is not None
        if instances:
            before = instances[-1]
            gap, span = max(0, run.first - before.last), run.last - before.first
            same = run.key == before.key and 1 - gap / span > same_key_fill
            later = run.key > before.key and later_key_gap_s is not None and gap * step_s <= later_key_gap_s + _ROUNDING
            if same or later:
                instances[-1] = Instance(before.first, max(before.last, run.last), run.key, (*before.runs, run))
                continue
        instances.append(Instance(run.first, run.last, run.key, (run,)))
    return instances


def key_coverage(confidence: NDArray, is_key: Sequence[bool], instance: Instance, *, threshold: float) -> float:
    """Key stages that are some row's best above the threshold inside the instance / key stages; at most 1."""
    rows = confidence[instance.first : instance.last]
    hit = set(rows.argmax(axis=1)[rows.max(axis=1) >= threshold].tolist())
    keys = {stage for stage, key in enumerate(is_key) if key}
    return len(hit & keys) / len(keys)


def score_instance(
    confidence: NDArray,
    is_key: Sequence[bool],
    instance: Instance,
    *,
    filter_confidence: float,
    config: ReconstructionConfig,
) -> float:
    """f^filter_power * (mean P inside - margin_weight * mean P in the margins) * coverage^coverage_power, at least 0.

    Each margin is `margin` of the instance's length, at least one row, cut at the video's ends; none left counts 0.
    """
    peak = confidence.max(axis=1)
    first, last = instance.first, instance.last
    width = max(1, round(config.margin * (last - first)))
    outside = np.concatenate((peak[max(0, first - width) : first], peak[last : last + width]))
    contrast = peak[first:last].mean() - config.margin_weight * (outside.mean() if len(outside) else 0.0)
    coverage = key_coverage(confidence, is_key, instance, threshold=config.threshold)
    return float(max(contrast, 0.0) * filter_confidence**config.filter_power * coverage**config.coverage_power)


def reconstruct(
    confidence: NDArray,
    is_key: Sequence[bool],
    *,
    step_s: float,
    filter_confidence: float = 1.0,
    config: ReconstructionConfig,
) -> tuple[list[Run], list[tuple[Instance, float]]]:
    """All four steps for one class in one video: (every run found, instances in order of time with their scores)."""
    runs = find_runs(
        confidence, is_key, step_s=step_s, threshold=config.threshold, min_run_s=config.min_run_s, gap_s=config.gap_s,
        key_rule=config.key_rule,
    )  # fmt: skip
    instances = merge_runs(
        runs, step_s=step_s, same_key_fill=config.same_key_fill, later_key_gap_s=config.later_key_gap_s
    )
    if not config.scored:
        return runs, [(instance, 1.0) for instance in instances]
    return runs, [
        (one, score_instance(confidence, is_key, one, filter_confidence=filter_confidence, config=config))
        for one in instances
    ]
