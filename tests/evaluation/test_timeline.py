"""The picture is looked at by people; here: that every part is drawn where it belongs."""

import numpy as np
import pytest
from PIL import Image

from psftr.data.annotations import Action
from psftr.evaluation import timeline
from psftr.evaluation.figures import COLOURS
from psftr.evaluation.timeline import draw_timeline
from psftr.predictions import Detection


def found(label, start, end, score):
    return Detection("v", label, start, end, score)


@pytest.fixture
def figures(monkeypatch):
    """The figures drawn, as matplotlib knows them."""
    made = []
    original = timeline.Figure

    def keep(*args, **kwargs):
        made.append(original(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(timeline, "Figure", keep)
    return made


def bars(axes):
    return [(round(p.get_x(), 2), round(p.get_x() + p.get_width(), 2), round(p.get_y() + 0.4)) for p in axes.patches]


def test_every_part_of_the_picture(tmp_path, figures):
    frames = [np.full((90, 160, 3), 40 * k, dtype=np.uint8) for k in range(1, 5)]
    seconds = np.arange(10) + 0.5
    path = draw_timeline(
        tmp_path / "new" / "v.png",
        title="v",
        duration_s=10.0,
        detections=[found("run", 1, 4, 0.9), found("run", 3, 6, 0.5), found("jump", 7, 8, 0.2)],
        ground_truth=[Action(1, 5, "run")],
        curves={"run": (seconds, seconds / 10), "jump": (seconds, 1 - seconds / 10)},
        curve_title="probability",
        frames=frames,
    )
    assert Image.open(path).width > 1000
    strip, curves, run, jump = figures[0].axes
    assert [image.get_extent()[0] for image in strip.images] == [0, 2.5, 5, 7.5]
    assert [line.get_color() for line in curves.lines] == [COLOURS[0], COLOURS[1]]
    assert curves.get_ylabel() == "probability"
    # row 0: ground truth; the second detection overlaps the first, so it takes a lane of its own
    assert bars(run) == [(1, 5, 0), (1, 4, 1), (3, 6, 2)]
    assert bars(jump) == [(7, 8, 0)]
    assert [axes.get_yticklabels()[0].get_text() for axes in (run, jump)] == ["run", "jump"]
    assert all(axes.get_xlim() == (0, 10) for axes in (curves, run, jump))


def test_without_video_and_features_there_are_segments_only(tmp_path, figures):
    draw_timeline(tmp_path / "v.png", title="v", duration_s=5, detections=[found("run", 1, 7, 0.9)])
    (row,) = figures[0].axes
    assert bars(row) == [(1, 7, 0)]
    assert row.get_xlim() == (0, 7)  # a segment past the end of the video is not cut off


def test_nothing_found(tmp_path, figures):
    draw_timeline(tmp_path / "v.png", title="v", duration_s=5, detections=[])
    assert [text.get_text() for text in figures[0].axes[0].texts] == ["nothing found"]


def test_labels_left_out_are_counted(tmp_path, figures):
    rows = [found(f"label {k}", k, k + 1, 1 - k / 20) for k in range(12)]
    truth = [Action(0, 1, "label 11")]
    draw_timeline(tmp_path / "v.png", title="many", duration_s=20, detections=rows, ground_truth=truth, most_labels=3)
    names = [axes.get_yticklabels()[0].get_text() for axes in figures[0].axes]
    assert names == ["label 11", "label 0", "label 1"]
    assert "9 more labels not drawn" in figures[0].get_suptitle()


def test_frames_are_cropped_not_squeezed():
    wide = np.zeros((100, 200, 3), dtype=np.uint8)
    assert timeline._cropped(wide, 1.0).shape == (100, 100, 3)
    assert timeline._cropped(wide, 4.0).shape == (50, 200, 3)


@pytest.mark.parametrize(
    ("duration_s", "ticks"),
    [
        (10.0, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10"]),
        (27.77, ["0", "2", "4", "6", "8", "10", "12", "14", "16", "18", "20", "22", "24", "26"]),
        (200.0, ["0:00", "0:15", "0:30", "0:45", "1:00", "1:15", "1:30", "1:45", "2:00", "2:15", "2:30", "2:45", "3:00",
                 "3:15"]),
        (9000.0, ["0:00:00", "0:15:00", "0:30:00", "0:45:00", "1:00:00", "1:15:00", "1:30:00", "1:45:00", "2:00:00",
                  "2:15:00", "2:30:00"]),
    ],
)  # fmt: skip
def test_ticks_are_round(tmp_path, figures, duration_s, ticks):
    draw_timeline(tmp_path / "v.png", title="v", duration_s=duration_s, detections=[found("run", 1, 2, 0.9)])
    assert [label.get_text() for label in figures[0].axes[-1].get_xticklabels()] == ticks


def test_a_short_action_of_a_long_video_is_two_pixels_wide(tmp_path, figures):
    path = draw_timeline(
        tmp_path / "v.png",
        title="v",
        duration_s=9000,
        detections=[found("run", 100, 100.1, 0.9), found("run", 8999.9, 9000, 0.9)],
        ground_truth=[Action(50, 50.1, "run")],
    )
    (row,) = figures[0].axes
    width_px = Image.open(path).width * row.get_position().width
    for bar in row.patches:
        assert bar.get_width() / 9000 * width_px >= 2
        assert bar.get_x() + bar.get_width() <= 9000


def test_every_searched_label_has_a_row(tmp_path, figures):
    draw_timeline(
        tmp_path / "v.png", title="v", duration_s=5, detections=[found("run", 1, 2, 0.9)], searched=["jump", "run"]
    )
    run, jump = figures[0].axes
    assert [axes.get_yticklabels()[0].get_text() for axes in (run, jump)] == ["run", "jump"]
    assert [text.get_text() for text in jump.texts] == ["nothing found"]
