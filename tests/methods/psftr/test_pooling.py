"""ROIAlign against torchvision's and by hand, with equal weights and with others."""

import pytest
import torch
from torch import tensor
from torchvision.ops import roi_align as torchvision_roi_align

from psftr.methods.psftr.pooling import pool_segments, roi_align, roi_align_mean


def test_roi_align_equals_torchvision_aligned_on_the_valid_rows():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 40, 6, generator=generator)
    num_valid = tensor([40, 25, 1])
    edges = torch.rand(3, 50, 2, generator=generator).sort(-1).values
    edges[:, 0] = tensor([0.0, 1.0])  # the whole window
    edges[:, 1] = tensor([0.0, 0.003])  # less than a row at either end
    edges[:, 2] = tensor([0.997, 1.0])
    segments = edges * num_valid.view(-1, 1, 1)
    ours = roi_align_mean(features, segments, num_valid, bins=16)
    weights = torch.rand(16, generator=generator)
    weighted = roi_align(features, segments, num_valid, weights.expand(3, 50, 16))
    for b, valid in enumerate(num_valid.tolist()):
        image = features[b, :valid].T[None, :, None, :]  # [1, D, height 1, T]
        zeros, ones = torch.zeros(50), torch.ones(50)
        boxes = torch.stack((segments[b, :, 0], zeros, segments[b, :, 1], ones), dim=-1)  # x1, y1, x2, y2
        theirs = torchvision_roi_align(image, [boxes], output_size=(1, 16), aligned=True)  # [50, D, 1, 16]
        torch.testing.assert_close(ours[b], theirs.mean(-1).squeeze(-1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(weighted[b], theirs.squeeze(2) @ weights, rtol=1e-4, atol=1e-5)


def test_roi_of_whole_rows_is_their_mean_and_of_no_length_the_value_there():
    features = tensor([[[0.0], [10.0], [20.0], [30.0], [99.0]]])
    segments = tensor([[[1.0, 3.0], [2.5, 2.5], [2.0, 2.0], [3.0, 4.0]]])
    pooled = roi_align_mean(features, segments, tensor([4]), bins=16)
    # [1, 3) covers rows 1 and 2; 2.5 is the middle of row 2; 2.0 lies between rows 1 and 2. Row 4 is padding:
    # the last valid row holds its value up to its end, where the interpolation before it weighs in by 1/8.
    assert pooled[0, :3, 0].tolist() == pytest.approx([15.0, 20.0, 15.0])
    assert pooled[0, 3, 0].item() == pytest.approx(30.0 - 10.0 / 8)


def test_pooling_means_the_frames_of_a_segment():
    """Eight rows of two channels: the row number and one. Rows 2 to 5 are [.25,.75] of the window, mean 3.5."""
    rows = torch.stack((torch.arange(8.0), torch.ones(8)), dim=-1)[None]
    weights = torch.full((2, 1, 1, 4), 0.25)
    segments_cw = torch.tensor([[[[0.5, 0.5]]], [[[0.25, 0.25]]]])  # [N=2,B=1,Q=1,2]; the second is rows 1 and 2
    pooled = pool_segments(rows, segments_cw, weights)
    torch.testing.assert_close(pooled, torch.tensor([[[[3.5, 1.0]]], [[[1.5, 1.0]]]]))
    first_bin = pool_segments(rows, segments_cw, torch.tensor([1.0, 0, 0, 0]).expand(2, 1, 1, 4))
    torch.testing.assert_close(first_bin, torch.tensor([[[[2.0, 1.0]]], [[[0.75, 1.0]]]]))


def test_pooling_stays_inside_the_window_and_keeps_queries_apart():
    rows = torch.arange(8.0)[None, :, None].repeat(2, 1, 1)
    rows[1] += 100
    segments_cw = torch.tensor([[[[0.0, 1.0], [0.5, 0.25]], [[1.0, 1.0], [0.5, 0.25]]]])  # [N=1,B=2,Q=2,2]
    pooled = pool_segments(rows, segments_cw, torch.full((1, 2, 2, 4), 0.25))
    torch.testing.assert_close(pooled[0, :, :, 0], torch.tensor([[1.5, 3.5], [105.5, 103.5]]))
