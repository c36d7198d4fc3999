"""`psftr predict` and `psftr report` through the front door, on a tiny CLIP with random weights."""

import json
import os
import shutil
from pathlib import Path

import pytest
from clips import numbered_clip
from front_door import psftr
from parts import save_tiny
from tiny_model import ENCODER, tiny_identity

from psftr.data.annotations import Action, Annotations, Video, write_annotations
from psftr.predictions import read_predictions

LABELS = ["--labels", "high jump", "pole vault"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """videos/clip_a.mp4 and clip_b.mp4, model/, truth.json."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "videos").mkdir()
    numbered_clip(folder / "videos" / "clip_a.mp4", count=60)
    numbered_clip(folder / "videos" / "clip_b.mp4", count=40)
    save_tiny(
        folder / "model", tiny_identity(), config={"window": {"size": 16}, "postprocess": {"soft_nms_sigma": 2.0}}
    )
    actions = (Action(0.2, 1.0, "high jump"), Action(1.2, 2.0, "pole vault"))
    subsets = {"clip_a": "test", "clip_b": "training"}
    write_annotations(
        folder / "truth.json",
        Annotations({name: Video(name, subset, 2.4, 25.0, actions) for name, subset in subsets.items()}),
    )
    return folder


@pytest.fixture(scope="module")
def done(place):
    return psftr(
        "predict", "videos", *LABELS, "--checkpoint", "model", *ENCODER, "--stride", "4", "--out", "out",
        "--ground-truth", "truth.json", "--fiftyone", "--activitynet", cwd=place,
    )  # fmt: skip


def test_predict_writes_every_output(place, done):
    names = {path.name for path in (place / "out").iterdir()}
    assert names == {
        "predictions.json", "predictions.csv", "activitynet.json", "labels.json", "report.html", "features",
        "clip_a.srt", "clip_a.vtt", "clip_a.png", "clip_b.srt", "clip_b.vtt", "clip_b.png",
    }  # fmt: skip
    found = read_predictions(place / "out" / "predictions.json")
    assert list(found.detections) == ["clip_a", "clip_b"]
    assert found.provenance.config["labels"] == ["high jump", "pole vault"]
    assert all(d.end_s <= 2.4 for d in found.detections["clip_a"])
    assert all(d.end_s <= 1.6 for d in found.detections["clip_b"])


def test_predict_prints_a_short_table(done):
    assert "UNTRAINED ENCODER: its weights are random" in done.stdout
    assert "clip_a" in done.stdout
    assert "start s" in done.stdout
    assert "  out/report.html" in done.stdout


def test_untrained_weights_are_marked_in_every_output(place, done):
    out = place / "out"
    assert "UNTRAINED ENCODER" in (out / "predictions.csv").read_text().splitlines()[1]
    for ending in ("srt", "vtt"):
        assert "[UNTRAINED ENCODER] " in (out / f"clip_a.{ending}").read_text()
    for name in ("activitynet.json", "labels.json", "report.html"):
        assert "UNTRAINED ENCODER" in (out / name).read_text()
    told = psftr("report", "out/predictions.json", "--annotations", "truth.json", "--subset", "test", cwd=place)
    assert "UNTRAINED ENCODER" in told.stdout
    assert "UNTRAINED ENCODER" in (place / "report.html").read_text()


def test_a_second_call_has_a_folder_of_its_own(place, tmp_path):
    shutil.copytree(place / "videos", tmp_path / "videos")
    call = ["predict", "videos", *ENCODER, "--no-pictures"]
    psftr(*call, "--labels", "high jump", cwd=tmp_path)
    first = (tmp_path / "psftr-predict" / "predictions.json").read_bytes()
    shards = sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*.h5"))
    again = psftr(*call, "--labels", "pole vault", cwd=tmp_path)
    assert "psftr-predict holds the results of an earlier call; these are in psftr-predict-2" in again.stdout
    assert (tmp_path / "psftr-predict" / "predictions.json").read_bytes() == first
    assert read_predictions(tmp_path / "psftr-predict-2" / "predictions.json").provenance.config["labels"] == [
        "pole vault"
    ]
    assert sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*.h5")) == shards, "features are shared"


def test_overwrite_leaves_nothing_of_the_earlier_call(place, tmp_path):
    shutil.copytree(place / "videos", tmp_path / "videos")
    psftr("predict", "videos", *ENCODER, "--labels", "high jump", "--activitynet", cwd=tmp_path)
    (tmp_path / "psftr-predict" / "mine.txt").write_text("kept")
    psftr(
        "predict", "videos/clip_b.mp4", *ENCODER, "--labels", "high jump", "--no-pictures", "--overwrite", cwd=tmp_path
    )
    assert {path.name for path in (tmp_path / "psftr-predict").iterdir()} == {
        "predictions.json", "predictions.csv", "clip_b.srt", "clip_b.vtt", "report.html", "features", "mine.txt",
    }  # fmt: skip


def test_labels_are_matched_by_spelling_and_it_is_said(place, tmp_path):
    shutil.copytree(place / "videos", tmp_path / "videos")
    actions = (Action(0.2, 1.0, "HighJump"), Action(1.2, 2.0, "PoleVault"))
    videos = {name: Video(name, "test", 2.4, 25.0, actions) for name in ("clip_a", "clip_b")}
    write_annotations(tmp_path / "camel.json", Annotations(videos))
    words = "labels matched by spelling: 'high jump' is 'HighJump', 'pole vault' is 'PoleVault'"
    done = psftr("predict", "videos", *LABELS, *ENCODER, "--ground-truth", "camel.json", cwd=tmp_path)
    assert words in done.stdout
    assert "mAP in percent by tIoU" in (tmp_path / "psftr-predict" / "report.html").read_text()
    done = psftr("report", "psftr-predict/predictions.json", "--annotations", "camel.json", cwd=tmp_path)
    assert "labels matched by spelling: " in done.stdout


def test_ground_truth_is_scored_and_drawn(place, done):
    assert "mAP in percent by tIoU" in (place / "out" / "report.html").read_text(encoding="utf-8")
    data = page_data(place / "out" / "report.html")
    assert data[0]["videos"][0]["t"] == [0, 20, 100, 1, 120, 200]
    assert data[0]["videos"][0]["src"] == "../videos/clip_a.mp4"


def rounded(detections):
    """What a person could tell apart: a batch with windows of other videos decides the last digits."""
    return sorted((d.label, round(d.start_s, 3), round(d.end_s, 3), round(d.score, 3)) for d in detections)


def test_labels_from_a_file_and_features_kept(place, done):
    (place / "names.txt").write_text("# two\nhigh jump\n\npole vault\n")
    store = next((place / "out" / "features").iterdir())
    again = psftr(
        "predict", "--features", str(store), "--videos", "clip_b", "--labels-file", "names.txt",
        "--checkpoint", "model", *ENCODER, "--out", "again", "--no-pictures", cwd=place,
    )  # fmt: skip
    assert again.returncode == 0
    first = read_predictions(place / "out" / "predictions.json").detections["clip_b"]
    found = read_predictions(place / "again" / "predictions.json").detections
    assert found.keys() == {"clip_b"}
    assert rounded(found["clip_b"]) == rounded(first)
    assert not list((place / "again").glob("*.png"))


def test_without_a_checkpoint_the_baseline_says_its_name(place):
    done = psftr("predict", "videos/clip_a.mp4", *LABELS, *ENCODER, "--out", "base", "--no-pictures", cwd=place)
    assert "no --checkpoint given: running the training-free CLIP baseline (clip_baseline)" in done.stdout
    assert read_predictions(place / "base" / "predictions.json").provenance.method == "clip_baseline"


def test_one_bad_video_is_named_and_the_others_finish(place, tmp_path):
    shutil.copytree(place / "videos", tmp_path / "videos")
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video")
    done = psftr("predict", "videos", *LABELS, *ENCODER, "--out", "o", "--no-pictures", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "broken failed: " in done.stderr
    assert "not readable as a video" in done.stderr
    assert list(read_predictions(tmp_path / "o" / "predictions.json").detections) == ["clip_a", "clip_b"]


def test_a_label_without_a_detection_is_still_asked_for(place, tmp_path):
    """Ground truth of a searched label counts although nothing was found under it."""
    shutil.copytree(place / "videos", tmp_path / "videos")
    actions = (Action(0.2, 1.0, "high jump"), Action(1.2, 2.0, "Golf Swing"))
    write_annotations(tmp_path / "truth.json", Annotations({"clip_a": Video("clip_a", "test", 2.4, 25.0, actions)}))
    labels = ["--labels", "high jump", "golf swing", "--max-per-video", "1"]
    psftr("predict", "videos/clip_a.mp4", *labels, *ENCODER, "--ground-truth", "truth.json", cwd=tmp_path)
    assert "2 annotated classes" in (tmp_path / "psftr-predict" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["videos"], 'say what to look for, with --labels "high jump" "pole vault"'),
        (LABELS, "no videos: name video files, or a feature store"),
        (["videos", *LABELS, "--videos", "clip_a"], "--videos chooses among the videos of --features STORE"),
        (["nowhere.mp4", *LABELS, *ENCODER], "video nowhere.mp4 not found"),
        (["videos", *LABELS, "--checkpoint", "nowhere"], "nowhere: no such run folder, model folder or checkpoint"),
        (["videos", *LABELS, "--max-per-video", "0"], "--max-per-video must be at least 1, got 0"),
        (["videos", *LABELS, *ENCODER, "--prompt", "a film"], "neither a preset"),
    ],
)
def test_bad_input_is_one_line(place, arguments, told):
    done = psftr("predict", *arguments, "--out", "bad", cwd=place, check=False)
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


def test_missing_weights_name_the_file(place, monkeypatch):
    """No network here: the error says which file to get and where to put it."""
    import socket

    def unreachable(*_, **__):
        raise socket.gaierror("no network")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    for name in [key for key in os.environ if key.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    done = psftr("predict", "videos", *LABELS, "--model", "RN50", "--device", "cpu", cwd=place, check=False)
    assert done.returncode == 2
    assert "cannot be downloaded" in done.stderr
    assert "--pretrained FILE" in done.stderr


def test_report_of_ones_own_data(place, done):
    told = psftr(
        "report", "out/predictions.json", "--annotations", "truth.json", "--subset", "test", "--tious", "0.3", "0.5",
        "--out", "pages/own.html", "--videos-dir", "videos", "--figures", "figures", cwd=place,
    )  # fmt: skip
    page = (place / "pages" / "own.html").read_text(encoding="utf-8")
    assert "@0.30" in page
    assert "../videos/clip_a.mp4" in page
    assert "pages/own.html" in told.stdout
    assert {path.name for path in (place / "figures").iterdir()} >= {"classes.png", "timeline-clip_a.png"}


def test_videos_are_copied_beside_the_page_if_asked(place, tmp_path):
    shutil.copytree(place / "videos", tmp_path / "videos")
    call = ["predict", "videos", *LABELS, *ENCODER, "--no-pictures", "--out", "o"]
    psftr(*call, "--copy-videos", cwd=tmp_path)
    (tmp_path / "o").rename(tmp_path / "sent")  # the folder as a whole can be moved
    assert page_data(tmp_path / "sent" / "report.html")[0]["videos"][0]["src"] == "videos/clip_a.mp4"
    assert {path.name for path in (tmp_path / "sent" / "videos").iterdir()} == {"clip_a.mp4", "clip_b.mp4"}
    (tmp_path / "sent").rename(tmp_path / "o")
    psftr(*call, "--overwrite", cwd=tmp_path)
    assert not (tmp_path / "o" / "videos").exists(), "nothing of the earlier call is left"
    assert page_data(tmp_path / "o" / "report.html")[0]["videos"][0]["src"] == "../videos/clip_a.mp4"


def test_console_subtitles_and_page_show_the_same(place, done):
    (data,) = page_data(place / "out" / "report.html")
    numbers = {video["id"]: video["n"] for video in data["videos"]}
    for video_id, number in numbers.items():
        assert (place / "out" / f"{video_id}.srt").read_text(encoding="utf-8").count("-->") == number
    told = done.stdout
    left_out = int(told.split("\nand ")[1].split()[0]) if "\nand " in told else 0
    assert sum(told.count(f"\n  {label} ") for label in LABELS[1:]) + left_out == sum(numbers.values())
    assert f"shown: those with a score of {data['least']:.3g} or more" in told


def test_report_draws_two_methods_over_each_other(place, done):
    """The second file is another tool's: it says nothing about itself."""
    rows = ["video-id,t-start,t-end,label,score", "clip_a,0.3,1.1,high jump,7", "clip_a,1.2,1.9,pole vault,3"]
    (place / "theirs.csv").write_text("\n".join(rows))
    told = psftr(
        "report", "out/predictions.json", "theirs.csv", "--annotations", "truth.json", "--subset", "test",
        "--out", "both.html", "--copy-videos", "--videos-dir", "videos", "--threshold", "0.001", cwd=place,
    )  # fmt: skip
    ours, theirs = page_data(place / "both.html")
    assert (ours["method"], theirs["method"]) == ("psftr", "theirs.csv")
    assert (ours["with"], theirs["with"]) == ([1], [0])
    assert ours["least"] == theirs["least"] == 0.001
    assert ours["videos"][0]["src"] == "videos/clip_a.mp4"
    assert "theirs.csv: shown: those with a score of 0.001 or more (--threshold)" in told.stdout


def page_data(path: Path) -> list:
    return json.loads(path.read_text(encoding="utf-8").split('id="data">')[1].split("</script>")[0])


def test_report_of_a_sweep(sweep, workplace):
    """Two of the ten splits, from the runs' own predictions."""
    psftr("evaluate", f"run={sweep.name}", "figures=false", cwd=workplace)
    files = [str(path.relative_to(workplace)) for path in sorted(sweep.glob("*/predictions.json"))]
    assert len(files) == 2
    annotations = "data/synthetic/annotations.json"
    done = psftr("report", *files, "--annotations", annotations, "--out", "two.html", cwd=workplace)
    page = (workplace / "two.html").read_text(encoding="utf-8")
    assert "[SYNTHETIC]" in done.stdout
    assert "SPLITS 2, 3, 4, 5, 6, 7, 8, 9 MISSING" in page
    assert page.count('class="of-file"') == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--dataset", "thumos14", "--subset", "test"], "--dataset sets subset and tIoUs"),
        (["--index", "0"], "--index needs --splits-dir DIR"),
        (["--splits-dir", "x"], "needs --index with one split for each of the 1 files"),
        (["--subset", "nope"], "no video is in subset 'nope'"),
    ],
)
def test_report_bad_input(place, done, arguments, told):
    bad = psftr("report", "out/predictions.json", "--annotations", "truth.json", *arguments, cwd=place, check=False)
    assert bad.returncode == 2
    assert told in bad.stderr
    assert bad.stderr.count("\n") == 1


def test_report_needs_files_that_are_there(place, done):
    bad = psftr("report", "none.json", "--annotations", "truth.json", cwd=place, check=False)
    assert bad.returncode == 2
    assert "none.json: no such file; give an ActivityNet results JSON" in bad.stderr
