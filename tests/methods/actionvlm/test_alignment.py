"""Frames as a taught language model knows them: the alignment in its folder, and states that are read once."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from test_equations import CLASSES, DESCRIPTIONS, DETECTOR, batch
from test_language_model import save_qwen

from psftr.errors import PsftrError
from psftr.methods.actionvlm.alignment import ALIGNMENT, Alignment, read_alignment
from psftr.methods.actionvlm.build import NetworkFacts, build_network
from psftr.methods.actionvlm.language_model import LanguageModel
from psftr.methods.actionvlm.settings import LanguageSettings, MismatchSettings

TAUGHT = {"tuning": "frozen", "sees": "stored", "saves_memory": False, "text_weight": 0.0}


def network(folder, *, feature_dim=4, seed=0, **changes):
    torch.manual_seed(seed)
    facts = NetworkFacts(
        feature_dim=feature_dim, class_names=CLASSES, detector=DETECTOR, position="before", descriptions=DESCRIPTIONS,
        language=LanguageSettings(**{"model": str(folder)} | TAUGHT | changes), weights=None,
    )  # fmt: skip
    return build_network(facts, MismatchSettings())


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    folder = save_qwen(tmp_path_factory.mktemp("taught"))
    own = network(folder, seed=5).language
    Alignment(
        weight=own.project.weight.detach(), bias=own.project.bias.detach(), tokens=own.tokens.detach(), where=""
    ).write(folder)
    return folder


def test_a_stream_starts_with_the_alignment_of_the_folder(taught):
    one, other = network(taught, seed=1).language, network(taught, seed=2).language
    assert torch.equal(one.project.weight, other.project.weight)
    assert torch.equal(one.tokens, other.tokens)
    assert not torch.equal(one.out.weight, other.out.weight)  # that is the method's own


@pytest.mark.parametrize(("tuning", "is_trained"), [("frozen", False), ("lora", True), ("full", True)])
def test_frozen_leaves_the_alignment_as_it_is(taught, tuning, is_trained):
    stream = network(taught, tuning=tuning, rank=2, alpha=4).language
    assert stream.project.weight.requires_grad is stream.tokens.requires_grad is is_trained
    assert stream.out.weight.requires_grad


def test_frames_are_read_as_they_are_stored(taught):
    """The detector's embedding changes F_vis, and with it what is read of embedded frames only."""
    for sees, changes in (("stored", False), ("embedded", True)):
        folder = taught if sees == "stored" else save_qwen(taught.parent / "plain")
        model, given = network(folder, sees=sees).eval(), batch()
        visual = model.detector.embed(given.features, given.is_padding)
        own = model.language(model.sight(given.features, visual), given.is_padding).for_classes
        other = model.language(model.sight(given.features, visual + 1), given.is_padding).for_classes
        assert torch.equal(own, other) is not changes


def test_kept_states_are_what_would_be_read_again(taught, monkeypatch):
    """Fast: one reading a window. Slow: one in every step. The same features, and the same gradients."""
    calls, forward = [], LanguageModel.forward
    monkeypatch.setattr(LanguageModel, "forward", lambda *args: (calls.append(len(args[2])), forward(*args))[1])
    fast, slow = network(taught, keeps_states=True).train(), network(taught).train()
    features, is_padding = torch.randn(3, 8, 4), torch.arange(8) >= torch.tensor([[8], [5], [8]])
    for rows in ([0, 1], [1, 2], [2, 0]):
        one, other = (model.language(features[rows], is_padding[rows]) for model in (fast, slow))
        torch.testing.assert_close(one.for_classes, other.for_classes)
        torch.testing.assert_close(one.for_advantage, other.for_advantage)
    assert calls == [2, 2, 1, 2, 2]  # windows that the fast one (2, 1, 0) and the slow one (2, 2, 2) read, in turns
    one.for_classes.sum().backward()
    other.for_classes.sum().backward()
    torch.testing.assert_close(fast.language.out.weight.grad, slow.language.out.weight.grad)
    assert not [name for name in fast.state_dict() if "kept" in name]


def test_bad_alignments_are_told_in_one_line(taught, tmp_path):
    with pytest.raises(PsftrError, match=r"is for features of width 4 .*here are features of width 6"):
        network(taught, feature_dim=6)
    with pytest.raises(PsftrError, match=r"was taught on stored features: set language.sees=stored"):
        network(taught, sees="embedded")
    assert read_alignment(None) is None
    assert read_alignment(str(tmp_path)) is None
    (tmp_path / ALIGNMENT).write_bytes(b"nonsense")
    with pytest.raises(PsftrError, match=r"cannot read .*alignment.safetensors"):
        read_alignment(str(tmp_path))


def test_states_are_kept_only_where_nothing_that_makes_them_is_trained():
    with pytest.raises(PsftrError, match="set these, or keeps_states=false"):
        LanguageSettings(model="x", keeps_states=True)
    LanguageSettings(model="x", keeps_states=True, tuning="frozen", sees="stored", text_weight=0.0)
