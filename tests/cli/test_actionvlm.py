"""ActionVLM and ActionFormer through the front door: train, resume, evaluate, predict, and what is refused."""

import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from front_door import psftr
from safetensors.torch import load_file

from psftr.data.synthetic import ensure_world
from psftr.engine.configuration import read_config
from psftr.engine.train import train as train_run
from psftr.engine.trainer import EpochSeed
from psftr.predictions import read_predictions
from psftr.settings import TrainSettings

sys.path.insert(0, str(Path(__file__).parents[1] / "methods" / "actionvlm"))
from test_language_model import save_qwen

SMALL = (
    "split=closed", "detector.dim=16", "detector.attention_heads=2", "detector.pyramid_levels=3", "window.size=32",
    "trainer.accelerator=cpu", "trainer.validate_every=1", "data_root=data",
)  # fmt: skip


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("closed")
    ensure_world(folder / "data" / "synthetic", num_train=8, num_test=8, dim=64, twins=True)
    return folder


def train(workplace, name, *arguments, check=True, method="actionvlm"):
    return psftr("train", f"method={method}", *SMALL, *arguments, f"hydra.run.dir={name}", cwd=workplace, check=check)


@pytest.fixture(scope="module")
def run(workplace):
    """Three epochs: vision, vision and language, vision. The calls of the language model in each are counted."""
    from psftr.methods.actionvlm.language_model import LanguageModel
    from psftr.methods.actionvlm.objective import ActionVlmObjective

    calls, forward, begin = [], LanguageModel.forward, ActionVlmObjective.begin_epoch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LanguageModel, "forward", lambda *args: (calls.append("call"), forward(*args))[1])
        patch.setattr(ActionVlmObjective, "begin_epoch", lambda *args: (calls.append("epoch"), begin(*args))[1])
        train(workplace, "full", "trainer.max_epochs=3")
    return workplace / "full", calls


def test_epochs_of_vision_never_call_the_language_model(run):
    _, calls = run
    epochs = " ".join(calls).split("epoch")[1:]
    assert len(epochs) == 3
    assert [part.count("call") > 0 for part in epochs] == [False, True, False]


def test_a_run_is_evaluated_with_its_own_descriptions_and_with_those_of_others(workplace):
    fixed = ("language.weighting=fixed", "language.alternates=false", "language.advantage_weight=0")
    train(workplace, "told", *fixed, "trainer.max_epochs=1")
    folder = workplace / "told"
    said = psftr("evaluate", f"run={folder}", cwd=workplace).stdout
    assert "100/0, closed" in said
    before = (folder / "predictions.json").read_bytes()
    psftr("evaluate", f"run={folder}", "mismatch.descriptions=true", "figures=false", cwd=workplace)
    assert (folder / "predictions.json").read_bytes() == before
    own, other = (read_predictions(folder / name) for name in ("predictions.json", "predictions-mismatched.json"))
    assert own.provenance.config["mismatch"] == {"descriptions": False, "circle": 0}
    assert other.provenance.config["mismatch"]["descriptions"] is True
    assert own.provenance.split["source"] == "closed"
    assert own.provenance.split["seen"] == own.provenance.split["unseen"]
    scores = [[d.score for found in one.detections.values() for d in found] for one in (own, other)]
    assert scores[0] != scores[1]
    drop = psftr("evaluate", f"run={folder}", f"mismatched={folder}/predictions-mismatched.json", "figures=false",
                 cwd=workplace).stdout  # fmt: skip
    assert "LAP" in drop
    by_name = psftr(
        "evaluate", f"run={folder}", "mismatched=predictions-mismatched.json", "figures=false", cwd=workplace
    )
    assert _lap_rows(by_name.stdout) == _lap_rows(drop)
    page = psftr("report", str(folder / "predictions.json"), "--annotations", "data/synthetic/annotations.json",
                 "--out", "page.html", cwd=workplace)  # fmt: skip
    assert (workplace / "page.html").is_file(), page.stdout


def _lap_rows(said):
    """What is printed below the heading that has LAP."""
    return said[re.search(r"^file .*LAP.*$", said, re.MULTILINE).end() :].split("\n")[2:3]


def test_lap_of_every_run_stands_in_the_table_over_seeds(workplace):
    """Four runs, copies of one: two settings with two seeds. One setting has no mismatched predictions."""
    fixed = ("language.weighting=fixed", "language.alternates=false", "language.advantage_weight=0")
    train(workplace, "one", *fixed, "trainer.max_epochs=1")
    psftr("evaluate", "run=one", "figures=false", cwd=workplace)
    psftr("evaluate", "run=one", "mismatch.descriptions=true", "figures=false", cwd=workplace)
    facts = json.loads((workplace / "one" / "run.json").read_text())
    for number, (setting, seed) in enumerate([("plain", 0), ("plain", 1), ("told", 0), ("told", 1)]):
        copy = workplace / "many" / str(number)
        shutil.copytree(workplace / "one", copy)
        facts["config"] |= {"setting": setting, "seed": seed}
        (copy / "run.json").write_text(json.dumps(facts))
        if setting == "plain":
            (copy / "predictions-mismatched.json").unlink()
    psftr("evaluate", "run=many", "mismatched=predictions-mismatched.json", "figures=false", cwd=workplace)
    table = pd.read_csv(workplace / "many" / "evaluation" / "seeds.csv", index_col="setting")
    assert table["LAP"].isna().tolist() == [True, False]
    assert table.loc["told", "LAP"] == table.loc["told", "LAP low"] == table.loc["told", "LAP high"]
    weights = workplace / "many" / "2" / "model.safetensors"
    os.utime(weights, (time.time() + 5, time.time() + 5))
    stale = psftr("evaluate", "run=many", "mismatched=predictions-mismatched.json", "figures=false",
                  cwd=workplace, check=False)  # fmt: skip
    assert stale.returncode == 2
    assert "is older than the weights beside it: make it again" in stale.stderr


def test_predict_finds_its_own_classes_and_refuses_others(run, workplace):
    folder, _ = run
    common = ("predict", "--features", "data/synthetic/features.h5", "--checkpoint", str(folder), "--no-pictures")
    name = "activity 1"
    psftr(*common, "--out", "found", "--videos", "synthetic_test_0000", "--labels", name, cwd=workplace)
    found = read_predictions(workplace / "found" / "predictions.json").detections["synthetic_test_0000"]
    assert {d.label for d in found} <= {name}
    refused = psftr(*common, "--out", "other", "--labels", "juggling", cwd=workplace, check=False)
    assert refused.returncode == 2
    assert "this network knows only the 8 classes it was trained on, and not 'juggling'" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


class Killed(Exception):
    """What ends a training here, as a kill would."""


def test_a_killed_training_goes_on_exactly_as_it_would_have(workplace):
    """Stopped before the third of four epochs, a run ends with the weights and means of one that was not."""
    train(workplace, "whole", "trainer.max_epochs=4")
    config = json.loads((workplace / "whole" / "run.json").read_text())["config"]
    start = EpochSeed.on_train_epoch_start

    def stop(self, trainer, module):
        if trainer.current_epoch == 2:
            raise Killed
        start(self, trainer, module)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        patch.setattr(EpochSeed, "on_train_epoch_start", stop)
        with pytest.raises(Killed):
            train_run(*read_config(TrainSettings, config), Path("killed"))
        patch.setattr(EpochSeed, "on_train_epoch_start", start)
        train_run(*read_config(TrainSettings, config), Path("killed"))
    one, other = (load_file(workplace / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    means = [
        torch.load(workplace / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "killed")
    ]
    assert torch.equal(*(one["objective.advantage.means"] for one in means))
    assert (means[0]["objective.advantage.means"] > 0).all()


def test_actionformer_is_actionvlm_without_language(workplace):
    train(workplace, "former", "trainer.max_epochs=1", method="actionformer")
    train(workplace, "never", "trainer.max_epochs=1", "language.joins=never")
    former, never = (load_file(workplace / name / "model.safetensors") for name in ("former", "never"))
    assert {f"detector.{name}" for name in former} == set(never)
    assert all(torch.equal(value, never[f"detector.{name}"]) for name, value in former.items())
    psftr("evaluate", "run=former", "figures=false", cwd=workplace)


def test_qwen_from_a_folder_with_lora_saves_the_adapter_and_resumes(workplace, tmp_path):
    qwen = save_qwen(tmp_path / "qwen")
    options = (f"language.model={qwen}", "language.tuning=lora", "language.rank=2", "language.alpha=4",
               "language.saves_memory=true", "trainer.max_epochs=2")  # fmt: skip
    train(workplace, "lora", *options)
    saved = load_file(workplace / "lora" / "model.safetensors")
    of_model = [name for name in saved if name.startswith("language.language_model")]
    assert of_model
    assert all("lora_" in name for name in of_model)
    assert {name.split(".")[0] for name in saved} == {"detector", "language", "weighting"}
    kept = torch.load(workplace / "lora" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert not [name for name in kept if "base_layer" in name or "embed_tokens" in name]
    done = psftr("train", "resume=lora", cwd=workplace)
    assert "finished already" in done.stdout
    psftr("evaluate", "run=lora", "figures=false", cwd=workplace)
    save_qwen(qwen, seed=1)  # another model in the same place
    refused = psftr("evaluate", "run=lora", "redo=true", "figures=false", cwd=workplace, check=False)
    assert refused.returncode == 2
    assert "has other weights than the one of the training: restore it" in refused.stderr


def test_a_folder_with_an_alignment_is_read_frozen_and_each_window_once(workplace, tmp_path):
    from psftr.methods.actionvlm.alignment import Alignment

    qwen = save_qwen(tmp_path / "taught")
    weight, bias, tokens = torch.randn(16, 64), torch.zeros(16), torch.randn(3, 16)
    Alignment(weight=weight, bias=bias, tokens=tokens, where="").write(qwen)
    frozen = (f"language.model={qwen}", "language.tuning=frozen", "language.sees=stored", "language.text_weight=0",
              "language.first_advantage=1", "language.advantage_unit=mean", "trainer.max_epochs=2")  # fmt: skip
    train(workplace, "kept", *frozen, "language.keeps_states=true")
    train(workplace, "again", *frozen, "language.keeps_states=false")
    kept, again = (load_file(workplace / name / "model.safetensors") for name in ("kept", "again"))
    assert torch.equal(kept["language.project.weight"], weight)
    assert torch.equal(kept["language.tokens"], tokens)
    assert not [name for name in kept if name.startswith("language.language_model")]
    for name, value in kept.items():
        torch.testing.assert_close(value, again[name], atol=1e-4, rtol=1e-3)
    psftr("evaluate", "run=kept", "figures=false", cwd=workplace)


REFUSED = {
    "a class without description": (
        ["descriptions.file=few.yaml"],
        "has no description of 'activity 2'",
    ),
    "a language model without tokenizer": (["language.model=mute", "language.tuning=lora"], "mute has no tokenizer"),
    "no such language model": (["language.model=./absent", "language.tuning=lora"], "no model at ./absent"),
    "a zero-shot split": (["split=random"], "finds only the classes it was trained on: give split=closed"),
    "held-out classes": (["data.held_out_classes=2"], "cannot find classes held out of training"),
    "contradicting settings": (["language.alternates=false"], "measured against epochs of vision only"),
}


@pytest.mark.parametrize(("arguments", "told"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_one_line(workplace, arguments, told):
    texts = json.loads((workplace / "data" / "synthetic" / "descriptions.json").read_text())
    del texts["activity 2"]
    (workplace / "few.yaml").write_text(yaml.safe_dump(texts))
    if not (workplace / "mute").exists():
        save_qwen(workplace / "mute", with_tokenizer=False)
    done = train(workplace, "refused", *arguments, check=False)
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_features_of_another_width_are_refused(run, workplace, tmp_path):
    folder, _ = run
    ensure_world(tmp_path / "wide", num_train=6, num_test=4, dim=96, twins=True)
    store = tmp_path / "wide" / "features.h5"
    done = psftr("evaluate", f"run={folder}", f"dataset.features={store}", cwd=workplace, check=False)
    assert done.returncode == 2
    assert "was trained on features" in done.stderr
    done = psftr(
        "predict", "--features", str(store), "--checkpoint", str(folder), "--labels", "x", "--out", "wide",
        cwd=workplace, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "dim64" in done.stderr
    assert "dim96" in done.stderr
