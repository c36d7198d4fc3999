"""Points of the pyramid and what they are responsible for, by arithmetic a reader can check by eye."""

import math

import torch

from psftr.data.batches import Target
from psftr.detection.points import Level, assign, make_levels, of_points, of_rows, positions, row_classes
from psftr.segments import start_end_to_centre_width


def target(labels, segments_rows, size):
    segments = torch.tensor(segments_rows, dtype=torch.float32).reshape(-1, 2) / size
    return Target(torch.tensor(labels, dtype=torch.int64), start_end_to_centre_width(segments))


def test_six_levels_have_the_papers_strides_and_ranges():
    assert make_levels(6, finest_range=4) == (
        Level(1, 0, 4), Level(2, 4, 8), Level(4, 8, 16), Level(8, 16, 32), Level(16, 32, 64), Level(32, 64, math.inf)
    )  # fmt: skip


def test_points_lie_where_the_strided_convolutions_are_centred():
    levels = make_levels(3, finest_range=4)
    at = positions(levels, 5, torch.device("cpu"))
    assert at.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, 0.5, 2.5, 4.5, 0.5, 4.5]
    rows = torch.arange(5.0)[None]
    assert of_points(rows, levels).tolist() == [[0, 1, 2, 3, 4, 0, 2, 4, 0, 4]]


def test_a_row_gets_the_sum_of_the_points_that_stand_for_it():
    levels = make_levels(2, finest_range=4)
    points = torch.tensor([[1.0, 2, 3, 4, 5, 10, 20, 30]])  # 5 of stride 1, then 3 of stride 2
    assert of_rows(points, levels, 5).tolist() == [[11, 12, 23, 24, 35]]


def test_positive_points_are_inside_central_and_in_range():
    levels = make_levels(2, finest_range=4)
    # rows 2 to 8: centre 5. At 4.5 the farther boundary is 3.5 rows away, in the finest level's [0, 4].
    found = assign([target([1], [[2, 8]], 16)], levels, size=16, num_classes=3, centre_radius=1.5)
    fine, coarse = found.is_positive[0, :16], found.is_positive[0, 16:]
    assert fine.nonzero().flatten().tolist() == [4, 5]  # 4.5 and 5.5; 3.5 and 6.5 are central too, but reach 4.5
    assert coarse.nonzero().flatten().tolist() == [1, 3]  # 2.5 and 6.5 reach 5.5 and 4.5 rows; 4.5 reaches only 3.5
    assert found.distances[0, 4].tolist() == [2.5, 3.5]
    assert found.classes[0, 4].tolist() == [0, 1, 0]
    assert found.classes[0, 0].tolist() == [0, 0, 0]


def test_the_shortest_of_several_actions_wins():
    levels = make_levels(1, finest_range=4)
    found = assign([target([0, 1], [[0, 8], [3, 6]], 8)], levels, size=8, num_classes=2, centre_radius=1.5)
    assert found.is_positive[0].nonzero().flatten().tolist() == [2, 3, 4, 5]
    assert found.classes[0, 2:6].argmax(-1).tolist() == [0, 1, 1, 1]  # 2.5 lies outside the shorter one


def test_the_class_of_a_row_is_that_of_the_shortest_action_there():
    rows = row_classes([target([0, 1], [[0, 6], [2, 4]], 8), target([], [], 8)], size=8, num_classes=2)
    assert rows.tolist() == [[0, 0, 1, 1, 0, 0, 2, 2], [2] * 8]
