import json
import sys
from types import SimpleNamespace

import pytest

from psftr.api.formats import (
    fiftyone_dataset,
    write_activitynet,
    write_csv,
    write_fiftyone_labels,
    write_srt,
    write_vtt,
)
from psftr.errors import PsftrError
from psftr.predictions import Detection, Predictions, Provenance, read_predictions

LATE = Detection("v", "pole vault", 3661.5, 3662.25, 0.25)
EARLY = Detection("v", "high jump", 1.0, 2.5, 0.9)


def test_csv_reads_back_exactly(tmp_path):
    rows = [EARLY, Detection("w", 'say "hi", twice', 0.1, 0.30000000000000004, 1e-9)]
    again = read_predictions(write_csv(tmp_path / "new" / "p.csv", rows))
    assert [d for found in again.detections.values() for d in found] == rows


def test_srt(tmp_path):
    text = write_srt(tmp_path / "v.srt", [LATE, EARLY]).read_text(encoding="utf-8")
    assert text == (
        "1\n00:00:01,000 --> 00:00:02,500\nhigh jump (0.9)\n\n2\n01:01:01,500 --> 01:01:02,250\npole vault (0.25)\n"
    )


def test_vtt(tmp_path):
    text = write_vtt(tmp_path / "v.vtt", [Detection("v", "rock & <roll>\n--> now", 0, 0.0001, 0.5)]).read_text()
    # a cue lasts at least a millisecond, and its text is neither markup nor a time
    assert text == "WEBVTT\n\n00:00:00.000 --> 00:00:00.001\nrock &amp; &lt;roll&gt; -&gt; now (0.5)\n"


def test_marks_stand_in_every_row_and_cue(tmp_path):
    marks = ("SYNTHETIC", "UNTRAINED ENCODER")
    path = write_csv(tmp_path / "p.csv", [EARLY], marks=marks)
    header = "video-id,t-start,t-end,label,score,note"
    assert path.read_text().splitlines() == [header, "v,1.0,2.5,high jump,0.9,SYNTHETIC UNTRAINED ENCODER"]
    assert read_predictions(path).detections == {"v": (EARLY,)}
    cue = "[SYNTHETIC, UNTRAINED ENCODER] high jump (0.9)\n"
    assert cue in write_srt(tmp_path / "p.srt", [EARLY], marks=marks).read_text()
    assert cue in write_vtt(tmp_path / "p.vtt", [EARLY], marks=marks).read_text()


def test_marks_in_files_for_other_tools(tmp_path):
    features = {"encoder": "open_clip:ViT-B-16:random-seed0", "synthetic": True}
    made = Provenance(method="psftr", checkpoint_rule="last", features=features)
    found = Predictions({"v": (EARLY,)}, made)
    details = json.loads(write_activitynet(tmp_path / "a.json", found).read_text())["external_data"]["details"]
    assert details.startswith("[SYNTHETIC, UNTRAINED ENCODER] features: ")
    labels = json.loads(write_fiftyone_labels(tmp_path / "l.json", found).read_text())
    assert labels["info"] == {"marks": ["SYNTHETIC", "UNTRAINED ENCODER"]}


def test_rounding_carries_into_minutes(tmp_path):
    text = write_srt(tmp_path / "v.srt", [Detection("v", "a", 59.9996, 119.9996, 1)]).read_text()
    assert "00:01:00,000 --> 00:02:00,000" in text


def test_no_detections(tmp_path):
    assert write_srt(tmp_path / "v.srt", []).read_text() == ""
    assert write_vtt(tmp_path / "v.vtt", []).read_text() == "WEBVTT\n"


def test_activitynet_results(tmp_path):
    made = Provenance(method="psftr", checkpoint_rule="last", features={"encoder": "open_clip:ViT-B-16:openai"})
    found = Predictions({"v_GGSY1Qvo990": (Detection("v_GGSY1Qvo990", "jump", 1, 2, 0.5),), "none": ()}, made)
    content = json.loads(write_activitynet(tmp_path / "a.json", found).read_text())
    assert content == {
        "version": "VERSION 1.3",
        "results": {"GGSY1Qvo990": [{"label": "jump", "score": 0.5, "segment": [1, 2]}], "none": []},
        "external_data": {"used": True, "details": "features: open_clip:ViT-B-16:openai"},
    }


def test_fiftyone_labels_file(tmp_path):
    content = json.loads(write_fiftyone_labels(tmp_path / "labels.json", Predictions({"v": (EARLY, LATE)})).read_text())
    assert content["classes"] == ["high jump", "pole vault"]
    assert content["labels"]["v"][0] == {"label": "high jump", "timestamps": [1.0, 2.5], "confidence": 0.9}


class FakeSample(dict):
    def __init__(self, filepath):
        self.filepath, self.is_measured = filepath, False

    def compute_metadata(self):
        self.is_measured = True


class FakeTemporalDetection:
    @staticmethod
    def from_timestamps(timestamps, sample, **values):
        assert sample.is_measured
        return (timestamps, values)


class FakeDataset(list):
    def __init__(self, name):
        self.name = name

    add_samples = list.extend


def test_fiftyone_dataset(tmp_path, monkeypatch):
    """Against the calls that FiftyOne documents; it is not installed here."""
    fake = SimpleNamespace(
        Sample=FakeSample,
        TemporalDetection=FakeTemporalDetection,
        TemporalDetections=lambda detections: detections,
        Dataset=FakeDataset,
    )
    monkeypatch.setitem(sys.modules, "fiftyone", fake)
    found = Predictions({"v": (EARLY,), "w": ()})
    (sample,) = fiftyone_dataset(found, {"v": tmp_path / "v.mp4"}, name="mine")
    assert sample.filepath == str(tmp_path / "v.mp4")
    assert sample["predictions"] == [([1.0, 2.5], {"label": "high jump", "confidence": 0.9})]
    with pytest.raises(PsftrError, match="none of the 1 video files belongs"):
        fiftyone_dataset(found, {"x": tmp_path / "x.mp4"})


def test_fiftyone_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(PsftrError, match="install psftr with its extra 'fiftyone'"):
        fiftyone_dataset(Predictions({}), {})
