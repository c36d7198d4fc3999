"""Tables as data frames, as text and as CSV."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from evaluations import evaluation, three

from psftr.evaluation.aggregate import TenSplitReport, aggregate
from psftr.evaluation.charts import splits_chart
from psftr.evaluation.facts import Training
from psftr.evaluation.render import WIDTH, aligned, evaluation_text, report_text, write_report
from psftr.evaluation.tables import class_table, comparison_table, settings_table, split_table


def test_the_report_shows_everything_within_the_width():
    text = report_text(three(), baseline=three(method="clip_baseline (psftr 0.1.0)"))
    assert max(map(len, text.splitlines())) <= WIDTH
    for expected in (
        "mean                                               40.00",
        "std                                                10.00",
        "checkpoint           last",
        "external classifier  none",
        "40.00 ± 10.00  3 of 3",
        "PSFTR (paper, Table 1)",
    ):
        assert expected in text, expected
    assert "psftr is 1.00 times clip_baseline" in " ".join(text.split())
    assert "not measured here" in " ".join(text.split())
    assert "SYNTHETIC" not in text
    assert "PEER" not in text


def test_paper_rows_never_stand_beside_synthetic_numbers():
    text = report_text(three(dataset="synthetic"))
    assert "paper, Table 1" not in text
    assert "the paper's numbers are of real videos and are not shown beside synthetic ones" in " ".join(text.split())
    assert three(dataset="synthetic").to_dict()["paper"] == []
    assert len(three().to_dict()["paper"]) == 8
    simulated = three(synthetic=True)  # simulated features over THUMOS14's own timelines
    assert simulated.paper_rows == ()
    assert report_text(simulated).startswith("[SYNTHETIC] thumos14 75/25")


def test_every_table_of_a_peer_evaluation_says_so():
    parts = report_text(three(protocol="peer")).split("\n\n")
    tables = [part for part in parts if "---" in part]
    assert len(tables) == 3
    assert all(part.startswith("[PEER PROTOCOL] ") for part in tables)
    assert evaluation_text(evaluation(0, protocol="peer")).startswith("[PEER PROTOCOL] thumos14 75/25 split 0")


def test_different_splits_are_not_compared_silently():
    baseline = aggregate([evaluation(5, method="clip_baseline")])
    assert "BUT OVER DIFFERENT SPLITS" in report_text(three(), baseline=baseline)


def test_one_evaluation_as_text():
    text = evaluation_text(evaluation(4, 0.3))
    assert "psftr     30.00  30.00  30.00  30.00  30.00  30.00" in text
    assert "a         40.00  40.00  40.00  40.00  40.00  40.00        3          10" in text


def test_activitynet_prints_three_tious_and_the_average_of_ten():
    text = evaluation_text(evaluation(0, 0.3, dataset="activitynet13"))
    assert "@0.50  @0.75  @0.95    Avg" in text
    assert "@0.55" not in text


def test_a_table_is_built_once_with_numbers_and_shown_as_text():
    table = comparison_table([three()])
    assert table.frame["mAP"].tolist() == [pytest.approx(0.4)]  # fractions of 1, never rounded
    assert table.headings == ["method", "@0.30", "@0.40", "@0.50", "@0.60", "@0.70", "Avg", "splits"]
    assert table.body == [["psftr", *["40.00"] * 5, "40.00 ± 10.00", "3 of 3"]]
    assert table.below[-1] == ["PSFTR (paper, Table 1)", "47.41", "39.06", "29.68", "19.31", "9.48", "28.99", ""]
    splits = split_table(TenSplitReport(three().evaluations, (0, 1, 2, 3)))
    assert splits.body[3] == ["3", "MISSING", *[""] * 9]
    assert splits.below == [
        ["mean", "", "", "", "", *["40.00"] * 6],
        ["std", "", "", "", "", *["10.00"] * 6],
    ]
    assert class_table(evaluation(0, 0.3)).below == [["mean", *["30.00"] * 6, "4", "30"]]


def test_settings_stand_in_one_table_with_the_papers_numbers():
    reports = {"w/o SPDE · 75": three(), "Res. · 75": three()}
    table = settings_table(reports, paper={("w/o SPDE", 75): 27.97})
    coverage = "all splits 0..2: mean over 3"
    assert table.body == [
        ["w/o SPDE · 75", "40.00 ± 10.00", coverage, "27.97"],
        ["Res. · 75", "40.00 ± 10.00", coverage, "-"],
    ]
    synthetic = settings_table({"w/o SPDE · 75": three(dataset="synthetic")}, paper={("w/o SPDE", 75): 27.97})
    assert synthetic.headings == ["setting", "Avg", "splits"]
    assert synthetic.caption.startswith("[SYNTHETIC] 1 settings, average mAP in %")


def test_long_names_are_cut_to_the_width():
    lines = aligned(["class", "AP"], [["x" * 300, "1.00"], ["y", "2.00"]]).splitlines()
    assert max(map(len, lines)) == WIDTH
    assert "…  1.00" in lines[2]


def test_files_hold_every_split_class_and_tiou(tmp_path: Path):
    everything, per_split, per_class = write_report(tmp_path / "out", three())
    content = json.loads(everything.read_text())
    assert content["unit"] == "fraction of 1"
    assert content["mAP"]["average"] == {"mean": pytest.approx(0.4), "std": pytest.approx(0.1), "count": 3}
    assert [s["split"]["index"] for s in content["per_split"]] == [0, 1, 2]
    assert content["per_split"][0]["AP"]["a"]["0.50"] == pytest.approx(0.4)
    assert content["per_split"][0]["facts"]["checkpoint"] == "last"
    rows = list(csv.DictReader(per_split.open()))
    assert [(r["split"], float(r["mAP"]), float(r["mAP@0.70"])) for r in rows] == [
        ("0", pytest.approx(0.3), pytest.approx(0.3)),
        ("1", pytest.approx(0.4), pytest.approx(0.4)),
        ("2", pytest.approx(0.5), pytest.approx(0.5)),
    ]
    assert {r["protocol"] for r in rows} == {"clean"}
    rows = list(csv.DictReader(per_class.open()))
    assert len(rows) == 6
    assert (rows[1]["class"], float(rows[1]["AP@0.30"]), rows[1]["actions"]) == ("b", pytest.approx(0.2), "1")


def test_training_is_counted_by_the_run_or_unknown(tmp_path: Path):
    rows = list(csv.DictReader(write_report(tmp_path, three())[1].open()))
    assert [(r["training_videos"], r["training_classes"], r["held_out_classes"]) for r in rows] == [
        ("100", "2", "0"),
        ("101", "2", "0"),
        ("102", "2", "0"),
    ]
    unknown = aggregate([replace(evaluation(0), training=Training())], expected=(0,))
    (row,) = csv.DictReader(write_report(tmp_path, unknown)[1].open())
    assert (row["training_videos"], row["training_classes"]) == ("", "")
    assert split_table(unknown).body[0][1] == "-"


def test_held_out_classes_are_part_of_every_title():
    report = three(held_out=("y",))
    words = "[TRAINED ON 1 OF 2 SEEN CLASSES] "
    parts = report_text(report).split("\n\n")
    assert all(part.startswith(words) for part in parts if "---" in part)
    assert parts[0].startswith(f"{words}thumos14 75/25")
    assert splits_chart([report]).title.startswith(words)
    assert "TRAINED ON" not in report_text(three())
