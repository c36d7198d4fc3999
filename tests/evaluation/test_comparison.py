"""A against B: numbers that a reader can check by eye, and intervals that do what they say."""

import math

import numpy as np
import pytest

from psftr.errors import PsftrError
from psftr.evaluation.comparison import TrainedOn, compare, comparison_text


def runs(by_split, *, ratio=75, held_out_seed=0):
    """{split: mAP of seeds 0, 1, …, in percent} -> trainings."""
    return {
        TrainedOn(ratio, split, held_out_seed, seed): score / 100
        for split, scores in by_split.items()
        for seed, score in enumerate(scores)
    }


A = runs({0: [40, 44], 1: [31, 29], 2: [53, 49]})  # means 42, 30, 51: 41
B = runs({0: [38, 40], 1: [20, 24], 2: [50, 46]})  # means 39, 22, 48: 109 / 3


def percents(interval):
    return [round(100 * interval.low, 6), round(100 * interval.high, 6)]


def test_seeds_are_averaged_within_a_split_and_splits_count_once():
    result = compare(A, B)
    assert [p.difference for p in result.pairings] == pytest.approx([0.03, 0.08, 0.03])
    assert result.mean_a == pytest.approx(0.41)
    assert result.mean_b == pytest.approx(1.09 / 3)
    assert result.difference == pytest.approx(0.14 / 3)
    assert (result.num_splits, result.num_pairs, result.left_out) == (3, 6, ())
    more = compare({**A, **runs({0: [42] * 6})}, B)  # eight seeds on one split do not make it heavier
    assert more.pairings[0].difference == pytest.approx(0.03)
    assert more.difference == pytest.approx(0.14 / 3)


def test_deviation_over_seeds_is_within_splits():
    result = compare(A, B)  # variances 8, 2, 8 and 2, 8, 8
    assert result.sd_a == pytest.approx(math.sqrt(6) / 100)
    assert result.sd_b == pytest.approx(math.sqrt(6) / 100)
    unequal = compare(runs({0: [10, 14], 1: [30, 30, 30]}), runs({0: [10], 1: [30]}))
    assert unequal.sd_a == pytest.approx(math.sqrt((1 * 8 + 2 * 0) / 3) / 100)
    assert math.isnan(unequal.sd_b)


def test_interval_of_these_splits_draws_seeds_and_leaves_splits():
    # Pair differences: 2 and 4 on split 0; always 10 on split 1. A drawn mean of split 0 is 2, 3 or 4.
    result = compare(runs({0: [22, 24], 1: [30, 30]}), runs({0: [20, 20], 1: [20, 20]}))
    assert percents(result.of_these_splits) == [(2 + 10) / 2, (4 + 10) / 2]
    steady = compare(runs({0: [21, 31], 1: [40, 44]}), runs({0: [20, 30], 1: [35, 39]}))  # each pair 1, each pair 5
    assert percents(steady.of_these_splits) == [3, 3]


def test_interval_of_splits_like_these_reaches_from_the_least_split_to_the_greatest():
    a, b = runs({0: [21, 21], 1: [25, 25], 2: [29, 29]}), runs({0: [20, 20], 1: [20, 20], 2: [20, 20]})
    result = compare(a, b)
    assert percents(result.of_these_splits) == [5, 5]  # the seeds agree
    assert percents(result.of_splits_like_these) == [1, 9]  # one resample in 27 is three times the least
    assert result.reach == 0.75
    many = compare(runs({k: [21 + k] for k in range(10)}), runs({k: [20] for k in range(10)}))
    assert many.reach == 0.95
    low, high = percents(many.of_splits_like_these)
    assert 3.5 < low < 4.0  # 5.5 less and more than about 1.96 * 2.87 / sqrt(10) = 1.78
    assert 7.0 < high < 7.5


def test_held_out_choices_are_drawn_within_their_split():
    a = runs({0: [24], 1: [24]}) | runs({0: [28], 1: [28]}, held_out_seed=1)
    b = runs({0: [20], 1: [20]}) | runs({0: [20], 1: [20]}, held_out_seed=1)
    result = compare(a, b)
    assert result.num_splits == 2  # not four
    assert result.difference == pytest.approx(0.06)
    assert percents(result.of_splits_like_these) == [4, 8]
    assert result.of_these_splits is None  # one seed each


def test_other_seeds_are_drawn_for_each_side_by_itself():
    a = {TrainedOn(75, 0, 0, seed): score for seed, score in ((0, 0.30), (1, 0.34))}
    b = {TrainedOn(75, 0, 0, seed): score for seed, score in ((7, 0.20), (8, 0.24))}
    result = compare(a, b)
    assert result.difference == pytest.approx(0.10)
    assert result.num_pairs == 0
    assert percents(result.of_these_splits) == [6, 14]  # 30 - 24 to 34 - 20
    paired = compare(a, {TrainedOn(75, 0, 0, key.seed - 7): score for key, score in b.items()})
    assert percents(paired.of_these_splits) == [10, 10]


def test_interval_of_these_splits_holds_the_truth_about_as_often_as_it_says():
    rng, held = np.random.default_rng(1), 0
    for _ in range(200):  # three splits, five seeds, true difference 0
        a, b = ({k: rng.normal(30, 4, 5) for k in range(3)} for _ in "ab")
        held += not compare(runs(a), runs(b), num_resamples=500).of_these_splits.excludes_zero
    assert 0.85 < held / 200 < 0.97  # five seeds leave a percentile interval a little short


def test_same_numbers_make_the_same_interval_in_any_order():
    backwards = [dict(reversed(side.items())) for side in (A, B)]
    assert compare(*backwards).to_dict() == compare(A, B).to_dict()
    other = compare(B, A)
    assert other.difference == -compare(A, B).difference


def test_what_has_no_partner_is_named():
    result = compare({**A, TrainedOn(75, 5, 0, 0): 0.9}, {**B, TrainedOn(75, 0, 0, 9): 0.39})
    assert result.left_out == ("A: split 5, held_out_seed 0, seed 0", "B: split 0, held_out_seed 0, seed 9")
    assert result.num_splits == 3
    assert result.difference == pytest.approx(0.14 / 3)  # 39 more on split 0 of B changes nothing


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(PsftrError, match=r"no split is in both: A has split 0 .*B has split 1 "):
        compare(runs({0: [1]}), runs({1: [1]}))
    with pytest.raises(PsftrError, match="compare one ratio at a time"):
        compare(runs({0: [1]}), runs({0: [1]}, ratio=50))
    with pytest.raises(PsftrError, match="mAP of B on split 0, held_out_seed 0, seed 0 is nan"):
        compare(runs({0: [1]}), runs({0: [math.nan]}))


def test_text_says_all_of_it():
    text = comparison_text(compare(A, B), a="new", b="old", synthetic=True)
    lines = text.splitlines()
    assert lines[0] == "[SYNTHETIC] A = new, B = old, 75/25; sd: over the seeds of a split, pooled"
    assert lines[1].split() == ["mAP,", "%", "A", "B", "A", "-", "B", "sd", "of", "A", "sd", "of", "B", "trainings"]
    assert lines[3].split() == ["split", "0", "42.00", "39.00", "+3.00", "2.83", "1.41", "2"]
    assert lines[7].split() == ["mean", "41.00", "36.33", "+4.67", "2.45", "2.45", "6"]
    assert "A - B = +4.67, 6 pairs (split, held-out choice, seed)." in text
    assert "Trained again on these splits: " in text
    assert "excludes 0 (75 % at best with 3 splits; splits drawn, then seeds)." in text
    assert max(map(len, lines)) <= 110
    single = comparison_text(compare(runs({0: [30]}), runs({0: [31]})), a="a", b="b", synthetic=False)
    assert not single.startswith("[")
    assert "No interval over trainings: it takes two seeds at least (seed=0,1,2,3,4)." in single
    assert "No interval over splits: it takes two at least (split.index=0,1,2)." in single
