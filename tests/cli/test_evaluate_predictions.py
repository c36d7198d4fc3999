"""`psftr evaluate run=` over folders of a training-free method: predictions files without a run."""

import json
import shutil

import numpy as np
import pytest
from front_door import psftr


@pytest.fixture(scope="module")
def two_splits(workplace):
    arguments = ["split.index=0,1", "baseline=false"]
    psftr("cascade", "-m", *arguments, cwd=workplace)
    return workplace / "outputs" / "synthetic" / "cascade-clip-75"


def test_splits_of_a_sweep_stand_in_one_table_and_one_page(two_splits, workplace):
    assert sorted(path.name for path in two_splits.iterdir()) == ["multirun.yaml", "split0", "split1"]
    done = psftr("evaluate", f"run={two_splits}", "baseline=true", cwd=workplace)
    assert "SPLITS 2, 3, 4, 5, 6, 7, 8, 9 MISSING of 0..9: mean over 2" in done.stdout
    table = done.stdout.split("mean over splits, %")[1]
    assert table.index("\ncascade ") < table.index("\nclip_baseline ")
    together = json.loads((two_splits / "evaluation" / "evaluation.json").read_text())["mAP"]["average"]
    alone = [json.loads((two_splits / f"split{k}" / "evaluation.json").read_text()) for k in (0, 1)]
    assert together["mean"] == pytest.approx(np.mean([one["mAP"]["average"]["mean"] for one in alone]))
    assert "function stagePanel" in (two_splits / "evaluation" / "report.html").read_text()


def test_one_split_is_evaluated_from_its_folder(two_splits, workplace):
    done = psftr("evaluate", f"run={two_splits / 'split1'}", "figures=false", cwd=workplace)
    assert "MISSING" not in done.stdout
    evaluation = json.loads((two_splits / "split1" / "evaluation" / "evaluation.json").read_text())
    assert evaluation["mAP"] == json.loads((two_splits / "split1" / "evaluation.json").read_text())["mAP"]


def test_settings_are_not_averaged(two_splits, workplace):
    psftr("cascade", "split.index=1", "backend.slope=50", "out=cascade-settings/other", "baseline=false", cwd=workplace)
    shutil.copytree(two_splits / "split1", workplace / "cascade-settings" / "split1")
    done = psftr("evaluate", "run=cascade-settings", "figures=false", cwd=workplace)
    assert "=== cascade clip 75/25 (other)" in done.stdout
    assert "=== cascade clip 75/25 (split1)" in done.stdout
    assert "2 settings, average mAP in %" in done.stdout


def test_splits_of_another_data_set_are_refused_in_one_line(two_splits, workplace):
    given = [f"run={two_splits}", "dataset=thumos14"]
    done = psftr("evaluate", *given, cwd=workplace, check=False)
    assert done.returncode == 2
    assert "is of the data set 'synthetic', not 'thumos14'" in done.stderr
    assert done.stderr.count("\n") == 1
