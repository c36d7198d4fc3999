import numpy as np
import pytest
import torch
from parts import postprocessor
from torch import nn
from windowing import policy

from psftr.errors import PsftrError
from psftr.features.store import VideoFeatures
from psftr.features.text import TextEmbeddings
from psftr.methods.psftr.build import NetworkConfig, build_network
from psftr.methods.psftr.localizer import PsftrLocalizer
from psftr.methods.psftr.network import LayerOutputs, Outputs

NAMES = ("jump", "run", "throw")
TEXT = TextEmbeddings(names=NAMES, embeddings=torch.eye(3, 4), encoder="made-up", prompt="{}")


def video(name, features):
    features = np.asarray(features, dtype=np.float32)
    steps = len(features)
    return VideoFeatures(name, features, stride=10, fps=10.0, num_frames=10 * steps, duration_s=float(steps))


def rows_of(*classes):
    """One row (a second) per class index, None for background."""
    features = np.zeros((len(classes), 4), dtype=np.float32)
    for row, label in enumerate(classes):
        features[row, 3 if label is None else label] = 5.0
    return features


class ReadsRuns(nn.Module):
    """Stands in for a trained network: one query per row, its segment the run of action rows around it."""

    def forward(self, features, is_padding, text):
        batch, size, _ = features.shape
        is_action = (features[..., :3].amax(-1) > 0) & ~is_padding
        segments = torch.zeros(batch, size, 2)
        for b in range(batch):
            for row in is_action[b].nonzero()[:, 0].tolist():
                first, last = row, row
                while first > 0 and is_action[b, first - 1]:
                    first -= 1
                while last + 1 < size and is_action[b, last + 1]:
                    last += 1
                segments[b, row] = torch.tensor([(first + last + 1) / 2 / size, (last + 1 - first) / size])
        final = LayerOutputs(
            class_logits=torch.zeros(batch, size, len(text)),
            segments_cw=segments,
            actionness_logits=torch.where(is_action, 4.0, -9.0),
        )
        return Outputs(final=final, saliency_logits=torch.zeros(batch, size), auxiliary=())

    def forward_final(self, features, is_padding, text):
        return self(features, is_padding, text).final


def localizer(network=None, **more):
    parts = {"batch_size": 16, "device": "cpu", "precision": "32-true"} | more
    found = postprocessor(soft_nms_sigma=0.01)
    return PsftrLocalizer(
        network=network or ReadsRuns(), text=TEXT, postprocessor=found, policy=policy(size=8), **parts
    )


def localize(one, names, **more):
    """The detections of one video."""
    return dict(localizer(**more).localize([one], names))[one.video_id]


def surest(detections):
    return [(d.label, round(d.start_s, 3), round(d.end_s, 3)) for d in detections if d.score > 0.5]


def test_a_video_of_several_windows_in_seconds_of_the_video():
    classes = [None] * 20
    classes[2:5] = [0] * 3
    classes[16:19] = [2] * 3
    found = localize(video("v", rows_of(*classes)), NAMES, batch_size=2)
    assert sorted(surest(found)) == [("jump", 2.0, 5.0), ("throw", 16.0, 19.0)]
    assert {d.video_id for d in found} == {"v"}
    assert all(0 <= d.start_s < d.end_s <= 20 for d in found)


@pytest.mark.parametrize("names", [("throw", "run", "jump"), ("run",), ("run", "jump")])
def test_the_vocabulary_is_given_with_the_call(names):
    found = localize(video("v", rows_of(None, 1, 1, 1, None)), names)
    assert surest(found) == [("run", 1.0, 4.0)]
    assert {d.label for d in found} <= set(names)


@pytest.mark.parametrize("length", [1, 7, 8, 9, 40])
def test_any_length_of_video(length):
    found = localize(video("v", rows_of(*[0] * length)), NAMES)
    assert found
    assert all(0 <= d.start_s < d.end_s <= length for d in found)


def test_many_videos_share_batches_and_equal_one_by_one():
    config = NetworkConfig(
        feature_dim=4, text_dim=4, dim=16, heads=2, points=2, encoder_layers=1, decoder_layers=1, queries=5
    )  # fmt: skip
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    videos = [video(f"v{n}", generator.normal(size=(n, 4))) for n in (5, 30, 8, 1, 17)]
    ours = localizer(build_network(config), batch_size=3)
    together = dict(ours.localize(videos, NAMES))
    assert list(together) == ["v5", "v30", "v8", "v1", "v17"]
    for one in videos:
        alone = dict(ours.localize([one], NAMES))[one.video_id]
        assert [d.label for d in alone] == [d.label for d in together[one.video_id]]
        for a, b in zip(alone, together[one.video_id]):
            assert (a.start_s, a.end_s, a.score) == pytest.approx((b.start_s, b.end_s, b.score), abs=1e-4)


def test_videos_come_out_as_soon_as_they_are_done():
    pulled = []

    def videos():
        for n in range(3):
            pulled.append(n)
            yield video(f"v{n}", rows_of(*[0] * 8))

    results = localizer(batch_size=1).localize(videos(), NAMES)
    assert next(results)[0] == "v0"
    assert pulled == [0]


def test_mistakes_are_named():
    clip = video("v", rows_of(0, 0))
    with pytest.raises(PsftrError, match="no text embedding for 'swim'"):
        localize(clip, ("swim",))
    with pytest.raises(PsftrError, match="no class names to look for"):
        localize(clip, ())
    with pytest.raises(PsftrError, match=r"video v: features \[0, 4\] are not \[T >= 1, D\]"):
        localize(video("v", np.zeros((0, 4))), NAMES)
    broken = rows_of(0, 0)
    broken[1, 2] = np.nan
    with pytest.raises(PsftrError, match="video v: features hold values that are not finite"):
        localize(video("v", broken), NAMES)
    with pytest.raises(PsftrError, match="batch_size must be at least 1 window, got 0"):
        next(localizer(batch_size=0).localize([clip], NAMES))


class SaysPrecision(ReadsRuns):
    """Notes whether it runs under autocast."""

    def forward(self, features, is_padding, text):
        self.is_lowered = torch.is_autocast_enabled("cpu")
        return super().forward(features, is_padding, text)


@pytest.mark.parametrize(("precision", "is_lowered"), [("32-true", False), ("bf16-mixed", True)])
def test_the_network_runs_in_the_precision_asked_for(precision, is_lowered):
    network = SaysPrecision()
    one = video("v", rows_of(None, 0, 0, None))
    found = localizer(network, precision=precision)
    assert surest(dict(found.localize([one], NAMES))["v"]) == [("jump", 1.0, 3.0)]
    assert network.is_lowered == is_lowered
    found.saliency(one, NAMES)
    assert network.is_lowered == is_lowered
