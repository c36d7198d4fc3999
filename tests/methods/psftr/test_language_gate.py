"""The language gate by hand: equations 1 to 5 of ActionVLM, and what it changes in a network and in its training."""

import math

import pytest
import torch
from parts import PAPER, criterion, network_config

from psftr.data.annotations import Action
from psftr.data.batches import Collate, Sample
from psftr.data.windows import Window
from psftr.errors import PsftrError
from psftr.features.text import TextEmbeddings
from psftr.methods.psftr.build import build_gated_training, build_network
from psftr.methods.psftr.language_gate import (
    LEFT_OUT,
    ClassMeans,
    LanguageGate,
    advantage_loss,
    frame_groups,
    language_weight,
)
from psftr.methods.psftr.module import PsftrModule
from psftr.methods.psftr.network import LayerOutputs
from psftr.methods.psftr.settings import ModelSettings, PsftrSettings
from psftr.segments import Timeline
from psftr.settings import to_dict

CLASSES = ("jump", "run")
SMALL = {"feature_dim": 8, "text_dim": 8, "dim": 8, "heads": 2, "points": 2, "encoder_layers": 1, "decoder_layers": 2,
         "queries": 4, "dropout": 0.0}  # fmt: skip
GUIDED = dict.fromkeys(("text_to_vision", "vision_to_text", "text_to_query"), False) | {
    "similarity_guidance": True, "spde": "none", "class_head": "similarity",
}  # fmt: skip


def one_batch():
    """Ten rows of a second: jump from 2 to 4, run from 5 to 9 with a jump from 6 to 7 in it; the last is padding."""
    actions = (Action(2.0, 4.0, "jump"), Action(5.0, 9.0, "run"), Action(6.0, 7.0, "jump"))
    window = Window("v", Timeline(stride=10, fps=10.0, num_steps=9, duration_s=9.0), 0.0, 9.0, 9, 10)
    rows = torch.randn(10, 8, generator=torch.Generator().manual_seed(0)).numpy()
    rows[9:] = 0
    sample = Sample(window, [(a, (a.start_s / 10, a.end_s / 10)) for a in actions], actions)
    return Collate(CLASSES)([(sample, rows)])


def gated(**changes):
    torch.manual_seed(0)
    network = build_network(network_config(**SMALL | changes))
    return network, build_gated_training(network, num_classes=2)


def test_weight_is_equation_4():
    weight = language_weight(torch.tensor([-5.0, 0.0, math.log(3.0), 50.0]))
    assert weight.tolist() == pytest.approx([0.0, 0.0, 0.5, 1.0])  # sigmoid(log 3) = 3/4


def test_advantage_of_three_frames_is_equation_1():
    means = ClassMeans(num_classes=2)
    means.update(torch.tensor([1.0, 2.0, 0.5, 9.0]), torch.tensor([0, 0, 2, LEFT_OUT]))
    assert means.mean_loss.tolist() == [1.5, 0.0, 0.5]  # jump (1 + 2) / 2, run never seen, background
    advantage, is_kept = means.advantage(torch.tensor([1.0, 0.75, 0.2, 3.0]), torch.tensor([0, 2, 1, LEFT_OUT]))
    assert advantage[:2].tolist() == [0.5, -0.25]  # 1.5 - 1 and 0.5 - 0.75
    assert is_kept.tolist() == [True, True, False, False]
    means.update(torch.tensor([0.5]), torch.tensor([0]))
    assert means.mean_loss[0].item() == 1.0  # the mean of steps of 1.5 and 0.5
    loss = advantage_loss(torch.tensor([0.0, 0.25, 7.0, 7.0], requires_grad=True), advantage, is_kept)
    assert loss.item() == pytest.approx((0.5**2 + 0.5**2) / 2)  # equation 3


def test_rows_are_of_the_shortest_action_they_lie_in():
    batch = one_batch()
    jump, run, background = 0, 1, 2
    expected = [background, background, jump, jump, background, run, jump, run, run, LEFT_OUT]
    assert frame_groups(batch, background=background)[0].tolist() == expected


def test_a_row_of_an_action_that_is_no_target_is_left_out():
    batch = one_batch()
    object.__setattr__(batch, "is_action", batch.is_action.clone())
    batch.is_action[0, 0] = 1.0
    assert frame_groups(batch, background=2)[0, 0] == LEFT_OUT


def test_a_closed_gate_adds_nothing_and_inference_is_open():
    gate, own, added = LanguageGate(dim=4, of="frames"), torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    start = 2 / (1 + math.exp(-1)) - 1
    assert torch.allclose(gate(own, added), start * added)
    gate.is_open = False
    assert (gate(own, added) == 0).all()
    assert torch.allclose(gate.eval()(own, added), start * added)


@pytest.mark.parametrize("form", [PAPER, GUIDED], ids=["paper", "guided"])
def test_with_text_off_frames_are_those_of_a_network_without_text_bit_for_bit(form):
    network, training = gated(**form | {"language_gate": "frame"})
    batch = one_batch()
    network.train()
    texts = torch.randn(2, 8), torch.randn(2, 8)

    def saliency(text):
        return network(batch.features, batch.is_padding, text).saliency_logits

    network(batch.features, batch.is_padding, texts[0])  # the running mean of frames moves once
    training.begin_step(0)
    assert torch.equal(saliency(texts[0]), saliency(texts[1]))
    training.begin_step(1)
    assert not torch.equal(saliency(texts[0]), saliency(texts[1]))


def test_query_losses_by_hand():
    batch = one_batch()
    logits = torch.zeros(1, 4, 2)
    segments_cw = torch.tensor([[[0.3, 0.2], [0.7, 0.4], [0.65, 0.1], [0.1, 0.1]]])  # the three targets, and one more
    layer = LayerOutputs(logits, segments_cw, torch.zeros(1, 4))
    loss, label = criterion().query_losses(layer, batch.targets)
    assert label.tolist() == [[0, 1, 0, -1]]
    assert loss[0, :3].tolist() == pytest.approx([2 * math.log(2)] * 3, abs=1e-4)  # segments fit, classes are a guess
    assert loss[0, 3].item() == pytest.approx(3 * 0.75 * 0.25 * math.log(2))  # focal: weight 3, 1 - alpha, p^gamma


@pytest.mark.parametrize(("gate", "form", "of"), [
    ("frame", GUIDED, ["frames"]), ("frame", PAPER, ["frames"]), ("query", PAPER, ["queries"]),
    ("both", PAPER, ["frames", "queries"]),
])  # fmt: skip
def test_steps_without_text_fill_the_means_and_steps_with_text_are_compared_with_them(gate, form, of):
    settings = PsftrSettings(model=ModelSettings(**{k: v for k, v in (SMALL | form).items() if not k.endswith("_dim")},
                                                 language_gate=gate))  # fmt: skip
    text = TextEmbeddings(CLASSES, torch.randn(2, 8), "made-up", "{}")
    module = PsftrModule(settings=to_dict(settings), feature_dim=8, text_dim=8, train_classes=CLASSES,
                         val_classes=CLASSES, text=text)  # fmt: skip
    module.on_fit_start()
    training, batch = module.gated_training, one_batch()
    assert list(training.means) == of
    module.train()
    training.begin_step(0)
    assert training.advantage_loss(module(batch, text.embeddings), batch, module.criterion).item() == 0
    for means in training.means.values():
        assert means.steps_seen[-1] == 1
        assert (means.mean_loss > 0).any()
    training.begin_step(1)
    loss = training.advantage_loss(module(batch, text.embeddings), batch, module.criterion)
    assert loss.item() > 0
    loss.backward()
    gates = [m for m in module.modules() if isinstance(m, LanguageGate)]
    assert all(one.advantage.bias.grad.abs() > 0 for one in gates)
    assert all(one.predicted is None for one in gates)
    kept = {name for name in module.state_dict() if name.startswith("gated_training")}
    assert kept == {f"gated_training.means.{one}.{name}" for one in of for name in ("mean_loss", "steps_seen")}
    losses = module._losses(batch)  # global step 0: without text
    assert losses["advantage"].item() == 0
    assert losses["total"].item() == pytest.approx(sum(v.item() for k, v in losses.items() if k != "total"), rel=1e-5)


def test_no_gate_is_the_default_and_changes_no_parameter():
    network, training = gated(**GUIDED)
    assert training is None
    other, _ = gated(**GUIDED | {"language_gate": "frame"})
    extra = set(other.state_dict()) - set(network.state_dict())
    assert extra == {"guidance.gate.advantage.weight", "guidance.gate.advantage.bias"}
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"language_gate": "query"}, r"no text to weight in queries: turn on text_to_query, set spde=residual or"),
        ({"language_gate": "both"}, "no text to weight in queries"),
        ({"language_gate": "frame", "similarity_guidance": False}, "no text to weight in frames: turn on"),
        ({"language_gate": "query", "text_to_query": True, "query_residual": "literal"}, "query_residual=attended"),
    ],
)
def test_a_gate_with_nothing_to_weight_is_refused(changes, message):
    with pytest.raises(PsftrError, match=message):
        ModelSettings(**changes)
