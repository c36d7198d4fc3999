import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from psftr.checkpoints import load_checkpoint, load_pretrained, load_trained, save_pretrained, training_facts
from psftr.errors import PsftrError
from psftr.methods.psftr.build import NetworkConfig, build_network

TINY = NetworkConfig(
    feature_dim=8, text_dim=8, dim=16, heads=2, points=2, encoder_layers=1, decoder_layers=1, queries=4
)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    facts = training_facts(
        {"network": TINY.to_dict(), "split": {"index": 3}}, seen_classes=("a", "b"), encoder="made-up", synthetic=True
    )
    return save_pretrained(tmp_path / "trained", build_network(TINY), facts)


def test_a_saved_network_comes_back_the_same(folder):
    torch.manual_seed(1)
    network = build_network(TINY)
    facts = json.loads((folder / "config.json").read_text())
    save_pretrained(folder, network, facts)  # replaces the older one
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    features, is_padding, text = torch.randn(2, 12, 8), torch.zeros(2, 12, dtype=torch.bool), torch.randn(5, 8)
    expected = network.eval()(features, is_padding, text)
    for path in (folder, folder / "model.safetensors", folder / "config.json"):
        loaded, read = load_trained(path)
        assert not loaded.training
        assert torch.equal(loaded(features, is_padding, text).final.class_logits, expected.final.class_logits)
        assert (read["seen_classes"], read["encoder"], read["synthetic"]) == (["a", "b"], "made-up", True)
        assert read["split"] == {"index": 3}


def refused(folder, pattern):
    with pytest.raises(PsftrError, match=pattern) as error:
        load_pretrained(folder)
    assert "\n" not in str(error.value)


def test_files_that_are_absent_or_damaged_are_named(folder, tmp_path):
    refused(tmp_path / "nowhere", r"nowhere: no model\.safetensors; a trained network is a folder with")
    (folder / "config.json").rename(folder / "kept.json")
    refused(folder, r"no config\.json")
    (folder / "config.json").write_text("{")
    refused(folder, r"config\.json: not JSON")
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
        ({"format_version": 2}, r"format version 2, this psftr reads 1: use the psftr that wrote it \("),
        ({"network": {"dim": 16, "hedas": 2}}, "unknown network setting 'hedas', did you mean 'heads'"),
        ({"network": None}, "does not say which network it holds"),
    ],
)
def test_facts_that_cannot_be_used_are_named(folder, change, pattern):
    facts = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(facts | change))
    refused(folder, pattern)


def test_checkpoints_of_others_are_refused(tmp_path):
    with pytest.raises(PsftrError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "none.ckpt")
    path = tmp_path / "some.ckpt"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(PsftrError, match="not a checkpoint of PSFTR"):
        load_checkpoint(path)
    torch.save({"psftr": print, "state_dict": {}}, path)  # code in the file: refused, not run
    with pytest.raises(PsftrError, match="not readable as a checkpoint of plain values") as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(PsftrError, match="not readable as a checkpoint"):
        load_checkpoint(path)
