"""`psftr evaluate audit=true`, `classes=held-out` and `against=`: driven through the front door on a tiny sweep."""

import json
import re
from pathlib import Path

import pytest
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
