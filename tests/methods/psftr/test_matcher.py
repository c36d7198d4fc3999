from functools import partial

import pytest
import torch
from parts import match
from torch import tensor

from psftr.data.batches import Target
from psftr.errors import PsftrError
from psftr.methods.psftr.matcher import (
    actionness_cost,
    class_and_actionness_cost,
    class_cost,
    class_probability_cost,
)
from psftr.methods.psftr.network import LayerOutputs
from psftr.segments import giou_pairwise


def layer(segments_cw, class_logits=None, actionness_logits=None):
    segments_cw = tensor(segments_cw)
    shape = segments_cw.shape[:2]
    class_logits = torch.zeros(*shape, 2) if class_logits is None else tensor(class_logits)
    actionness_logits = torch.zeros(shape) if actionness_logits is None else tensor(actionness_logits)
    return LayerOutputs(class_logits=class_logits, segments_cw=segments_cw, actionness_logits=actionness_logits)


def target(labels, segments_cw):
    return Target(labels=tensor(labels, dtype=torch.long), segments_cw=tensor(segments_cw).reshape(-1, 2).float())


def pairs(matches):
    return [sorted(zip(query.tolist(), goal.tolist())) for query, goal in matches]


def test_each_action_gets_the_nearest_query_and_windows_do_not_mix():
    outputs = layer([[[0.2, 0.2], [0.8, 0.2], [0.5, 0.2]], [[0.5, 0.5], [0.1, 0.1], [0.9, 0.1]]])
    targets = [target([0, 0], [[0.78, 0.2], [0.22, 0.2]]), target([1], [[0.9, 0.1]])]
    assert pairs(match(outputs, targets)) == [[(0, 1), (1, 0)], [(2, 0)]]


def test_the_class_decides_between_equal_segments():
    outputs = layer([[[0.5, 0.2], [0.5, 0.2]]], class_logits=[[[0.0, 3.0], [3.0, 0.0]]])
    targets = [target([0, 1], [[0.5, 0.2], [0.5, 0.2]])]
    assert pairs(match(outputs, targets)) == [[(0, 1), (1, 0)]]
    # Actionness is blind to labels, so it cannot tell these two apart; it picks the surer query for one action.
    outputs = layer([[[0.5, 0.2], [0.5, 0.2]]], actionness_logits=[[-2.0, 2.0]])
    by_actionness = partial(match, class_cost=actionness_cost)
    assert pairs(by_actionness(outputs, [target([0], [[0.5, 0.2]])])) == [[(1, 0)]]


def test_the_cost_is_the_weighted_sum_of_its_three_terms():
    # Query 0: right class (cost ln(1 + e^-2) = 0.127), one tenth late. Query 1: wrong class (2.127), exact.
    outputs = layer([[[0.6, 0.2], [0.5, 0.2]]], class_logits=[[[2.0, 0.0], [0.0, 2.0]]])
    targets = [target([0], [[0.5, 0.2]])]
    # Late by 0.1: L1 0.1, tIoU 1/3. Query 0: 2 * 0.127 + 5 * 0.1 + 2 * 2/3 = 2.087; query 1: 2 * 2.127 = 4.254.
    assert pairs(match(outputs, targets)) == [[(0, 0)]]
    # With class weight 0.8: 0.102 + 1.833 = 1.935 against 1.702.
    assert pairs(match(outputs, targets, classification=0.8)) == [[(1, 0)]]
    # Without the overlap term query 0 is cheaper again: 0.602 against 1.702.
    assert pairs(match(outputs, targets, classification=0.8, iou=0.0)) == [[(0, 0)]]


def test_giou_can_be_passed_in_place_of_iou():
    # Both disjoint from the target, equal L1 (0.4): IoU sees no difference, gIoU sees the gap.
    outputs = layer([[[0.9, 0.1], [0.6, 0.4]]])
    wide = [target([0], [[0.4, 0.2]])]
    kwargs = {"classification": 0.0, "l1": 0.0}
    assert pairs(match(outputs, wide, overlap=giou_pairwise, **kwargs)) == [[(1, 0)]]


def test_class_costs_by_hand():
    outputs = layer([[[0.5, 0.2]]], class_logits=[[[0.0, torch.tensor(3.0).log().item()]]])  # p = 1/4, 3/4
    labels = tensor([[0, 1, 1]])
    assert class_cost(outputs, labels)[0, 0].tolist() == pytest.approx([1.386294, 0.287682, 0.287682])
    assert class_probability_cost(outputs, labels)[0, 0].tolist() == pytest.approx([-0.25, -0.75, -0.75])
    # Actionness 0.5: 0.25 * 0.25 * ln 2 - 0.75 * 0.25 * ln 2 = -0.125 ln 2.
    assert actionness_cost(outputs, labels)[0, 0].tolist() == pytest.approx([-0.0866434] * 3)
    total = class_and_actionness_cost(outputs, labels)
    assert torch.equal(total, class_cost(outputs, labels) + actionness_cost(outputs, labels))


def test_windows_without_actions_and_more_actions_than_queries():
    outputs = layer([[[0.2, 0.2]], [[0.5, 0.5]], [[0.8, 0.2]]])
    none = target([], [])
    three = target([0, 0, 0], [[0.2, 0.2], [0.8, 0.2], [0.5, 0.2]])
    assert pairs(match(outputs, [none, three, none])) == [[], [(0, 2)], []]
    assert pairs(match(outputs, [none, none, none])) == [[], [], []]


def test_padding_of_the_target_lists_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    segments = torch.rand(4, 12, 2, generator=generator)
    logits = torch.randn(4, 12, 3, generator=generator)
    outputs = LayerOutputs(class_logits=logits, segments_cw=segments, actionness_logits=logits[..., 0])
    targets = [
        target(torch.randint(0, 3, (n,)).tolist(), torch.rand(n, 2, generator=generator).tolist())
        for n in (5, 0, 12, 1)
    ]
    together = pairs(match(outputs, targets))
    for b, alone in enumerate(targets):
        one = LayerOutputs(
            class_logits=logits[b : b + 1], segments_cw=segments[b : b + 1], actionness_logits=logits[b : b + 1, :, 0]
        )
        assert pairs(match(one, [alone])) == [together[b]]


def test_outputs_that_are_not_finite_are_named():
    outputs = layer([[[float("nan"), 0.2]]])
    with pytest.raises(PsftrError, match=r"training has diverged; lower optimizer\.lr"):
        match(outputs, [target([0], [[0.2, 0.2]])])
