import json
from pathlib import Path

import pytest

from psftr.errors import PsftrError
from psftr.predictions import (
    Detection,
    Predictions,
    Provenance,
    code_version,
    group_by_video,
    read_predictions,
    write_predictions,
)


def provenance(**changes) -> Provenance:
    values = {
        "method": "psftr",
        "checkpoint_rule": "last",
        "config": {"heads": 8},
        "split": {"dataset": "synthetic", "ratio": 75, "index": 0, "seen": ["a"], "unseen": ["b"]},
        "features": {"encoder": "open_clip:ViT-B-16:openai", "dim": 512, "synthetic": False},
        "text": None,
        "code_version": "0.1.0",
    }
    return Provenance(**{**values, **changes})


def test_what_is_written_is_read_back(tmp_path: Path):
    detections = {
        "v1": (Detection("v1", "high jump", 1.25, 3.5, 0.75), Detection("v1", "diving", 0.0, 2.0, 0.5)),
        "v2": (),
    }
    path = write_predictions(tmp_path / "deep" / "p.json", Predictions(detections, provenance()))
    again = read_predictions(path)
    assert again.detections == detections
    assert again.provenance == provenance()
    assert again.num_detections == 2
    content = json.loads(path.read_text())
    assert content["version"] == "psftr-predictions-1"
    assert "no external classifier" in content["external_data"]["details"]
    assert sorted(content["psftr"]) == sorted(provenance().to_dict())


def test_facts_of_the_training_travel_and_older_files_lack_them(tmp_path: Path):
    training = {"videos": 9, "classes": 2, "names": ["a", "b"], "actions": 31, "windows": 40, "held_out_classes": []}
    path = write_predictions(tmp_path / "p.json", Predictions({"v": ()}, provenance(training=training)))
    assert read_predictions(path).provenance.training == training
    content = json.loads(path.read_text())
    del content["psftr"]["training"]
    path.write_text(json.dumps(content))
    assert read_predictions(path).provenance.training is None


def test_best_score_is_written_first(tmp_path: Path):
    detections = {"v": (Detection("v", "a", 0, 1, 0.1), Detection("v", "a", 1, 2, 0.9))}
    again = read_predictions(write_predictions(tmp_path / "p.json", Predictions(detections)))
    assert [d.score for d in again.detections["v"]] == [0.9, 0.1]
    assert again.provenance is None


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path):
    path = write_predictions(tmp_path / "p.json", Predictions({"v": ()}))
    before = path.read_text()
    with pytest.raises(PsftrError, match="not plain data; store numbers"):
        write_predictions(path, Predictions({"v": ()}, provenance(config={"model": object()})))
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_of_another_tool_has_no_provenance(tmp_path: Path):
    path = tmp_path / "foreign.json"
    row = {"segment": [1, 2], "label": "a", "score": 3}
    external = {"used": True, "details": "UntrimmedNet scores"}
    path.write_text(json.dumps({"version": "1.3", "results": {"x": [row]}, "external_data": external}))
    read = read_predictions(path)
    assert read.provenance is None
    assert read.detections["x"] == (Detection("x", "a", 1.0, 2.0, 3.0),)
    assert read.external_data == external


def test_csv_in_any_column_order_with_extra_columns(tmp_path: Path):
    path = tmp_path / "p.csv"
    path.write_text(
        "score,note,label,t-end,video-id,t-start\n0.5,x,high jump,2.5,v1,1\n\n0.25,y,a,4,v2,3\n1,z,a,2,v1,0\n"
    )
    read = read_predictions(path)
    assert read.detections == {
        "v1": (Detection("v1", "high jump", 1.0, 2.5, 0.5), Detection("v1", "a", 0.0, 2.0, 1.0)),
        "v2": (Detection("v2", "a", 3.0, 4.0, 0.25),),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video-id,t-start,t-end,label\nv,0,1,a\n", "names video-id, t-start, t-end, label but not score"),
        ("", "the header names nothing"),
        ("video-id,t-start,t-end,label,score\nv,0,1,a,0.5\nv,0,x,a,0.5\n", "row 3: t-end is 'x', not a num"),
        ("video-id,t-start,t-end,label,score\nv,0,1,a,nan\n", r"row 2: .* score nan is not finite"),
        ("video-id,t-start,t-end,label,score\nv,0,inf,a,1\n", r"row 2: .*\[0.0, inf\].* is not finite"),
        ("video-id,t-start,t-end,label,score\nv,2,1,a,1\n", r"row 2: .*\[2.0, 1.0\] ends before"),
        ("video-id,t-start,t-end,label,score\nv,0,1,,1\n", "row 2: label is empty"),
        ("video-id,t-start,t-end,label,score\nv,0,1,a\n", "row 2: 4 cells where the header has 5"),
    ],
)
def test_a_bad_csv_is_one_line_naming_file_and_row(tmp_path: Path, text: str, message: str):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(PsftrError, match=message) as caught:
        read_predictions(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", 'no "results" object'),
        ('{"results": []}', 'no "results" object'),
        ('{"results": {"v": 3}}', "v holds int, not a list"),
        ('{"results": {"v": [{"segment": [0], "label": "a", "score": 1}]}}', "v, detection 1: .* is not"),
        ('{"results": {"v": [{"segment": [0, 1], "label": 3, "score": 1}]}}', "label 3 is not a string"),
        (
            '{"results": {"v": [{"segment": [0, 1], "label": "a", "score": NaN}]}}',
            "detection 1: .* not finite",
        ),
        ('{"results": {"v": [], "v": []}}', "'v' appears twice"),
        ('{"version": "psftr-predictions-2", "results": {}}', "this psftr reads psftr-predictions-1"),
        ('{"results": {}, "psftr": {"method": "x"}}', "provenance lacks checkpoint_rule, config"),
        ('{"results": {}, "psftr": {"colour": 1}}', "provenance has unknown keys colour"),
    ],
)
def test_a_bad_json_is_one_line_naming_the_file(tmp_path: Path, text: str, message: str):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(PsftrError, match=message) as caught:
        read_predictions(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_absent_file_is_named(tmp_path: Path):
    with pytest.raises(PsftrError, match="no such file"):
        read_predictions(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("detection", "message"),
    [
        (Detection("v", "a", 0.0, 1.0, float("nan")), "v, detection 1: .* is not finite"),
        (Detection("v", "a", 2.0, 1.0, 0.5), "ends before it starts"),
        (Detection("w", "a", 0.0, 1.0, 0.5), "under v says w"),
    ],
)
def test_writing_refuses_what_reading_would(tmp_path: Path, detection: Detection, message: str):
    with pytest.raises(PsftrError, match=message):
        write_predictions(tmp_path / "p.json", Predictions({"v": (detection,)}))
    assert not list(tmp_path.iterdir())


def test_an_unknown_checkpoint_rule_is_refused():
    with pytest.raises(PsftrError, match="'luckiest' is unknown; give one of last, best-seen-val"):
        provenance(checkpoint_rule="luckiest")


def test_code_version_starts_with_the_package_version():
    from psftr import __version__

    assert code_version().startswith(__version__)


def test_grouping_keeps_order_of_appearance():
    a, b, c = (Detection(v, "x", 0.0, 1.0, 0.5) for v in ("v2", "v1", "v2"))
    assert group_by_video([a, b, c]) == {"v2": (a, c), "v1": (b,)}
    assert list(group_by_video([a, b, c])) == ["v2", "v1"]
