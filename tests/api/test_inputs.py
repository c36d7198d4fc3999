"""Frames, arrays and long videos as input."""

import itertools

import numpy as np
import pytest
import torch

import psftr
from psftr.api.inputs import Frames
from psftr.api.stream import _chunks, stream_detections
from psftr.errors import PsftrError
from psftr.features.store import FeatureStore, VideoFeatures
from psftr.features.text import TextEmbeddings
from psftr.predictions import Detection

LABELS = ["high jump", "pole vault"]


@pytest.fixture(scope="module")
def model(model_folder, tiny_clip):
    return psftr.load(model_folder, device="cpu", **tiny_clip)


@pytest.fixture(scope="module")
def pictures(videos):
    """The 60 frames of clip_a as they are decoded."""
    import av

    with av.open(str(videos / "clip_a.mp4")) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def seen(detections):
    """What a person could tell apart: how windows are put into batches decides the last digits."""
    return sorted((d.video_id, d.label, round(d.start_s, 3), round(d.end_s, 3), round(d.score, 3)) for d in detections)


def test_each_row_shows_its_middle_frame():
    def shown(count, stride):
        frames = np.zeros((count, 2, 2, 3), np.uint8) + np.arange(count, dtype=np.uint8)[:, None, None, None]
        return [int(picture[0, 0, 0]) for picture in Frames(frames, 25).sampled(stride)]

    assert shown(8, 4) == [2, 6]
    assert shown(9, 4) == [2, 6, 8]  # the last row ends before its middle: the last frame
    assert shown(11, 4) == [2, 6, 10]
    assert shown(3, 1) == [0, 1, 2]


def test_frames_give_what_their_file_gives(model, videos, pictures):
    of_file = model.predict(videos / "clip_a.mp4", labels=LABELS)
    of_array = model.predict(Frames(pictures, 25, "clip_a"), labels=LABELS)
    one_by_one = model.predict(Frames((picture for picture in pictures), 25, "clip_a"), labels=LABELS)
    assert seen(of_array) == seen(of_file)
    assert seen(one_by_one) == seen(of_file)
    assert of_array.durations_s == {"clip_a": pytest.approx(2.4)}
    assert of_array.files == {}


def test_frames_and_files_together(model, videos, pictures):
    found = model.predict([videos / "clip_b.mp4", Frames(pictures, 25, "mine")], labels=LABELS)
    assert found.videos == ("clip_b", "mine")
    with pytest.raises(PsftrError, match="two videos are called clip_b"):
        model.predict([videos / "clip_b.mp4", Frames(pictures, 25, "clip_b")], labels=LABELS)


@pytest.mark.parametrize(
    ("frames", "told"),
    [
        (lambda: Frames(np.zeros((4, 8, 8, 3)), 25), r"frame 0 is float64 \[8, 8, 3\]; give RGB bytes"),
        (lambda: Frames(np.zeros((4, 8, 8), np.uint8), 25), r"frame 0 is uint8 \[8, 8\]"),
        (lambda: Frames([], 25), "there are none"),
        (lambda: Frames([], 0), "fps must be above 0, got 0"),
        (lambda: 3, "a video is a path or psftr.Frames"),
    ],
)
def test_what_is_not_a_video(model, frames, told):
    with pytest.raises(PsftrError, match=told):
        model.predict([frames()], labels=LABELS)


def test_arrays_of_features_give_what_their_store_gives(model, videos, tmp_path):
    first = model.predict(videos, labels=LABELS, keep_features=tmp_path)
    store = FeatureStore(next(tmp_path.iterdir()))
    arrays = [store.read(video_id) for video_id in store.video_ids]
    again = model.predict(features=arrays, labels=LABELS)
    assert again.videos == ("clip_a", "clip_b")
    assert seen(again) == seen(first)
    assert again.predictions.provenance.features["encoder"] == store.encoder
    assert seen(model.predict(features=arrays[1], labels=LABELS)) == seen(first.of("clip_b"))
    assert model.predict(features=arrays, labels=LABELS, video_ids=["clip_b"]).videos == ("clip_b",)


def test_arrays_of_another_width_are_refused(model):
    wide = VideoFeatures("v", np.ones((4, 8), np.float32), 4, 25.0, 16, 0.64)
    with pytest.raises(PsftrError, match="takes features of 16 dimensions"):
        model.predict(features=wide, labels=LABELS)
    with pytest.raises(PsftrError, match="features are a feature store's path, or VideoFeatures"):
        model.predict(features=[np.ones((4, 16))], labels=LABELS)


def test_a_model_moves(model_folder, tiny_clip, videos):
    model = psftr.load(model_folder, **tiny_clip)
    assert model.to("cpu") is model
    assert model.device == torch.device("cpu")
    with pytest.raises(PsftrError, match="device 'tpu' is unknown"):
        model.to("tpu")


class WholeChunk:
    """A localizer that finds one action in every chunk, over all its length but a second at either end."""

    def __init__(self):
        self.lengths = []

    def localize(self, videos, class_names):
        for video in videos:
            self.lengths.append(len(video.features))
            yield video.video_id, (Detection(video.video_id, class_names[0], 1.0, video.duration_s - 1.0, 0.5),)


def test_chunks_overlap_by_their_margins():
    """Ten rows, cores of four, margins of two: rows 0 to 6, 2 to 10, and the rest."""

    def cut(total, core, margin, size):
        rows = np.arange(total, dtype=np.float32)[:, None]
        batches = (rows[k : k + size] for k in range(0, total, size))
        return [(a, b, s, kept[:, 0].tolist()) for a, b, s, kept in _chunks(batches, core=core, margin=margin)]

    wanted = [(0, 4, 0, [0, 1, 2, 3, 4, 5]), (4, float("inf"), 2, [2, 3, 4, 5, 6, 7, 8, 9])]
    for size in (1, 3, 10):
        assert cut(10, 4, 2, size) == wanted
    assert cut(11, 4, 2, 3)[1:] == [(4, 8, 2, [2, 3, 4, 5, 6, 7, 8, 9]), (8, float("inf"), 6, [6, 7, 8, 9, 10])]
    assert cut(3, 4, 2, 3) == [(0, float("inf"), 0, [0, 1, 2])]


def test_memory_of_a_stream_does_not_grow_with_the_video(model, pictures):
    """An hour of frames at one a second: no chunk is longer than its core and two margins."""
    encoder, localizer = model._open_encoder(model.encoder), WholeChunk()
    hour = Frames((pictures[k % 60] for k in range(3600)), 1.0, "hour")
    found = list(stream_detections(hour, localizer, LABELS, encoder=encoder, stride=4, core_s=120.0, margin_s=60.0))
    assert max(localizer.lengths) == (120 + 2 * 60) / 4
    assert len(localizer.lengths) == len(found) == 30
    # in every inner chunk from a margin before the core to one after: the middle lies in the core
    assert [d.start_s for d in found[:3]] == [1.0, 61.0, 181.0]
    assert all(a.start_s < b.start_s for a, b in itertools.pairwise(found))


def test_a_short_stream_gives_what_predict_gives(model, videos, pictures):
    whole = model.predict(videos / "clip_a.mp4", labels=LABELS)
    for video in (videos / "clip_a.mp4", Frames(pictures, 25, "clip_a")):
        streamed = list(model.stream(video, labels=LABELS))
        assert {d.video_id for d in streamed} == {"clip_a"}
        assert sorted(seen(streamed)) == sorted(seen(whole))
    least = whole[2].score
    kept = list(model.stream(videos / "clip_a.mp4", labels=LABELS, threshold=least - 1e-4))
    assert len(kept) == sum(d.score >= least - 1e-4 for d in whole)


def test_a_stream_that_is_left_ends_its_decoder(model, videos):
    import threading

    found = model.stream(videos / "clip_a.mp4", labels=LABELS)
    next(found)
    found.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "psftr-stream"]


def test_a_broken_stream_is_told(model, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(PsftrError, match=r"bad\.mp4: not readable as a video"):
        list(model.stream(tmp_path / "bad.mp4", labels=LABELS))


def test_a_stream_needs_texts_of_its_encoder(model, videos):
    text = TextEmbeddings(tuple(LABELS), torch.ones(2, 16), "another", "{}")
    with pytest.raises(PsftrError, match="text embeddings are of encoder another"):
        model.stream(videos / "clip_a.mp4", labels=LABELS, text=text)
