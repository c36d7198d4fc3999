"""Heads: hand-made queries, frames and names."""

import math

import pytest
import torch

from psftr.methods.psftr.heads import (
    MAX_LOGIT_SCALE,
    PADDING_SALIENCY,
    ActionnessHead,
    AdapterClassifier,
    AttentionPoolClassifier,
    CosineClassifier,
    LogitScale,
    SaliencyHead,
    SegmentHead,
)

NO_CURVES = torch.zeros(1, 0, 1)


def test_segments_are_corrections_of_references_in_logits():
    head = SegmentHead(dim=4)
    torch.nn.init.zeros_(head.mlp[-1].weight)
    with torch.no_grad():
        head.mlp[-1].bias.copy_(torch.tensor([math.log(3), 0.0]))
    # odds of 1/2 are 1, times 3: 3/4; the width stays
    segments_cw = head(torch.randn(2, 1, 4), torch.tensor([[[0.5, 0.2]]]))
    torch.testing.assert_close(segments_cw, torch.tensor([0.75, 0.2]).expand(2, 1, 2))


def test_references_at_the_border_stay_finite():
    segments_cw = SegmentHead(dim=4)(torch.randn(1, 2, 4), torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]))
    assert segments_cw.isfinite().all()
    assert (segments_cw > 0).all()
    assert (segments_cw < 1).all()


def test_actionness_starts_at_its_prior():
    head = ActionnessHead(dim=4)
    torch.testing.assert_close(head(torch.zeros(2, 3, 4)).sigmoid(), torch.full((2, 3), 0.01))


def test_saliency_neither_reads_nor_claims_padding():
    torch.manual_seed(0)
    head = SaliencyHead(dim=4)
    visual, is_padding = torch.randn(1, 6, 4), torch.arange(6)[None] >= 4
    logits = head(visual, is_padding)
    assert (logits[:, 4:] == PADDING_SALIENCY).all()
    torch.testing.assert_close(logits[:, :4], head(visual[:, :4], is_padding[:, :4]))


def test_cosine_logits_of_a_345_triangle():
    head = CosineClassifier(dim=2, text_dim=2, logit_scale=100.0)
    with torch.no_grad():
        head.projection.weight.copy_(torch.eye(2))
        head.projection.bias.zero_()
    queries, text = torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[7.0, 0.0], [0.0, 1.0], [-6.0, -8.0]])
    logits = head(queries, torch.zeros(1, 1, 1, 2), torch.zeros(1, 5, 2), text, NO_CURVES)
    torch.testing.assert_close(logits, torch.tensor([[[[60.0, 80.0, -100.0]]]]))


@pytest.mark.parametrize(("given", "used"), [(100.0, 100.0), (1e6, MAX_LOGIT_SCALE), (1e-3, 1.0)])
def test_logit_scale_is_clamped(given, used):
    scale = LogitScale(initial=given)
    unit = torch.tensor([[1.0, 0.0]])
    torch.testing.assert_close(scale(unit, unit).item(), used, rtol=1e-5, atol=0)


def _names_and_frames():
    """Frames 0-3 show name 0, frames 4-7 name 1."""
    text = torch.eye(2)
    frames = 10 * torch.eye(2).repeat_interleave(4, dim=0)[None]
    return text, frames, torch.tensor([[[[0.25, 0.5], [0.75, 0.5], [0.5, 1.0]]]])


def test_adapter_keeps_clips_own_answer_up_to_its_ratio():
    text, frames, segments_cw = _names_and_frames()
    head = AdapterClassifier(dim=2, text_dim=2, logit_scale=1.0, adapter_ratio=0.2, roi_bins=4)
    with torch.no_grad():
        head.projection.weight.zero_()
        head.projection.bias.copy_(torch.tensor([0.0, 9.0]))  # always pulls towards name 1
    logits = head(torch.randn(1, 1, 3, 2), segments_cw, frames, text, NO_CURVES)
    # 0.8 * (1,0) + 0.2 * (0,1) has cosines 4 and 1 over the root of 17
    torch.testing.assert_close(logits[0, 0, 0], torch.tensor([4.0, 1.0]) / 17**0.5)
    torch.testing.assert_close(logits[0, 0, 1], torch.tensor([0.0, 1.0]))


def test_attention_pool_looks_where_the_query_says():
    text, frames, segments_cw = _names_and_frames()
    head = AttentionPoolClassifier(dim=2, logit_scale=1.0, roi_bins=8)
    with torch.no_grad():
        head.attention.weight.zero_()
        head.attention.bias.copy_(torch.tensor([0.0, 0, 0, 0, 0, 0, 50, 0]))  # the seventh of eight bins
    logits = head(torch.randn(1, 1, 3, 2), segments_cw, frames, text, NO_CURVES)
    torch.testing.assert_close(logits[0, 0, 2], torch.tensor([0.0, 1.0]))
    assert all(parameter.shape[-1:] != (512,) for parameter in head.parameters())


@pytest.mark.parametrize(
    "make_head",
    [
        lambda: AdapterClassifier(dim=2, text_dim=2, logit_scale=10.0, adapter_ratio=0.5, roi_bins=4),
        lambda: AttentionPoolClassifier(dim=2, logit_scale=10.0, roi_bins=4),
    ],
    ids=["clip_adapter", "attention_pool"],
)
def test_class_logits_do_not_move_segments(make_head):
    head = make_head()
    text, frames, segments_cw = _names_and_frames()
    segments_cw.requires_grad_()
    queries = torch.randn(1, 1, 3, 2, requires_grad=True)
    head(queries, segments_cw, frames, text, NO_CURVES)[..., 0].sum().backward()
    assert segments_cw.grad is None
    assert queries.grad.abs().max() > 0
