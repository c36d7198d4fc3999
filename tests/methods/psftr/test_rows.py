"""Padding and the convolution over time, fast on a CPU: the same as PyTorch's own, their slow twins."""

import pytest
import torch
from torch import nn

from psftr.methods.psftr.rows import convolve_rows, without_padding, zero_padding


def test_padded_rows_become_zero_and_the_others_stay_with_their_gradient():
    rows = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]], requires_grad=True)
    is_padding = torch.tensor([[False, True]])
    out = zero_padding(rows, is_padding)
    assert out.tolist() == [[[1.0, 2.0], [0.0, 0.0]]]
    out.sum().backward()
    assert rows.grad.tolist() == [[[1.0, 1.0], [0.0, 0.0]]]
    assert torch.equal(out, rows.masked_fill(is_padding[..., None], 0.0))
    assert zero_padding(rows.bfloat16(), is_padding).dtype == torch.bfloat16


def test_a_row_is_summed_with_its_neighbours():
    convolution = nn.Conv1d(1, 1, kernel_size=3, padding=1)
    with torch.no_grad():
        convolution.weight.copy_(torch.tensor([[[100.0, 10.0, 1.0]]]))
        convolution.bias.fill_(0.5)
        out = convolve_rows(torch.tensor([[[1.0], [2.0], [3.0]]]), convolution.weight, convolution.bias)
    assert out.flatten().tolist() == [12.5, 123.5, 230.5]


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("length", [1, 2, 7])
def test_a_convolution_equals_its_slow_twin(kernel_size, length):
    torch.manual_seed(0)
    convolution = nn.Conv1d(4, 6, kernel_size, padding=kernel_size // 2).double()
    rows = torch.randn(2, length, 4, dtype=torch.double, requires_grad=True)
    grads = []
    for out in (
        convolve_rows(rows, convolution.weight, convolution.bias),
        convolution(rows.transpose(1, 2)).transpose(1, 2),
    ):
        grads.append((out, *torch.autograd.grad(out.square().sum(), [rows, *convolution.parameters()])))
    for ours, twin in zip(*grads):
        torch.testing.assert_close(ours, twin, rtol=1e-12, atol=1e-12)


def test_under_autocast_a_convolution_is_a_product_in_bfloat16():
    torch.manual_seed(0)
    convolution, rows = nn.Conv1d(8, 8, 3, padding=1), torch.randn(2, 9, 8)
    with torch.autocast("cpu", torch.bfloat16):
        out = convolve_rows(rows, convolution.weight, convolution.bias)
        twin = convolution(rows.transpose(1, 2)).transpose(1, 2)
    assert out.dtype == twin.dtype == torch.bfloat16
    torch.testing.assert_close(out, twin, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("padded", [0, 1, 3, 4, 7])
def test_padding_is_left_out_and_every_other_row_equals_the_slow_twin(padded):
    torch.manual_seed(0)
    part = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 4))
    counted = []
    part[0].register_forward_pre_hook(lambda _, given: counted.append(given[0].flatten(0, -2).shape[0]))
    rows = torch.randn(2, 7, 4, requires_grad=True)
    is_padding = torch.zeros(2, 7, dtype=torch.bool)
    is_padding[1, 7 - padded :] = True
    direction = torch.randn(2, 7, 4)
    leaves = [rows, *part.parameters()]
    expected, got = zero_padding(part(rows), is_padding), without_padding(part, rows, is_padding)
    assert counted == [14, {0: 14, 1: 14, 3: 12, 4: 10, 7: 8}[padded]]  # not for one row; an odd number is made even
    torch.testing.assert_close(got, expected)
    of_twin = torch.autograd.grad((expected * direction).sum(), leaves)
    for one, other in zip(torch.autograd.grad((got * direction).sum(), leaves), of_twin, strict=True):
        torch.testing.assert_close(one, other)
