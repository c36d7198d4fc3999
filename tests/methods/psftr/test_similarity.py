"""Curves of frames against names: hand-made frames of two or three channels."""

import pytest
import torch
import torch.nn.functional as F

from psftr.methods.psftr.similarity import (
    CURVE_SCALE,
    CentredSimilarity,
    NameGuidance,
    SimilarityClassifier,
    sample_along,
)

NO_PADDING = torch.zeros(1, 2, dtype=torch.bool)


def test_curves_are_cosines_less_the_names_mean():
    """Unit frames (1,0) and (.6,.8): their mean is (.8,.4). Name (0,5): cosines 0 and .8, mean .4."""
    similarity = CentredSimilarity(feature_dim=2)
    frames = torch.tensor([[[2.0, 0.0], [3.0, 4.0]]])
    names = torch.tensor([[0.0, 5.0], [7.0, 0.0]])
    similarity.train()(frames, names, NO_PADDING)
    torch.testing.assert_close(similarity.frame_mean, torch.tensor([0.8, 0.4]))
    curves = similarity.eval()(frames, names, NO_PADDING)
    wanted = CURVE_SCALE * torch.tensor([[[-0.4, 0.4], [0.2, -0.2]]])
    torch.testing.assert_close(curves, wanted)


def test_the_mean_averages_training_batches_and_stays_in_eval():
    similarity = CentredSimilarity(feature_dim=2)
    names = torch.tensor([[1.0, 0.0]])
    first, second = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    similarity.train()(first, names, NO_PADDING)
    similarity(second, names, NO_PADDING)
    torch.testing.assert_close(similarity.frame_mean, torch.tensor([0.5, 0.5]))
    similarity.eval()(second, names, NO_PADDING)
    torch.testing.assert_close(similarity.frame_mean, torch.tensor([0.5, 0.5]))
    assert "frame_mean" in similarity.state_dict()


def test_padding_is_neither_averaged_nor_compared():
    similarity = CentredSimilarity(feature_dim=2).train()
    frames = torch.tensor([[[1.0, 0.0], [0.0, 9.0]]])
    curves = similarity(frames, torch.tensor([[0.0, 1.0]]), torch.tensor([[False, True]]))
    torch.testing.assert_close(similarity.frame_mean, torch.tensor([1.0, 0.0]))
    assert curves[0, 0, 1] == 0


def test_frames_need_not_be_brought_to_length_one_first():
    """The slow twin: unit frames less their mean, times unit names. CLIP's frames have norms of about ten."""
    torch.manual_seed(0)
    frames, names = 10 * torch.randn(2, 9, 64) + 3, torch.randn(5, 64)
    frames[1, 4:] = 0.0
    is_padding = torch.arange(9).expand(2, 9) >= torch.tensor([[9], [4]])
    similarity = CentredSimilarity(feature_dim=64).train()
    curves = similarity(frames, names, is_padding)
    unit = F.normalize(frames.double(), dim=-1)
    mean = unit[~is_padding].mean(0)
    torch.testing.assert_close(similarity.frame_mean.double(), mean, atol=1e-6, rtol=0)
    twin = CURVE_SCALE * ((unit - mean) @ F.normalize(names.double(), dim=-1).T).transpose(1, 2)
    torch.testing.assert_close(curves.double(), twin.masked_fill(is_padding[:, None], 0.0), atol=2e-5, rtol=0)


def test_zero_text_has_zero_curves():
    similarity = CentredSimilarity(feature_dim=2)
    similarity.frame_mean.copy_(torch.tensor([0.8, 0.4]))
    assert (similarity(torch.randn(1, 2, 2), torch.zeros(3, 2), NO_PADDING) == 0).all()


def test_places_along_a_segment():
    """A curve that says its own time in rows: row t lies at t + .5. The segment is rows 2 to 6, bins one row wide."""
    curves = (torch.arange(8.0) + 0.5)[None, None]
    along = sample_along(curves, torch.tensor([[[[0.5, 0.5]]]]), inside=4, outside=1)
    torch.testing.assert_close(along, torch.tensor([1.5, 2.5, 3.5, 4.5, 5.5, 6.5])[None, None, None, None])


def test_beyond_the_window_its_outermost_row_holds():
    curves = torch.tensor([[[10.0, 20.0]]])
    along = sample_along(curves, torch.tensor([[[[0.5, 1.0]]]]), inside=2, outside=1)
    torch.testing.assert_close(along.flatten(), torch.tensor([10.0, 10.0, 20.0, 20.0]))


def test_every_window_query_and_layer_reads_its_own_place():
    """Two windows, two names, two layers: the value at row r of name k in window b is 100 b + 10 k + r."""
    curves = (100 * torch.arange(2)[:, None, None] + 10 * torch.arange(2)[:, None] + torch.arange(4)).float()
    centres = torch.tensor([[[0.125, 0.375], [0.625, 0.875]], [[0.875, 0.625], [0.375, 0.125]]])  # [N,B,Q]
    along = sample_along(curves, torch.stack((centres, torch.full_like(centres, 0.25)), -1), inside=1, outside=0)
    first = [[[0, 10], [1, 11]], [[102, 112], [103, 113]]]
    wanted = torch.tensor([first, [[[3, 13], [2, 12]], [[101, 111], [100, 110]]]])
    torch.testing.assert_close(along.squeeze(-1), wanted.float())


def test_the_classifier_starts_from_the_centred_mean_of_the_segment():
    """Name 1's curve is 1 over the segment's four rows, name 2's is -1."""
    head = SimilarityClassifier(logit_scale=50.0)
    torch.nn.init.zeros_(head.contract.weight)
    curves = torch.tensor([[[0.0, 0, 1, 1, 1, 1, 0, 0], [0.0, 0, -1, -1, -1, -1, 0, 0]]])
    segments_cw = torch.tensor([[[[0.5, 0.5]]]])
    logits = head(torch.zeros(1, 1, 1, 4), segments_cw, torch.zeros(1, 8, 4), torch.zeros(2, 4), curves)
    # of eight places two per row; the outermost two lie a quarter row inside its first and last row's centre
    inside = (2 * 0.75 + 6) / 8
    torch.testing.assert_close(logits, inside * 50 / CURVE_SCALE * torch.tensor([[[[1.0, -1.0]]]]))


@pytest.mark.parametrize("num_matched", [0, 5])
def test_the_correction_and_its_gradients_equal_the_slow_twins(num_matched):
    torch.manual_seed(0)
    head = SimilarityClassifier(logit_scale=50.0)
    torch.nn.init.normal_(head.contract.weight)
    evidence = torch.randn(40, head.expand.in_features)
    direction = torch.zeros(40)
    direction[torch.randperm(40)[:num_matched]] = torch.randn(num_matched)
    fast, slow = head._correction(evidence), head._correction(evidence.clone().requires_grad_())
    torch.testing.assert_close(fast, slow)
    weights = [head.expand.weight, head.expand.bias, head.contract.weight]
    of_fast, of_slow = (torch.autograd.grad(out @ direction, weights) for out in (fast, slow))
    for one, other in zip(of_fast, of_slow, strict=True):
        torch.testing.assert_close(one, other)


def test_guidance_ignores_the_order_of_names_and_padding():
    torch.manual_seed(0)
    guidance = NameGuidance(channels=4, dim=6)
    nothing, curves, is_padding = (
        torch.zeros(2, 10, 6),
        torch.randn(2, 3, 10),
        torch.arange(10) >= torch.tensor([[10], [7]]),
    )
    curves = curves.masked_fill(is_padding[:, None], 0.0)
    guided = guidance(nothing, curves, is_padding)
    assert guided.shape == (2, 10, 6)
    assert (guided[1, 7:] == 0).all()
    torch.testing.assert_close(guidance(nothing, curves[:, [2, 0, 1]], is_padding), guided)
    alone = guidance(nothing[1:, :7], curves[1:, :, :7], is_padding[1:, :7])
    torch.testing.assert_close(guided[1:, :5], alone[:, :5])  # the last rows see the border within two kernels
