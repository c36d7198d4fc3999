"""The front door: help, versions, mistyped verbs and keys."""

import os
import subprocess
import sys

import pytest
from front_door import psftr

from psftr.cli import VERBS, let_threads_wait_briefly, main, train
from psftr.cli.hydra_app import check_overrides, planned_jobs, register_settings
from psftr.errors import PsftrError


def test_help_lists_every_verb(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(verb in printed for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example_and_loads_no_torch(verb):
    """Without torch, `--help` takes a fraction of a second."""
    code = f"import sys; from psftr.cli import main\ntry: main([{verb!r}, '--help'])\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    *printed, loaded = done.stdout.splitlines()
    assert f"usage: psftr {verb}" in done.stdout
    assert "example" in "\n".join(printed)
    assert not {"torch", "hydra", "h5py"} & set(loaded.split())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "0"}, {"GOMP_SPINCOUNT": "0"}),
    ],
)
def test_threads_wait_as_the_user_says_or_else_briefly(before, after, monkeypatch):
    monkeypatch.setattr("os.environ", dict(before))
    let_threads_wait_briefly()
    assert os.environ == after


def test_mistyped_verb_is_one_line_with_the_nearest(capsys):
    assert main(["tarin"]) == 2
    assert capsys.readouterr().err == "psftr tarin: error: no verb 'tarin'; did you mean 'train'?\n"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_epoch=3", "no config key 'trainer.max_epoch', did you mean 'trainer.max_epochs'?"),
        ("model.haeds=4,8", "no config key 'model.haeds', did you mean 'model.heads'?"),
        ("dataset=thmos14", "no configuration 'dataset=thmos14', did you mean 'thumos14'?"),
        ("+frobnicate=1", "no config key 'frobnicate'"),
        ("split.index", "cannot read the override 'split.index': write key=value"),
    ],
)
def test_mistyped_override_names_the_nearest_right_key(override, message):
    register_settings(train)
    with pytest.raises(PsftrError) as caught:
        check_overrides(train, [override], is_sweep=False, config_dir=None)
    assert str(caught.value).startswith(message)


def test_mistyped_key_fails_before_any_work(tmp_path):
    done = psftr("train", "trainer.max_epoch=3", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("split.index=10", "split"),
        ("matcher.cost=clas", "matcher.cost=clas is unknown, did you mean 'class'?"),
        ("model.heads=5", "dim 128 is not a multiple of heads 5"),
        ("dataset=thumos14", "run `psftr prepare thumos14`"),
        ("checkpoint.rule=best", "checkpoint.rule=best is unknown; choose last, best-seen-val"),
        ("protocol=pear", "protocol"),
    ],
)
def test_bad_values_end_in_one_line_and_exit_2(override, message, workplace, tmp_path):
    data_root = "data_root=nowhere" if override.startswith("dataset=") else f"data_root={workplace / 'data'}"
    done = psftr("train", override, data_root, cwd=tmp_path, check=False)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_configuration_can_be_printed(tmp_path):
    done = psftr("train", "--cfg", "job", "model.heads=2", cwd=tmp_path)
    assert "heads: 2" in done.stdout
    assert not list(tmp_path.iterdir())


def test_planned_jobs_are_the_product_of_the_sweep():
    jobs = planned_jobs(["split.index=range(3)", "model.heads=4,8", "dataset=synthetic"])
    assert len(jobs) == 6
    assert jobs[0] == {"split.index": "0", "model.heads": "4", "dataset": "synthetic"}
    assert {job["split.index"] for job in jobs} == {"0", "1", "2"}


def test_every_experiment_composes(tmp_path):
    from psftr.cli.hydra_app import config_groups

    register_settings(train)
    experiments = config_groups()["experiment"]
    for wanted in (
        "table1_thumos14",
        "table2",
        "table3",
        "table4",
        "table6",
        "table8",
        "figure5",
        "figure7",
        "figure8",
    ):
        assert wanted in experiments
    for name in experiments:
        check_overrides(train, [f"experiment={name}"], is_sweep=False, config_dir=None)
        # what a job of it resolves to, label included
        psftr("train", f"experiment={name}", "hydra.mode=RUN", "--cfg", "job", "--resolve", cwd=tmp_path)
