"""Every CPU path against the slow twin in float64."""

from __future__ import annotations

import pytest
import torch

from psftr.ops import forced_path, temporal_deform_attn, temporal_deform_attn_reference, torch_path

SHAPES = {
    "one level": {"levels": [128], "heads": 8, "dim": 64, "queries": 40, "points": 4},
    "THUMOS14 windows": {"levels": [2304], "dim": 64, "queries": 300, "points": 4},
    "very long": {"levels": [16384], "dim": 16, "queries": 500, "batch": 1},
    "uneven levels": {"levels": [33, 16, 8, 1], "heads": 3, "dim": 32},
    "a level without rows": {"levels": [7, 0, 5], "heads": 1, "dim": 4},
    "odd channels": {"levels": [9, 4], "heads": 3, "dim": 13},
    "one channel, one point": {"levels": [6], "heads": 1, "dim": 1, "points": 1},
    "wide heads": {"levels": [20], "heads": 1, "dim": 200},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_agrees_with_float64(path, case, error, shape) -> None:
    one = case(**shape)
    exact = one.gradients(temporal_deform_attn_reference, torch.float64)
    got = one.gradients(temporal_deform_attn)
    bounds = {"result": 2e-7, "values": 2e-7, "locations": 1e-6, "weights": 1e-6}
    for (name, bound), one_got, one_exact in zip(bounds.items(), got, exact, strict=True):
        assert error(one_got, one_exact) < bound, name


def test_the_slow_twin_holds_the_same_bounds(case, error) -> None:
    one = case(levels=[2304, 576], dim=64, queries=200)
    exact = one.gradients(temporal_deform_attn_reference, torch.float64)
    out, _, grad_locations, _ = one.gradients(temporal_deform_attn_reference)
    assert error(out, exact[0]) < 2e-7
    assert error(grad_locations, exact[2]) < 1e-6


@pytest.mark.parametrize("shape", ["uneven levels", "a level without rows", "odd channels"])
def test_the_registered_operator_has_true_gradients_on_the_slow_path(case, error, shape) -> None:
    """Devices without a kernel take it, and automatic differentiation is off inside an operator."""
    one = case(**SHAPES[shape])
    exact = one.gradients(temporal_deform_attn_reference, torch.float64)
    with forced_path("reference"):
        got = one.gradients(torch.ops.psftr.temporal_deform_attn)
    for one_got, one_exact in zip(got, exact, strict=True):
        assert one_exact.any()
        assert error(one_got, one_exact) < 1e-6


def test_both_ways_to_multiply_rows_agree(monkeypatch) -> None:
    """The second is for devices other than the CPU; 24 numbers at once are two queries of 3 knots and 4 channels."""
    monkeypatch.setattr(torch_path, "_GATHERED_NUMBERS", 24)
    grad_rows, rows, row = torch.randn(5, 4), torch.randn(7, 4), torch.randint(7, (5, 3))
    expected = torch.stack([grad_rows[q] @ rows[r] for q in range(5) for r in row[q]])
    for product in (torch_path._sampled_product, torch_path._gathered_product):
        torch.testing.assert_close(product(grad_rows, rows, row), expected)


@pytest.mark.parametrize(
    ("values", "locations", "levels"),
    [
        ((0, 4, 2, 3), (0, 5, 2, 1, 2), [4]),
        ((2, 4, 2, 3), (2, 0, 2, 1, 2), [4]),
        ((2, 4, 2, 3), (2, 5, 2, 1, 0), [4]),
        ((2, 0, 2, 3), (2, 5, 2, 2, 2), [0, 0]),
        ((2, 4, 0, 3), (2, 5, 0, 1, 2), [4]),
    ],
    ids=["no batch", "no queries", "no points", "no rows", "no heads"],
)
def test_empty_inputs_give_empty_or_zero_results(path, values, locations, levels) -> None:
    inputs = [torch.rand(size, requires_grad=True) for size in (values, locations, locations)]
    out = temporal_deform_attn(*inputs, levels)
    assert out.shape == (values[0], locations[1], *values[2:])
    assert not out.any()
    for tensor, grad in zip(inputs, torch.autograd.grad(out.sum(), inputs), strict=True):
        assert grad.shape == tensor.shape
        assert not grad.any()


def test_infinity_reads_zero_and_nan_shows(path) -> None:
    values = torch.ones(1, 4, 1, 2)
    locations = torch.tensor([float("inf"), -float("inf"), float("nan"), 0.5]).view(1, 4, 1, 1, 1).requires_grad_()
    out = temporal_deform_attn(values, locations, torch.ones_like(locations), [4])
    assert out[0, :2].eq(0).all()
    assert out[0, 2].isnan().all()
    assert out[0, 3].eq(1).all()
    out[0, [0, 1, 3]].sum().backward()
    assert locations.grad is not None
    assert not locations.grad[0, [0, 1, 3]].isnan().any()


def test_on_a_knot_the_slope_is_the_one_to_its_right(path) -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 8.0]).view(1, 4, 1, 1)
    locations = torch.tensor([0.125, 0.375, 0.625, 0.875]).view(1, 4, 1, 1, 1).requires_grad_()
    out = temporal_deform_attn(values, locations, torch.ones_like(locations), [4])
    assert out.flatten().tolist() == [1, 2, 4, 8]
    out.sum().backward()
    assert locations.grad is not None
    assert locations.grad.flatten().tolist() == [4 * 1, 4 * 2, 4 * 4, 4 * -8]  # T_l times the step; zero outside


def test_strided_inputs(path, case) -> None:
    one = case(levels=[12, 4], heads=2, dim=8)
    expected = temporal_deform_attn(one.values, one.locations, one.weights, one.level_lengths)
    values = one.values.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    locations = one.locations.transpose(1, 4).contiguous().transpose(1, 4)
    weights = torch.stack((one.weights, one.weights), dim=-1)[..., 0]
    assert not values.is_contiguous()
    assert torch.equal(temporal_deform_attn(values, locations, weights, one.level_lengths), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_values_with_float32_locations(path, case, error, dtype) -> None:
    one = case(levels=[2304], dim=32, queries=50)
    values = one.values.to(dtype).requires_grad_()
    out = temporal_deform_attn(values, one.locations, one.weights, one.level_lengths)
    assert out.dtype == dtype
    (grad,) = torch.autograd.grad(out, values, one.grad_out.to(dtype))
    assert grad.dtype == dtype
    exact = temporal_deform_attn_reference(
        values.double(), one.locations.double(), one.weights.double(), one.level_lengths
    )
    assert error(out, exact.detach()) < torch.finfo(dtype).eps


def test_backward_is_bit_identical_a_hundred_times(path, case) -> None:
    one = case(levels=[16, 4], heads=4, dim=16, queries=40)
    first = one.gradients(temporal_deform_attn)
    for _ in range(100):
        again = one.gradients(temporal_deform_attn)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_gradients_do_not_depend_on_the_number_of_threads(path, case) -> None:
    one = case(levels=[300], heads=6, dim=64, queries=300, points=4)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(one.gradients(temporal_deform_attn))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_gradients_and_second_gradients_in_float64(path, case) -> None:
    one = case(levels=[5, 0, 3], heads=2, dim=3, queries=2, points=2)
    inputs = [t.double().requires_grad_() for t in (one.values, one.locations, one.weights)]
    assert torch.autograd.gradcheck(lambda *x: temporal_deform_attn(*x, [5, 0, 3]), inputs)
    assert torch.autograd.gradgradcheck(lambda *x: temporal_deform_attn(*x, [5, 0, 3]), inputs)


def test_second_gradients_in_float32_are_those_of_the_slow_twin(path, case, error) -> None:
    one = case(levels=[9], heads=2, dim=8)
    penalties = []
    for function in (temporal_deform_attn, temporal_deform_attn_reference):
        inputs = [t.clone().requires_grad_() for t in (one.values, one.locations, one.weights)]
        out = function(*inputs, one.level_lengths)
        grads = torch.autograd.grad(out.square().sum(), inputs, create_graph=True)
        penalties.append(torch.autograd.grad(sum(grad.square().sum() for grad in grads), inputs))
    for got, expected in zip(*penalties, strict=True):
        assert expected.any()
        assert error(got, expected.double()) < 1e-5


def test_locations_and_weights_may_come_in_half_precision(path) -> None:
    values = torch.randn(1, 8, 1, 4)
    locations = torch.tensor([0.25, 0.5]).view(1, 2, 1, 1, 1)
    whole = temporal_deform_attn(values, locations, torch.ones_like(locations), [8])
    half = temporal_deform_attn(values, locations.half(), torch.ones_like(locations).bfloat16(), [8])
    assert torch.equal(whole, half)
