"""Training, resuming, sweeping and evaluating through the command line, on the synthetic world with a tiny network."""

import csv
import json
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from front_door import TINY, program, psftr
from safetensors.torch import load_file

from psftr.checkpoints import Saved, load_saved
from psftr.data.annotations import read_annotations
from psftr.features.store import FeatureStore
from psftr.predictions import read_predictions


def facts(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


def logged(run: Path) -> set[str]:
    with (run / "logs" / "version_0" / "metrics.csv").open() as file:
        return set(csv.DictReader(file).fieldnames)


def test_run_folder_says_what_made_it(sweep):
    run = facts(sweep / "0")
    assert run["status"] == "finished"
    assert run["features"]["synthetic"] is True
    assert not set(run["train_classes"]) & set(run["split"]["unseen"])
    assert run["checkpoint_rule"] == "last"
    saved = torch.load(sweep / "0" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["psftr"]["train_classes"] == run["split"]["seen"]
    assert not [name for name in saved["state_dict"] if name.endswith(("train_text", "val_text"))]
    assert (sweep / "0" / "model.safetensors").is_file()
    columns = logged(sweep / "0")
    assert {"train/class", "train/l1", "train/iou", "train/actionness", "train/saliency"} <= columns
    assert "val/mAP" not in columns  # rule=last chooses nothing, so no training video is kept out
    assert run["val_score"] is None
    assert run["training"]["validation"] == "none, all training videos are trained on"


def test_the_encoder_reads_the_principal_components_of_the_training_videos(sweep, workplace):
    run, seen = facts(sweep / "0"), set(facts(sweep / "0")["train_classes"])
    world = workplace / "data" / "synthetic"
    store, moment = FeatureStore(world / "features.h5"), 0.0
    for video in read_annotations(world / "annotations.json").videos.values():
        if video.subset == "training" and seen & {action.label for action in video.actions}:
            rows = store.read_rows(video.video_id).astype("float64")
            moment = moment + rows.T @ rows
    basis = load_file(sweep / "0" / "model.safetensors")["convolution.basis"].double()
    assert basis.shape == (512, run["network"]["frame_components"])
    held = torch.einsum(
        "dk,de,ek->", basis, torch.from_numpy(moment), basis
    )  # the most that so many directions can hold
    torch.testing.assert_close(held, torch.linalg.eigvalsh(torch.from_numpy(moment))[-basis.shape[1] :].sum())


def test_ten_split_evaluation_prints_splits_classes_baseline_and_facts(sweep, workplace):
    done = psftr("evaluate", f"run={sweep}", "baseline=true", cwd=workplace)
    for words in ("SYNTHETIC", "clean", "checkpoint", "last", "external classifier", "mean", "std", "clip_baseline"):
        assert words in done.stdout, done.stdout
    report = json.loads((sweep / "evaluation" / "evaluation.json").read_text())
    assert report["splits"]["evaluated"] == [0, 1]
    assert report["synthetic"] is True
    averages = [split["mAP"]["average"] for split in report["per_split"]]
    assert report["mAP"]["average"]["mean"] == pytest.approx(sum(averages) / 2)
    assert (sweep / "evaluation" / "splits.png").stat().st_size > 5000
    provenance = read_predictions(sweep / "0" / "predictions.json").provenance
    assert provenance.split["unseen"] == facts(sweep / "0")["split"]["unseen"]


def test_detections_in_another_precision_are_made_again_and_say_so(sweep, workplace):
    run = sweep / "1"

    def evaluated(*more: str) -> tuple[str, str]:
        done = psftr("evaluate", f"run={run}", "figures=false", *more, cwd=workplace)
        provenance = read_predictions(run / "predictions.json").provenance
        return provenance.config["precision"], "made before" if "made before" in done.stdout else "made"

    assert evaluated("redo=true") == ("32-true", "made")  # auto: the network is small
    assert evaluated("precision=bf16-mixed") == ("bf16-mixed", "made")
    assert evaluated() == ("bf16-mixed", "made before")
    assert evaluated("precision=32-true") == ("32-true", "made")


def test_windows_of_a_trained_run_may_overlap_more(sweep, workplace):
    run = sweep / "1"

    def evaluated(*more: str) -> tuple[float, bool]:
        done = psftr("evaluate", f"run={run}", "figures=false", *more, cwd=workplace)
        provenance = read_predictions(run / "predictions.json").provenance
        return provenance.config["window"]["test_overlap"], "made before" in done.stdout

    assert evaluated("redo=true") == (0.5, False)
    assert evaluated("window.test_overlap=0.75") == (0.75, False)
    assert evaluated("window.test_overlap=0.75") == (0.75, True)
    assert evaluated() == (0.5, False)


def test_names_of_training_stand_beside_those_asked_for_unless_it_kept_none(sweep, workplace, tmp_path):
    run = sweep / "1"
    seen = load_saved(run).weights["seen_text"]
    assert len(seen) == len(json.loads((run / "run.json").read_text())["train_classes"])

    def scores(folder: Path, *more: str) -> list[float]:
        psftr("evaluate", f"run={folder}", "figures=false", *more, cwd=workplace)
        found = read_predictions(folder / "predictions.json").detections
        return sorted(one.score for detections in found.values() for one in detections)

    shipped, alone = scores(run), scores(run, "postprocess.seen_weight=0")
    assert sum(shipped) < sum(alone)  # some of what is found fits a name of training too
    old = shutil.copytree(run, tmp_path / "old")
    weights = {name: value for name, value in load_saved(run).weights.items() if name != "seen_text"}
    facts, told = (json.loads((old / name).read_text()) for name in ("config.json", "run.json"))
    for written in (facts, told):
        del written["config"]["postprocess"]["seen_weight"]  # as it was before there was the setting
    Saved(facts, weights, "old").write(old)
    (old / "run.json").write_text(json.dumps(told))
    assert scores(old) == pytest.approx(alone, rel=1e-4)
    refused = psftr("evaluate", f"run={old}", "postprocess.seen_weight=0.2", cwd=workplace, check=False)
    assert refused.returncode == 2
    assert "was trained before psftr kept the seen names with the weights" in refused.stderr


def test_predictions_file_evaluates_to_the_same_number(sweep, workplace):
    psftr("evaluate", f"run={sweep / '1'}", cwd=workplace)
    whole = json.loads((sweep / "1" / "evaluation" / "evaluation.json").read_text())
    psftr(
        "evaluate",
        f"predictions={sweep / '1' / 'predictions.json'}",
        "annotations=data/synthetic/annotations.json",
        "out=from_file",
        cwd=workplace,
    )
    again = json.loads((workplace / "from_file" / "evaluation.json").read_text())
    assert again["mAP"]["average"]["mean"] == whole["mAP"]["average"]["mean"]


def test_half_finished_multirun_says_what_is_missing_and_resumes(workplace):
    """Split 0 is there, split 1 was killed while training, split 2 never started."""
    folder = workplace / "half"
    psftr("train", "-m", *TINY, "split.index=0", "hydra.sweep.dir=half", "trainer.max_epochs=4", cwd=workplace)
    sweep_file = folder / "multirun.yaml"
    sweep_file.write_text(sweep_file.read_text().replace("split.index=0", "split.index=0,1,2"))
    killed = program(
        "train", *TINY, "split.index=1", "trainer.max_epochs=4", f"hydra.run.dir={folder / '1'}", cwd=workplace
    )
    while not (folder / "1" / "checkpoints" / "last.ckpt").is_file():
        assert killed.poll() is None, killed.stdout.read()
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    epochs_done = torch.load(folder / "1" / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] + 1
    assert 1 <= epochs_done < 4

    done = psftr("evaluate", f"run={folder}", "figures=false", cwd=workplace)
    assert "INCOMPLETE: 1 of 3 runs finished; started but not finished: 1 (split 75/1); not started: 1" in done.stdout
    assert "SPLITS 1, 2 MISSING" in done.stdout

    done = psftr("train", f"resume={folder}", "hydra.launcher.jobs=1", cwd=workplace)
    first, second, third = done.stdout.split("split 75/")
    assert "is finished already" in first
    assert "resuming from" in second
    assert "resuming from" not in third
    assert f"epoch {epochs_done + 1}/4" in second
    assert f"epoch {epochs_done}/4" not in second
    assert "epoch 1/4" in third
    assert [facts(folder / str(i))["status"] for i in range(3)] == ["finished"] * 3


def test_resumed_run_ends_where_an_uninterrupted_one_does(workplace, monkeypatch):
    """Same seed, same epochs: dying after epoch 1 of 2 and going on changes no weight."""
    from pytorch_lightning.callbacks import ModelCheckpoint

    psftr("train", *TINY, "hydra.run.dir=whole", cwd=workplace)
    save = ModelCheckpoint.on_train_epoch_end

    def die_after_saving(self, trainer, module):
        save(self, trainer, module)
        raise RuntimeError("power cut")

    monkeypatch.setattr(ModelCheckpoint, "on_train_epoch_end", die_after_saving)
    with pytest.raises(RuntimeError, match="power cut"):
        psftr("train", *TINY, "hydra.run.dir=broken", cwd=workplace)
    monkeypatch.undo()
    assert "resuming from" in psftr("train", "resume=broken", cwd=workplace).stdout
    whole, resumed = (load_file(workplace / name / "model.safetensors") for name in ("whole", "broken"))
    assert whole.keys() == resumed.keys()
    for name in whole:
        torch.testing.assert_close(resumed[name], whole[name], rtol=0, atol=1e-6)


def test_run_folder_of_another_configuration_is_refused(sweep, workplace):
    done = psftr(
        "train", *TINY, "model.queries=9", f"hydra.run.dir={sweep / '0'}", "split.index=0", cwd=workplace, check=False
    )
    assert done.returncode == 2
    assert "holds a run that differs in model.queries" in done.stderr
    assert "to go on with it, give its command again with model.queries=8; or" in done.stderr


def test_peer_protocol_is_marked_everywhere_and_cannot_pass_as_clean(workplace):
    done = psftr("train", *TINY, "protocol=peer", "trainer.max_epochs=1", "hydra.run.dir=peer", cwd=workplace)
    assert "measured on the TEST classes" in done.stdout
    done = psftr("evaluate", "run=peer", "figures=false", cwd=workplace)
    assert "PEER PROTOCOL" in done.stdout
    assert "peer: best on test classes" in done.stdout
    done = psftr("evaluate", "run=peer", "protocol=clean", cwd=workplace, check=False)
    assert done.returncode == 2
    assert "chose its checkpoint on the test classes" in done.stderr


def test_evaluate_wants_exactly_one_thing(tmp_path):
    done = psftr("evaluate", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "nothing given: say one of run=DIR" in done.stderr


def test_loggers_precision_ema_and_best_rule(workplace):
    run = psftr(
        "train", *TINY, "logger=tensorboard", "trainer.ema_decay=0.9", "checkpoint.rule=best-seen-val",
        "trainer.precision=bf16-mixed", "trainer.accumulate=2", "hydra.run.dir=options", cwd=workplace,
    )  # fmt: skip
    assert "validation mAP" in run.stdout
    assert list((workplace / "options" / "tensorboard").rglob("events.*"))
    assert facts(workplace / "options")["checkpoint_rule"] == "best-seen-val"
    assert "val/mAP" in logged(workplace / "options")


def test_wandb_stays_offline_unless_asked(workplace, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    psftr("train", *TINY, "logger=wandb", "trainer.max_epochs=1", "hydra.run.dir=wb", cwd=workplace)
    assert list((workplace / "wb").rglob("offline-run-*"))


def test_settings_of_a_sweep_are_compared_not_averaged(workplace):
    tiny = [*TINY, "trainer.max_epochs=1", "hydra.sweep.dir=settings"]
    psftr(
        "train", "-m", *tiny, "split.index=0", "experiment=paper", "variant=table3_none,table3_residual", cwd=workplace
    )
    done = psftr("evaluate", "run=settings", cwd=workplace)
    assert "[SYNTHETIC] 2 settings" in done.stdout
    assert re.search(r"^w/o SPDE +\d", done.stdout, flags=re.MULTILINE)
    assert re.search(r"^Res\. +\d", done.stdout, flags=re.MULTILINE)
    assert not re.search(r"^paper", done.stdout, flags=re.MULTILINE)  # its numbers are not shown beside synthetic ones
    assert (workplace / "settings" / "evaluation" / "settings_75.png").is_file()
