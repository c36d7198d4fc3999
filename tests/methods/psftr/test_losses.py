import math

import pytest
import torch
from torch import tensor

from psftr.methods.psftr import losses
from psftr.segments import giou_paired, tiou_paired


def test_class_cross_entropy_of_matched_queries():
    logits = tensor([[0.0, 0.0], [math.log(3.0), 0.0]])  # p(label) = 1/2 and 1/4
    assert losses.class_cross_entropy(logits, tensor([0, 1])).tolist() == pytest.approx([math.log(2), math.log(4)])


def test_segment_terms_by_hand():
    predicted, goal = tensor([[0.6, 0.2], [0.5, 0.4]]), tensor([[0.5, 0.2], [0.5, 0.2]])
    assert losses.segment_l1(predicted, goal).tolist() == pytest.approx([0.1, 0.2])
    # [0.5, 0.7] with [0.4, 0.6]: 1/3; [0.3, 0.7] with [0.4, 0.6]: 1/2.
    assert losses.segment_overlap(predicted, goal, overlap=tiou_paired).tolist() == pytest.approx([2 / 3, 1 / 2])
    apart = (tensor([[0.1, 0.2]]), tensor([[0.7, 0.2]]))  # hull 0.8, of which 0.4 uncovered
    assert losses.segment_overlap(*apart, overlap=tiou_paired).item() == pytest.approx(1.0)
    assert losses.segment_overlap(*apart, overlap=giou_paired).item() == pytest.approx(1.5)


def test_focal_by_hand():
    logits = tensor([0.0, 0.0, math.log(3.0), -math.log(3.0)])  # p = 1/2, 1/2, 3/4, 1/4
    labels = tensor([1.0, 0.0, 1.0, 1.0])
    expected = [
        0.25 * 0.25 * math.log(2),
        0.75 * 0.25 * math.log(2),
        0.25 * 0.0625 * math.log(4 / 3),
        0.25 * 0.5625 * math.log(4),
    ]
    assert losses.sigmoid_focal(logits, labels, alpha=0.25, gamma=2.0).tolist() == pytest.approx(expected)
    # gamma 0 and alpha 1/2 is half the cross-entropy.
    half = losses.sigmoid_focal(logits, labels, alpha=0.5, gamma=0.0)
    assert half[0].item() == pytest.approx(0.5 * math.log(2))


def test_saliency_is_a_mean_over_valid_frames_of_the_batch():
    logits = tensor([[0.0, math.log(3.0), 50.0], [0.0, 0.0, 0.0]])
    is_action = tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    is_padding = tensor([[False, False, True], [False, True, True]])
    bce = (math.log(2) + math.log(4 / 3) + math.log(2)) / 3  # the frame worth 50 is padding
    assert losses.saliency_bce(logits, is_action, is_padding).item() == pytest.approx(bce)
    focal = (0.0625 * math.log(2) + 0.015625 * math.log(4 / 3) + 0.1875 * math.log(2)) / 3
    assert losses.saliency_focal(logits, is_action, is_padding).item() == pytest.approx(focal)


def test_every_loss_of_nothing_is_zero_with_a_gradient_path():
    logits = torch.zeros(0, 3, requires_grad=True)
    cw = torch.zeros(0, 2, requires_grad=True)
    frames = torch.randn(1, 4, requires_grad=True)
    everything_padded = torch.ones(1, 4, dtype=torch.bool)
    total = (
        losses.class_cross_entropy(logits, torch.zeros(0, dtype=torch.long)).sum()
        + losses.segment_l1(cw, torch.zeros(0, 2)).sum()
        + losses.segment_overlap(cw, torch.zeros(0, 2), overlap=tiou_paired).sum()
        + losses.saliency_bce(frames, torch.zeros(1, 4), everything_padded)
        + losses.saliency_focal(frames, torch.zeros(1, 4), everything_padded)
    )
    assert total.item() == 0.0
    total.backward()
    assert logits.grad.shape == (0, 3)
    assert frames.grad.tolist() == [[0.0] * 4]
