import time
from itertools import pairwise

import numpy as np
import pytest
import torch

from psftr.errors import PsftrError
from psftr.features.store import VideoFeatures
from psftr.features.text import TextEmbeddings
from psftr.methods.clip_baseline import (
    BaselineSettings,
    ClipBaseline,
    _groups,
    _mean_of_best,
    _outside_mean,
    _scale_to_unit,
    _smooth,
)
from psftr.predictions import Detection

NAMES = ("high jump", "diving", "billiards")
DIM = 16


def text() -> TextEmbeddings:
    return TextEmbeddings(names=NAMES, embeddings=torch.eye(DIM)[:3], encoder="test", prompt="{}")


def video(labels: list[str | None], *, stride: int = 10, fps: float = 10.0) -> VideoFeatures:
    """One row a second: cosine .30 with the class that happens, .15 with the others, as real CLIP features
    have."""
    rows = np.zeros((len(labels), DIM), dtype=np.float32)
    for row, label in enumerate(labels):
        rows[row, :3] = [0.30 if name == label else 0.15 for name in NAMES]
        rows[row, 3 + row % 5] = np.sqrt(1 - (rows[row] ** 2).sum())
    frames = len(labels) * stride
    return VideoFeatures(
        video_id="v", features=11 * rows, stride=stride, fps=fps, num_frames=frames, duration_s=frames / fps
    )


def localize(one: VideoFeatures, names, **settings) -> tuple[Detection, ...]:
    baseline = ClipBaseline(text=text(), settings=BaselineSettings(**settings))
    return dict(baseline.localize([one], names))[one.video_id]


def test_finds_what_was_planted_in_seconds_of_the_video():
    planted = video([None] * 20 + ["diving"] * 10 + [None] * 20 + ["high jump"] * 6 + [None] * 10)
    found = localize(planted, NAMES)
    best = {d.label: d for d in reversed(found)}
    # between the actions nothing stands out, and whatever is named there scores less
    assert best["billiards"].score < 0.5 * min(best["diving"].score, best["high jump"].score)
    for label, (start_s, end_s) in {"diving": (20, 30), "high jump": (50, 56)}.items():
        assert best[label].start_s == pytest.approx(start_s, abs=1)
        assert best[label].end_s == pytest.approx(end_s, abs=1)
    assert all(a.score >= b.score for a, b in pairwise(found))
    assert all(0 <= d.start_s < d.end_s <= planted.duration_s and d.video_id == "v" for d in found)


def test_time_follows_stride_and_frame_rate():
    labels = [None] * 20 + ["diving"] * 10 + [None] * 20
    slow = localize(video(labels), NAMES, smooth_s=0, gap_s=0)
    fast = localize(video(labels, stride=8, fps=32.0), NAMES, smooth_s=0, gap_s=0)
    assert [(4 * d.start_s, 4 * d.end_s) for d in fast] == [(d.start_s, d.end_s) for d in slow]


def test_the_order_of_names_changes_nothing():
    planted = video([None] * 20 + ["diving"] * 10 + [None] * 20)
    one = sorted((d.label, d.start_s, d.end_s, round(d.score, 9)) for d in localize(planted, NAMES))
    other = sorted((d.label, d.start_s, d.end_s, round(d.score, 9)) for d in localize(planted, NAMES[::-1]))
    assert one == other


def test_a_vocabulary_of_one_name_works():
    planted = video([None] * 20 + ["diving"] * 10 + [None] * 20)
    best = localize(planted, ["diving"])[0]
    assert (best.start_s, best.end_s) == (pytest.approx(20, abs=1), pytest.approx(30, abs=1))


@pytest.mark.parametrize("length", [1, 2, 40])
def test_a_video_of_equal_frames_is_one_segment(length: int):
    same = video(["diving"] * length)
    same.features[:] = same.features[0]
    found = localize(same, NAMES)
    assert [(d.label, d.start_s, d.end_s) for d in found] == [("diving", 0.0, float(length))]


def test_rows_of_zeros_are_harmless():
    empty = video([None] * 10)
    empty.features[:] = 0
    assert all(np.isfinite(d.score) for d in localize(empty, NAMES))


def test_nothing_reaches_past_the_video():
    planted = video([None] * 10 + ["diving"] * 10)
    short = VideoFeatures("v", planted.features, 10, 10.0, 193, 19.3)
    assert max(d.end_s for d in localize(short, NAMES)) == 19.3


def test_soft_nms_lowers_scores_and_keeps_the_best():
    planted = video([None] * 20 + ["diving"] * 10 + [None] * 20 + ["diving"] * 5 + [None] * 5)
    plain = localize(planted, NAMES, soft_nms_sigma=None)
    soft = localize(planted, NAMES, soft_nms_sigma=0.3)
    assert soft[0] == plain[0]
    assert sum(d.score for d in soft) <= sum(d.score for d in plain)
    assert len(localize(planted, NAMES, soft_nms_sigma=None, max_per_video=1)) == 1


def test_mistakes_are_told():
    with pytest.raises(PsftrError, match=r"levels must be at most 1, got 1.5"):
        BaselineSettings(levels=[0.5, 1.5])
    with pytest.raises(PsftrError, match="levels is empty: give at least one threshold"):
        BaselineSettings(levels=[])
    with pytest.raises(PsftrError, match=r"'divng' \(nearest known: 'diving'\)"):
        localize(video([None]), ["divng"])
    wide = VideoFeatures("v", np.ones((4, 99), np.float32), 8, 30.0, 32, 1.0)
    with pytest.raises(PsftrError, match="99 dimensions, class texts of test have 16; use the encoder"):
        localize(wide, NAMES)


def test_groups_join_over_small_gaps():
    above = np.array([0, 1, 1, 0, 1, 0, 0, 0, 1], dtype=bool)
    assert _groups(above, 0) == [(1, 3), (4, 5), (8, 9)]
    assert _groups(above, 1) == [(1, 5), (8, 9)]
    assert _groups(above, 3) == [(1, 9)]
    assert _groups(np.zeros(3, dtype=bool), 1) == []


def test_smoothing_is_shorter_at_the_ends():
    values = np.array([[0.0], [3.0], [6.0], [0.0]])
    assert _smooth(values, 3)[:, 0].tolist() == [1.5, 3.0, 3.0, 3.0]


def test_small_parts():
    assert _mean_of_best(np.array([[1.0], [4.0], [2.0], [3.0]]), share=2).tolist() == [3.5]
    assert _mean_of_best(np.array([[1.0]]), share=8).tolist() == [1.0]
    assert _scale_to_unit(np.array([2.0, 4.0, 3.0])).tolist() == [0.0, 1.0, 0.5]
    # a quarter of 4 rows is 1 on each side; there is no row after the end
    assert _outside_mean(np.array([0.2, 0.4, 9, 9, 9, 9, 0.8]), 2, 6) == pytest.approx(0.6)
    assert _outside_mean(np.array([0.4, 9, 9, 9, 9]), 1, 5) == pytest.approx(0.4)
    assert _outside_mean(np.array([9.0]), 0, 1) == 0.0


def test_a_long_video_with_many_names_takes_milliseconds():
    rng = np.random.default_rng(0)
    many = TextEmbeddings(
        names=tuple(f"class {i}" for i in range(100)),
        embeddings=torch.from_numpy(rng.normal(size=(100, 512)).astype(np.float32)),
        encoder="test",
        prompt="{}",
    )
    long = VideoFeatures("v", rng.normal(size=(800, 512)).astype(np.float32), 8, 30.0, 6400, 213.4)
    baseline = ClipBaseline(text=many, settings=BaselineSettings())
    took_s = []
    for _ in range(3):
        began = time.perf_counter()
        list(baseline.localize([long], many.names))
        took_s.append(time.perf_counter() - began)
    print(f"800 rows, 100 names: {1e3 * min(took_s):.1f} ms")
    assert min(took_s) < 0.1
