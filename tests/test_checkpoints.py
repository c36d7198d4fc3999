import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from psftr.checkpoints import current_config, current_facts, load_saved, save_pretrained, training_facts
from psftr.engine.runs import FORMAT, RunFolder
from psftr.errors import PsftrError
from psftr.methods.psftr.build import NetworkConfig, build_network
from psftr.settings import to_dict

TINY = NetworkConfig(
    feature_dim=8, text_dim=8, dim=16, heads=2, points=2, encoder_layers=1, decoder_layers=1, queries=4
)  # fmt: skip


def facts(**more):
    return training_facts(
        method="psftr",
        config={"seed": 1},
        network=to_dict(TINY),
        train_classes=("a", "b"),
        encoder="made-up",
        synthetic=True,
        **more,
    )


@pytest.fixture
def folder(tmp_path):
    return save_pretrained(tmp_path / "trained", build_network(TINY), facts(split={"index": 3}))


def network_of(path):
    saved = load_saved(path)
    network = build_network(NetworkConfig(**saved.facts["network"]))
    saved.fill(network)
    return network.eval(), saved.facts


def test_a_saved_network_comes_back_the_same(folder):
    torch.manual_seed(1)
    network = build_network(TINY)
    told = json.loads((folder / "config.json").read_text())
    save_pretrained(folder, network, told)  # replaces the older one
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    features, is_padding, text = torch.randn(2, 12, 8), torch.zeros(2, 12, dtype=torch.bool), torch.randn(5, 8)
    expected = network.eval()(features, is_padding, text)
    for path in (folder, folder / "model.safetensors", folder / "config.json"):
        loaded, read = network_of(path)
        assert torch.equal(loaded(features, is_padding, text).final.class_logits, expected.final.class_logits)
        assert (read["train_classes"], read["encoder"], read["synthetic"]) == (["a", "b"], "made-up", True)
        assert read["split"] == {"index": 3}


def refused(folder, pattern):
    with pytest.raises(PsftrError, match=pattern) as error:
        network_of(folder)
    assert "\n" not in str(error.value)


def test_files_that_are_absent_or_damaged_are_named(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"empty: no model\.safetensors; a trained network is a folder with")
    refused(tmp_path / "nowhere.ckpt", r"nowhere\.ckpt: no such run folder, model folder or checkpoint")
    (folder / "config.json").rename(folder / "kept.json")
    refused(folder, r"config\.json: no such file; a trained network is a folder with")
    (folder / "config.json").write_text("{")
    refused(folder, r"config\.json: not valid JSON")
    (folder / "kept.json").rename(folder / "config.json")
    (folder / "model.safetensors").write_bytes(b"\x80\x04 not tensors")
    refused(folder, r"model\.safetensors: not readable as safetensors")


def test_weights_that_do_not_fit_are_named(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = "saliency_head.logit.bias"
    save_file({n: v for n, v in weights.items() if n != name} | {"stranger": torch.zeros(1)}, path)
    refused(folder, rf"1 absent: {name}; 1 unknown: stranger\); the two were not written together")
    save_file(weights | {name: torch.zeros(3)}, path)
    refused(folder, rf"weight {name} is \[3\], the network it describes has \[1\]")


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"format_version": 3}, r"format version 3, this psftr reads 1 and 2: use the psftr that wrote it \("),
        ({"network": None}, "does not say which network it holds"),
    ],
)
def test_facts_that_cannot_be_used_are_named(folder, change, pattern):
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(told | change))
    refused(folder, pattern)


def test_checkpoints_of_others_are_refused(tmp_path):
    path = tmp_path / "some.ckpt"
    torch.save({"state_dict": {}}, path)
    refused(path, "not a checkpoint of psftr")
    torch.save({"psftr": print, "state_dict": {}}, path)  # code in the file: refused, not run
    refused(path, "not readable as a checkpoint of tensors and plain values")
    path.write_bytes(b"nothing of the kind")
    refused(path, "not readable as a checkpoint")


def test_facts_of_psftr_0_1_are_read_by_todays_names():
    old = {
        "format_version": 1,
        "network": to_dict(TINY),
        "seen_classes": ["a", "b"],
        "encoder": "made-up",
        "config": {"seed": 4, "decode": {"roi_weight": 0.6}, "data": {"held_out_classes": 2}},
        "data": {"train_videos": 82, "train_actions": 300, "train_windows": 190},
    }
    new = current_facts(old, "old")
    assert (new["format_version"], new["method"], new["train_classes"]) == (2, "psftr", ["a", "b"])
    assert new["training"] == {"classes": 2, "names": ["a", "b"], "videos": 82, "actions": 300, "windows": 190}
    # what 0.1 had no setting for was done in the paper's way
    assert new["config"]["postprocess"] == {
        "roi_weight": 0.6,
        "class_temperature": 1.0,
        "evidence_weight": 0.0,
        "seen_weight": 0.0,
    }
    assert new["config"]["data"] == {"held_out_classes": 2, "held_out_seed": 4}  # one seed was both


def test_where_queries_once_started_is_passed_over(folder):
    """`model.references` was a setting of 0.2 for a while; the trained network is today's."""
    told = json.loads((folder / "config.json").read_text())
    old = {**told, "network": {**told["network"], "references": "even"}, "config": {"model": {"references": "even"}}}
    (folder / "config.json").write_text(json.dumps(old))
    _, read = network_of(folder)
    assert "references" not in read["network"]
    assert read["config"] == {"model": {"frame_components": 0}, "postprocess": {"seen_weight": 0.0}}
    config = {"seed": 1, "model": {"dim": 16, "references": "random"}, "postprocess": {"merge": "nms"}}
    run = {"format": FORMAT, "status": "finished", "method": "psftr", "config": config}
    (folder / "run.json").write_text(json.dumps(run))
    assert RunFolder(folder).read()["config"] == {
        "seed": 1,
        "model": {"dim": 16, "frame_components": 0},
        "postprocess": {"merge": "nms", "seen_weight": 0.0},  # it knows no names of training
    }


def test_another_methods_settings_stay_as_they_are(tmp_path):
    run = {"format": FORMAT, "status": "finished", "method": "mine", "config": {"model": {"references": "kept"}}}
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert RunFolder(tmp_path).read()["config"] == {"model": {"references": "kept"}}


@pytest.mark.parametrize("components", [0, 3])
def test_a_network_of_before_reads_whole_frames_and_one_of_today_what_it_was_fitted_to(tmp_path, components):
    config = replace(TINY, frame_components=components)
    network = build_network(config)
    network.convolution.fit([torch.randn(9, 8)])
    told = facts() | {"network": to_dict(config)}
    if not components:  # as it was written before there was the setting
        del told["network"]["frame_components"]
    loaded, read = network_of(save_pretrained(tmp_path / "trained", network, told))
    assert read["network"]["frame_components"] == components
    features, is_padding, text = torch.randn(2, 12, 8), torch.zeros(2, 12, dtype=torch.bool), torch.randn(5, 8)
    expected = network.eval()(features, is_padding, text).final.segments_cw
    assert torch.equal(loaded(features, is_padding, text).final.segments_cw, expected)


def test_settings_of_psftr_0_1_have_todays_names():
    old = {
        "loss": {"class": 2.0, "overlap": 3.0, "iou": "giou"},
        "matcher": {"class": 1.0, "overlap": 4.0},
        "optimizer": {"lr": 1.0, "ema_decay": 0.9},
        "trainer": {"max_epochs": 5},
    }
    assert current_config(old) == {
        "loss": {"classification": 2.0, "iou": 3.0, "iou_form": "giou"},
        "matcher": {"classification": 1.0, "iou": 4.0},
        "optimizer": {"lr": 1.0},
        "trainer": {"max_epochs": 5, "ema_decay": 0.9},
    }
    assert "overlap" in old["loss"]  # what was read stays as it is
