from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate
from windowing import policy

from psftr.data.annotations import Action
from psftr.data.windows import (
    Window,
    action_rows,
    rescaled_window,
    sliding_windows,
    window_rows,
    window_targets,
)
from psftr.errors import PsftrError
from psftr.segments import Timeline


def timeline(num_steps, *, stride=8, fps=16.0):
    """Rows of half a second unless told otherwise."""
    return Timeline(stride, fps, num_steps, num_steps * stride / fps)


def cut(num_steps, **how):
    windows = sliding_windows(timeline(num_steps), "v", **{"size": 8, "hop": 6, **how})
    return [(w.offset, w.num_valid) for w in windows]


def test_a_row_is_its_frames():
    assert timeline(9).seconds(3) == 1.5  # row 3 covers frames 24 to 31 of 16 a second
    assert timeline(9).position(1.5) == 3


@pytest.mark.parametrize(
    ("num_steps", "training", "inference"),
    [
        (5, [(0, 5)], [(0, 5)]),
        (8, [(0, 8)], [(0, 8)]),
        (14, [(0, 8), (6, 8)], [(0, 8), (6, 8)]),
        (15, [(0, 8), (6, 8), (7, 8)], [(0, 8), (6, 8), (12, 3)]),
        (9, [(0, 8), (1, 8)], [(0, 8), (6, 3)]),
    ],
)
def test_the_last_window_is_moved_left_in_training_and_short_in_inference(num_steps, training, inference):
    assert cut(num_steps, complete_last=True) == training
    assert cut(num_steps, complete_last=False) == inference


@pytest.mark.parametrize("size", [16, 128])
@pytest.mark.parametrize("num_steps", range(1, 300, 7))
def test_windows_cover_every_row(num_steps, size):
    windows = policy(size=size).windows
    for training in (True, False):
        rows = [
            row
            for w in windows("v", timeline(num_steps), training=training)
            for row in range(int(w.offset), int(w.offset) + w.num_valid)
        ]
        assert set(rows) == set(range(num_steps))


@pytest.mark.parametrize(
    "window",
    [
        Window("v", Timeline(8, 29.97002997002997, 1000, 267.0), 96.0, 128.0, 128, 128),
        Window("v", Timeline(8, 29.97002997002997, 1000, 267.0), 960.0, 40.0, 40, 128),
        rescaled_window(Timeline(16, 25.0, 77, 50.0), "v", size=300),
        rescaled_window(Timeline(16, 23.976, 3111, 2075.0), "v", size=300),
    ],
)
def test_seconds_to_normalised_and_back(window):
    seconds = np.random.default_rng(0).uniform(window.start_s, window.end_s, (50, 2))
    np.testing.assert_allclose(window.to_seconds(window.to_normalised(seconds)), seconds, rtol=0, atol=1e-9)
    torch.testing.assert_close(
        window.to_seconds(window.to_normalised(torch.from_numpy(seconds))), torch.from_numpy(seconds), rtol=0, atol=1e-9
    )
    assert window.to_normalised(window.start_s) == 0
    assert window.to_normalised(window.end_s) == pytest.approx(window.num_valid / window.size, abs=1e-12)
    assert window.to_seconds(torch.zeros(3, 2)).dtype == torch.float32


def test_normalised_runs_over_padding_too():
    short = Window("v", timeline(15), 12.0, 3.0, 3, 8)
    assert short.to_seconds(0.0) == 6.0
    assert short.to_seconds(3 / 8) == short.end_s == 7.5
    assert short.to_seconds(1.0) == 10.0


def test_rescaling_interpolates_between_row_centres():
    features = np.array([[0.0], [4.0]])
    window = rescaled_window(timeline(2), "v", size=4)
    # new centres at store positions .25 .75 1.25 1.75, old ones at .5 and 1.5
    assert window_rows(features, window).ravel().tolist() == [0.0, 1.0, 3.0, 4.0]
    many = np.random.default_rng(0).normal(size=(37, 5)).astype(np.float32)
    for size in (11, 37, 100):
        ours = window_rows(many, rescaled_window(timeline(37), "v", size=size))
        torchs = interpolate(torch.from_numpy(many).T[None], size=size, mode="linear", align_corners=False)[0].T
        np.testing.assert_allclose(ours, torchs, atol=1e-5)


def test_a_row_of_a_rescaled_window_shows_what_its_seconds_show():
    """Features that say their own time: row i must hold the time of its centre."""
    line = timeline(50)
    times = ((np.arange(50) + 0.5) * line.step_s)[:, None]
    for window in (
        rescaled_window(line, "v", size=80),
        *sliding_windows(line, "v", size=16, hop=12, complete_last=False),
    ):
        rows = window_rows(times, window)[: window.num_valid, 0]
        centres_s = window.to_seconds((np.arange(window.num_valid) + 0.5) / window.size)
        inside = (centres_s >= times[0]) & (centres_s <= times[-1])
        np.testing.assert_allclose(rows[inside], centres_s[inside], atol=1e-5)


def test_padding_is_zero_and_part_of_a_video_is_enough():
    features = np.arange(1.0, 16.0)[:, None]
    window = Window("v", timeline(15), 12.0, 3.0, 3, 8)
    assert window_rows(features, window).ravel().tolist() == [13, 14, 15, 0, 0, 0, 0, 0]
    np.testing.assert_array_equal(window_rows(features[12:15], window, first_row=12), window_rows(features, window))


def test_three_quarters_inside_make_a_target_cropped_to_the_window():
    window = sliding_windows(timeline(100), "v", size=8, hop=6, complete_last=True)[0]  # 0 to 4 s
    exact, less, all_of_it = Action(1.0, 5.0, "a"), Action(0.9, 5.1, "b"), Action(1.0, 3.0, "c")
    found = window_targets([exact, less, all_of_it], window, min_inside=0.75)
    assert found == [(exact, (0.25, 1.0)), (all_of_it, (0.25, 0.75))]
    assert window_targets([exact], window, min_inside=0.75, rows_short=1) == []  # 0 to 3.5 s holds 62.5 %
    assert window_targets([Action(4.0, 5.0, "a")], window, min_inside=0.0) == []


def test_rows_of_a_cropped_action_are_action_even_where_it_is_no_target():
    window = sliding_windows(timeline(100), "v", size=8, hop=6, complete_last=True)[0]
    action = Action(3.2, 9.0, "a")  # centres .25 .75 … 3.75 s
    assert window_targets([action], window, min_inside=0.75) == []
    assert action_rows([action], window).tolist() == [False] * 6 + [True] * 2
    assert action_rows([Action(0.25, 0.75, "a")], window).tolist() == [True] + [False] * 7
    short = Window("v", timeline(15), 12.0, 3.0, 3, 8)
    assert action_rows([Action(0.0, 99.0, "a")], short).tolist() == [True] * 3 + [False] * 5


def test_short_actions_are_no_training_targets_and_stay_in_the_test():
    rescale, line = policy(mode="rescale", size=4, min_action_s=1.0), timeline(20)
    actions = (Action(1.0, 2.0, "one second"), Action(3.0, 4.1, "more"))
    assert [a.label for a in rescale.long_enough(actions, line, training=True)] == ["more"]
    assert rescale.long_enough(actions, line, training=False) == actions
    assert [a.label for a, _ in rescale.targets(actions, rescaled_window(line, "v", size=4))] == ["more"]


def test_the_peers_rules_are_those_of_as_peer_only():
    ours = policy()
    assert (ours.peer_rows_short, ours.peer_min_action_rows, ours.peer_filters_test) == (0, 0, False)
    actions = (Action(1.0, 1.5, "one row"), Action(3.0, 4.0, "two rows"))
    kept = ours.as_peer().long_enough(actions, timeline(20), training=False)
    assert [a.label for a in kept] == ["two rows"]
    rescaled = policy(mode="rescale", min_action_s=0.5).as_peer()
    assert [a.label for a in rescaled.long_enough(actions, timeline(20), training=False)] == ["two rows"]
    past = Action(9.0, 19.0, "mostly past the features")
    assert replace(ours, test_overlap=0.5).as_peer().test_overlap == 0.25  # theirs, whatever ours is
    assert [a for a, _ in rescaled.targets((past,), rescaled_window(timeline(20), "v", size=4))] == [past]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mode": "scale"}, "slide, rescale, got 'scale'"),
        ({"size": 0}, "at least 1 row, got 0"),
        ({"train_overlap": 1.0}, r"train_overlap must be in \[0, 1\).*got 1.0"),
        ({"size": 4, "test_overlap": 0.9}, "test_overlap must .*got 0.9"),
        ({"min_inside": 2.0}, "got 2.0 and 0.0"),
    ],
)
def test_impossible_policies_are_refused(wrong, message):
    with pytest.raises(PsftrError, match=message):
        policy(**wrong)
