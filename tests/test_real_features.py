"""Real CLIP frame features through a trained network, to a predictions file in seconds of that video."""

import json

import numpy as np
import pytest
import torch
from front_door import TINY, psftr

from psftr.checkpoints import load_saved
from psftr.engine.localize import build_localizer
from psftr.features.store import FeatureStore, FeatureWriter
from psftr.features.text import TextEmbeddings
from psftr.predictions import (
    CHECKPOINT_LAST,
    Localizer,
    Predictions,
    Provenance,
    read_predictions,
    write_predictions,
)

VIDEO, FPS, FRAMES = "GGSY1Qvo990", 19.62, 355


@pytest.fixture(scope="module")
def localizer_of(tmp_path_factory):
    """A network trained on the synthetic world; it knows nothing of real videos, only their number of dimensions."""
    folder = tmp_path_factory.mktemp("trained")
    psftr("train", *TINY, "trainer.max_epochs=1", "hydra.run.dir=run", cwd=folder)
    saved = load_saved(folder / "run")

    def build(text: TextEmbeddings) -> Localizer:
        return build_localizer(saved, text, device="cpu", precision="32-true")

    return build


def class_text(names: tuple[str, ...]) -> TextEmbeddings:
    """No CLIP text encoder of these features is at hand: directions drawn per name stand in for it."""
    rows = [torch.randn(512, generator=torch.Generator().manual_seed(sum(map(ord, name)))) for name in names]
    return TextEmbeddings(names=names, embeddings=torch.stack(rows), encoder="drawn", prompt="{}")


def test_real_clip_features_end_in_seconds_of_their_video(shared_data, localizer_of, tmp_path):
    array = np.load(shared_data / "clip" / f"v_{VIDEO}_clip_vitb32_allframes.npy", allow_pickle=False)
    assert array.shape == (FRAMES, 512)
    duration_s = FRAMES / FPS
    with FeatureWriter(tmp_path / "f.h5", encoder="open_clip:ViT-B-32:openai", dim=512, created_by="test") as writer:
        writer.write(VIDEO, array, stride=1, fps=FPS, num_frames=FRAMES, duration_s=duration_s)
    names = ("clean and jerk", "walking the dog")
    store = FeatureStore(tmp_path / "f.h5")
    ((_, detections),) = localizer_of(class_text(names)).localize([store.read(VIDEO)], names)
    assert detections
    provenance = Provenance(method="psftr", checkpoint_rule=CHECKPOINT_LAST, features={"encoder": store.encoder})
    write_predictions(tmp_path / "p.json", Predictions({VIDEO: detections}, provenance))
    rows = read_predictions(tmp_path / "p.json").detections[VIDEO]
    assert all(0 <= row.start_s < row.end_s <= duration_s + 1e-6 for row in rows)
    assert max(row.end_s for row in rows) > 15  # seconds, not rows or shares: the last window starts at 14.7 s
    assert json.loads((tmp_path / "p.json").read_text())["version"] == "psftr-predictions-1"


def test_one_model_two_vocabularies(shared_data, localizer_of, tmp_path):
    """Another order of names, and another number of them, need no retraining and change nothing else."""
    array = np.load(shared_data / "clip" / f"v_{VIDEO}_clip_vitb32_allframes.npy", allow_pickle=False)
    with FeatureWriter(tmp_path / "f.h5", encoder="e", dim=512, created_by="test") as writer:
        writer.write(VIDEO, array, stride=1, fps=FPS, num_frames=FRAMES, duration_s=FRAMES / FPS)
    video = FeatureStore(tmp_path / "f.h5").read(VIDEO)
    names = ("clean and jerk", "walking the dog", "long jump")
    localizer = localizer_of(class_text(names))

    def localize(labels):
        return dict(localizer.localize([video], labels))[VIDEO]

    forward = sorted(localize(names), key=lambda d: (d.label, d.start_s, d.end_s))
    backward = sorted(localize(names[::-1]), key=lambda d: (d.label, d.start_s, d.end_s))
    assert [d.label for d in forward] == [d.label for d in backward]
    for a, b in zip(forward, backward):
        assert (a.start_s, a.end_s, a.score) == pytest.approx((b.start_s, b.end_s, b.score), abs=2e-3)
    assert {d.label for d in localize(names[:1])} == {names[0]}
