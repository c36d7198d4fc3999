import json
import math

import pytest

from psftr.data import annotations as ann
from psftr.data.annotations import Action, read_annotations, write_annotations
from psftr.errors import PsftrError
from psftr.files import nearest_names
from psftr.predictions import canonical_id


def write(tmp_path, database, **more):
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({"database": database, **more}))
    return path


def row(start, end, label="Jump"):
    return {"segment": [start, end], "label": label}


def entry(*rows, duration=10.0, subset="val"):
    return {"subset": subset, "duration": duration, "annotations": list(rows)}


@pytest.mark.parametrize(
    ("rows", "kind", "detail", "kept"),
    [
        ([row(1, 10.2)], ann.PAST_END, "1 to 10.2 s, Jump; the video lasts 10 s", 1),
        ([row(-1, 2)], ann.BEFORE_START, "-1 to 2 s, Jump", 1),
        ([row(1, 2), row(1, 2)], ann.DUPLICATE, "1 to 2 s, Jump", 2),
        ([row(1, 2, "Swim"), row(1, 2)], ann.TWO_LABELS, "1 to 2 s: Jump, Swim", 2),
        ([row(3, 3)], ann.EMPTY, "3 to 3 s, Jump: left out", 0),
        ([row(3, 2)], ann.EMPTY, "3 to 2 s, Jump: left out", 0),
        ([row(float("nan"), 2)], ann.NON_FINITE, "nan to 2 s, Jump: left out", 0),
        ([row(1, 2, "Jmp")], ann.UNKNOWN_LABEL, "1 to 2 s, Jmp: left out; label 'Jmp' (nearest known: 'Jump')", 0),
    ],
)
def test_every_trouble_is_named_and_nothing_is_changed(tmp_path, rows, kind, detail, kept):
    read = read_annotations(write(tmp_path, {"a": entry(*rows)}), classes=["Jump", "Swim"])
    assert [(t.kind, t.video_id, t.detail) for t in read.troubles] == [(kind, "a", detail)]
    assert read.trouble_counts() == {kind: 1}
    as_written = [Action(*r["segment"], r["label"]) for r in rows]
    assert read.videos["a"].actions == tuple(as_written[:kept])


def test_an_end_within_the_tolerance_is_no_trouble(tmp_path):
    assert not read_annotations(write(tmp_path, {"a": entry(row(1, 10.09))})).troubles


def test_a_missing_duration_is_named_and_not_invented(tmp_path):
    read = read_annotations(write(tmp_path, {"a": entry(row(1, 99), duration=None), "b": entry(row(1, 2))}))
    assert [(t.kind, t.video_id) for t in read.troubles] == [(ann.NO_DURATION, "a")]
    assert math.isnan(read.videos["a"].duration_s)


def test_ambiguous_is_neither_an_action_nor_trouble(tmp_path):
    path = write(tmp_path, {"a": entry(row(1, 2), row(1, 2, "Ambiguous"))}, classes=["Jump"])
    read = read_annotations(path)
    assert read.classes == ("Jump",)
    assert read.ignored == {"a": (Action(1.0, 2.0, "Ambiguous"),)}
    assert not read.troubles
    assert read_annotations(path, ignore_labels=()).trouble_counts() == {ann.UNKNOWN_LABEL: 1}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"segment": [1], "label": "Jump"}], r"video 'a', annotation 0: segment must be two numbers.*got \[1\]"),
        ([{"segment": ["1", 2], "label": "Jump"}], r"annotation 0: segment must be two numbers"),
        ([row(1, 2), {"segment": [1, 2]}], "annotation 1: label must be a non-empty string, got None"),
        (["x"], "annotation 0: expected"),
    ],
)
def test_a_malformed_row_is_an_error_naming_file_video_and_row(tmp_path, rows, message):
    with pytest.raises(PsftrError, match="annotations.json: .*" + message):
        read_annotations(write(tmp_path, {"a": entry(*rows)}))


def test_a_file_that_is_something_else_is_an_error(tmp_path):
    path = tmp_path / "a.json"
    for text, message in [
        ("{", "not valid JSON"),
        ('{"results": {}}', 'no "database"'),
        ('{"database": {}}', "no video"),
        ('{"database": {"a": 1}}', "video 'a': expected an object"),
        ('{"database": {"a": {"annotations": []}, "a": {"annotations": []}}}', "key 'a' appears twice"),
    ]:
        path.write_text(text)
        with pytest.raises(PsftrError, match=message):
            read_annotations(path)
    with pytest.raises(PsftrError, match="no such file"):
        read_annotations(tmp_path / "absent.json")


def test_one_rule_joins_ids_with_and_without_v(tmp_path):
    assert canonical_id("v_QOlSCBRmfWY") == canonical_id("QOlSCBRmfWY") == "QOlSCBRmfWY"
    assert canonical_id("v_UmAH95xls") == "v_UmAH95xls"  # itself eleven characters
    assert canonical_id("video_test_0000004") == "video_test_0000004"
    assert list(read_annotations(write(tmp_path, {"v_QOlSCBRmfWY": entry()})).videos) == ["QOlSCBRmfWY"]
    with pytest.raises(PsftrError, match="'QOlSCBRmfWY' appears twice"):
        read_annotations(write(tmp_path, {"v_QOlSCBRmfWY": entry(), "QOlSCBRmfWY": entry()}))


def test_subsets_and_classes_select(tmp_path):
    database = {"a": entry(row(1, 2), row(3, 4, "Swim")), "b": entry(row(1, 2, "Swim"), subset="test")}
    read = read_annotations(write(tmp_path, database))
    assert [v.video_id for v in read.subset("test")] == ["b"]
    assert [len(v.actions) for v in read.only_classes(["Jump"]).videos.values()] == [1, 0]
    with pytest.raises(PsftrError, match="no video is in subset 'train'; there are 'test', 'val'"):
        read.subset("train")


def test_writing_and_reading_gives_the_same(tmp_path):
    database = {"a": entry(row(0.1, 1 / 3), row(5, 99), row(1, 2, "Ambiguous")), "b": entry(duration=None)}
    read = read_annotations(write(tmp_path, database))
    write_annotations(tmp_path / "again" / "b.json", read)
    again = read_annotations(tmp_path / "again" / "b.json")
    assert again.videos["a"] == read.videos["a"]
    assert again.ignored == read.ignored
    assert [t.kind for t in again.troubles] == [t.kind for t in read.troubles] == [ann.PAST_END, ann.NO_DURATION]
    assert [p.name for p in (tmp_path / "again").iterdir()] == ["b.json"]


def test_a_csv_takes_the_place_of_json(tmp_path):
    path = tmp_path / "gt.csv"
    path.write_text("label,t-end,video-id,t-start,note\nJump,2.5,a,1,x\nSwim,4,a,3,\nJump,2,b,1,\n")
    read = read_annotations(path)
    assert read.videos["a"].actions == (Action(1.0, 2.5, "Jump"), Action(3.0, 4.0, "Swim"))
    assert not read.troubles
    path.write_text("video-id,t-start,t-end,label\na,1,x,Jump\n")
    with pytest.raises(PsftrError, match="row 2: t-end is 'x', not a number"):
        read_annotations(path)
    path.write_text("film,t-start,label\n")
    with pytest.raises(PsftrError, match="names film, t-start, label but not video-id, t-end"):
        read_annotations(path)


def test_a_csv_may_say_subset_duration_and_plain_names(tmp_path):
    path = tmp_path / "gt.csv"
    path.write_text(
        "video,start,end,label,subset,duration\na,1,2.5,Jump,train,9\na,3,4,Swim,train,9\nb,1,2,Jump,test,8\n"
    )
    read = read_annotations(path)
    assert read.videos["a"].actions == (Action(1.0, 2.5, "Jump"), Action(3.0, 4.0, "Swim"))
    assert [(v.subset, v.duration_s) for v in read.videos.values()] == [("train", 9.0), ("test", 8.0)]
    path.write_text("video,start,end,label,subset\na,1,2.5,Jump,train\na,3,4,Swim,test\n")
    with pytest.raises(PsftrError, match="row 3: video 'a' is in 'test' and in 'train'"):
        read_annotations(path)


def test_errors_name_five_and_count_the_rest():
    assert nearest_names(["GolfSwng"], ["GolfSwing", "Diving"]) == "'GolfSwng' (nearest known: 'GolfSwing')"
    assert nearest_names(list("abcdefg"), ["0"]) == "'a', 'b', 'c', 'd', 'e' and 2 more"


def test_thumos14(shared_data):
    read = read_annotations(shared_data / "thumos14/Thumos14_annotations.json")
    assert [len(read.subset(name)) for name in ("val", "test")] == [200, 213]
    assert len(read.classes) == 20
    assert read.trouble_counts() == {ann.TWO_LABELS: 361, ann.PAST_END: 30}
    cliff = [t for t in read.troubles if t.kind == ann.TWO_LABELS and t.detail.endswith(": CliffDiving, Diving")]
    assert len(cliff) == 360
    assert sum(map(len, read.ignored.values())) == 188
    unclear = [action for video in read.subset("val") for action in read.ignored.get(video.video_id, ())]
    assert (len(unclear), round(sum(a.end_s - a.start_s for a in unclear))) == (89, 534)  # ignored in training


def test_activitynet(shared_data):
    read = read_annotations(shared_data / "activitynet13/activity_net.v1-3.subset.json")
    assert [len(read.subset(name)) for name in ("training", "validation", "testing")] == [9649, 4728, 4851]
    assert len(read.classes) == 200
    assert read.trouble_counts() == {ann.DUPLICATE: 45, ann.EMPTY: 12, ann.PAST_END: 3}
    # 7,293 validation actions in the file: those read and those left out for having no length
    assert (
        sum(len(v.actions) for v in read.subset("validation"))
        + sum(read.videos[t.video_id].subset == "validation" for t in read.troubles if t.kind == ann.EMPTY)
        == 7293
    )
