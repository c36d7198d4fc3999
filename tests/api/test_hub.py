"""save_pretrained, from_pretrained and push_to_hub, on disk and against a hub of our own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from loopback_hub import loopback_hub
from parts import save_tiny

import psftr
from psftr.checkpoints import load_saved
from psftr.errors import PsftrError

FACTS = {
    "split": {
        "dataset": "thumos14", "source": "published", "ratio": 75, "index": 3,
        "seen": ["run"], "unseen": ["Golf|Swing"],
    },
    "text": {"encoder": "x", "prompt": "a video of a person doing {}", "synthetic": False},
    "training": {"videos": 151, "classes": 1, "names": ["run"], "actions": 2000},
    "checkpoint_rule": "last",
}  # fmt: skip
ENCODER = "open_clip:ViT-B-16:openai"


@pytest.fixture
def folder(tmp_path):
    return save_tiny(tmp_path / "model", ENCODER, **FACTS)


def test_saved_and_loaded_by_the_hubs_own_names(folder, tmp_path):
    model = psftr.load(folder, device="cpu")
    model.save_pretrained(tmp_path / "copy")
    again = psftr.Model.from_pretrained(tmp_path / "copy", device="cpu")
    assert again.facts == model.facts
    assert all(torch.equal(again.saved.weights[name], value) for name, value in model.saved.weights.items())
    names = {path.name for path in (tmp_path / "copy").iterdir()}
    assert names == {"model.safetensors", "config.json", "README.md"}
    assert json.loads((tmp_path / "copy" / "config.json").read_text()) == dict(model.facts)


def test_the_card_carries_the_facts(folder, tmp_path):
    psftr.load(folder, device="cpu").save_pretrained(tmp_path / "copy")
    card = (tmp_path / "copy" / "README.md").read_text()
    assert card.startswith("---\n")
    for fact in (
        "library_name: psftr",
        "- temporal-action-localization",
        "| encoder of the frames | open_clip:ViT-B-16:openai |",
        "| prompt | a video of a person doing {} |",
        "| trained on | thumos14, published split 75/3 |",
        "| training data | 151 videos, 2000 actions |",
        "| checkpoint | last |",
        "| classes seen in training | run |",
        r"| unseen classes of its split | Golf\|Swing |",
        'psftr.load("hf://USER/REPOSITORY")',
    ):
        assert fact in card
    assert "**" not in card, "nothing to warn of"


def test_the_card_warns_of_what_means_nothing(tmp_path):
    made = save_tiny(tmp_path / "model", "open_clip:ViT-B-16:random-seed0", synthetic=True)
    psftr.load(made, device="cpu").save_pretrained(tmp_path / "copy")
    card = (tmp_path / "copy" / "README.md").read_text()
    assert "> **SYNTHETIC: made from simulated features; says nothing about real videos.**" in card
    assert "> **UNTRAINED ENCODER: " in card


def test_a_method_without_weights_cannot_be_saved(tmp_path):
    with pytest.raises(PsftrError, match="has no weights to save"):
        psftr.baseline(device="cpu").save_pretrained(tmp_path / "copy")


PUSH = """
import sys, psftr
print(psftr.load(sys.argv[1], device="cpu").push_to_hub("user/tiny", token="hf_test"))
"""
FETCH = """
import sys, psftr
one = psftr.load("hf://user/tiny", device="cpu")
other = psftr.Model.from_pretrained("user/tiny", device="cpu")
assert one.facts == other.facts
one.save_pretrained(sys.argv[1])
try:
    psftr.load("hf://user/absent", device="cpu")
except psftr.errors.PsftrError as error:
    print(error)
"""


def test_pushed_to_a_hub_and_fetched_from_it(folder, tmp_path):
    """In processes of their own: the hub's address is read when huggingface_hub is imported."""

    def run(code: str, *arguments: Path) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            capture_output=True,
            text=True,
            env={**os.environ, **places},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    with loopback_hub() as hub:
        places = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
        }
        assert f"{hub.url}/user/tiny/commit/" in run(PUSH, folder)
        assert {"model.safetensors", "config.json", "README.md"} <= set(hub.files["user/tiny"])
        assert b'psftr.load("hf://user/tiny")' in hub.files["user/tiny"]["README.md"]
        assert "hf://user/absent is not available" in run(FETCH, tmp_path / "fetched")
    pushed, fetched = load_saved(folder), load_saved(tmp_path / "fetched")
    assert fetched.facts == pushed.facts
    assert all(torch.equal(fetched.weights[name], value) for name, value in pushed.weights.items())
