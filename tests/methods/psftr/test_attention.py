"""Attention blocks: arithmetic by hand, and PyTorch's own attention as the oracle."""

import pytest
import torch
from torch import nn

from psftr.methods.psftr.attention import (
    FeedForward,
    MultiheadAttention,
    SegmentDeformableAttention,
    TemporalDeformableAttention,
    pairwise_cosine,
)


def test_attention_equals_torchs_with_the_same_weights():
    torch.manual_seed(0)
    ours = MultiheadAttention(dim=8, heads=2)
    theirs = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        for linear in (ours.query, ours.value, ours.output):
            linear.bias.normal_()
        theirs.in_proj_weight.copy_(torch.cat((ours.query.weight, ours.key.weight, ours.value.weight)))
        theirs.in_proj_bias.copy_(torch.cat((ours.query.bias, torch.ones(8), ours.value.bias)))  # ones: no effect
        theirs.out_proj.weight.copy_(ours.output.weight)
        theirs.out_proj.bias.copy_(ours.output.bias)
    queries, memory = torch.randn(3, 5, 8), torch.randn(3, 6, 8)
    is_padding = torch.arange(6) >= torch.tensor([[6], [4], [1]])
    expected, _ = theirs(queries, memory, memory, key_padding_mask=is_padding)
    torch.testing.assert_close(ours(queries, memory, memory, is_padding), expected, atol=1e-6, rtol=1e-5)


def test_attention_in_bfloat16_equals_its_slow_twin_to_8_bits():
    torch.manual_seed(0)
    attention = MultiheadAttention(dim=64, heads=2)
    inputs = [torch.randn(3, length, 64) for length in (5, 6, 6)]
    is_read = torch.arange(6) < torch.tensor([6, 4, 1])[:, None]

    def mixed(dtype):
        leaves = [one.to(dtype).requires_grad_() for one in inputs]
        out = attention.mix(*leaves, is_read[:, None, None, :])
        assert out.dtype == dtype
        return [one.float() for one in (out, *torch.autograd.grad(out.float().square().sum(), leaves))]

    for got, expected in zip(mixed(torch.bfloat16), mixed(torch.float32), strict=True):
        assert (got - expected).norm() < 2**-6 * expected.norm()


def test_attention_shares_a_batch_axis_of_one():
    torch.manual_seed(0)
    attention = MultiheadAttention(dim=8, heads=2)
    shared, videos = torch.randn(1, 4, 8), torch.randn(3, 6, 8)
    each = shared.expand(3, -1, -1)
    torch.testing.assert_close(attention(shared, videos, videos), attention(each, videos, videos))
    torch.testing.assert_close(attention(videos, shared, shared), attention(videos, each, each))
    assert attention(shared, shared, shared).shape == (1, 4, 8)


def test_feed_forward_with_zero_output_is_a_layer_norm():
    block = FeedForward(dim=4, expansion=2, dropout=0.0)
    nn.init.zeros_(block.contract.weight)
    x = torch.tensor([[1.0, 1.0, 3.0, 3.0]])
    torch.testing.assert_close(block(x), torch.tensor([[-1.0, -1.0, 1.0, 1.0]]), atol=1e-4, rtol=0)
    assert block.expand.out_features == 8


@pytest.mark.parametrize("heads", [1, 2, 4, 6, 8, 16])
@pytest.mark.parametrize("points", [1, 2, 4])
def test_offsets_start_distinct_both_ways_and_off_the_knots(heads, points):
    attention = TemporalDeformableAttention(dim=heads * 4, heads=heads, points=points)
    frames = attention.offsets.bias.detach().view(heads, points)
    assert not attention.offsets.weight.any()
    assert all(len(set(head.tolist())) == points for head in frames)
    assert ((frames - frames.round()).abs() > 0.03).all()  # a frame reads itself at an offset of 0, its knot
    assert frames.abs().max() < points
    if points > 1:
        assert (frames.min(dim=1).values < 0).all()
        assert (frames.max(dim=1).values > 0).all()


def _reader(kind, *, offset):
    """Deformable attention of one head and one point that returns what it reads at reference + offset."""
    attention = kind(dim=2, heads=1, points=1)
    with torch.no_grad():
        for linear in (attention.value, attention.output):
            linear.weight.copy_(torch.eye(2))
        attention.offsets.bias.fill_(offset)
    return attention


@pytest.mark.parametrize(
    ("offset", "read"), [(0.0, 20.0), (1.0, 30.0), (0.25, 22.5), (-1.5, 5.0), (2.0, 0.0), (-2.0, 0.0), (-9.0, 0.0)]
)
def test_offsets_are_in_frames(offset, read):
    """Four rows of 10, 20, 30 and padding; the reference is the centre of row 1, (1 + 0.5) / 4."""
    memory = torch.tensor([10.0, 20.0, 30.0, 999.0])[None, :, None].expand(1, 4, 2)
    is_padding = torch.tensor([[False, False, False, True]])
    attention = _reader(TemporalDeformableAttention, offset=offset)
    out = attention(torch.randn(1, 1, 2), torch.tensor([[[0.375]]]), memory, is_padding)
    torch.testing.assert_close(out, torch.full((1, 1, 2), read))


@pytest.mark.parametrize(("offset", "row"), [(0.0, 4.0), (1.0, 6.0), (-1.0, 2.0), (0.5, 5.0)])
def test_offsets_around_a_segment_are_in_half_widths(offset, row):
    """Ten rows that hold their number; centre .45 is the middle of row 4, half a width of .2 is two rows."""
    memory = torch.arange(10.0)[None, :, None].expand(1, 10, 2)
    attention = _reader(SegmentDeformableAttention, offset=offset)
    out = attention(torch.randn(1, 1, 2), torch.tensor([[[0.45, 0.4]]]), memory, torch.zeros(1, 10).bool())
    torch.testing.assert_close(out, torch.full((1, 1, 2), row))


def test_levels_are_sampled_at_their_own_lengths():
    """Levels of 4 and 2 rows: one frame of offset is a quarter of the first and half of the second."""
    attention = TemporalDeformableAttention(dim=2, heads=1, points=1, levels=2)
    with torch.no_grad():
        for linear in (attention.value, attention.output):
            linear.weight.copy_(torch.eye(2))
        attention.offsets.bias.fill_(1.0)
    memory = torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0, 20.0])[None, :, None].expand(1, 6, 2)
    out = attention(
        torch.zeros(1, 1, 2), torch.tensor([[[0.25]]]), memory, torch.zeros(1, 6).bool(), level_lengths=(4, 2)
    )
    # row .5 + 1 of the first: 2.5; row 0 + 1 of the second: 20; weights are 1/2 each
    torch.testing.assert_close(out, torch.full((1, 1, 2), 11.25))


def test_shared_queries_read_each_video():
    torch.manual_seed(0)
    attention = TemporalDeformableAttention(dim=8, heads=2, points=2)
    queries, references = torch.randn(1, 3, 8), torch.rand(1, 3, 1)
    memory, is_padding = torch.randn(2, 5, 8), torch.zeros(2, 5).bool()
    out = attention(queries, references, memory, is_padding)
    alone = attention(queries, references, memory[1:], is_padding[1:])
    torch.testing.assert_close(out[1:], alone)


def test_cosines_of_a_345_triangle_also_under_autocast():
    a, b = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 10.0], [-3.0, -4.0]])
    expected = torch.tensor([[0.6, 0.8, -1.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(pairwise_cosine(a, b), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(pairwise_cosine(a, b), expected)


def test_under_autocast_frames_are_sampled_in_float32():
    """Values have the 8 bits of their projection, and lose no more on their way to the output's projection."""
    torch.manual_seed(0)
    attention = TemporalDeformableAttention(dim=8, heads=2, points=2)
    taken = []

    def attend(values, locations, weights, lengths):
        taken.append((values.dtype, torch.is_autocast_enabled("cpu")))
        return values[:, :3]

    attention.attend = attend
    with torch.autocast("cpu", torch.bfloat16):
        attention(torch.randn(1, 3, 8), torch.rand(1, 3, 1), torch.randn(2, 5, 8), torch.zeros(2, 5, dtype=torch.bool))
    assert taken == [(torch.float32, False)]
