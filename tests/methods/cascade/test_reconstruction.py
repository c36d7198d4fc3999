"""Merging by hand: the paper's figure, "Baking cookies" in four stages, one row per second."""

import numpy as np
import pytest

from psftr.errors import PsftrError
from psftr.methods.cascade.reconstruction import (
    Instance,
    Run,
    best_path,
    find_runs,
    key_coverage,
    merge_runs,
    reconstruct,
    score_instance,
)
from psftr.methods.cascade.settings import ReconstructionSettings

PREPARE, MIX, MELT, BAKE = range(4)
IS_KEY = (False, True, True, True)  # preparing ingredients is not distinctive of cookies


def cookies() -> np.ndarray:
    """[40, 4]: prepare 2-6, mix 6-12, nothing 12-14, melt 14-18, nothing 18-19, bake 19-29, nothing to 40."""
    p = np.full((40, 4), 0.1)
    p[2:6, PREPARE] = 0.8
    p[6:12, MIX] = 0.9
    p[14:18, MELT] = 0.75
    p[19:29, BAKE] = 0.95
    return p


def test_a_run_takes_its_key_stage_from_its_key_rows_and_is_extended_by_the_others():
    runs = find_runs(cookies(), IS_KEY, step_s=1.0, threshold=0.7, min_run_s=0.8, gap_s=0.0, key_rule="majority")
    # preparing leads into mixing without a dip, so both are one run, and mixing is its key
    assert runs == [Run(2, 12, MIX), Run(14, 18, MELT), Run(19, 29, BAKE)]


def test_later_key_stages_join_and_the_whole_recipe_is_one_instance():
    runs = find_runs(cookies(), IS_KEY, step_s=1.0, threshold=0.7, min_run_s=0.8, gap_s=0.0, key_rule="majority")
    (whole,) = merge_runs(runs, step_s=1.0, later_key_gap_s=2.0, same_key_fill=0.9)
    assert (whole.first, whole.last, whole.key) == (2, 29, BAKE)
    assert whole.runs == tuple(runs)


def test_a_gap_longer_than_allowed_or_no_switch_keeps_later_stages_apart():
    runs = find_runs(cookies(), IS_KEY, step_s=1.0, threshold=0.7, min_run_s=0.8, gap_s=0.0, key_rule="majority")
    spans = [(i.first, i.last) for i in merge_runs(runs, step_s=1.0, later_key_gap_s=1.0, same_key_fill=0.9)]
    assert spans == [(2, 12), (14, 29)]  # 2 s before melting, 1 s before baking
    spans = [(i.first, i.last) for i in merge_runs(runs, step_s=1.0, later_key_gap_s=None, same_key_fill=0.9)]
    assert spans == [(2, 12), (14, 18), (19, 29)]


def test_an_earlier_stage_after_a_later_one_begins_the_next_batch_of_cookies():
    runs = [Run(0, 10, MIX), Run(11, 20, BAKE), Run(20, 30, MIX), Run(31, 40, BAKE)]
    instances = merge_runs(runs, step_s=1.0, later_key_gap_s=2.0, same_key_fill=0.9)
    assert [(i.first, i.last) for i in instances] == [(0, 20), (20, 40)]


@pytest.mark.parametrize(
    ("second_first", "joined"),
    [
        (21, True),  # lengths 10 + 9 of span 20... 1 - 1/20 = 0.95
        (22, True),  # gap 2 of span 21: 0.905
        (23, False),  # gap 3 of span 23: 0.87
    ],
)
def test_the_same_stage_goes_on_if_the_gap_is_small_beside_the_span(second_first, joined):
    last = {21: 30, 22: 31, 23: 33}[second_first]
    runs = [Run(10, 20, BAKE), Run(second_first, last, BAKE)]
    gap, span = second_first - 20, last - 10
    observed = (10 + last - second_first) / span  # (len_a + len_b) / span, as the released code writes it
    assert observed == pytest.approx(1 - gap / span)
    assert (observed > 0.9) is joined
    assert len(merge_runs(runs, step_s=1.0, same_key_fill=0.9, later_key_gap_s=None)) == (1 if joined else 2)


def test_short_runs_and_runs_without_a_key_stage_are_dropped():
    p = np.full((20, 4), 0.1)
    p[0:3, PREPARE] = 0.9  # 0.75 s... and no key
    p[5:15, PREPARE] = 0.9  # long, but only preparing
    p[17:20, BAKE] = 0.9  # key, 0.75 s: too short
    runs = find_runs(p, IS_KEY, step_s=0.25, threshold=0.7, min_run_s=0.8, gap_s=0.0, key_rule="majority")
    assert runs == [Run(5, 15, None)]
    assert merge_runs(runs, step_s=0.25, same_key_fill=0.9, later_key_gap_s=None) == []


def test_a_run_of_exactly_the_least_length_counts():
    p = np.zeros((48, 1))
    p[:24] = 1.0  # 24 rows of 1/30 s = 0.8 s
    assert find_runs(p, [True], step_s=1 / 30, threshold=0.7, min_run_s=0.8, gap_s=0.0, key_rule="majority") == [
        Run(0, 24, 0)
    ]
    p[23] = 0.0
    assert find_runs(p, [True], step_s=1 / 30, threshold=0.7, min_run_s=0.8, gap_s=0.0, key_rule="majority") == []


def test_a_dip_within_the_tolerance_does_not_end_a_run():
    p = np.array([[0.9], [0.9], [0.2], [0.9], [0.2], [0.2], [0.9]])
    assert find_runs(p, [True], step_s=1.0, threshold=0.7, min_run_s=0.8, gap_s=1.0, key_rule="majority") == [
        Run(0, 4, 0),
        Run(6, 7, 0),
    ]


def test_key_rules_majority_and_first():
    p = np.zeros((6, 2))
    p[0:2, 1] = 0.9
    p[2:6, 0] = 0.8
    keys = {
        rule: find_runs(p, [True, True], step_s=1.0, threshold=0.7, min_run_s=0.8, key_rule=rule, gap_s=0.0)[0].key
        for rule in ("majority", "first")
    }
    assert keys == {"majority": 0, "first": 1}


def test_the_score_by_hand():
    p = np.full((10, 2), 0.1)
    p[4:8, 0] = 0.8
    one = Instance(4, 8, 0, (Run(4, 8, 0),))
    # inside 0.8; margins of one row (25 % of 4) on each side 0.1; one of two key stages; filter 0.25
    config = ReconstructionSettings()
    value = score_instance(p, [True, True], one, filter_confidence=0.25, config=config)
    assert value == pytest.approx(0.25**0.5 * (0.8 - 0.2 * 0.1) * 0.5**0.5)
    assert key_coverage(p, [True, True], one, threshold=0.7) == 0.5
    assert key_coverage(p, [True, False], one, threshold=0.7) == 1.0


def test_an_instance_over_the_whole_video_has_no_margins():
    p = np.full((5, 1), 0.9)
    _, [(whole, score)] = reconstruct(p, [True], step_s=1.0, config=ReconstructionSettings())
    assert (whole.first, whole.last) == (0, 5)
    assert score == pytest.approx(0.9)


def test_observed_behaviour_gives_no_scores():
    runs, instances = reconstruct(cookies(), IS_KEY, step_s=1.0, config=ReconstructionSettings(scored=False))
    assert len(runs) == 3
    assert [score for _, score in instances] == [1.0]


def test_wrong_constants_are_refused():
    with pytest.raises(PsftrError, match=r"threshold must be above 0, got 0\.0"):
        ReconstructionSettings(threshold=0)
    with pytest.raises(PsftrError, match="key_rule=last is unknown; choose majority, first"):
        ReconstructionSettings(key_rule="last")
    with pytest.raises(PsftrError, match=r"gap_s must be at least 0, got -1\.0"):
        ReconstructionSettings(gap_s=-1)
    with pytest.raises(PsftrError, match=r"confidence of shape \(3, 2\) for 1 stages"):
        find_runs(np.zeros((3, 2)), [True], step_s=1.0, threshold=0.7, min_run_s=0.8, gap_s=0.0, key_rule="first")


# --- ordered decoding

ORDERED = ReconstructionSettings(decoding="ordered", entry_cost=2.0, skip_cost=1.0, min_run_s=0.0)


def test_the_best_path_takes_the_stages_that_are_worth_their_cost():
    runs, instances = best_path(cookies(), IS_KEY, step_s=1.0, config=ORDERED)
    # melting gains 4 * (logit 0.75 - logit 0.7) = 1.0, less than the 2 (and 1 for mixing left out) to begin with it
    assert [(run.first, run.last, run.key) for run in runs] == [(2, 6, None), (6, 12, MIX), (19, 29, BAKE)]
    assert [(i.first, i.last, i.key) for i in instances] == [(2, 12, MIX), (19, 29, BAKE)]


def test_what_beginning_costs_decides_whether_a_short_dip_is_bridged():
    p = np.full((12, 1), 0.02)
    p[2:5], p[6:9] = 0.99, 0.99
    # one row of 0.02 costs logit(0.7) - logit(0.02) = 0.85 + 3.89 = 4.7, to begin anew costs 3 or 6
    apart = best_path(p, (True,), step_s=1.0, config=ReconstructionSettings(decoding="ordered", entry_cost=3.0))[1]
    joined = best_path(p, (True,), step_s=1.0, config=ReconstructionSettings(decoding="ordered", entry_cost=6.0))[1]
    assert [(i.first, i.last) for i in apart] == [(2, 5), (6, 9)]
    assert [(i.first, i.last) for i in joined] == [(2, 9)]


def test_an_earlier_stage_begins_the_next_instance_without_a_pause():
    p = np.full((20, 2), 0.05)
    p[0:5, 0] = p[5:10, 1] = p[10:15, 0] = p[15:20, 1] = 0.95
    _, instances = best_path(p, (True, True), step_s=1.0, config=ORDERED)
    assert [(i.first, i.last) for i in instances] == [(0, 10), (10, 20)]


def test_the_best_path_is_the_best_of_all_paths():
    """Against every one of the 3^6 sequences of states, scored term by term."""
    import itertools

    rng, config = np.random.default_rng(0), ReconstructionSettings(decoding="ordered", entry_cost=0.7, skip_cost=0.4)

    def step(before: int, after: int) -> float:
        if after == 0:
            return 0.0 if before == 0 else (2 - before) * config.skip_cost
        if before == 0:
            return config.entry_cost + (after - 1) * config.skip_cost
        if after == before:
            return 0.0
        if after > before:
            return (after - before - 1) * config.skip_cost
        return step(before, 0) + step(0, after)

    for _ in range(20):
        p = rng.uniform(0.05, 0.95, (6, 2))
        gain = np.log(p / (1 - p)) - np.log(0.7 / 0.3)

        def value(path, gain=gain):
            moves = sum(step(a, b) for a, b in zip((0, *path), (*path, 0)))
            return sum(gain[t, s - 1] for t, s in enumerate(path) if s) - moves

        best = max(itertools.product(range(3), repeat=6), key=value)
        runs, _ = best_path(p, (True, True), step_s=1.0, config=config)
        found = [0] * 6
        for run in runs:
            found[run.first : run.last] = [run.key + 1] * (run.last - run.first)
        assert value(found) == pytest.approx(value(best))
