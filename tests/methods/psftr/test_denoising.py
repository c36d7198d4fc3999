"""Denoising queries: what they start from, what they are asked for, and that nothing else of the network sees them."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from psftr.engine.trainer import EpochSeed
from psftr.errors import PsftrError
from psftr.methods.psftr.denoising import NOISE, Denoising
from psftr.methods.psftr.module import PsftrModule
from psftr.methods.psftr.network import LayerOutputs, Texts
from psftr.segments import centre_width_to_start_end

sys.path.insert(0, str(Path(__file__).parent))
from test_module import CLASSES, TINY, module, one_batch, trainer


def reading(model, batch):
    text = model.names(CLASSES)
    return batch.features, batch.is_padding, Texts(encoder=text, queries=text, classifier=text)


def test_every_action_has_a_noised_copy_of_its_own():
    torch.manual_seed(0)
    batch = one_batch()
    denoising = Denoising(dim=32)
    drawn = [denoising.queries(batch.targets) for _ in range(2)]
    targets = [
        (window, place, segment)
        for window, target in enumerate(batch.targets)
        for place, segment in enumerate(target.segments_cw)
    ]
    for queries in drawn:
        assert queries.content.shape == queries.position.shape == (6, 32)
        assert queries.most == 3
        assert [*zip(queries.window.tolist(), queries.place.tolist())] == [target[:2] for target in targets]
        for (_, _, (centre, width)), (noised_centre, noised_width) in zip(targets, queries.references_cw, strict=True):
            assert (noised_centre - centre).abs() <= NOISE * width / 2 + 1e-6
            assert (noised_width / width).log().abs() <= NOISE + 1e-5
            assert noised_centre != centre
    assert not torch.equal(drawn[0].references_cw, drawn[1].references_cw)


def test_the_learnable_queries_never_see_them():
    torch.manual_seed(0)
    batch, model = one_batch(), module(denoising=1.0).eval()
    alone = model.network.read(*reading(model, batch))
    queries = model.denoising.queries(batch.targets)
    beside, denoised = model.network.read_beside(*reading(model, batch), queries)
    for own, other in zip((*alone.auxiliary, alone.final), (*beside.auxiliary, beside.final), strict=True):
        for name in ("class_logits", "segments_cw", "actionness_logits"):
            torch.testing.assert_close(getattr(own, name), getattr(other, name), atol=1e-5, rtol=1e-5)
    assert len(denoised) == 2  # decoder layers
    assert denoised[0].class_logits.shape == (3, 3, len(CLASSES))
    torch.testing.assert_close(alone.saliency_logits, beside.saliency_logits)


def only(queries, is_kept, **changes):
    parts = ("content", "position", "references_cw", "window", "place")
    return replace(queries, **{name: getattr(queries, name)[is_kept] for name in parts}, **changes)


@pytest.mark.parametrize("reads_text", [False, True])
def test_each_window_is_read_as_if_it_were_alone(reads_text):
    """By itself a window is filled up with nothing, and its rows are those of no other."""
    form = replace(TINY, text_to_vision=reads_text, vision_to_text=reads_text, text_to_query=reads_text)
    batch, model = one_batch(), module(denoising=1.0, model=form).eval()
    queries = model.denoising.queries(batch.targets)
    features, is_padding, texts = reading(model, batch)
    _, together = model.network.read_beside(features, is_padding, texts, queries)
    assert sorted(len(target.labels) for target in batch.targets) == [1, 2, 3]
    for number, target in enumerate(batch.targets):
        own = slice(number, number + 1)
        alone = replace(
            only(queries, queries.window == number, most=len(target.labels)), window=torch.zeros_like(target.labels)
        )
        _, by_itself = model.network.read_beside(features[own], is_padding[own], texts, alone)
        for one, other in zip(together, by_itself, strict=True):
            for name in ("class_logits", "segments_cw", "actionness_logits"):
                expected = getattr(other, name)
                torch.testing.assert_close(
                    getattr(one, name)[own, : len(target.labels)], expected, atol=1e-5, rtol=1e-5
                )


def test_they_see_each_other_and_never_the_learnable_queries():
    torch.manual_seed(0)
    batch, model = one_batch(), module(denoising=1.0).eval()
    queries = model.denoising.queries(batch.targets)
    _, before = model.network.read_beside(*reading(model, batch), queries)
    _, without_others = model.network.read_beside(*reading(model, batch), only(queries, queries.place == 0, most=1))
    assert not torch.allclose(before[-1].segments_cw[:, :1], without_others[-1].segments_cw)
    with torch.no_grad():  # the content half only: the references stay, and so does what the first layer reads
        model.network.decoder.queries[:, 32:].normal_()
    _, after = model.network.read_beside(*reading(model, batch), queries)
    torch.testing.assert_close(before[-1].segments_cw, after[-1].segments_cw)


def perfect(batch, actionness):
    """What a layer says that has mended every segment; the second window has one action, its other queries fill up."""
    segments = torch.full((3, 3, 2), 0.5)
    logits = torch.zeros(3, 3, len(CLASSES))
    for number, target in enumerate(batch.targets):
        segments[number, : len(target.labels)] = target.segments_cw
        logits[number, torch.arange(len(target.labels)), target.labels] = 50.0
    return LayerOutputs(logits, segments, torch.full((3, 3), actionness))


def test_mended_queries_cost_nothing_and_each_error_costs_its_term():
    batch, model = one_batch(), module(denoising=1.0)
    right = perfect(batch, 20.0)
    loss = lambda layer: model.denoising.loss([layer], batch.targets, model.criterion).item()  # noqa: E731
    assert loss(right) == pytest.approx(0.0, abs=1e-5)
    moved = LayerOutputs(right.class_logits, right.segments_cw.clone(), right.actionness_logits)
    moved.segments_cw[0, 0, 0] += 0.02
    goal = batch.targets[0].segments_cw[:1]
    ends = [centre_width_to_start_end(one) for one in (goal, moved.segments_cw[0, :1])]
    inside = min(ends[0][0, 1], ends[1][0, 1]) - max(ends[0][0, 0], ends[1][0, 0])
    iou = (inside / (2 * goal[0, 1] - inside)).item()
    # of 6 actions; weights 5 and 2
    assert loss(moved) == pytest.approx((5 * 0.02 + 2 * (1 - iou)) / 6, rel=1e-3)
    assert loss(perfect(batch, -20.0)) > 1.0  # all are actions


def test_windows_without_actions_cost_nothing_and_keep_every_gradient():
    batch, model = one_batch(), module(denoising=1.0)
    none = [type(target)(target.labels[:0], target.segments_cw[:0]) for target in batch.targets]
    beside = model.denoising.queries(none)
    _, denoised = model.network.read_beside(*reading(model, batch), beside)
    loss = model.denoising.loss(denoised, none, model.criterion)
    assert loss.item() == pytest.approx(0.0, abs=1e-5)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.denoising.parameters())


def test_gradients_reach_what_is_only_theirs():
    batch, model = one_batch(), module(denoising=1.0)
    model._train_text = model.names(CLASSES)
    losses = model._losses(batch)
    assert losses["total"].item() == pytest.approx(sum(v.item() for k, v in losses.items() if k != "total"), rel=1e-5)
    losses["total"].backward()
    assert all(p.grad.abs().sum() > 0 for p in model.denoising.parameters())


def test_weight_0_is_the_network_and_the_losses_without():
    with_them, without = module(denoising=1.0), module(denoising=0.0)
    assert without.denoising is None
    own, other = with_them.network.state_dict(), without.network.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in own.items())
    without._train_text = without.names(CLASSES)
    assert "denoising" not in without._losses(one_batch())


def test_a_training_is_resumed_exactly_and_its_weights_are_those_of_a_network_without(tmp_path):
    def fit(folder, epochs, checkpoint=None):
        run = trainer(folder, max_epochs=epochs, limit_val_batches=0, callbacks=[EpochSeed(0)])
        model = module(denoising=1.0)
        batches = DataLoader([one_batch(), one_batch(("one",))], batch_size=None, generator=torch.Generator())
        run.fit(model, batches, ckpt_path=checkpoint)
        run.save_checkpoint(folder / "last.ckpt")
        return model

    whole = fit(tmp_path / "whole", 3)
    fit(tmp_path / "half", 2)
    resumed = fit(tmp_path / "resumed", 3, tmp_path / "half" / "last.ckpt")
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_checkpoints_of_before_are_read_and_not_trained_further(tmp_path):
    run = trainer(tmp_path, max_epochs=1, limit_val_batches=0)
    loader = DataLoader([one_batch()], batch_size=None)
    run.fit(module(denoising=1.0), loader)
    run.save_checkpoint(tmp_path / "new.ckpt")
    old = torch.load(tmp_path / "new.ckpt", weights_only=True)
    old["state_dict"] = {name: value for name, value in old["state_dict"].items() if not name.startswith("denoising")}
    torch.save(old, tmp_path / "old.ckpt")
    again = PsftrModule.load_from_checkpoint(tmp_path / "old.ckpt")
    assert torch.equal(again.network.decoder.queries, old["state_dict"]["network.decoder.queries"])
    with pytest.raises(PsftrError, match="begun by a psftr that had no denoising queries"):
        trainer(tmp_path, max_epochs=2, limit_val_batches=0).fit(
            module(denoising=1.0), loader, ckpt_path=tmp_path / "old.ckpt"
        )
