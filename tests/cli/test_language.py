"""`psftr evaluate` and `psftr report` with files to compare with: printed, as CSV, on a page."""

import csv
import json

import pytest
from front_door import psftr

ACTIONS = [("one", "jump", 0, 10), ("two", "run", 0, 10), ("three", "throw", 5, 20)]
GUESSED = {"jump": 0, "run": 2, "throw": 14}  # the model without language begins that much late, in seconds


def predictions(folder, name, rows):
    results = {video: [] for video, *_ in ACTIONS}
    for video, label, start, end, *more in rows:
        results[video].append({"segment": [start, end], "label": label, "score": 0.5, **dict(*more)})
    (folder / name).write_text(json.dumps({"results": results}))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language")
    database = {
        video: {"subset": "test", "duration": 40, "annotations": [{"segment": [s, e], "label": label}]}
        for video, label, s, e in ACTIONS
    }
    (folder / "truth.json").write_text(json.dumps({"database": database}))
    predictions(folder, "full.json", [(*row, {"language_advantage": 0.25}) for row in ACTIONS])
    predictions(folder, "mismatched.json", ACTIONS[1:])
    predictions(folder, "plain.json", [(v, label, s + GUESSED[label], e) for v, label, s, e in ACTIONS])
    (folder / "clips.csv").write_text("video-id,t-start,t-end,label\none,5,25,jump\ntwo,20,30,run\n")
    return folder


def test_evaluate_prints_and_writes_the_figures(files):
    done = psftr(
        "evaluate", "predictions=full.json", "annotations=truth.json", "mismatched=mismatched.json",
        "vision_only=plain.json", "ambiguous=clips.csv", "out=scores", "figures=false", cwd=files,
    )  # fmt: skip
    assert "LAP: relative drop of mAP with the descriptions of other classes" in " ".join(done.stdout.split())
    (row,) = csv.DictReader((files / "scores" / "language.csv").open())
    assert float(row["LAP"]) == pytest.approx(1 / 3)
    assert (float(row["fixed"]), float(row["infinite"])) == (pytest.approx(2 / 3), 0.0)  # 0 to 10 s in two of three
    # 5 of the first clip's 20 s with score 0.5, nothing in the second
    assert (float(row["mConf"]), float(row["mLen"]), float(row["acc@0.3"])) == (0.25, 0.125, 1.0)
    levels = {row["level"]: row for row in csv.DictReader((files / "scores" / "levels.csv").open())}
    assert [levels[one]["names"] for one in ("easy", "medium", "hard")] == ["jump", "run", "throw"]
    assert float(levels["hard"]["gain"]) == pytest.approx(1.0)  # tIoU 1/15 without language: never found
    assert float(levels["hard"]["mLA"]) == 0.25


def test_report_shows_them_on_the_page(files):
    psftr(
        "report", "full.json", "--annotations", "truth.json", "--mismatched", "mismatched.json", "--vision-only",
        "plain.json", "--csv", "tables", "--out", "page.html", cwd=files,
    )  # fmt: skip
    page = (files / "page.html").read_text()
    assert "LAP: relative drop of mAP" in page
    assert "Hard: throw" in page
    assert (files / "tables" / "levels.csv").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["full.json", "plain.json", "--mismatched", "mismatched.json"], "are compared with one file, but 2 are given"),
        (["full.json", "--vision-only", "nowhere.json"], "nowhere.json: no such file"),
    ],
)
def test_mistakes_are_one_line(files, arguments, message):
    done = psftr("report", *arguments, "--annotations", "truth.json", cwd=files, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
