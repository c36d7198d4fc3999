"""The exported network computes what the network computes, at sizes it was not exported with."""

import pytest
import torch
from parts import network_config, save_tiny

import psftr
from psftr.errors import PsftrError
from psftr.methods.psftr.build import NetworkConfig, build_network
from psftr.methods.psftr.export import export_network


def inputs(windows, rows, names, dim, *, padded=0):
    features, text = torch.randn(windows, rows, dim), torch.randn(names, dim)
    is_padding = (torch.arange(rows) >= rows - padded).expand(windows, rows)
    return features, is_padding, text


def assert_same(exported, network, given):
    got, wanted = exported(*given), network(*given)
    final = wanted.final
    outputs = (final.class_logits, final.segments_cw, final.actionness_logits, wanted.saliency_logits)
    scales = (100.0, 1.0, 1.0, 1.0)  # class logits as the cosines they are a hundred times of
    for one, other, scale in zip(got, outputs, scales, strict=True):
        torch.testing.assert_close(one / scale, other / scale)


def test_exported_network_is_the_eager_one():
    small = {"dim": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 2, "queries": 6}
    network = build_network(network_config(feature_dim=16, text_dim=16, **small)).eval()
    exported = export_network(network, feature_dim=16, text_dim=16).module()
    with torch.no_grad():
        for sizes in ((2, 24, 3), (1, 40, 1), (5, 16, 200)):
            assert_same(exported, network, inputs(*sizes, 16))
        assert_same(exported, network, inputs(2, 24, 3, 16, padded=7))


def test_a_loaded_model_writes_a_file_that_torch_reads(tmp_path):
    model = psftr.load(save_tiny(tmp_path / "model", "open_clip:ViT-B-16:openai"), device="cpu")
    path = model.export(tmp_path / "new" / "network.pt2")
    network = build_network(NetworkConfig(**model.facts["network"])).eval()
    model.saved.fill(network)
    with torch.no_grad():
        assert_same(torch.export.load(path).module(), network, inputs(3, 20, 4, 16))


def test_what_has_no_network_is_not_exported(tmp_path):
    with pytest.raises(PsftrError, match="clip_baseline has no network to export"):
        psftr.baseline(device="cpu").export(tmp_path / "network.pt2")
