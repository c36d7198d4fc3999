"""Data sets of one's own, through the command line: every block of docs/own-data.md is run here."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY
from front_door import TINY, psftr

PAGE = (REPOSITORY / "docs" / "own-data.md").read_text(encoding="utf-8")
SHORT = [*TINY, "trainer.max_epochs=1"]


def test_the_commands_of_the_readme_are_those_of_the_page():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    block = readme[readme.index("psftr prepare custom") :].split("```")[0]
    assert [line for line in block.splitlines() if line not in PAGE] == []


def block(words: str) -> str:
    """The first block of the page after these words."""
    found = re.search(r"```\w*\n(.*?)```", PAGE[PAGE.index(words) :], flags=re.DOTALL)
    assert found, words
    return found[1]


def commands(words: str) -> list[list[str]]:
    return [shlex.split(line)[1:] for line in block(words).splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """kitchen.json, kitchen.h5 and text.h5: a synthetic world under another name; data/kitchen made of them."""
    from psftr.data.synthetic import ensure_world

    folder = tmp_path_factory.mktemp("own")
    ensure_world(folder / "world", num_train=24, num_test=16)
    for name in ("annotations.json", "features.h5"):
        shutil.copy(folder / "world" / name, folder / f"kitchen{Path(name).suffix}")
    done = psftr(*commands("## From annotations")[0], cwd=folder)
    assert "validation, for testing: 16 videos" in done.stdout
    assert "20 classes; ten splits 75/25 and 50/50 are drawn" in done.stdout
    # the synthetic encoder is no program: its class sentences come as a file
    shutil.copy(folder / "world" / "text.h5", folder / "data" / "kitchen")
    return folder


@pytest.fixture(scope="module")
def run(place) -> Path:
    told = psftr(*commands("## From annotations")[1], *SHORT, "hydra.run.dir=run", cwd=place).stdout
    assert "kitchen, SYNTHETIC features · random split 75/0: 15 seen, 5 unseen classes" in told
    return place / "run"


def test_the_file_is_the_one_on_the_page(place):
    written = yaml.safe_load((place / "data" / "kitchen" / "dataset.yaml").read_text())
    assert written == yaml.safe_load(block("writes `data/kitchen/dataset.yaml`"))


def test_trained_resumed_and_evaluated_under_its_own_name(place, run):
    facts = json.loads((run / "run.json").read_text())
    assert facts["split"]["dataset"] == facts["config"]["dataset"]["name"] == "kitchen"
    assert "is finished already" in psftr("train", "resume=run", cwd=place).stdout
    assert "[SYNTHETIC] kitchen: mAP" in psftr("evaluate", "run=run", "figures=false", cwd=place).stdout
    scored = psftr(*commands("## From annotations")[2], "figures=false", "out=base", cwd=place).stdout
    assert "[SYNTHETIC] kitchen: mAP" in scored
    assert "0.30 0.40 0.50 0.60 0.70" in scored


def test_cascade_takes_it(place):
    told = psftr("cascade", "dataset=data/kitchen/dataset.yaml", "figures=false", "baseline=false", cwd=place).stdout
    assert "[SYNTHETIC] kitchen: mAP" in told
    assert (place / "outputs" / "kitchen" / "cascade-clip-75" / "split0" / "predictions.json").is_file()


def test_a_script_of_another_method(place):
    from psftr.data.splits import random_split

    truth = json.loads((place / "kitchen.json").read_text())["database"].values()
    classes = {action["label"] for video in truth for action in video["annotations"]}
    split = random_split(classes, ratio=75, index=0, seed=0)
    (place / "split.json").write_text(json.dumps({"seen": split.seen, "unseen": split.unseen}))
    script = block("## Predictions of another method")
    assert len(script.strip().splitlines()) <= 15
    subprocess.run([sys.executable, "-c", script], cwd=place, check=True)
    typed = next(line for line in PAGE.splitlines() if line.startswith("psftr evaluate predictions="))
    scored = psftr(*shlex.split(typed)[1:], cwd=place).stdout
    assert "kitchen: mAP in percent" in scored
    assert re.search(r"\d unseen classes, 15 seen", scored)
    assert "NO DETECTION" not in scored
    everything = " ".join(
        psftr("evaluate", "predictions=theirs.json", "dataset=data/kitchen", cwd=place).stdout.split()
    )
    assert re.search(r"NO DETECTION of \d+ of the \d+ scored classes", everything)
    assert "name the split: split.index=N, or split=file split.file=FILE" in everything


def test_csv_without_subsets_arrays_and_a_split(place):
    import numpy as np

    from psftr.features.store import FeatureStore

    truth = json.loads((place / "kitchen.json").read_text())["database"]
    rows = [
        f"{video_id},{one['segment'][0]},{one['segment'][1]},{one['label']}"
        for video_id, video in truth.items()
        for one in video["annotations"]
    ]
    (place / "kitchen.csv").write_text("\n".join(["video,start,end,label", *rows]) + "\n")
    store, info = FeatureStore(place / "kitchen.h5"), {}
    (place / "arrays").mkdir()
    for video_id in truth:
        features = store.read(video_id)
        np.save(place / "arrays" / f"{video_id}.npy", features.features)
        info[video_id] = {
            "video_fps": features.fps, "frame_length": features.num_frames,
            "snippet_length": len(features.features), "frame_duration": features.duration_s,
        }  # fmt: skip
    (place / "info.json").write_text(json.dumps(info))
    classes = sorted({one["label"] for video in truth.values() for one in video["annotations"]})
    (place / "mine.yaml").write_text(yaml.safe_dump({"seen": classes[:12], "unseen": classes[12:]}))
    given = ["--annotations", "kitchen.csv", "--test-share", "0.4", "--split", "mine.yaml", "--tious", "0.25", "0.5"]
    arrays = ["--features", "arrays", "--info", "info.json", "--encoder", store.encoder, "--stride", "8"]
    told = psftr("prepare", "custom", "--out", "data/other", *given, *arrays, cwd=place).stdout
    assert "test, for testing: 16 videos" in told
    assert "split: 12 seen and 8 unseen classes" in told
    shutil.copy(place / "world" / "text.h5", place / "data" / "other")
    scored = psftr(
        "evaluate", "method=clip_baseline", "dataset=data/other", "figures=false", "out=other", cwd=place
    ).stdout
    assert re.search(r"\d unseen classes, 12 seen", scored)
    assert "other: mAP" in scored
    assert re.search(r"mAP, % +@0\.25 +@0\.50 +Avg", scored)


@pytest.fixture(scope="module")
def folder_of_mine(place) -> Path:
    folder = place / "conf_of_mine"
    for name in ("dataset", "experiment", "variant"):
        (folder / name).mkdir(parents=True)
    made = yaml.safe_load((place / "data" / "kitchen" / "dataset.yaml").read_text())
    made |= {"root": "data/kitchen", "features": "kitchen.h5"}
    (folder / "dataset" / "kitchen.yaml").write_text(yaml.safe_dump(made))
    (folder / "experiment" / "small.yaml").write_text(block("`conf_of_mine/experiment/small.yaml`"))
    return folder


def test_a_folder_of_ones_own_configuration(place, folder_of_mine):
    first, second = commands("## A folder of your own")
    told = psftr(*first, *SHORT, "hydra.run.dir=by_flag", cwd=place).stdout
    assert "kitchen, SYNTHETIC features · random split" in told
    few = ["model.queries=8", "data.batch_size=32", "trainer.accelerator=cpu", "window.size=64"]
    told = psftr(*second, *few, "hydra.run.dir=by_path", cwd=place).stdout
    assert "dim 32" in told
    assert "epoch 1/1" in told
    resumed = psftr("train", "resume=by_flag", "--config-dir=conf_of_mine", cwd=place).stdout
    assert "is finished already" in resumed
    lost = psftr("train", "resume=by_flag", cwd=place, check=False)
    assert lost.returncode == 2
    assert "no configuration 'dataset=kitchen'" in lost.stderr


UNSAFE = {
    "callbacks": "hydra: {callbacks: {mine: {_target_: os.system, command: touch harm}}}",
    "job_logging": "hydra: {job_logging: {handlers: {mine: {(): os.system, command: touch harm}}}}",
    "environment": "hydra: {job: {env_set: {LD_PRELOAD: harm.so}}}",
    "launcher": "hydra: {launcher: {_target_: os.system}}",
}


@pytest.mark.parametrize("name", UNSAFE)
def test_such_a_folder_names_no_program(place, folder_of_mine, name):
    (folder_of_mine / "variant" / "evil.yaml").write_text(f"# @package _global_\n{UNSAFE[name]}\n")
    done = psftr("train", "--config-dir=conf_of_mine", "variant=evil", "hydra.run.dir=evil", cwd=place, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "a file in conf_of_mine sets hydra." in done.stderr
    assert not (place / "harm").exists()
    assert not (place / "evil").exists()


def test_a_target_among_settings_is_no_setting(place, folder_of_mine):
    (folder_of_mine / "dataset" / "evil.yaml").write_text("_target_: os.system\ncommand: touch harm\n")
    done = psftr("train", "--config-dir=conf_of_mine", "dataset=evil", "hydra.run.dir=evil", cwd=place, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert not (place / "harm").exists()


MISTAKES = [
    ("train dataset=nowhere.yaml", "nowhere.yaml: no such file; `psftr prepare custom` writes one"),
    ("train dataset=kitchen.yml", "kitchen.yml: no setting 'trainsubset', did you mean 'train_subset'"),
    ("train dataset=few.yaml", "must say train_subset and test_subset"),
    ("train dataset=data/kitchen dataset=thumos14", "give one data set"),
    ("train dataset.name=mine", "one of your own: `psftr prepare custom`, then dataset=FILE"),
    ("train dataset=custom", "one of your own: `psftr prepare custom`, then dataset=FILE"),
    ("train --config-dir=nowhere dataset=kitchen", "no folder"),
    ("train +tag=1", "no config key 'tag'"),
    ("prepare custom", "--annotations FILE is missing"),
    ("prepare custom --annotations kitchen.json", "--name NAME is missing"),
    ("prepare custom --annotations kitchen.json --name k", "--subset TRAIN TEST is missing"),
    ("prepare custom --annotations kitchen.json --name k --subset training", "name two"),
    ("prepare custom --annotations kitchen.json --name k --subset training training", "would see the test videos"),
    ("prepare custom --annotations kitchen.json --name k --subset training nope", "no video is in subset 'nope'"),
    ("prepare custom --annotations kitchen.json --name thumos14 --subset training validation", "--name thumos14"),
    ("prepare custom --annotations kitchen.json --name a/b --subset training validation", "--name a/b"),
    ("prepare custom --annotations nowhere.json --name k --subset a b", "nowhere.json: no such file"),
    ("prepare custom --annotations kitchen.json --name k --subset training validation --features x.h5", "x.h5"),
    ("prepare thumos14 --name k", "--name is for `psftr prepare custom`"),
    ("prepare custom --annotations kitchen.json --name k --limit 3", "--limit is not for a data set of your own"),
]


@pytest.mark.parametrize(("typed", "told"), MISTAKES, ids=[typed for typed, _ in MISTAKES])
def test_a_mistake_is_one_line_and_leaves_nothing(place, typed, told):
    (place / "kitchen.yml").write_text("name: kitchen\ntrainsubset: training\n")
    (place / "few.yaml").write_text("name: kitchen\n")
    before = set(place.rglob("*"))
    done = psftr(*shlex.split(typed), cwd=place, check=False)
    assert done.returncode == 2, done.stdout
    assert done.stderr.count("\n") == 1, done.stderr
    assert told in done.stderr
    assert set(place.rglob("*")) == before
