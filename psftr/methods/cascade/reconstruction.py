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
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from psftr.errors import PsftrError
from psftr.methods.cascade.settings import ReconstructionSettings

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


def find_runs(
    confidence: NDArray,
    is_key: Sequence[bool],
    *,
    step_s: float,
    threshold: float,
    min_run_s: float,
    gap_s: float,
    key_rule: str,
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
    runs: Sequence[Run], *, step_s: float, same_key_fill: float, later_key_gap_s: float | None
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
    config: ReconstructionSettings,
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
    config: ReconstructionSettings,
) -> tuple[list[Run], list[tuple[Instance, float]]]:
    """All four steps for one class in one video: (every run found, instances in order of time with their scores)."""
    if config.decoding == "ordered":
        runs, instances = best_path(confidence, is_key, step_s=step_s, config=config)
    else:
        runs = find_runs(
            confidence, is_key, step_s=step_s, threshold=config.threshold, min_run_s=config.min_run_s,
            gap_s=config.gap_s, key_rule=config.key_rule,
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


def best_path(
    confidence: NDArray, is_key: Sequence[bool], *, step_s: float, config: ReconstructionSettings
) -> tuple[list[Run], list[Instance]]:
    """The most likely course of a small hidden Markov model: no action, or one of the stages, in their order.

    Being in stage s gains (logit p[t, s] - logit threshold) a second, no action gains nothing. Beginning an instance
    costs `entry_cost`, each stage left out on the way `skip_cost`; after the last stage, or a cost for those left out,
    the action ends or begins anew. Runs are the stretches of one stage; key is None for a stage that is not key.
    """
    rows, stages = confidence.shape
    limit = 6.0  # one very sure row does not outweigh several seconds
    odds = np.clip(_logit(confidence), -limit, limit) - np.clip(_logit(np.array(config.threshold)), -limit, limit)
    gain = np.concatenate((np.zeros((rows, 1)), odds * step_s), axis=1)  # [T, 1 + S], state 0 is no action
    place = np.arange(stages + 1)
    # cost[from, to]
    cost = np.maximum(place[None] - place[:, None] - 1, 0) * config.skip_cost
    cost[0, 1:] += config.entry_cost
    cost[1:, 0] = (stages - place[1:]) * config.skip_cost
    for later in range(1, stages + 1):
        anew = cost[later, 0] + cost[0, 1 : later + 1]  # a stage that is not later begins another instance
        cost[later, 1 : later + 1] = anew
        cost[later, later] = 0.0
    best = gain[0] - cost[0]
    came_from = np.zeros((rows, stages + 1), dtype=np.int64)
    for t in range(1, rows):
        total = best[:, None] - cost
        came_from[t] = total.argmax(axis=0)
        best = total.max(axis=0) + gain[t]
    state = int((best - cost[:, 0]).argmax())
    path = np.zeros(rows, dtype=np.int64)
    for t in range(rows - 1, -1, -1):
        path[t] = state
        state = int(came_from[t, state])
    edges = [0, *(np.flatnonzero(np.diff(path)) + 1).tolist(), rows]
    stretches = [(a, b, int(path[a]) - 1) for a, b in pairwise(edges) if path[a] > 0]
    groups: list[list[tuple[int, int, int]]] = []
    for one in stretches:
        if groups and groups[-1][-1][1] == one[0] and groups[-1][-1][2] < one[2]:
            groups[-1].append(one)
        else:
            groups.append([one])
    runs = [Run(a, b, stage if is_key[stage] else None) for a, b, stage in stretches]
    instances = []
    for group in groups:
        inside = tuple(Run(a, b, stage if is_key[stage] else None) for a, b, stage in group)
        keys = [run.key for run in inside if run.key is not None]
        first, last = group[0][0], group[-1][1]
        if keys and (last - first) * step_s >= config.min_run_s - _ROUNDING:
            instances.append(Instance(first, last, keys[-1], inside))
    return runs, instances


def _logit(p: NDArray) -> NDArray:
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return np.log(p) - np.log1p(-p)
