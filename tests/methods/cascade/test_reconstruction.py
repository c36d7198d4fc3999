"""Merging by hand: the paper's figure, "Baking cookies" in four stages, one row per second."""

import numpy as np
import pytest

from psftr.errors import PsftrError
from psftr.methods.cascade.reconstruction import (
    Instance,
    ReconstructionConfig,
    Run,
    find_runs,
    key_coverage,
    merge_runs,
    reconstruct,
    score_instance,
)

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
    runs = find_runs(cookies(), IS_KEY, step_s=1.0, threshold=0.7, min_run_s=0.8)
    # preparing leads into mixing without a dip, so both are one run, and mixing is its key
    assert runs == [Run(2, 12, MIX), Run(14, 18, MELT), Run(19, 29, BAKE)]


def test_later_key_stages_join_and_the_whole_recipe_is_one_instance():
    runs = find_runs(cookies(), IS_KEY, step_s=1.0, threshold=0.7, min_run_s=0.8)
    (whole,) = merge_runs(runs, step_s=1.0, later_key_gap_s=2.0)
    assert (whole.first, whole.last, whole.key) == (2, 29, BAKE)
    assert whole.runs == tuple(runs)


def test_a_gap_longer_than_allowed_or_no_switch_keeps_later_stages_apart():
    runs = find_runs(cookies(), IS_KEY, step_s=1.0, threshold=0.7, min_run_s=0.8)
    spans = [(i.first, i.last) for i in merge_runs(runs, step_s=1.0, later_key_gap_s=1.0)]
    assert spans == [(2, 12), (14, 29)]  # 2 s before melting, 1 s before baking
    spans = [(i.first, i.last) for i in merge_runs(runs, step_s=1.0, later_key_gap_s=None)]
    assert spans == [(2, 12), (14, 18), (19, 29)]


def test_an_earlier_stage_after_a_later_one_begins_the_next_batch_of_cookies():
    runs = [Run(0, 10, MIX), Run(11, 20, BAKE), Run(20, 30, MIX), Run(31, 40, BAKE)]
    instances = merge_runs(runs, step_s=1.0, later_key_gap_s=2.0)
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
    assert len(merge_runs(runs, step_s=1.0)) == (1 if joined else 2)


def test_short_runs_and_runs_without_a_key_stage_are_dropped():
    p = np.full((20, 4), 0.1)
    p[0:3, PREPARE] = 0.9  # 0.75 s... and no key
    p[5:15, PREPARE] = 0.9  # long, but only preparing
    p[17:20, BAKE] = 0.9  # key, 0.75 s: too short
    runs = find_runs(p, IS_KEY, step_s=0.25, threshold=0.7, min_run_s=0.8)
    assert runs == [Run(5, 15, None)]
    assert merge_runs(runs, step_s=0.25) == []


def test_a_run_of_exactly_the_least_length_counts():
    p = np.zeros((48, 1))
    p[:24] = 1.0  # 24 rows of 1/30 s = 0.8 s
    assert find_runs(p, [True], step_s=1 / 30, threshold=0.7, min_run_s=0.8) == [Run(0, 24, 0)]
    p[23] = 0.0
    assert find_runs(p, [True], step_s=1 / 30, threshold=0.7, min_run_s=0.8) == []


def test_a_dip_within_the_tolerance_does_not_end_a_run():
    p = np.array([[0.9], [0.9], [0.2], [0.9], [0.2], [0.2], [0.9]])
    assert find_runs(p, [True], step_s=1.0, threshold=0.7, min_run_s=0.8, gap_s=1.0) == [Run(0, 4, 0), Run(6, 7, 0)]


def test_key_rules_majority_and_first():
    p = np.zeros((6, 2))
    p[0:2, 1] = 0.9
    p[2:6, 0] = 0.8
    keys = {
        rule: find_runs(p, [True, True], step_s=1.0, threshold=0.7, min_run_s=0.8, key_rule=rule)[0].key
        for rule in ("majority", "first")
    }
    assert keys == {"majority": 0, "first": 1}


def test_the_score_by_hand():
    p = np.full((10, 2), 0.1)
    p[4:8, 0] = 0.8
    one = Instance(4, 8, 0, (Run(4, 8, 0),))
    # inside 0.8; margins of one row (25 % of 4) on each side 0.1; one of two key stages; filter 0.25
    config = ReconstructionConfig()
    value = score_instance(p, [True, True], one, filter_confidence=0.25, config=config)
    assert value == pytest.approx(0.25**0.5 * (0.8 - 0.2 * 0.1) * 0.5**0.5)
    assert key_coverage(p, [True, True], one, threshold=0.7) == 0.5
    assert key_coverage(p, [True, False], one, threshold=0.7) == 1.0


def test_an_instance_over_the_whole_video_has_no_margins():
    p = np.full((5, 1), 0.9)
    _, [(whole, score)] = reconstruct(p, [True], step_s=1.0, config=ReconstructionConfig())
    assert (whole.first, whole.last) == (0, 5)
    assert score == pytest.approx(0.9)


def test_observed_behaviour_gives_no_scores():
    runs, instances = reconstruct(cookies(), IS_KEY, step_s=1.0, config=ReconstructionConfig(scored=False))
    assert len(runs) == 3
    assert [score for _, score in instances] == [1.0]


def test_wrong_constants_are_refused():
    with pytest.raises(PsftrError, match=r"threshold 0 must lie in \(0, 1\]"):
        ReconstructionConfig(threshold=0)
    with pytest.raises(PsftrError, match="key_rule 'last' is unknown; choose majority or first"):
        ReconstructionConfig(key_rule="last")
    with pytest.raises(PsftrError, match="must not be negative"):
        ReconstructionConfig(gap_s=-1)
    with pytest.raises(PsftrError, match=r"confidence of shape \(3, 2\) for 1 stages"):
        find_runs(np.zeros((3, 2)), [True], step_s=1.0, threshold=0.7, min_run_s=0.8)
