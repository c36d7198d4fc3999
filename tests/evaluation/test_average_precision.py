import csv
import json
import random
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from psftr.data.annotations import Action
from psftr.errors import PsftrError
from psftr.evaluation.average_precision import average_precision, evaluate_detections, match_detections
from psftr.predictions import Detection, canonical_id, group_by_video, read_predictions

FIVE = (0.3, 0.4, 0.5, 0.6, 0.7)
TEN = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))


def action(start_s: float, end_s: float, label: str = "a") -> Action:
    return Action(start_s=start_s, end_s=end_s, label=label)


def found(start_s: float, end_s: float, score: float, label: str = "a", video_id: str = "v") -> Detection:
    return Detection(video_id, label, start_s, end_s, score)


def ap_of(truth, detections, *, tious=(0.5,), ignored=None) -> list[float]:
    """AP per tIoU of class "a" in one video "v"."""
    result = evaluate_detections(
        {"v": truth}, {"v": detections}, classes=["a"], tious=tious, ignored={"v": ignored or []}
    )
    return result.ap[0].tolist()


# ---- cases worked out by hand


def test_one_right_detection_is_perfect():
    assert ap_of([action(0, 10)], [found(0, 10, 0.1)]) == [1.0]


def test_half_of_the_truth_found_is_half():
    assert ap_of([action(0, 10), action(20, 30)], [found(0, 10, 0.9)]) == [0.5]


def test_a_better_scored_miss_halves_precision():
    # ranks: false, true -> precision 0, 1/2
    assert ap_of([action(0, 10)], [found(50, 60, 0.9), found(0, 10, 0.8)]) == [0.5]


def test_a_worse_scored_miss_costs_nothing():
    assert ap_of([action(0, 10)], [found(50, 60, 0.1), found(0, 10, 0.8)]) == [1.0]


def test_the_second_detection_of_the_same_instance_is_false():
    # ranks: true, false (double), true -> precision 1, 1/2, 2/3; recall rises at ranks 1 and 3
    truth = [action(0, 10), action(20, 30)]
    assert ap_of(truth, [found(0, 10, 0.9), found(0, 9, 0.8), found(20, 30, 0.7)]) == [(1 + 2 / 3) / 2]


def test_interpolation_takes_the_best_later_precision():
    # ranks: true, false, false, true, true -> precision 1, 1/2, 1/3, 2/4, 3/5; interpolated at ranks 4, 5:
    # 3/5
    truth = [action(0, 10), action(20, 30), action(40, 50)]
    detections = [
        found(0, 10, 0.9),
        found(60, 70, 0.8),
        found(80, 90, 0.7),
        found(20, 30, 0.6),
        found(40, 50, 0.5),
    ]
    assert ap_of(truth, detections) == [pytest.approx((1 + 0.6 + 0.6) / 3)]


def test_a_tiou_equal_to_the_threshold_counts():
    # [0, 10] with [0, 5]: tIoU exactly 0.5
    assert ap_of([action(0, 10)], [found(0, 5, 1.0)], tious=(0.4, 0.5, 0.6)) == [1.0, 1.0, 0.0]


def test_a_detection_falls_through_to_the_next_best_free_instance():
    # Both detections overlap both instances by at least 0.3; the first takes [0, 10] (tIoU 1), the second
    # prefers [0, 10] too (10/12 = .83) but takes [4, 14] (8/14 = .57), which the toolkit allows up to .5.
    truth = [action(0, 10), action(4, 14)]
    detections = [found(0, 10, 0.9), found(0, 12, 0.8)]
    assert ap_of(truth, detections, tious=(0.3, 0.5, 0.6)) == [1.0, 1.0, 0.5]


def test_what_is_free_depends_on_the_threshold():
    # First: [0, 20] meets [0, 10] at .5 only. Second: [0, 10] exactly. At .5 the first takes it; at .6 the
    # second.
    truth = [action(0, 10)]
    assert ap_of(truth, [found(0, 20, 0.9), found(0, 10, 0.8)], tious=(0.5, 0.6)) == [1.0, 0.5]


def test_classes_and_videos_do_not_mix():
    truth = {"v": [action(0, 10, "a")], "w": [action(0, 10, "b")]}
    detections = {
        "v": [found(0, 10, 0.9, "b"), found(0, 10, 0.8, "a")],
        "w": [found(0, 10, 0.5, "a", "w"), found(0, 10, 0.4, "b", "w")],
    }
    result = evaluate_detections(truth, detections, classes=["a", "b"], tious=(0.5,))
    # a: true at rank 1 (0.8), false at rank 2. b: false at rank 1 (0.9), true at rank 2.
    assert result.ap.tolist() == [[1.0], [0.5]]
    assert result.average == 0.75
    assert result.ap_per_class == {"a": 1.0, "b": 0.5}
    assert result.num_ground_truth.tolist() == [1, 1]
    assert result.num_detections.tolist() == [2, 2]


def test_a_class_without_truth_is_not_a_number_and_not_in_the_mean():
    result = evaluate_detections(
        {"v": [action(0, 10)]}, {"v": [found(0, 10, 1.0), found(0, 1, 1.0, "b")]}, classes=["a", "b"], tious=(0.5,)
    )
    assert np.isnan(result.ap[1, 0])
    assert result.average == 1.0
    assert result.ap_per_class == {"a": 1.0}


def test_without_detections_ap_is_zero():
    assert ap_of([action(0, 10)], []) == [0.0]
    assert evaluate_detections({"v": [action(0, 1)]}, {}, classes=["a"], tious=(0.5,)).average == 0.0


def test_a_zero_length_detection_is_false():
    assert ap_of([action(5, 5), action(0, 10)], [found(5, 5, 0.9)]) == [0.0]


def test_other_labels_are_left_out():
    assert ap_of([action(0, 10), action(0, 10, "x")], [found(0, 10, 0.5), found(3, 4, 0.9, "x")]) == [1.0]


# ---- ignored instances


def test_a_miss_on_an_ambiguous_stretch_does_not_count():
    ambiguous = [action(48, 55, "Ambiguous")]
    detections = [found(50, 60, 0.9), found(0, 10, 0.8)]
    assert ap_of([action(0, 10)], detections) == [0.5]
    assert ap_of([action(0, 10)], detections, ignored=ambiguous) == [1.0]


def test_touching_an_ambiguous_stretch_without_sharing_time_counts():
    detections = [found(50, 60, 0.9), found(0, 10, 0.8)]
    assert ap_of([action(0, 10)], detections, ignored=[action(60, 70, "Ambiguous")]) == [0.5]


def test_a_true_positive_stays_true_on_an_ambiguous_stretch():
    # At .5 [0, 10] takes [0, 20] and counts; at .6 it takes nothing and is ignored, so AP there is 0,
    # recall too.
    truth, ambiguous = [action(0, 20)], [action(5, 8, "Ambiguous")]
    assert ap_of(truth, [found(0, 10, 1.0)], tious=(0.5, 0.6), ignored=ambiguous) == [1.0, 0.0]


def test_an_ignored_instance_of_one_class_concerns_that_class_only():
    truth = {"v": [action(0, 10, "a"), action(0, 10, "b")]}
    detections = {"v": [found(50, 60, 0.9, c) for c in "ab"] + [found(0, 10, 0.8, c) for c in "ab"]}
    result = evaluate_detections(
        truth, detections, classes=["a", "b"], tious=(0.5,), ignored={"v": [action(50, 60, "a")]}
    )
    assert result.ap.tolist() == [[1.0], [0.5]]


# ---- ties and order


def test_equal_scores_are_ordered_by_video_then_time_whatever_the_row_order():
    truth = {"v": [action(0, 10)], "w": [action(0, 10)]}
    rows = [found(0, 10, 0.5, video_id="w"), found(30, 40, 0.5, video_id="v"), found(0, 10, 0.5, video_id="v")]
    # v 0-10 true, v 30-40 false, w 0-10 true -> precision 1, 1/2, 2/3
    for seed in range(6):
        shuffled = random.Random(seed).sample(rows, len(rows))
        result = evaluate_detections(truth, group_by_video(shuffled), classes=["a"], tious=(0.5,))
        assert result.average == pytest.approx((1 + 2 / 3) / 2)


def test_matches_tell_what_was_found_and_the_curve():
    truth = {"v": [action(0, 10), action(20, 30), action(40, 50)]}
    rows = {"v": [found(20, 30, 0.9), found(60, 70, 0.8), found(0, 10, 0.7)]}
    matches = match_detections(truth, rows, classes=["a"], tious=(0.5,))
    assert matches.is_true[:, 0].tolist() == [True, False, True]
    assert matches.is_found[:, 0].tolist() == [True, True, False]
    precision, recall, scores = matches.precision_recall(0, 0)
    assert precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3])
    assert recall.tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3])
    assert scores.tolist() == [0.9, 0.8, 0.7]
    assert average_precision(matches).average == pytest.approx((1 + 2 / 3) / 3)


@pytest.mark.parametrize("tious", [(), (0.0,), (0.5, 0.5), (0.5, 0.3), (1.1,), (float("nan"),)])
def test_thresholds_must_rise_within_zero_and_one(tious):
    with pytest.raises(PsftrError, match=r"must rise within \(0, 1\]"):
        evaluate_detections({}, {}, classes=["a"], tious=tious)


def test_repeated_class_names_are_refused():
    with pytest.raises(PsftrError, match="class names given twice: a;"):
        evaluate_detections({}, {}, classes=["a", "b", "a"], tious=(0.5,))


# ---- the slow twin: the toolkit's procedure, one detection, one threshold, one instance at a time


def slow_tiou(a, b) -> float:
    inside = max(0.0, min(a.end_s, b.end_s) - max(a.start_s, b.start_s))
    union = (a.end_s - a.start_s) + (b.end_s - b.start_s) - inside
    return inside / union if union > 0 else 0.0


def slow_ap(truth, detections, label: str, tiou: float, ignored) -> float:
    truth = {v: [a for a in actions if a.label == label] for v, actions in truth.items()}
    num_truth = sum(map(len, truth.values()))
    ranked = [d for rows in detections.values() for d in rows if d.label == label]
    ranked.sort(key=lambda d: (-d.score, d.video_id, d.start_s, d.end_s))
    taken = set()
    outcome = []
    for d in ranked:
        instances = sorted(truth.get(d.video_id, []), key=lambda a: (a.start_s, a.end_s))
        overlaps = [slow_tiou(d, a) for a in instances]
        result = False
        for j in sorted(range(len(instances)), key=lambda j: -overlaps[j]):  # stable: earlier instance first
            if overlaps[j] < tiou:
                break
            if (d.video_id, j) in taken:
                continue
            taken.add((d.video_id, j))
            result = True
            break
        blameless = any(
            (a.label == label or a.label == "Ambiguous") and min(a.end_s, d.end_s) - max(a.start_s, d.start_s) > 0
            for a in ignored.get(d.video_id, [])
        )
        if result or not blameless:
            outcome.append(result)
    precisions, recalls, true = [0.0], [0.0], 0
    for rank, result in enumerate(outcome, 1):
        true += result
        precisions.append(true / rank)
        recalls.append(true / num_truth)
    precisions, recalls = precisions + [0.0], recalls + [1.0]
    for i in reversed(range(len(precisions) - 1)):
        precisions[i] = max(precisions[i], precisions[i + 1])
    return sum((recalls[i] - recalls[i - 1]) * precisions[i] for i in range(1, len(recalls)))


@pytest.mark.parametrize("seed", range(40))
def test_agrees_with_the_slow_twin(seed: int):
    """Crowded random worlds on a grid of half seconds, so that tIoUs and scores tie and touch thresholds
    often."""
    rng = random.Random(seed)
    labels = ["a", "b", "c"]

    def segment() -> tuple[float, float]:
        start_s = rng.randrange(0, 40) / 2
        return start_s, start_s + rng.randrange(0 if seed % 4 == 0 else 1, 16) / 2

    videos = [f"v{i}" for i in range(rng.randrange(1, 5))]
    truth = {v: [action(*segment(), rng.choice(labels)) for _ in range(rng.randrange(0, 9))] for v in videos}
    truth["v0"] = truth["v0"] + [action(1, 4, label) for label in labels]
    detections = {
        v: [found(*segment(), rng.randrange(10) / 10, rng.choice(labels), v) for _ in range(rng.randrange(0, 30))]
        for v in [*videos, "elsewhere"]
    }
    ignored = {}
    if seed % 2:
        ignored = {v: [action(*segment(), rng.choice(["Ambiguous", "a"]))] for v in videos}
    tious = FIVE if seed % 3 else TEN
    result = evaluate_detections(truth, detections, classes=labels, tious=tious, ignored=ignored)
    expected = [[slow_ap(truth, detections, label, t, ignored) for t in tious] for label in labels]
    np.testing.assert_allclose(result.ap, expected, rtol=0, atol=1e-12)


# ---- published figures


def test_published_figures_of_mmaction2(shared_data: Path):
    predictions = read_predictions(shared_data / "oracle" / "mmaction2_result.json")
    truth = {}
    for video_id, video in json.loads((shared_data / "oracle" / "mmaction2_gt.json").read_text()).items():
        truth[canonical_id(video_id)] = [action(*a["segment"], a["label"]) for a in video["annotations"]]
    classes = sorted({a.label for actions in truth.values() for a in actions})
    result = evaluate_detections(truth, predictions.detections, classes=classes, tious=TEN)
    assert result.average == pytest.approx(0.6177579365, abs=1e-9)
    published = [0.7143] * 3 + [0.6875] * 2 + [0.5972] + [0.5208] * 3 + [0.5]
    np.testing.assert_allclose(result.map_per_tiou, published, atol=5e-5)


def test_published_figure_of_freezad(shared_data: Path):
    oracle = shared_data / "oracle"
    predictions = read_predictions(oracle / "freezad_thumos14_75_25_split0_pred.csv")
    truth = defaultdict(list)
    with (oracle / "freezad_thumos14_75_25_split0_gt.csv").open() as file:
        for row in csv.DictReader(file):
            truth[row["video-id"]].append(action(float(row["t-start"]), float(row["t-end"]), row["label"]))
    classes = sorted({a.label for actions in truth.values() for a in actions})
    result = evaluate_detections(truth, predictions.detections, classes=classes, tious=FIVE)
    assert 100 * result.average == pytest.approx(13.98, abs=0.02)


def test_activitynet_validation_takes_seconds(shared_data: Path):
    """All 4,728 videos, 7,293 actions and 200 classes with 100 detections a video: 20 s at most, one core."""
    content = json.loads((shared_data / "activitynet13" / "activity_net.v1-3.subset.json").read_text())
    truth = {
        video_id: [action(*a["segment"], a["label"]) for a in video["annotations"]]
        for video_id, video in content["database"].items()
        if video["subset"] == "validation"
    }
    classes = sorted({a.label for actions in truth.values() for a in actions})
    assert (len(truth), sum(map(len, truth.values())), len(classes)) == (4728, 7293, 200)
    rng = random.Random(0)
    detections = {}
    for video_id, actions in truth.items():
        rows = []
        for _ in range(100):
            a = rng.choice(actions)
            label = a.label if rng.random() < 0.7 else rng.choice(classes)
            start_s = a.start_s + rng.gauss(0, 0.2) * (a.end_s - a.start_s)
            end_s = a.end_s + rng.gauss(0, 0.2) * (a.end_s - a.start_s)
            rows.append(found(start_s, max(start_s, end_s), rng.random(), label, video_id))
        detections[video_id] = rows
    began = time.perf_counter()
    result = evaluate_detections(truth, detections, classes=classes, tious=TEN)
    took_s = time.perf_counter() - began
    print(f"AP of {sum(map(len, detections.values()))} detections: {took_s:.2f} s")
    assert took_s < 20
    assert result.num_ground_truth.sum() == 7293
    assert 0.1 < result.average < 0.9
