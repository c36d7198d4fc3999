"""x + dropout(branch), fast on a CPU: the same distribution as PyTorch's dropout, its slow twin."""

import pytest
import torch

from psftr.methods.psftr.residual import Residual


def test_without_dropout_and_in_eval_mode_it_is_a_sum():
    x, branch = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    assert Residual(dropout=0.0)(x, branch).tolist() == [4.0, 6.0]
    assert Residual(dropout=0.5).eval()(x, branch).tolist() == [4.0, 6.0]


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.9])
def test_each_number_is_kept_with_its_probability_and_scaled(dropout):
    torch.manual_seed(0)
    count = 400_000
    dropped = Residual(dropout=dropout)(torch.zeros(count), torch.ones(count))
    is_kept = dropped != 0
    share = 1 - round(dropout * 65536) / 65536
    assert torch.equal(dropped[is_kept], torch.full_like(dropped[is_kept], 1 / share))
    sigma = (dropout * (1 - dropout) / count) ** 0.5
    assert abs(is_kept.double().mean().item() - share) < 4 * sigma
    # the four numbers that share a draw of 64 bits are independent of each other
    together = is_kept.double().view(-1, 4)
    for first in range(4):
        for second in range(first):
            both = (together[:, first] * together[:, second]).mean().item()
            assert abs(both - share**2) < 4 * (share**2 * (1 - share**2) / (count / 4)) ** 0.5


def test_gradient_reaches_x_whole_and_the_branch_where_it_was_kept():
    torch.manual_seed(0)
    x, branch = torch.zeros(2, 5, requires_grad=True), torch.ones(3, 2, 5, requires_grad=True)
    out = Residual(dropout=0.5)(x, branch)
    out.sum().backward()
    assert torch.equal(branch.grad, out.detach())  # zeros are 0, ones became the scale, 2
    assert set(branch.grad.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(x.grad, torch.full((2, 5), 3.0))


def test_the_random_state_decides():
    block, branch = Residual(dropout=0.3), torch.ones(7, 3)
    torch.manual_seed(1)
    first, second = block(branch, branch), block(branch, branch)
    torch.manual_seed(1)
    assert torch.equal(first, block(branch, branch))
    assert not torch.equal(first, second)


def test_a_lower_precision_branch_is_added_in_the_precision_of_x():
    torch.manual_seed(0)
    out = Residual(dropout=0.5)(torch.full((64,), 1.0 / 3), torch.ones(64, dtype=torch.bfloat16))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.unique(), torch.tensor([1 / 3, 2 + 1 / 3]), rtol=1e-6, atol=0)
