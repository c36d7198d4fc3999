"""Equations 1 to 9 of ActionVLM (6 is in tests/detection), on numbers a reader can check by eye."""

import math

import pytest
import torch
from torch import nn

from psftr.data.batches import Batch, Target
from psftr.data.windows import Window
from psftr.detection.criterion import build_criterion
from psftr.detection.points import make_levels
from psftr.detection.settings import DetectorSettings
from psftr.methods.actionvlm.advantage import LanguageAdvantage, advantage_loss, language_weight
from psftr.methods.actionvlm.build import NetworkFacts, build_network
from psftr.methods.actionvlm.network import PredictedWeight, alone, residual
from psftr.methods.actionvlm.objective import ActionVlmObjective
from psftr.methods.actionvlm.prompt import candidates_text, segments_text
from psftr.methods.actionvlm.settings import LanguageSettings, MismatchSettings
from psftr.methods.actionvlm.tiny import VOCABULARY
from psftr.segments import Timeline, start_end_to_centre_width

CLASSES = ("run", "jump")
DESCRIPTIONS = {"run": "It starts standing and ends running.", "jump": "It starts running and ends in the air."}
DETECTOR = DetectorSettings(dim=8, attention_heads=2, attention_span=3, pyramid_levels=2, stem_blocks=1)
SETTINGS = {"model": "tiny", "tuning": "full", "saves_memory": False}


def network(position="before", detector=DETECTOR, mismatch=False, **changes):
    torch.manual_seed(0)
    facts = NetworkFacts(
        feature_dim=4, class_names=CLASSES, detector=detector, language=LanguageSettings(**SETTINGS | changes),
        position=position, descriptions=DESCRIPTIONS, weights=None,
    )  # fmt: skip
    return build_network(facts, MismatchSettings(descriptions=mismatch)).eval()


def batch(size=8, num_valid=8):
    segments = start_end_to_centre_width(torch.tensor([[1.0, 4.0]]) / size)
    timeline = Timeline(stride=1, fps=1.0, num_steps=size, duration_s=float(size))
    return Batch(
        features=torch.randn(1, size, 4, generator=torch.Generator().manual_seed(1)),
        is_padding=torch.arange(size)[None] >= num_valid,
        is_action=torch.zeros(1, size),
        is_ignored=torch.zeros(1, size, dtype=torch.bool),
        targets=(Target(torch.tensor([1]), segments),),
        windows=(Window("v", timeline, 0.0, float(num_valid), num_valid, size),),
    )


def test_equation_1_on_three_rows():
    """Mean loss of vision: class 0 (1 + 3) / 2 = 2, background 0.5. With language 1.5, 2.5 and 0.25."""
    advantage = LanguageAdvantage(num_classes=1, in_means=False)
    advantage.begin(0)
    everything = torch.ones(1, 3, dtype=torch.bool)
    advantage.add(torch.tensor([[1.0, 3.0, 0.5]]), torch.tensor([[0, 0, 1]]), everything)
    advantage.end()
    assert advantage.means.tolist() == [2.0, 0.5]
    target = advantage.target(torch.tensor([[1.5, 2.5, 0.25]], requires_grad=True), torch.tensor([[0, 0, 1]]))
    assert target.tolist() == [[0.5, -0.5, 0.25]]
    assert not target.requires_grad


def test_equation_1_in_mean_losses():
    """The rows of vision lose 1, 3 and 0.5, 1.5 in the mean: an advantage of 0.5 is a third of that."""
    advantage = LanguageAdvantage(num_classes=1, in_means=True)
    advantage.begin(0)
    advantage.add(torch.tensor([[1.0, 3.0, 0.5]]), torch.tensor([[0, 0, 1]]), torch.ones(1, 3, dtype=torch.bool))
    advantage.end()
    target = advantage.target(torch.tensor([[1.5, 2.5, 0.25]]), torch.tensor([[0, 0, 1]]))
    assert target[0].tolist() == pytest.approx([0.5 / 1.5, -0.5 / 1.5, 0.25 / 1.5])
    resumed = LanguageAdvantage(num_classes=1, in_means=True)
    resumed.load_state_dict(advantage.state_dict())
    assert torch.equal(resumed.target(torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.long)),
                       advantage.target(torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.long)))  # fmt: skip


def test_means_are_per_row_and_a_class_without_rows_takes_the_mean_of_the_others():
    advantage = LanguageAdvantage(num_classes=3, in_means=False)
    advantage.begin(0)
    counts = torch.tensor([[True, True, True, False]])
    advantage.add(torch.tensor([[1.0, 2.0, 6.0, 99.0]]), torch.tensor([[0, 0, 1, 2]]), counts)
    advantage.end()
    assert advantage.means.tolist() == [1.5, 6.0, 3.0, 3.0]


def test_a_resume_in_the_middle_of_an_epoch_of_vision_keeps_the_sums():
    rows = torch.ones(1, 1, dtype=torch.bool)
    first = LanguageAdvantage(num_classes=1, in_means=False)
    first.begin(4)
    first.add(torch.tensor([[1.0]]), torch.tensor([[0]]), rows)
    resumed = LanguageAdvantage(num_classes=1, in_means=False)
    resumed.load_state_dict(first.state_dict())
    resumed.begin(4)
    resumed.add(torch.tensor([[3.0]]), torch.tensor([[0]]), rows)
    resumed.end()
    assert float(resumed.means[0]) == 2.0
    resumed.begin(6)  # the next epoch of vision starts anew
    assert resumed.counts.tolist() == [0, 0]


def test_equation_2_is_a_linear_layer():
    weighting = PredictedWeight(dim=2, first=0.0)
    nn.init.constant_(weighting.predict.weight, 0.5)
    nn.init.constant_(weighting.predict.bias, -1.0)
    advantage, weight = weighting(torch.tensor([[[1.0, 5.0], [1.0, 1.0]]]))
    assert advantage.tolist() == [[2.0, 0.0]]
    assert weight[0].tolist() == pytest.approx([2 / (1 + math.exp(-2)) - 1, 0.0])


def test_the_gate_starts_where_the_settings_say():
    model, given = network(first_advantage=20.0), batch()
    assert (model.read(given.features, given.is_padding).weight > 0.99).all()
    shut = network(first_advantage=-20.0)
    assert (shut.read(given.features, given.is_padding).weight == 0).all()


def test_equation_3_is_a_mean_square_over_the_rows_that_count():
    predicted, target = torch.tensor([[1.0, 2.0, 50.0]]), torch.tensor([[0.0, 4.0, 0.0]])
    counts = torch.tensor([[True, True, False]])
    assert float(advantage_loss(predicted, target, counts)) == (1 + 4) / 2
    assert float(advantage_loss(predicted, target, ~counts & counts)) == 0


def test_equation_4_is_zero_below_zero_and_stays_below_one():
    weight = language_weight(torch.tensor([-3.0, 0.0, math.log(3.0), 10.0]))
    assert weight.tolist()[:3] == pytest.approx([0.0, 0.0, 0.5])
    assert 0.9999 < float(weight[3]) < 1


def test_equation_5_and_language_alone():
    visual, language = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[10.0, 20.0]]])
    assert residual(visual, torch.tensor([[0.5]]), language).tolist() == [[[6.0, 12.0]]]
    assert alone(visual, torch.tensor([[0.5]]), language).tolist() == [[[10.0, 20.0]]]


def test_lambda_0_is_the_path_of_vision_bit_for_bit():
    model, given = network(), batch()
    nn.init.zeros_(model.weighting.predict.weight)
    nn.init.zeros_(model.weighting.predict.bias)
    seen, read = model.see(given.features, given.is_padding), model.read(given.features, given.is_padding)
    assert torch.equal(seen.class_logits, read.outputs.class_logits)
    assert torch.equal(seen.distances, read.outputs.distances)
    silent = network(weighting="fixed", fixed_weight=0.0, advantage_weight=0.0)
    assert silent.language is None
    assert torch.equal(silent(given.features, given.is_padding).class_logits, seen.class_logits)  # the same seed


def test_equation_7_lists_the_true_segments_in_order_of_time():
    segments = start_end_to_centre_width(torch.tensor([[0.5, 0.75], [0.125, 0.25]]))
    target = Target(torch.tensor([1, 0]), segments)
    assert segments_text(target, ("LongJump", "run"), size=16) == "long jump from 2 to 4; run from 8 to 12"
    assert segments_text(Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2)), CLASSES, size=8) == "none"


def test_equation_8_with_even_odds_is_the_log_of_the_vocabulary():
    model, given = network(), batch()
    nn.init.zeros_(model.language.language_model.model.lm_head.weight)
    read = model.read(given.features, given.is_padding, ["jump from 1 to 4"])
    assert read.text_loss.item() == pytest.approx(math.log(VOCABULARY))


def test_equation_9_adds_the_losses_with_their_weights():
    model, given = network(), batch()
    objective = ActionVlmObjective(
        criterion=build_criterion(DETECTOR, make_levels(2, finest_range=4.0)),
        advantage=LanguageAdvantage(num_classes=2, in_means=False),
        advantage_weight=0.1,
        text_weight=0.2,
        alternates=True,
        class_names=CLASSES,
    )
    objective.begin_epoch(0)
    seen = objective(model, given)
    assert float(seen["total"]) == pytest.approx(float(seen["classification"] + seen["location"]))
    objective.end_epoch()
    objective.begin_epoch(1)
    told = objective(model, given)
    expected = told["classification"] + told["location"] + 0.1 * told["advantage"] + 0.2 * told["text"]
    assert float(told["total"]) == pytest.approx(float(expected))


def test_descriptions_are_told_before_the_frames_or_after_them():
    told = candidates_text(CLASSES, DESCRIPTIONS)
    assert told == f"The candidate actions include: run: {DESCRIPTIONS['run']} jump: {DESCRIPTIONS['jump']}"
    assert candidates_text(CLASSES, None) == "The candidate actions include: run, jump."
    before, after, given = network("before"), network("after"), batch()
    assert len(before.language.before) > len(after.language.before)
    assert len(after.language.after) > len(before.language.after)
    # under causal attention a frame does not see what comes after it
    for model, changes in ((before, True), (after, False)):
        own = model.read(given.features, given.is_padding).weight
        ids = model.language.before if changes else model.language.after
        ids[:] = ids.flip(0)
        other = model.read(given.features, given.is_padding).weight
        assert torch.equal(own, other) is not changes


def test_mismatched_descriptions_change_what_is_read():
    own, other, given = network(), network(mismatch=True), batch()
    assert sorted(own.language.before.tolist()) == sorted(other.language.before.tolist())
    assert not torch.equal(own.language.before, other.language.before)
    assert not torch.equal(
        own(given.features, given.is_padding).class_logits, other(given.features, given.is_padding).class_logits
    )


def test_words_read_once_for_all_rows_give_what_reading_them_in_each_row_gives():
    """The fast path keeps keys and values of the words; with activation checkpointing every row reads them itself."""
    detector = DetectorSettings(
        dim=8, attention_heads=2, attention_span=3, pyramid_levels=2, stem_blocks=1, block_dropout=0.0
    )
    fast, slow = network(detector=detector).train(), network(detector=detector, saves_memory=True).train()
    features = torch.randn(3, 8, 4)
    is_padding = torch.arange(8) >= torch.tensor([[8], [5], [8]])
    sentences = ["none", "jump from 1 to 4; run from 5 to 8", "run from 0 to 3"]
    one, other = (model.read(features, is_padding, sentences) for model in (fast, slow))
    torch.testing.assert_close(one.outputs.class_logits, other.outputs.class_logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(one.text_loss, other.text_loss)
    for model, read in ((fast, one), (slow, other)):
        (read.outputs.class_logits.sum() + read.text_loss).backward()
        assert model.language.project.weight.grad.abs().sum() > 0
    torch.testing.assert_close(
        fast.language.project.weight.grad, slow.language.project.weight.grad, atol=1e-4, rtol=1e-3
    )


@pytest.mark.parametrize(
    ("tokens", "per_frame", "shares"), [("separate", 4, False), ("shared", 3, True), ("frames", 1, True)]
)
def test_tokens_of_a_frame(tokens, per_frame, shares):
    model, given = network(tokens=tokens), batch()
    assert model.language.per_frame == per_frame
    read = model.language(model.detector.embed(given.features, given.is_padding), given.is_padding)
    assert (read.for_classes is read.for_locations) is shares
    assert read.for_classes.shape == (1, 8, 8)
