import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from parts import save_tiny
from tiny_model import tiny_clip_encoder

import psftr
from psftr.api.curves import score_curves
from psftr.api.model import trained_stride
from psftr.checkpoints import load_saved, locate
from psftr.engine.localize import build_localizer
from psftr.errors import PsftrError
from psftr.features.encoders import open_encoder
from psftr.features.store import VideoFeatures
from psftr.features.text import TextEmbeddings, embed_names
from psftr.features.video.filmstrip import frames_at
from psftr.predictions import Detection, Predictions, read_predictions

LABELS = ["high jump", "pole vault"]


@pytest.fixture(scope="module")
def model(model_folder, tiny_clip):
    return psftr.load(model_folder, device="cpu", **tiny_clip)


@pytest.fixture(scope="module")
def result(model, videos):
    return model.predict(videos / "clip_a.mp4", labels=LABELS)


def test_import_is_instant():
    heavy = "import sys, psftr; assert 'load' in dir(psftr); print([m for m in ('torch', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        psftr.lod  # noqa: B018


def test_who_predicts_does_not_wait_for_lightning():
    code = "import sys, psftr.api, psftr.methods.psftr.localizer; print('pytorch_lightning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_predict_a_clip(result):
    assert len(result) > 0
    assert isinstance(result[0], Detection)
    assert {d.label for d in result} <= set(LABELS)
    assert all(0 <= d.start_s < d.end_s <= 2.4 for d in result)
    scores = [d.score for d in result]
    assert scores == sorted(scores, reverse=True)
    assert result.durations_s == {"clip_a": pytest.approx(2.4)}
    assert repr(result) == f"<[UNTRAINED ENCODER] {len(result)} detections of 2 labels in 1 videos>"


def test_provenance_says_what_was_done(result, model_folder):
    made = result.predictions.provenance
    assert (made.method, made.checkpoint_rule, made.split) == ("psftr", "last", None)
    assert made.config["labels"] == LABELS
    assert made.config["checkpoint"] == str(model_folder)
    assert made.features["encoder"].endswith(":random-seed0")
    assert "stride=4" in made.features["identity"]  # the checkpoint's, not the default of 8
    assert made.text["prompt"] == "a video of a person doing {}"


def test_every_output(result, tmp_path):
    assert read_predictions(result.to_json(tmp_path / "p.json")).detections == result.predictions.detections
    assert len(read_predictions(result.to_csv(tmp_path / "p.csv")).detections["clip_a"]) == len(result)
    assert result.to_srt(tmp_path / "p.srt").read_text().count("-->") == len(result.likely())
    assert result.to_vtt(tmp_path / "p.vtt").read_text().startswith("WEBVTT")
    assert result.to_timeline(tmp_path / "p.png").stat().st_size > 1000
    assert "UNTRAINED ENCODER" in result.to_report(tmp_path / "p.html").read_text()


def test_a_data_frame_has_every_detection_and_says_what_it_is_of(result):
    frame = result.to_dataframe()
    assert list(frame.columns) == ["video", "label", "start_s", "end_s", "score"]
    assert list(frame.itertuples(index=False, name=None)) == [
        (d.video_id, d.label, d.start_s, d.end_s, d.score) for d in result
    ]
    assert frame.attrs == {"marks": ["UNTRAINED ENCODER"]}


def test_a_notebook_shows_the_likely_ones_and_a_warning(result):
    shown = result._repr_html_()
    assert shown.count("<tr") == len(result.likely()) + 1
    assert "<p>UNTRAINED ENCODER: its weights are random" in shown
    assert f"{len(result.likely())} likely of {len(result)} detections" in shown
    strange = replace(result, predictions=Predictions({"v": (Detection("v", "<b>bold</b>", 0, 1, 0.5),)}))
    assert "&lt;b&gt;bold" in strange._repr_html_()


def test_types_are_for_others_too():
    assert (Path(psftr.__file__).parent / "py.typed").is_file()


def test_order_of_labels_does_not_matter(model, videos, result):
    turned = model.predict(videos / "clip_a.mp4", labels=LABELS[::-1])
    for one, other in zip(turned, result):
        assert one.label == other.label
        assert (one.start_s, one.score) == pytest.approx((other.start_s, other.score), abs=1e-5)


def test_threshold_and_most(model, videos, result):
    least = result[4].score
    assert [d.score for d in model.predict(videos / "clip_a.mp4", labels=LABELS, threshold=least)] == pytest.approx(
        [d.score for d in result if d.score >= least]
    )
    few = model.predict(videos / "clip_a.mp4", labels=LABELS, max_per_video=2)
    assert len(few) == 2


def test_likely_are_half_of_the_best_unless_the_user_says_otherwise(result):
    assert all(d.score >= result[0].score / 2 for d in result.likely())
    everything = type(result)(
        predictions=result.predictions, labels=result.labels, durations_s=result.durations_s, threshold=0.0
    )
    assert everything.likely() == tuple(result)


def test_features_are_kept_and_taken_up_again(model, videos, tmp_path):
    first = model.predict(videos, labels=LABELS, keep_features=tmp_path)
    shards = sorted(tmp_path.rglob("*.h5"))
    assert [shard.stem for shard in shards] == ["clip_a", "clip_b"]
    written = [shard.stat().st_mtime_ns for shard in shards]
    store = shards[0].parent
    again = model.predict(videos, labels=["anything else"], keep_features=tmp_path)
    assert [shard.stat().st_mtime_ns for shard in shards] == written
    assert again.videos == first.videos == ("clip_a", "clip_b")
    from_store = model.predict(features=store, labels=LABELS, video_ids=["clip_b"])
    assert from_store.videos == ("clip_b",)
    for found, same in zip(from_store, first.of("clip_b"), strict=True):
        assert (found.label, found.start_s, found.end_s) == (
            same.label,
            pytest.approx(same.start_s),
            pytest.approx(same.end_s),
        )
        assert found.score == pytest.approx(same.score, rel=1e-4)  # a batch of other windows rounds differently


def test_another_file_of_the_same_name_is_extracted_anew(model, videos, tmp_path):
    (tmp_path / "other").mkdir()
    shutil.copy(videos / "clip_b.mp4", tmp_path / "other" / "clip_a.mp4")
    keep = tmp_path / "features"
    assert model.predict(videos / "clip_a.mp4", labels=LABELS, keep_features=keep).durations_s["clip_a"] == 2.4
    other = model.predict(tmp_path / "other" / "clip_a.mp4", labels=LABELS, keep_features=keep)
    assert other.durations_s["clip_a"] == pytest.approx(1.6)


def test_one_bad_video_among_many(model, videos, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    found = model.predict([videos / "clip_b.mp4", tmp_path / "bad.mp4"], labels=LABELS)
    assert found.videos == ("clip_b",)
    assert [video_id for video_id, _ in found.failed] == ["bad"]
    with pytest.raises(PsftrError, match=r"bad\.mp4: not readable as a video"):
        model.predict(tmp_path / "bad.mp4", labels=LABELS)


def test_baseline_needs_no_checkpoint(videos, tiny_clip):
    found = psftr.baseline(**tiny_clip, device="cpu").predict(videos / "clip_a.mp4", labels=LABELS)
    made = found.predictions.provenance
    assert (made.method, made.checkpoint_rule) == ("clip_baseline", "none (training-free)")
    assert "stride=8" in made.features["identity"]


def test_class_texts_made_elsewhere(model, videos, tiny_clip, tmp_path):
    text = embed_names(LABELS, encoder=tiny_clip_encoder(), template="prompt3")
    text.save(tmp_path / "text.h5")
    with_file = model.predict(videos / "clip_a.mp4", labels=LABELS, text=tmp_path / "text.h5")
    assert [d.score for d in with_file] == pytest.approx(
        [d.score for d in model.predict(videos / "clip_a.mp4", labels=LABELS)]
    )
    with pytest.raises(PsftrError, match=r"no text embedding for 'pole volt' \(nearest known: 'pole vault'\)"):
        model.predict(videos / "clip_a.mp4", labels=["pole volt"], text=text)
    with pytest.raises(PsftrError, match="keep their own prompt"):
        model.predict(videos / "clip_a.mp4", labels=LABELS, text=text, prompt="none")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"labels": "high jump"}, "labels is one string"),
        ({"labels": []}, "no labels to look for"),
        ({"labels": ["a", " a "]}, "labels given twice: a"),
        ({"labels": ["a"], "features": "store.h5"}, "not both"),
        ({"labels": ["a"], "prompt": "a film of"}, "neither a preset"),
    ],
)
def test_bad_arguments(model, videos, arguments, told):
    with pytest.raises(PsftrError, match=told):
        model.predict(videos / "clip_a.mp4", **arguments)


def test_features_of_another_encoder_are_refused(model, videos, tiny_clip, tmp_path):
    other = psftr.baseline(**tiny_clip, device="cpu", seed=1)
    other.predict(videos / "clip_b.mp4", labels=LABELS, keep_features=tmp_path)
    (store,) = tmp_path.iterdir()
    with pytest.raises(PsftrError, match=r"was trained on features of .*seed0, the store .* holds those of .*seed1"):
        model.predict(features=store, labels=LABELS)


def test_encoder_that_is_not_the_checkpoints_is_refused(model_folder, videos):
    wrong = psftr.load(model_folder, device="cpu", model="ViT-B-32", pretrained="random")
    with pytest.raises(PsftrError, match="is needed, but ViT-B-32 with random is open_clip:ViT-B-32:random-seed0"):
        wrong.predict(videos / "clip_a.mp4", labels=LABELS)


@pytest.mark.parametrize(
    ("identity", "told"),
    [
        ("synthetic:words-v1", "psftr cannot run encoder"),
        ("open_clip:ViT-B-32:sha256-0123", "give it with --pretrained FILE"),
        ("open_clip:tiny@01234567:random-seed0", "give its JSON file with --model FILE"),
    ],
)
def test_encoders_that_cannot_be_opened(identity, told):
    with pytest.raises(PsftrError, match=told):
        open_encoder(identity, device="cpu")


def test_where_a_model_may_be(model_folder, tmp_path):
    assert locate(model_folder) == model_folder
    runs = tmp_path / "multirun"
    for number in "01":
        shutil.copytree(model_folder, runs / number)
    with pytest.raises(PsftrError, match=r"holds 2 runs; give one of them, such as .*multirun/0"):
        psftr.load(runs)
    with pytest.raises(PsftrError, match="no such run folder, model folder or checkpoint"):
        psftr.load(tmp_path / "nothing" / "here" / "last.ckpt")
    assert psftr.load(model_folder / "model.safetensors").encoder == psftr.load(model_folder).encoder


def test_run_that_is_not_finished_gives_its_last_checkpoint(model_folder, tmp_path):
    saved = load_saved(model_folder)
    state = {f"network.{name}": value for name, value in saved.weights.items()}
    (tmp_path / "checkpoints").mkdir()
    torch.save({"psftr": saved.facts, "state_dict": state}, tmp_path / "checkpoints" / "last.ckpt")
    loaded = psftr.load(tmp_path)
    assert loaded.origin.endswith("last.ckpt")
    assert loaded.saved.weights.keys() == saved.weights.keys()
    assert all(torch.equal(loaded.saved.weights[name], value) for name, value in saved.weights.items())


@pytest.mark.parametrize(
    ("asked", "name", "revision"),
    [
        ("hf://user/repo", "user/repo", None),
        ("user/repo", "user/repo", None),
        ("hf://user/repo@v2", "user/repo", "v2"),
    ],
)
def test_loading_from_the_hub(model_folder, monkeypatch, asked, name, revision):
    calls = []

    def snapshot_download(repository, **how):
        calls.append((repository, how["revision"], how["allow_patterns"]))
        return str(model_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert psftr.load(asked).seen_classes == ("run",)
    assert calls == [(name, revision, ["model.safetensors", "config.json"])]


def test_hub_that_cannot_be_reached_names_the_files(monkeypatch):
    def snapshot_download(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(
        PsftrError, match=r"no such folder here, and .*no route.*model.safetensors and config.json into a"
    ):
        psftr.load("user/repo")
    with pytest.raises(PsftrError, match="is not a repository"):
        psftr.load("hf://user")


def test_settings_of_the_checkpoint_are_used(tmp_path):
    config = {
        "window": {"mode": "rescale", "size": 64, "test_overlap": 0.0},
        "postprocess": {"merge": "nms", "nms_threshold": 0.4, "roi_weight": 0.5, "max_per_video": 7},
        "data": {"batch_size": 3},
    }
    features = {"identity": "open_clip:ViT-B-16:openai dim=512 stride=16 videos=9 ab"}
    model = psftr.load(save_tiny(tmp_path, "open_clip:ViT-B-16:openai", config=config, features=features))
    text = TextEmbeddings(("a",), torch.ones(1, 16), "open_clip:ViT-B-16:openai", "{}")
    localizer = build_localizer(model.saved, text, device="cpu", precision="32-true")
    assert (localizer.policy.mode, localizer.policy.size, localizer.batch_size) == ("rescale", 64, 3)
    assert localizer.postprocessor.settings.roi_weight == 0.5
    assert localizer.postprocessor.merge_rule.keywords == {"threshold": 0.4, "max_kept": 7}
    assert trained_stride(model.facts) == 16
    assert trained_stride({"features": {"identity": "x stride=8,16 y"}}) == 8


def test_unknown_settings_are_refused_with_the_nearest(tmp_path):
    save_tiny(tmp_path, "open_clip:ViT-B-16:openai", config={"postprocess": {"roi_wieght": 0.5}})
    with pytest.raises(PsftrError, match=r"no setting 'postprocess.roi_wieght', did you mean 'roi_weight'"):
        psftr.load(tmp_path)


def test_curves_of_two_labels_and_of_one():
    # rows point along the first label, then along the second; 4 rows of 1 s
    rows = np.repeat(np.eye(2, dtype=np.float32), 2, axis=0)
    video = VideoFeatures("v", rows, 25, 25.0, 100, 4.0)
    curves = score_curves(video, ["a", "b"], np.eye(2, dtype=np.float32))
    assert curves.seconds.tolist() == [0.5, 1.5, 2.5, 3.5]
    assert curves.values["a"].tolist() == pytest.approx([1, 1, 0, 0])
    halved = score_curves(video, ["a", "b"], np.eye(2, dtype=np.float32), saliency=np.array([0.5, 1, 1, 1]))
    assert halved.values["a"].tolist() == pytest.approx([0.5, 1, 0, 0])
    assert "saliency" in halved.title
    alone = score_curves(video, ["b"], np.eye(2, dtype=np.float32)[1:])
    assert alone.values["b"].tolist() == pytest.approx([0, 0, 1, 1])
    assert "scaled over the video" in alone.title


def test_curves_of_a_network_have_one_value_per_row(result):
    curves = result.curves("clip_a")
    assert len(curves.seconds) == 15  # 60 frames at stride 4
    assert all((values >= 0).all() and (values <= 1).all() for values in curves.values.values())


def test_frames_for_pictures(videos):
    from clips import number_of

    frames = frames_at(videos / "clip_a.mp4", [0.0, 1.0, 2.3, 9.0], height=24)
    assert frames[0].shape == (24, 32, 3)
    # frame k is on screen from k/25 s; past the end the last one stays
    assert [number_of(frame) for frame in frames] == [pytest.approx(k, abs=1) for k in (0, 25, 57, 59)]


def test_real_videos_last_as_long_as_their_annotations_say(shared_data, tiny_clip):
    from psftr.data.annotations import read_annotations
    from psftr.predictions import canonical_id

    files = sorted((shared_data / "videos").glob("*.mp4"))
    known = read_annotations(shared_data / "thumos14/Thumos14_annotations.json").videos
    known |= read_annotations(shared_data / "activitynet13/activity_net.v1-3.subset.json").videos
    found = psftr.baseline(**tiny_clip, device="cpu").predict(files, labels=LABELS, stride=16)
    assert len(found.durations_s) == 5
    for video_id, seconds in found.durations_s.items():
        assert seconds == pytest.approx(known[canonical_id(video_id)].duration_s, abs=0.1)


def test_interrupted_search_keeps_what_was_found(model, videos):
    def stop(done, total):
        raise KeyboardInterrupt

    found = model.predict(videos, labels=LABELS, on_video=stop, returns_on_interrupt=True)
    assert (found.videos, found.is_complete) == (("clip_a",), False)
    with pytest.raises(KeyboardInterrupt):
        model.predict(videos, labels=LABELS, on_video=stop)


def test_temporary_features_go_with_the_result(model, videos, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    found = model.predict(videos / "clip_b.mp4", labels=LABELS)
    (kept,) = tmp_path.iterdir()
    found.curves("clip_b")
    del found
    assert not Path(kept).exists() or not os.listdir(kept)
