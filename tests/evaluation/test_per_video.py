"""The CASCADE paper's way of scoring, by hand: each video for itself, no ranking, no price for absent classes."""

import pytest

from psftr.data.annotations import Action
from psftr.evaluation.paper import PER_VIDEO_ROWS
from psftr.evaluation.per_video import PerVideoAp, per_video_ap, per_video_text
from psftr.evaluation.rules import protocol_for
from psftr.predictions import Detection


def test_each_video_by_itself_without_scores():
    truth = {
        "a": [Action(0, 10, "jump"), Action(20, 30, "jump")],
        "b": [Action(0, 10, "jump"), Action(0, 10, "dive")],
        "c": [],
    }
    detections = {
        # best scores first they are wrong, wrong, right, right; in order of time right, wrong, wrong, right
        "a": [
            Detection("a", "jump", 12, 14, 0.9),
            Detection("a", "jump", 12, 18, 0.5),
            Detection("a", "jump", 20, 30, 0.1),
            Detection("a", "jump", 0, 10, 0.01),
        ],
        "b": [Detection("b", "jump", 0, 10, 0.2), Detection("b", "run", 0, 10, 1.0)],
        "c": [Detection("c", "jump", 0, 10, 1.0)],
    }
    found = per_video_ap(truth, detections, tious=(0.5, 0.75))
    # a: precision 1 and 2/4 at its two actions; b: jump 1, dive 0; c has nothing to find
    assert found.num_videos == 2
    assert found.per_tiou == pytest.approx((0.625, 0.625))
    assert found.average == pytest.approx(((1 + 0.5) / 2 + (1 + 0) / 2) / 2)


def test_the_table_says_it_is_not_comparable_and_prints_the_paper_beside_real_videos_only():
    result = {"cascade": PerVideoAp((0.3, 0.4, 0.5, 0.6, 0.7), (0.5, 0.4, 0.3, 0.2, 0.1), 7)}
    protocol = protocol_for("thumos14")
    text = per_video_text(result, protocol=protocol, synthetic=False, ratio=75)
    assert "NOT COMPARABLE" in text
    assert "CASCADE-LLaVA (CASCADE paper)  23.80  17.90  14.00   7.60   5.10  13.70" in text
    assert "CASCADE-LLaVA" not in per_video_text(result, protocol=protocol, synthetic=False, ratio=50)
    marked = per_video_text(result, protocol=protocol, synthetic=True, ratio=75)
    assert marked.startswith("[SYNTHETIC]")
    assert "CASCADE-LLaVA" not in marked


def test_printed_averages_are_the_means_of_their_rows_but_for_rounding():
    for row in PER_VIDEO_ROWS:
        assert sum(row.per_tiou.values()) / len(row.per_tiou) == pytest.approx(row.average, abs=0.11)
