"""The slow twin against arithmetic a reader can check by eye."""

from __future__ import annotations

import pytest
import torch

from psftr.ops import temporal_deform_attn_reference as reference


def read_at(level: list[float], *locations: float) -> list[float]:
    """Read a one-channel level at each location with weight 1."""
    values = torch.tensor(level).view(1, -1, 1, 1)
    where = torch.tensor(locations).view(1, -1, 1, 1, 1)
    return reference(values, where, torch.ones_like(where), [len(level)]).flatten().tolist()


def test_row_i_is_centred_on_i_plus_half() -> None:
    assert read_at([10.0, 20.0, 30.0, 40.0], 0.125, 0.375, 0.625, 0.875) == [10, 20, 30, 40]


def test_halfway_between_two_rows_is_their_mean() -> None:
    assert read_at([10.0, 20.0, 30.0, 40.0], 0.25, 0.5, 0.75) == [15, 25, 35]


def test_the_level_fades_to_zero_outside() -> None:
    # position -0.5 is half of row 0; -1 and beyond is nothing
    assert read_at([10.0, 20.0, 30.0, 40.0], 0.0, 1.0, -0.125, 1.125, -7.0, 7.0) == [5, 20, 0, 0, 0, 0]


def test_infinite_locations_read_zero_and_nan_stays_nan() -> None:
    assert read_at([1.0, 2.0], float("inf"), float("-inf")) == [0, 0]
    assert torch.tensor(read_at([1.0, 2.0], float("nan"))).isnan().all()


def test_points_and_levels_are_summed_with_their_weights() -> None:
    values = torch.tensor([1.0, 3.0, 100.0]).view(1, 3, 1, 1)  # levels [1, 3] and [100]
    locations = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).view(1, 1, 1, 2, 2)
    weights = torch.tensor([[2.0, 1.0], [0.5, 0.25]]).view(1, 1, 1, 2, 2)
    assert reference(values, locations, weights, [2, 1]).item() == 2 * 1 + 1 * 3 + 0.75 * 100


def test_heads_do_not_mix() -> None:
    values = torch.tensor([[1.0, 10.0], [2.0, 20.0]]).view(1, 2, 2, 1)
    locations = torch.tensor([0.25, 0.75]).view(1, 1, 2, 1, 1)
    assert reference(values, locations, torch.ones_like(locations), [2]).flatten().tolist() == [1, 20]


def test_twice_differentiable() -> None:
    values = torch.randn(2, 5, 2, 3, dtype=torch.float64, requires_grad=True)
    locations = ((torch.randint(-1, 7, (2, 3, 2, 2, 2)) + 0.3) / 5).double().requires_grad_()
    weights = torch.randn(2, 3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    inputs = (values, locations, weights)
    assert torch.autograd.gradcheck(lambda *x: reference(*x, [5, 0]), inputs)
    assert torch.autograd.gradgradcheck(lambda *x: reference(*x, [4, 1]), inputs)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"values": torch.zeros(1, 4, 2)}, r"values must be \[B,T,H,D\], got \[1, 4, 2\]"),
        ({"weights": torch.zeros(1, 3, 2, 1, 2)}, "locations and weights must both be"),
        ({"values": torch.zeros(1, 4, 3, 5)}, "batch and heads differ"),
        ({"level_lengths": [2, 2]}, "2 level lengths for 1 levels"),
        ({"level_lengths": [5]}, r"level_lengths \[5\] must be non-negative and sum to the 4 rows"),
        ({"locations": torch.zeros(1, 3, 2, 1, 4, dtype=torch.int64)}, "locations must be floating point"),
    ],
)
def test_inputs_that_do_not_fit_are_named(change: dict, text: str) -> None:
    inputs = {
        "values": torch.zeros(1, 4, 2, 5),
        "locations": torch.zeros(1, 3, 2, 1, 4),
        "weights": torch.zeros(1, 3, 2, 1, 4),
        "level_lengths": [4],
    }
    with pytest.raises(ValueError, match=text):
        reference(**(inputs | change))
