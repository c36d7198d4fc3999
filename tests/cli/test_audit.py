"""`psftr evaluate audit=true`, `classes=held-out` and `against=`: driven through the front door on a tiny sweep."""

import csv
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from front_door import TINY, psftr

from psftr.methods.psftr.audit import PLACES, TEXTS

ROWS = [
    "own names everywhere",
    *(f"{kind} text in the {place}" for place in PLACES for kind in TEXTS),
    "zero text in encoder and queries",
    "true class given to each query",
    "true segments given",
    "class head alone",
    "ROIAlign alone",
    "half ROIAlign, half class head",
    "ROIAlign alone, centred",
]  # fmt: skip


@pytest.fixture(scope="module")
def seeds(workplace) -> Path:
    """Two seeds of one split with three seen classes held out."""
    psftr("train", "-m", *TINY, "data.held_out_classes=3", "seed=0,1", "hydra.sweep.dir=seeds", cwd=workplace)
    return workplace / "seeds"


def test_the_audit_prints_every_row_and_the_line(workplace, seeds):
    done = psftr("evaluate", "run=seeds/0", "classes=held-out", "audit=true", cwd=workplace)
    printed = done.stdout
    assert [row for row in ROWS if not re.search(rf"^{re.escape(row)} +\d", printed, flags=re.MULTILINE)] == []
    assert re.search(r"text guidance: [+-]\d+\.\d mAP, own names against zero text in encoder and queries", printed)
    page = (seeds / "0" / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert "Does text guide what is found?" in page
    values = dict(
        re.findall(
            r"^(own names everywhere|true segments given|true class given to each query) +(\d+\.\d+)", printed, re.M
        )
    )
    assert float(values["true segments given"]) > float(values["own names everywhere"])
    assert float(values["true class given to each query"]) >= float(values["own names everywhere"])


@pytest.mark.parametrize("given", ["postprocess.soft_nms_sigma=5.0", "window.test_overlap=0.75"])
def test_the_audit_is_of_the_settings_that_were_given(workplace, seeds, given):
    def asked(*more: str) -> tuple[float, float]:
        """mAP of the table, and of the audit's first row."""
        command = ("run=seeds/1", "classes=held-out", "audit=true", "figures=false", "out=asked")
        psftr("evaluate", *command, *more, cwd=workplace)
        table = json.loads((workplace / "asked" / "evaluation.json").read_text(encoding="utf-8"))
        with (workplace / "asked" / "audit.csv").open(encoding="utf-8") as file:
            first = next(csv.DictReader(file))
        assert first["row"] == "own names everywhere"
        return table["mAP"]["average"]["mean"], float(first["mean"])

    plain, changed = asked(), asked(given)
    assert plain[0] == pytest.approx(plain[1], rel=1e-6)
    assert changed[0] == pytest.approx(changed[1], rel=1e-6)
    assert plain[0] != pytest.approx(changed[0], rel=1e-4)


def test_held_out_classes_are_scored_on_training_videos(workplace, seeds):
    printed = psftr("evaluate", "run=seeds/0", "classes=held-out", "figures=false", cwd=workplace).stdout
    assert "75/25, held-out seen classes" in printed
    assert re.search(r"^classes +3 unseen classes, 12 seen", printed, flags=re.MULTILINE)
    assert "'training' videos" in printed


def test_a_run_that_held_nothing_out_says_so(workplace, sweep):
    done = psftr("evaluate", "run=sweep/0", "classes=held-out", cwd=workplace, check=False)
    assert done.returncode == 2
    assert "this run held no seen class out of training" in done.stderr


def test_a_run_against_itself_differs_by_nothing(workplace, seeds):
    printed = psftr("evaluate", "run=seeds", "against=seeds", "classes=held-out", cwd=workplace).stdout
    assert "A - B = +0.00, 2 pairs" in printed
    found = json.loads((seeds / "evaluation" / "comparison.json").read_text(encoding="utf-8"))
    assert (found["difference"], found["num_pairs"], found["num_splits"]) == (0.0, 2, 1)


def test_other_settings_cannot_be_paired(workplace):
    psftr("train", "-m", *TINY, "model.points=2,4", "trainer.max_epochs=1", "hydra.sweep.dir=two", cwd=workplace)
    done = psftr("evaluate", "run=two", "against=two", cwd=workplace, check=False)
    assert done.returncode == 2
    assert "differ in model.points too" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux")
def test_runs_are_asked_the_same_side_by_side_and_one_after_the_other(workplace, seeds, monkeypatch):
    tables = {}
    for threads in (2, 1):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        command = ("run=seeds", "classes=held-out", "audit=true", "baseline=true", "redo=true", "figures=false")
        psftr("evaluate", *command, f"out=threads-{threads}", cwd=workplace)
        found = [
            *(workplace / f"threads-{threads}").rglob("*.csv"),
            *(workplace / f"threads-{threads}").rglob("evaluation.json"),
        ]
        tables[threads] = {file.relative_to(workplace / f"threads-{threads}"): file.read_text() for file in found}
    assert len([file for file in tables[1] if file.name == "audit.csv"]) == 3  # of each seed, and of both
    assert tables[1] == tables[2]


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux")
def test_a_run_that_cannot_be_read_is_told_side_by_side_too(workplace, seeds, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    copy = shutil.copytree(seeds, workplace / "damaged")
    (copy / "1" / "model.safetensors").write_bytes(b"nothing")
    done = psftr(
        "evaluate", "run=damaged", "classes=held-out", "redo=true", "figures=false", cwd=workplace, check=False
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "model.safetensors" in done.stderr
