"""Runs whose numbers would mean nothing stop with one line: features that are missing, a folder that is taken."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
from front_door import TINY, psftr

HOLD = """
import sys, time
from pathlib import Path
from psftr.engine.runs import RunFolder
with RunFolder(Path(sys.argv[1])).held():
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def few(workplace) -> Path:
    """few.h5 has the features of ten training and five test videos, train.h5 those of all training videos."""
    source = workplace / "data" / "synthetic" / "features.h5"
    with h5py.File(source) as whole:
        train = [name for name in whole["videos"] if "train" in name]
        test = [name for name in whole["videos"] if "test" in name]
        for file, names in (("few.h5", train[:10] + test[:5]), ("train.h5", train)):
            with h5py.File(workplace / file, "w") as part:
                part.attrs.update(whole.attrs)
                videos = part.create_group("videos")
                for name in names:
                    whole.copy(whole["videos"][name], videos, name=name)
    return workplace / "few.h5"


def refused(*arguments: str, cwd: Path) -> str:
    done = psftr(*arguments, cwd=cwd, check=False)
    assert done.returncode == 2, done.stdout
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_a_split_without_its_videos_is_an_error(few, workplace):
    told = refused("train", *TINY, "dataset.features=few.h5", "hydra.run.dir=few", cwd=workplace)
    assert "of the 95 training videos of split 75/25 #0 (published) have features in few.h5" in told
    assert "at least 90% are needed" in told
    assert "dataset.allow_missing=true" in told
    told = refused("train", *TINY, "dataset.features=train.h5", "hydra.run.dir=few", cwd=workplace)
    assert "only 0 of the 24 test videos" in told
    assert not (workplace / "few").exists(), "a training that never began leaves no folder"
    told = refused("evaluate", "method=clip_baseline", "dataset.features=few.h5", "figures=false", cwd=workplace)
    assert "test videos of split 75/25 #0 (published) have features" in told


def test_it_goes_on_where_that_is_wanted(few, workplace):
    given = ["dataset.features=few.h5", "dataset.allow_missing=true", "trainer.max_epochs=1", "hydra.run.dir=anyway"]
    told = psftr("train", *TINY, *given, cwd=workplace).stdout
    assert "train videos have no features in few.h5" in told
    assert json.loads((workplace / "anyway" / "run.json").read_text())["config"]["dataset"]["allow_missing"] is True


def test_classes_without_a_detection_are_named_with_the_split_that_fits(workplace):
    lists = workplace / "data" / "synthetic" / "splits" / "train_75_test_25" / "test"
    unseen = (lists / "split_3.list").read_text().split("\n")[:-1]
    row = [{"segment": [1, 4], "label": name, "score": 0.5} for name in unseen]
    (workplace / "theirs.json").write_text(json.dumps({"results": {"synthetic_test_0003": row}}))
    given = ["predictions=theirs.json", "dataset=synthetic", "annotations=data/synthetic/annotations.json"]
    told = " ".join(psftr("evaluate", *given, cwd=workplace).stdout.split())
    assert "NO DETECTION of 15 of the 20 scored classes, which count as 0:" in told
    assert "score it with split.ratio=75 split.index=3" in told
    seen = (lists.parent / "train" / "split_3.list").read_text().split("\n")[:-1]
    assert all(name in told for name in seen)
    told = psftr("evaluate", *given, "split.index=3", cwd=workplace).stdout
    assert "NO DETECTION" not in told


def test_one_training_at_a_time_in_a_folder(workplace):
    shutil.rmtree(workplace / "taken", ignore_errors=True)
    (workplace / "taken" / "0").mkdir(parents=True)
    arguments = [*TINY, "trainer.max_epochs=1"]
    for held, typed in (
        ("taken", ["hydra.run.dir=taken"]),
        ("taken/0", ["-m", "split.index=0", "hydra.sweep.dir=taken"]),
    ):
        process = subprocess.Popen([sys.executable, "-c", HOLD, held], cwd=workplace, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        told = refused("train", *arguments, *typed, cwd=workplace)
        assert f"another training writes into {held} now" in told
        assert not (workplace / "taken" / ".hydra").exists()
        assert not (workplace / "taken" / "multirun.yaml").exists()
        process.kill()  # nothing is left that would hold it, whatever file lies there
        process.wait()
        process.stdout.close()
    assert (workplace / "taken" / ".lock").exists()
    assert "epoch 1/1" in psftr("train", *arguments, "hydra.run.dir=taken", cwd=workplace).stdout


def test_a_refused_run_leaves_the_settings_of_the_first(sweep, workplace):
    overrides = sweep / "0" / ".hydra" / "overrides.yaml"
    before = overrides.read_text()
    told = refused("train", *TINY, "model.queries=9", f"hydra.run.dir={sweep / '0'}", cwd=workplace)
    assert "holds a run that differs in model.queries" in told
    assert overrides.read_text() == before
