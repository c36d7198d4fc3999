"""The detector's losses, objective, network and decoding on cases computed by hand."""

import math

import numpy as np
import pytest
import torch

from psftr.data.batches import Batch, Target
from psftr.data.windows import Window
from psftr.detection.criterion import build_criterion
from psftr.detection.decode import Candidates, Decoder, vote
from psftr.detection.localizer import DetectionLocalizer
from psftr.detection.losses import diou_loss, focal_loss, giou_loss
from psftr.detection.module import rate
from psftr.detection.network import PointOutputs, build_detector
from psftr.detection.points import make_levels
from psftr.detection.pyramid import LocalAttention
from psftr.detection.settings import DetectionsSettings, DetectorSettings
from psftr.errors import PsftrError
from psftr.segments import Timeline, start_end_to_centre_width

SMALL = DetectorSettings(dim=8, attention_heads=2, attention_span=3, pyramid_levels=3, stem_blocks=1, block_dropout=0.0)


def window(size, num_valid=None, video_id="v"):
    num_valid = num_valid or size
    timeline = Timeline(stride=1, fps=1.0, num_steps=num_valid, duration_s=float(num_valid))
    return Window(video_id, timeline, 0.0, float(num_valid), num_valid, size)


def batch(size, segments_rows, labels, *, features=None, is_ignored=None):
    segments = torch.tensor(segments_rows, dtype=torch.float32).reshape(-1, 2) / size
    return Batch(
        features=torch.zeros(1, size, 4) if features is None else features,
        is_padding=torch.zeros(1, size, dtype=torch.bool),
        is_action=torch.zeros(1, size),
        is_ignored=torch.zeros(1, size, dtype=torch.bool) if is_ignored is None else is_ignored,
        targets=(Target(torch.tensor(labels, dtype=torch.int64), start_end_to_centre_width(segments)),),
        windows=(window(size),),
    )


def test_focal_loss_at_even_odds():
    loss = focal_loss(torch.zeros(2), torch.tensor([1.0, 0.0]), alpha=0.25, gamma=2.0)
    ln2 = math.log(2)
    assert loss.tolist() == pytest.approx([0.25 * 0.25 * ln2, 0.75 * 0.25 * ln2])


def test_diou_and_giou_of_two_segments():
    a, b = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 3.0])  # tIoU 1/3, hull 3, centres 1 apart, nothing uncovered
    assert float(diou_loss(a, b)) == pytest.approx(1 - 1 / 3 + (1 / 3) ** 2)
    assert float(giou_loss(a, b)) == pytest.approx(1 - 1 / 3)
    far = torch.tensor([4.0, 6.0])  # tIoU 0, hull 6, centres 4 apart, 2 uncovered
    assert float(diou_loss(a, far)) == pytest.approx(1 + (4 / 6) ** 2)
    assert float(giou_loss(a, far)) == pytest.approx(1 + 2 / 6)


def test_equation_6_on_four_rows():
    """One class, one level, action of rows 1 to 3: the points 1.5 and 2.5 are positive, 0.5 and 3.5 outside."""
    settings = DetectorSettings(pyramid_levels=1, finest_range=4.0)
    criterion = build_criterion(settings, make_levels(1, finest_range=4.0))
    outputs = PointOutputs(
        class_logits=torch.zeros(1, 4, 1),
        distances=torch.tensor([[[1.0, 1.0], [0.5, 1.5], [0.5, 0.5], [1.0, 1.0]]]),
        is_padding=torch.zeros(1, 4, dtype=torch.bool),
    )
    losses = criterion(outputs, batch(4, [[1, 3]], [0]))
    ln2 = math.log(2)
    # M = 2. At 1.5 the segment is right, so DIoU is 0; at 2.5 it is 2..3 of 1..3: tIoU 1/2, centres 0.5 of hull 2 apart
    focal = (2 * 0.25 * 0.25 + 2 * 0.75 * 0.25) * ln2
    diou = 1 - 1 / 2 + (0.5 / 2) ** 2
    assert float(losses.classification) == pytest.approx(focal / 2)
    assert float(losses.location) == pytest.approx(diou / 2)
    assert float(losses.total) == pytest.approx((focal + diou) / 2)
    assert losses.per_point[0].tolist() == pytest.approx(
        [0.75 * 0.25 * ln2, 0.25 * 0.25 * ln2, 0.25 * 0.25 * ln2 + diou, 0.75 * 0.25 * ln2]
    )


def test_the_number_of_positives_is_a_running_mean_and_ignored_rows_count_nothing():
    settings = DetectorSettings(pyramid_levels=1)
    criterion = build_criterion(settings, make_levels(1, finest_range=4.0))
    outputs = PointOutputs(torch.zeros(1, 4, 1), torch.ones(1, 4, 2), torch.zeros(1, 4, dtype=torch.bool))
    criterion(outputs, batch(4, [[1, 3]], [0]))
    assert float(criterion.positives) == 2
    criterion(outputs, batch(4, [[0, 4]], [0]))  # four positive points: centre 2, radius 1.5
    assert float(criterion.positives) == pytest.approx(0.9 * 2 + 0.1 * 4)
    criterion.eval()
    criterion(outputs, batch(4, [[1, 3]], [0]))
    assert float(criterion.positives) == pytest.approx(2.2)
    ignored = criterion(outputs, batch(4, [[1, 3]], [0], is_ignored=torch.ones(1, 4, dtype=torch.bool)))
    assert float(ignored.total) == 0


def test_padding_changes_nothing_and_other_widths_are_refused():
    torch.manual_seed(0)
    network = build_detector(SMALL, feature_dim=4, num_classes=2).eval()
    rows = torch.randn(1, 8, 4)
    short = network(rows, torch.zeros(1, 8, dtype=torch.bool))
    padded = torch.cat([rows, 9 * torch.ones(1, 8, 4)], dim=1)
    is_padding = torch.arange(16)[None] >= 8
    long = network(padded, is_padding)
    counts, twice = (8, 4, 2), (16, 8, 4)
    for name in ("class_logits", "distances"):
        parts = getattr(short, name).split(counts, dim=1), getattr(long, name).split(twice, dim=1)
        for one, other, count in zip(*parts, counts):
            torch.testing.assert_close(one, other[:, :count])
    with pytest.raises(PsftrError, match=r"features must be \[B,T,4\] for this network, got \[1, 8, 5\]"):
        network(torch.randn(1, 8, 5), torch.zeros(1, 8, dtype=torch.bool))


def test_class_prior_is_the_first_probability():
    network = build_detector(SMALL, feature_dim=4, num_classes=2).eval()
    torch.nn.init.zeros_(network.class_head.last.conv.weight)
    outputs = network(torch.randn(1, 8, 4), torch.zeros(1, 8, dtype=torch.bool))
    torch.testing.assert_close(outputs.class_logits.sigmoid(), torch.full((1, 14, 2), 0.01))


def test_local_attention_sees_no_farther_than_its_span():
    torch.manual_seed(0)
    attention = LocalAttention(dim=8, heads=2, span=3).eval()
    rows, is_padding = torch.randn(1, 12, 8), torch.zeros(1, 12, dtype=torch.bool)
    changed = rows.clone()
    changed[0, 0] += 1
    moved = (attention(rows, is_padding) - attention(changed, is_padding)).abs().sum(-1)[0]
    # a neighbour of the span, and the convolution of kernel 3 before it: two rows
    assert (moved[:3] > 0).all()
    assert (moved[3:] == 0).all()


def test_candidates_are_clipped_and_ranked_and_classes_can_be_chosen():
    decoder = Decoder(
        levels=make_levels(1, finest_range=4.0), class_names=("a", "b"), settings=DetectionsSettings(top_candidates=3)
    )
    logits = torch.full((1, 4, 2), -20.0)
    logits[0, 1, 0], logits[0, 2, 1], logits[0, 3, 0] = 2.0, 1.0, 0.0
    rows = torch.tensor([[1.0, 2.0, 3.0, 6.0]])
    outputs = PointOutputs(logits, torch.full((1, 4, 2), 2.0), torch.zeros(1, 4, dtype=torch.bool), rows)
    found = decoder.candidates(outputs, batch(4, [], []), [0, 1])[0]
    assert found.labels.tolist() == [0, 1, 0]
    assert found.segments_s.tolist() == [[0, 3.5], [0.5, 4], [1.5, 4]]
    assert found.advantages.tolist() == [3, 3, pytest.approx(11 / 3)]  # rows 0 to 3, 0 to 3, 1 to 3
    only = decoder.candidates(outputs, batch(4, [], []), [1])[0]
    assert only.labels.tolist() == [1]
    outputs.class_logits[0, 0, 0] = math.nan
    with pytest.raises(PsftrError, match="outputs are not finite"):
        decoder.candidates(outputs, batch(4, [], []), [0])


def test_windows_of_a_video_are_merged_by_soft_nms_in_each_class():
    decoder = Decoder(levels=(), class_names=("a", "b"), settings=DetectionsSettings(sigma=0.5))
    one = Candidates(
        window=window(10), segments_s=torch.tensor([[0.0, 4.0], [0.0, 4.0], [0.0, 4.0]]),
        labels=torch.tensor([0, 0, 1]), scores=torch.tensor([0.9, 0.8, 0.7]),
        advantages=torch.tensor([0.1, math.nan, 0.3]),
    )  # fmt: skip
    found = decoder.merge([one])
    assert [d.language_advantage for d in found] == [pytest.approx(0.1), pytest.approx(0.3), None]
    assert [(d.label, round(d.score, 4)) for d in found] == [
        ("a", 0.9),
        ("b", 0.7),
        ("a", round(0.8 * math.exp(-2), 4)),
    ]


def test_voting_averages_boundaries_of_near_candidates_of_the_class():
    candidates = torch.tensor([[0.0, 10.0], [0.0, 9.0], [5.0, 10.0], [0.0, 9.5]])
    labels, scores = torch.tensor([0, 0, 0, 1]), torch.tensor([0.8, 0.4, 0.9, 0.9])
    voted = vote(candidates[:1], labels[:1], candidates, labels, scores, threshold=0.9)
    # weights 0.8 * 1 and 0.4 * 0.9; the third overlaps by a half, the fourth is of another class
    assert voted[0].tolist() == pytest.approx([0, (0.8 * 10 + 0.36 * 9) / 1.16])


def test_the_rate_rises_then_falls_to_zero():
    steps = [rate(step, warmup=3, total=7) for step in range(8)]
    assert steps == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.5 + 0.25 * 2**0.5, 0.5, 0.5 - 0.25 * 2**0.5, 0.0])


class Video:
    video_id, duration_s = "v", 8.0
    features = np.zeros((8, 4), dtype=np.float32)
    timeline = Timeline(stride=1, fps=1.0, num_steps=8, duration_s=8.0)


def test_other_names_are_refused_with_a_sentence():
    from psftr.data.windows import WindowPolicy
    from psftr.settings import WindowSettings, to_dict

    network = build_detector(SMALL, feature_dim=4, num_classes=2)
    localizer = DetectionLocalizer(
        network=network,
        decoder=Decoder(levels=network.levels, class_names=("run", "jump"), settings=DetectionsSettings()),
        policy=WindowPolicy(**to_dict(WindowSettings(size=8))),
        batch_size=1,
        device="cpu",
    )
    with pytest.raises(PsftrError, match=r"knows only the 2 classes it was trained on, and not .*jumps.*jump"):
        next(localizer.localize([Video()], ["jumps"]))
    (found,) = localizer.localize([Video()], ["jump"])
    assert {d.label for d in found[1]} <= {"jump"}
