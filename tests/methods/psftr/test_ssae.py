"""The encoder: what padding, name order and the rows of Table 2 may and may not change."""

import pytest
import torch
import torch.nn.functional as F
from parts import network_config

from psftr.methods.psftr.build import build_network
from psftr.methods.psftr.ssae import TemporalConvolution, Unread, sine_encoding

SMALL = {"feature_dim": 8, "text_dim": 8, "dim": 8, "heads": 2, "points": 2, "queries": 3, "decoder_layers": 1}


def _encoder(**variant):
    torch.manual_seed(0)
    return build_network(network_config(**SMALL, **variant)).eval().encoder


def test_sine_encoding_starts_at_sine_and_cosine_of_zero():
    encoding = sine_encoding(torch.arange(3.0), 4)
    torch.testing.assert_close(encoding[0], torch.tensor([0.0, 0.0, 1.0, 1.0]))
    # wavelengths 2 pi and 2 pi * 100 for four channels
    expected = torch.tensor([2.0, 0.02]).sin()
    torch.testing.assert_close(encoding[2, :2], expected)


@pytest.mark.parametrize("components", [0, 3])
def test_convolution_neither_reads_nor_writes_padding(components):
    torch.manual_seed(0)
    convolution = TemporalConvolution(feature_dim=6, dim=4, components=components)
    features = torch.randn(1, 5, 6)
    features[:, 3:] = 0
    is_padding = torch.tensor([[False, False, False, True, True]])
    out = convolution(features, is_padding)
    assert not out[:, 3:].any()
    torch.testing.assert_close(out[:, :3], convolution(features[:, :3], is_padding[:, :3]))


def test_the_convolution_reads_the_directions_that_training_frames_fill_and_no_other():
    torch.manual_seed(0)
    convolution = TemporalConvolution(feature_dim=6, dim=4, components=2)
    plane = torch.linalg.qr(torch.randn(6, 6)).Q  # the first two columns: where the training frames lie
    convolution.fit(torch.randn(n, 2) * torch.tensor([3.0, 1.0]) @ plane[:, :2].T for n in (20, 30))
    torch.testing.assert_close(convolution.basis.T @ convolution.basis, torch.eye(2), atol=1e-6, rtol=0)
    features, is_padding = torch.randn(2, 5, 6), torch.zeros(2, 5).bool()
    out = convolution(features, is_padding)
    elsewhere = torch.randn(2, 5, 4) @ plane[:, 2:].T
    torch.testing.assert_close(convolution(features + elsewhere, is_padding), out, atol=1e-5, rtol=0)
    assert not torch.allclose(convolution(features + 0.1 * plane[:, 0], is_padding), out, atol=1e-3)
    # the slow twin: frames cut down to the plane, all of their numbers convolved
    cut = (features @ convolution.basis @ convolution.basis.T).transpose(1, 2)
    twin = convolution.projection(F.leaky_relu(convolution.convolution(cut).transpose(1, 2), 0.2))
    torch.testing.assert_close(out, twin, atol=1e-5, rtol=0)
    grads = [torch.autograd.grad(way.square().sum(), convolution.convolution.weight)[0] for way in (out, twin)]
    torch.testing.assert_close(*grads, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("components", [0, 6, 48])
def test_as_many_components_as_a_frame_has_numbers_or_none_leave_frames_as_they_are(components):
    convolution = TemporalConvolution(feature_dim=6, dim=4, components=components)
    convolution.fit(iter([torch.randn(9, 6)]))
    assert convolution.basis is None
    assert "basis" not in convolution.state_dict()


def test_valid_frames_do_not_depend_on_the_amount_of_padding():
    encoder = _encoder()
    visual, text = torch.randn(1, 12, 8), torch.randn(1, 3, 8)
    is_padding = torch.arange(12)[None] >= 7
    long_visual, long_text = encoder(visual, text, is_padding)
    short_visual, short_text = encoder(visual[:, :7], text, is_padding[:, :7])
    torch.testing.assert_close(long_visual[:, :7], short_visual, atol=1e-5, rtol=0)
    torch.testing.assert_close(long_text, short_text, atol=1e-5, rtol=0)


def test_reordering_names_reorders_text_and_leaves_frames():
    encoder = _encoder()
    visual, text, is_padding = torch.randn(2, 6, 8), torch.randn(1, 4, 8), torch.zeros(2, 6).bool()
    order = torch.tensor([2, 0, 3, 1])
    frames, names = encoder(visual, text, is_padding)
    same_frames, reordered = encoder(visual, text[:, order], is_padding)
    torch.testing.assert_close(same_frames, frames, atol=1e-5, rtol=0)
    torch.testing.assert_close(reordered, names[:, order], atol=1e-5, rtol=0)


@pytest.mark.parametrize("text_to_vision", [False, True])
@pytest.mark.parametrize("vision_to_text", [False, True])
def test_each_direction_of_table_2_carries_its_modality_and_no_other(text_to_vision, vision_to_text):
    encoder = _encoder(text_to_vision=text_to_vision, vision_to_text=vision_to_text, text_to_query=True)
    visual, text = torch.randn(2, 6, 8, requires_grad=True), torch.randn(1, 4, 8, requires_grad=True)
    frames, names = encoder(visual, text, torch.zeros(2, 6).bool())

    def depends(output, source):
        (gradient,) = torch.autograd.grad(output.square().sum(), source, retain_graph=True, allow_unused=True)
        return gradient is not None and bool(gradient.abs().max() > 1e-6)

    weights = torch.randn(8)  # a layer-normalised row has a constant sum of squares
    assert depends(frames * weights, visual)
    assert depends(names * weights, text)
    assert depends(frames * weights, text) == text_to_vision
    assert depends(names * weights, visual) == vision_to_text
    assert names.shape[0] == (2 if vision_to_text else 1)  # untouched by videos, text is computed once


def test_text_without_readers_has_no_parts():
    unread = _encoder(text_to_vision=False, vision_to_text=False, text_to_query=False)
    assert not any("text" in name and "text_to_vision" not in name for name, _ in unread.named_parameters())
    last_unread = _encoder(text_to_query=False)
    assert isinstance(last_unread.layers[-1].vision_to_text, Unread)
    assert not isinstance(last_unread.layers[0].vision_to_text, Unread)
