"""Cases small enough to check by hand. Videos last 100 s; classes are "a" and "b"."""

import math

import numpy as np
import pytest

from psftr.data.annotations import Action
from psftr.evaluation.average_precision import average_precision, match_detections
from psftr.evaluation.curves import precision_at_recalls, reliability
from psftr.evaluation.error_analysis import (
    BACKGROUND,
    CONFUSION,
    DOUBLE,
    LOCALIZATION,
    NOT_COUNTED,
    TRUE_POSITIVE,
    WRONG_LABEL,
    Characteristic,
    analyse_errors,
    best_overlaps,
    characteristics_for,
    classify,
    confusion,
    normalized_map,
    profile,
)
from psftr.predictions import Detection, group_by_video

TRUTH = {"v": [Action(0, 10, "a"), Action(20, 30, "b")], "w": [Action(0, 10, "a")]}


def matched(*rows, truth=TRUTH, tious=(0.5,), ignored=None, classes=("a", "b")):
    """rows: (video, label, start, end, score)."""
    found = group_by_video([Detection(*row) for row in rows])
    return match_detections(truth, found, classes=classes, tious=tious, ignored=ignored)


def types_of(matches, tiou_index=0):
    types = classify(matches, *best_overlaps(matches))[:, tiou_index]
    return dict(zip(matches.scores.tolist(), types.tolist()))


def test_each_type_of_false_positive():
    matches = matched(
        ("v", "a", 0, 10, 0.9),  # the action itself
        ("v", "a", 0, 8, 0.8),  # tIoU 0.8 with the same action, which is taken
        ("v", "b", 1, 10, 0.7),  # tIoU 0.9 with an action of a
        ("v", "b", 20, 24, 0.6),  # tIoU 0.4
        ("v", "a", 20, 24, 0.5),  # tIoU 0.4 with an action of b
        ("v", "a", 50, 60, 0.4),  # nothing there
        ("v", "b", 29.5, 39.5, 0.3),  # tIoU 0.5 / 19.5 = 0.026
    )
    assert types_of(matches) == {
        0.9: TRUE_POSITIVE, 0.8: DOUBLE, 0.7: WRONG_LABEL, 0.6: LOCALIZATION, 0.5: CONFUSION, 0.4: BACKGROUND,
        0.3: BACKGROUND,
    }  # fmt: skip


def test_a_lower_threshold_forgives_the_localization():
    matches = matched(("v", "b", 20, 24, 0.6), tious=(0.3, 0.5))
    assert types_of(matches, 0) == {0.6: TRUE_POSITIVE}
    assert types_of(matches, 1) == {0.6: LOCALIZATION}


def test_the_instance_with_most_overlap_decides_and_its_own_label_wins_a_tie():
    both = {"v": [Action(0, 10, "a"), Action(0, 10, "b"), Action(2, 10, "b")]}
    matches = matched(("v", "a", 0, 10, 0.9), ("v", "a", 0, 10, 0.8), ("v", "a", 2, 10, 0.7), truth=both)
    # 0.8: tIoU 1 with a and with b; 0.7: tIoU 0.8 with a, 1 with the shorter b
    assert types_of(matches) == {0.9: TRUE_POSITIVE, 0.8: DOUBLE, 0.7: WRONG_LABEL}


def test_ignored_detections_have_no_type():
    matches = matched(("v", "a", 50, 60, 0.4), ignored={"v": [Action(50, 60, "Ambiguous")]})
    assert types_of(matches) == {0.4: NOT_COUNTED}


def test_profile_groups_detections_by_multiples_of_the_instances():
    # class a has G = 2: ranks 0, 1 -> group 0, ranks 2, 3 -> group 1; class b has G = 1 and one detection
    matches = matched(
        ("v", "a", 0, 10, 0.9),
        ("v", "a", 50, 60, 0.8),
        ("w", "a", 0, 10, 0.7),
        ("v", "a", 0, 9, 0.6),
        ("v", "b", 20, 30, 0.5),
    )
    counts = profile(matches, classify(matches, *best_overlaps(matches))[:, 0])
    assert counts[0].tolist() == [2, 0, 0, 0, 0, 1]  # 0.9 and b's 0.5; 0.8 in the background
    assert counts[1].tolist() == [1, 1, 0, 0, 0, 0]
    assert counts[2:].sum() == 0


def test_profile_stops_at_ten_times_the_instances():
    rows = [("v", "b", 50, 60, 1 - k / 100) for k in range(15)]
    counts = profile(matched(*rows), np.full(15, BACKGROUND))
    assert counts[:, BACKGROUND].tolist() == [1] * 10


def test_gain_is_the_map_without_that_kind_of_error():
    matches = matched(("v", "a", 50, 60, 0.9), ("v", "a", 0, 10, 0.8), ("v", "a", 0, 9, 0.7), ("w", "a", 0, 10, 0.6),
                      ("v", "b", 20, 30, 0.5))  # fmt: skip
    # a: FP TP FP TP -> interpolated precision 1/2 and 1/2, AP 0.5; b: AP 1; mAP 0.75
    assert average_precision(matches).average == pytest.approx(0.75)
    found = analyse_errors(matches, durations_s={}, characteristics=(), tiou=0.5)
    # without the background error: TP FP TP -> (1 + 2/3) / 2; without the double detection: FP TP TP -> (2/3 + 2/3) / 2
    assert found.gains["background"] == pytest.approx((5 / 6 + 1) / 2 - 0.75)
    assert found.gains["double detection"] == pytest.approx((2 / 3 + 1) / 2 - 0.75)
    assert found.gains["wrong label"] == found.gains["localization"] == found.gains["confusion"] == 0


def test_matches_say_which_instance_is_taken():
    truth = {"v": [Action(0, 10, "a"), Action(6, 16, "a")]}
    # 0.9 has tIoU 0.9 with the first; 0.8 (tIoU 9/11 with the first, which is taken; 5/15 with the second)
    matches = matched(("v", "a", 0, 9, 0.9), ("v", "a", 1, 11, 0.8), truth=truth, tious=(0.3, 0.5))
    assert matches.taken.tolist() == [[0, 0], [1, -1]]


def test_normalized_precision_counts_every_class_as_equally_frequent():
    # a has 3 instances, b 1: N = 2. One false positive above the only true positive of b:
    # recall 1, precision 1*2 / (1*2 + 1) = 2/3 where plain AP has 1/2.
    truth = {"v": [Action(0, 10, "a"), Action(20, 30, "b"), Action(40, 50, "a"), Action(60, 70, "a")]}
    matches = matched(("v", "b", 80, 90, 0.9), ("v", "b", 20, 30, 0.8), truth=truth)
    only_b = matches.truth_class == 1
    assert normalized_map(matches, only_b) == pytest.approx(2 / 3)


def test_a_bucket_leaves_out_detections_of_other_buckets_but_keeps_errors():
    truth = {"v": [Action(0, 2, "a"), Action(20, 30, "a")]}
    matches = matched(("v", "a", 20, 30, 0.9), ("v", "a", 60, 70, 0.8), ("v", "a", 0, 2, 0.7), truth=truth,
                      classes=("a",))  # fmt: skip
    length = Characteristic("length", "s", (0, 3, 6, 12, 18, math.inf))
    found = analyse_errors(matches, durations_s={}, characteristics=(length,), tiou=0.5)
    by_name = {bucket.name: bucket for bucket in found.buckets}
    # short: FP TP with N = 2: 2 / (2 + 1); long: TP at once
    assert by_name["XS"].map_n == pytest.approx(2 / 3)
    assert by_name["M"].map_n == 1
    assert (by_name["XS"].count, by_name["S"].count, by_name["M"].count) == (1, 0, 1)
    assert math.isnan(by_name["S"].map_n)
    assert math.isnan(by_name["S"].missed)


def test_misses_by_bucket():
    matches = matched(("v", "a", 0, 10, 0.9))
    number = characteristics_for("custom")[2]
    found = analyse_errors(matches, durations_s={}, characteristics=(number,), tiou=0.5)
    assert found.missed == pytest.approx(2 / 3)
    assert found.buckets[0].missed == pytest.approx(2 / 3)
    assert found.buckets[0].count == 3


def test_coverage_needs_the_length_of_the_video():
    coverage = Characteristic("coverage", "of the video", (0, 0.2, 0.4, 0.6, 0.8, 1))
    matches = matched()
    known = analyse_errors(matches, durations_s={"v": 50, "w": 8}, characteristics=(coverage,), tiou=0.5)
    # 10 of 50 s twice; 10 of 8 s runs past the end and counts as all of it
    assert [bucket.count for bucket in known.buckets] == [2, 0, 0, 0, 1]
    unknown = analyse_errors(matches, durations_s={}, characteristics=(coverage,), tiou=0.5)
    assert sum(bucket.count for bucket in unknown.buckets) == 0


def test_bucket_ranges_in_words():
    length, coverage, number = characteristics_for("thumos14")
    assert [length.range_text(i) for i in (0, 4)] == ["0 to 3 s", "over 18 s"]
    assert coverage.range_text(1) == "0.02 to 0.04 of the video"
    assert [number.range_text(i) for i in range(4)] == ["1", "2 to 40", "41 to 80", "81 or more"]


def test_confusion_takes_the_best_scored_detection_of_an_instance():
    matches = matched(("v", "a", 0, 10, 0.5), ("v", "b", 0, 9, 0.6), ("v", "b", 20, 29, 0.4))
    # v's a is called b (0.6 > 0.5), v's b is called b, w's a is found by nobody
    assert confusion(matches, 0.5).tolist() == [[0, 1, 1], [0, 1, 0]]


def test_precision_at_recalls():
    matches = matched(("v", "a", 0, 10, 0.9), ("v", "a", 50, 60, 0.8), ("w", "a", 0, 10, 0.7))
    # after TP, FP, TP: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1
    values = precision_at_recalls(matches, 0, 0, np.array([0, 0.5, 0.75, 1]))
    assert values.tolist() == pytest.approx([1, 1, 2 / 3, 2 / 3])
    assert precision_at_recalls(matches, 1, 0).sum() == 0


def test_reliability():
    matches = matched(("v", "a", 0, 10, 0.9), ("w", "a", 0, 10, 0.7), ("v", "a", 50, 60, 0.3), ("v", "b", 50, 60, 0.1))
    found = reliability(matches, 0, bins=2)
    assert found.scores.tolist() == pytest.approx([0.2, 0.8])
    assert found.precision.tolist() == [0, 1]
    assert found.error == pytest.approx(0.2)
    assert found.count == 4
    assert reliability(matched(("v", "a", 0, 10, 7.0)), 0).is_probability is False
    assert math.isnan(reliability(matched(), 0).error)


def test_on_real_detections(shared_data):
    """FreeZAD's published THUMOS14 detections: the parts add up, and taking out all errors leaves recall."""
    from psftr.data.annotations import read_annotations
    from psftr.predictions import read_predictions

    truth = {
        v.video_id: v.actions
        for v in read_annotations(shared_data / "oracle/freezad_thumos14_75_25_split0_gt.csv").videos.values()
    }
    found = read_predictions(shared_data / "oracle/freezad_thumos14_75_25_split0_pred.csv").detections
    classes = sorted({a.label for actions in truth.values() for a in actions})
    matches = match_detections(truth, found, classes=classes, tious=(0.3, 0.4, 0.5, 0.6, 0.7))
    assert average_precision(matches).average == pytest.approx(0.1398, abs=1e-4)
    analysis = analyse_errors(matches, durations_s={}, characteristics=characteristics_for("thumos14"), tiou=0.5)
    number = sum(map(len, truth.values()))
    assert analysis.confusion.sum() == number
    assert sum(b.count for b in analysis.buckets if b.characteristic == "length") == number
    assert all(gain >= 0 for gain in analysis.gains.values())
    assert (matches.is_found.sum(axis=0) == matches.is_true.sum(axis=0)).all()
    assert analysis.profile[:, TRUE_POSITIVE].sum() <= matches.is_true[:, 2].sum()
