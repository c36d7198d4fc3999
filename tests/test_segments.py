import math

import pytest
import torch
from torch import tensor

from psftr import segments as S


def test_the_two_notations_and_back():
    se = tensor([[0.0, 10.0], [2.0, 2.0], [-1.0, 3.0]])
    cw = tensor([[5.0, 10.0], [2.0, 0.0], [1.0, 4.0]])
    assert torch.equal(S.start_end_to_centre_width(se), cw)
    assert torch.equal(S.centre_width_to_start_end(cw), se)


@pytest.mark.parametrize(
    ("a", "b", "tiou", "giou"),
    [
        ((0, 10), (0, 10), 1.0, 1.0),
        ((0, 10), (5, 15), 5 / 15, 5 / 15),  # 5 shared of 15; the hull is the union
        ((0, 10), (2, 4), 2 / 10, 2 / 10),
        ((0, 2), (6, 8), 0.0, -4 / 8),  # 4 of the hull's 8 belong to neither
        ((0, 2), (2, 4), 0.0, 0.0),
        ((3, 3), (3, 3), 0.0, 0.0),  # zero length overlaps nothing, itself included
        ((3, 3), (0, 10), 0.0, 0.0),
        ((5, 2), (0, 10), 0.0, 0.0),  # an end before its start counts as empty
    ],
)
def test_overlap_by_hand(a, b, tiou, giou):
    a, b = tensor([a], dtype=torch.float64), tensor([b], dtype=torch.float64)
    assert S.tiou_paired(a, b).item() == pytest.approx(tiou)
    assert S.tiou_paired(b, a).item() == pytest.approx(tiou)
    assert S.giou_paired(a, b).item() == pytest.approx(giou)


def test_pairwise_is_paired_over_every_pair_of_a_batch():
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(2, 3, 2, generator=generator).sort(-1).values
    b = torch.rand(2, 4, 2, generator=generator).sort(-1).values
    for pairwise, paired in ((S.tiou_pairwise, S.tiou_paired), (S.giou_pairwise, S.giou_paired)):
        table = pairwise(a, b)
        assert table.shape == (2, 3, 4)
        assert table[1, 2, 3].item() == paired(a[1, 2], b[1, 3]).item()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("overlap", [S.tiou_paired, S.giou_paired])
def test_gradients_are_finite_at_zero_length_in_every_dtype(dtype, overlap):
    a = tensor([[3.0, 3.0], [3.0, 3.0], [0.0, 2.0], [1.0, 1.0]], dtype=dtype, requires_grad=True)
    b = tensor([[3.0, 3.0], [0.0, 10.0], [2.0, 2.0], [4.0, 4.0]], dtype=dtype)
    value = overlap(a, b)
    assert value.dtype == dtype
    value.sum().backward()
    assert torch.isfinite(a.grad).all()


def test_giou_pulls_disjoint_segments_together_where_tiou_cannot():
    for overlap, pull in ((S.tiou_paired, False), (S.giou_paired, True)):
        a = tensor([0.0, 2.0], requires_grad=True)
        overlap(a, tensor([6.0, 8.0])).backward()
        assert (a.grad[1] > 0).item() is pull  # a later end raises gIoU


def test_nms_keeps_the_best_of_every_cluster():
    segments = tensor([[0.0, 10.0], [1.0, 10.0], [20.0, 30.0], [5.0, 15.0]])
    scores = tensor([0.5, 0.9, 0.7, 0.6])
    # tIoU with [1, 10]: [0, 10] 0.9, [5, 15] 5/14 = 0.357.
    assert S.nms(segments, scores, threshold=0.4).tolist() == [1, 2, 3]
    assert S.nms(segments, scores, threshold=0.3).tolist() == [1, 2]
    assert S.nms(segments, scores, threshold=0.9).tolist() == [1, 2, 3, 0]  # only above the threshold goes


def test_soft_nms_decays_by_the_gaussian_of_the_overlap():
    segments = tensor([[0.0, 10.0], [0.0, 5.0], [20.0, 30.0]])
    scores = tensor([0.9, 0.8, 0.3])
    index, decayed = S.soft_nms(segments, scores, sigma=0.5)
    # [0, 5] overlaps the first pick by 0.5: 0.8 * exp(-0.25 / 0.5) = 0.485.
    assert index.tolist() == [0, 1, 2]
    assert decayed.tolist() == pytest.approx([0.9, 0.8 * math.exp(-0.5), 0.3])
    assert decayed.dtype == torch.float32
    index, _ = S.soft_nms(segments, scores, sigma=0.2)  # 0.8 * exp(-1.25) = 0.229: now behind the third
    assert index.tolist() == [0, 2, 1]
    assert S.soft_nms(segments, scores, sigma=0.2, min_score=0.25)[0].tolist() == [0, 2]
    assert S.soft_nms(segments, scores, sigma=0.2, max_kept=1)[0].tolist() == [0]
    with pytest.raises(ValueError, match="sigma > 0, got 0"):
        S.soft_nms(segments, scores, sigma=0)


def test_a_vanishing_sigma_keeps_every_pick_picked_once():
    segments = tensor([[0.0, 1.0]] * 3)
    index, decayed = S.soft_nms(segments, tensor([0.3, 0.2, 0.1]), sigma=1e-6, min_score=0.0)
    assert sorted(index.tolist()) == [0, 1, 2]
    assert decayed.tolist() == pytest.approx([0.3, 0.0, 0.0])


def test_groups_never_touch_each_other_and_equal_separate_runs():
    generator = torch.Generator().manual_seed(1)
    segments = torch.rand(60, 2, generator=generator).sort(-1).values
    scores = torch.rand(60, generator=generator)
    groups = torch.randint(0, 4, (60,), generator=generator) * 7  # any integers do
    soft = dict(zip(*(part.tolist() for part in S.soft_nms(segments, scores, sigma=0.3, groups=groups))))
    hard = S.nms(segments, scores, threshold=0.4, groups=groups).tolist()
    assert hard == sorted(hard, key=lambda i: -scores[i])
    for group in groups.unique():
        mine = (groups == group).nonzero()[:, 0]
        index, decayed = S.soft_nms(segments[mine], scores[mine], sigma=0.3)
        alone = dict(zip(mine[index].tolist(), decayed.tolist()))
        assert alone == {i: soft[i] for i in mine.tolist() if i in soft}
        kept = mine[S.nms(segments[mine], scores[mine], threshold=0.4)]
        assert sorted(kept.tolist()) == sorted(set(hard) & set(mine.tolist()))


def test_suppression_of_nothing_and_of_malformed_input():
    none = torch.zeros(0, 2)
    assert S.nms(none, torch.zeros(0), threshold=0.5).shape == (0,)
    index, decayed = S.soft_nms(none, torch.zeros(0), sigma=0.5)
    assert index.shape == decayed.shape == (0,)
    with pytest.raises(ValueError, match=r"segments \[N, 2\] and scores \[N\], got \[3, 2\] and \[2\]"):
        S.nms(torch.zeros(3, 2), torch.zeros(2), threshold=0.5)
