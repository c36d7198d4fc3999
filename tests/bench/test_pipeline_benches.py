"""`psftr bench inference` and `bench loader`: they run, and both versions of each do the same work."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from psftr.bench import inference
from psftr.bench.forms import FORMS, LOSSES
from psftr.bench.loader import _loader, _samples, _write
from psftr.cli import main
from psftr.features.store import FeatureStore


def test_inference_prints_and_writes_what_it_measured(capsys, monkeypatch, tmp_path):
    small = inference.ModelSettings(dim=16, heads=2, encoder_layers=1, decoder_layers=1, queries=3, ffn_expansion=1)
    monkeypatch.setattr(inference, "ModelSettings", lambda **form: replace(small, **form))
    out = tmp_path / "inference.json"
    asked = ["--precision", "bf16-mixed", "--form", "paper"]
    assert main(["bench", "inference", "--quick", "--rounds", "1", "--json", str(out), *asked]) == 0
    figures = json.loads(out.read_text(encoding="utf-8"))
    assert figures["ratio"] == pytest.approx(figures["plain_ms"] / figures["ours_ms"])
    # 45 rows make one window; 1,300 rows make 19 of 128 rows every 64, and one of the rest
    assert figures["windows"] == 1 + 20
    assert (figures["precision"], figures["form"]) == ("bf16-mixed", "paper")
    assert f"{figures['ours_ms']:.1f} ms with ours, bf16-mixed" in capsys.readouterr().out


def test_the_papers_form_is_that_of_its_experiment():
    experiment = Path(__file__).parents[2] / "conf" / "experiment" / "paper.yaml"
    told = yaml.safe_load(experiment.read_text(encoding="utf-8"))
    assert (told["model"], told["loss"]) == (FORMS["paper"], LOSSES["paper"])


def test_loader_prints_and_writes_what_it_measured(capsys, tmp_path):
    out = tmp_path / "loader.json"
    assert main(["bench", "loader", "--quick", "--rounds", "1", "--json", str(out)]) == 0
    figures = json.loads(out.read_text(encoding="utf-8"))
    # 200 rows, windows of 128 every 32 from rows 0, 32 and 64, the last one moved to 72: four for each of four videos
    assert (figures["windows"], figures["batches"]) == (16, 1)
    assert f"{figures['ours_s']:.2f} s with ours" in capsys.readouterr().out


def test_batches_from_memory_equal_batches_from_the_file(tmp_path):
    _write(tmp_path / "features.h5", videos=3, rows=150)
    store = FeatureStore(tmp_path / "features.h5")
    samples = _samples(store)
    batches = zip(_loader(samples, store, limit_mb=100.0), _loader(samples, store, limit_mb=0.0), strict=True)
    for kept, read in batches:
        assert torch.equal(kept.features, read.features)
        assert torch.equal(kept.is_action, read.is_action)
        assert kept.windows == read.windows
