import math
import multiprocessing
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from parts import criterion, match
from torch import tensor

from psftr.data.batches import Target
from psftr.methods.psftr import losses
from psftr.methods.psftr.criterion import count_actions
from psftr.methods.psftr.matcher import actionness_cost
from psftr.methods.psftr.network import LayerOutputs, Outputs
from psftr.methods.psftr.settings import LossSettings
from psftr.segments import giou_paired


def target(labels, segments_cw):
    return Target(labels=tensor(labels, dtype=torch.long), segments_cw=tensor(segments_cw).reshape(-1, 2).float())


def random_outputs(*, batch=2, queries=5, names=3, frames=8, layers=1, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def layer():
        return LayerOutputs(
            class_logits=torch.randn(batch, queries, names, generator=generator).to(dtype).requires_grad_(),
            segments_cw=torch.rand(batch, queries, 2, generator=generator).to(dtype).requires_grad_(),
            actionness_logits=torch.randn(batch, queries, generator=generator).to(dtype).requires_grad_(),
        )

    return Outputs(
        final=layer(),
        saliency_logits=torch.randn(batch, frames, generator=generator).to(dtype).requires_grad_(),
        auxiliary=tuple(layer() for _ in range(layers - 1)),
    )


def batch_of(targets, frames=8):
    return SimpleNamespace(
        targets=tuple(targets),
        is_action=torch.zeros(len(targets), frames),
        is_padding=torch.zeros(len(targets), frames, dtype=torch.bool),
        is_ignored=torch.zeros(len(targets), frames, dtype=torch.bool),
    )


def test_every_term_by_hand():
    final = LayerOutputs(
        class_logits=tensor([[[0.0, 0.0], [math.log(3.0), 0.0]]]),
        segments_cw=tensor([[[0.5, 0.4], [0.9, 0.2]]]),
        actionness_logits=tensor([[0.0, -math.log(3.0)]]),  # p = 1/2, 1/4
    )
    outputs = Outputs(final=final, saliency_logits=torch.zeros(1, 8), auxiliary=())
    terms = criterion()(outputs, batch_of([target([1], [[0.5, 0.2]])]))  # matched to query 0
    focal = 0.25 * 0.25 * math.log(2) + 0.75 * (1 / 16) * math.log(4 / 3)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {
            "class": 2 * math.log(2),
            "l1": 5 * 0.2,
            "iou": 2 * 0.5,
            "actionness": 3 * focal,
            "saliency": 3 * math.log(2),
            "total": 2 * math.log(2) + 1.0 + 1.0 + 3 * focal + 3 * math.log(2),
        }
    )


def test_ignored_frames_carry_no_saliency_loss():
    outputs = random_outputs(batch=1)
    logits = tensor([[0.0, 0.0, math.log(3.0), 50.0, 50.0, 50.0, 50.0, 50.0]], requires_grad=True)
    outputs = Outputs(final=outputs.final, saliency_logits=logits, auxiliary=())
    batch = batch_of([target([], [])])
    batch.is_padding[:, 6:] = True
    batch.is_ignored[:, 3:6] = True
    saliency = criterion()(outputs, batch)["saliency"]
    saliency.backward()
    expected = 3.0 * (math.log(2) + math.log(2) + math.log(4)) / 3  # three background frames at p = 1/2, 1/2, 3/4
    assert saliency.item() == pytest.approx(expected)
    assert logits.grad[0, 3:].tolist() == [0.0] * 5


def test_query_terms_are_per_action_and_saliency_is_per_frame():
    # The same window twice: sums double, the number of actions doubles, nothing changes.
    outputs = random_outputs(batch=1)
    goals = target([0, 2], [[0.3, 0.2], [0.7, 0.2]])
    once = criterion()(outputs, batch_of([goals]))
    final = outputs.final
    doubled = Outputs(
        final=LayerOutputs(
            class_logits=final.class_logits.repeat(2, 1, 1),
            segments_cw=final.segments_cw.repeat(2, 1, 1),
            actionness_logits=final.actionness_logits.repeat(2, 1),
        ),
        saliency_logits=outputs.saliency_logits.repeat(2, 1),
        auxiliary=(),
    )
    twice = criterion()(doubled, batch_of([goals, goals]))
    for name in once:
        assert twice[name].item() == pytest.approx(once[name].item(), rel=1e-5)


def test_earlier_layers_are_matched_and_weighted_like_the_last():
    outputs = random_outputs(layers=3)
    batch = batch_of([target([0, 2], [[0.3, 0.2], [0.7, 0.2]]), target([1], [[0.5, 0.5]])])
    terms = criterion()(outputs, batch)
    per_layer = ["class", "l1", "iou", "actionness"]
    assert set(terms) == {
        *per_layer, "saliency", "total", *(f"aux{i}/{name}" for i in (0, 1) for name in per_layer)
    }  # fmt: skip
    first = Outputs(final=outputs.auxiliary[0], saliency_logits=outputs.saliency_logits, auxiliary=())
    alone = criterion()(first, batch)
    for name in per_layer:
        assert terms[f"aux0/{name}"].item() == pytest.approx(alone[name].item())
    total = terms.pop("total")
    assert total.item() == pytest.approx(sum(term.item() for term in terms.values()), rel=1e-6)


def test_parts_are_passed_in():
    outputs = random_outputs()
    batch = batch_of([target([0], [[0.3, 0.2]]), target([1], [[0.5, 0.5]])])
    plain = criterion()(outputs, batch)
    other = criterion(
        matcher=partial(match, class_cost=actionness_cost, classification=100.0),
        weights=LossSettings(saliency=2.0),
        overlap=giou_paired,
        saliency_loss=losses.saliency_focal,
    )(outputs, batch)
    expected = 2.0 * losses.saliency_focal(outputs.saliency_logits, batch.is_action, batch.is_padding)
    assert other["saliency"].item() == pytest.approx(expected.item())
    assert other["iou"].item() != pytest.approx(plain["iou"].item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_without_targets_is_finite_and_reaches_what_it_should(dtype):
    outputs = random_outputs(dtype=dtype, layers=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = criterion()(outputs, batch_of([target([], []), target([], [])]))
    for name in ("class", "l1", "iou", "aux0/class", "aux0/l1", "aux0/iou"):
        assert terms[name].item() == 0.0
    assert all(term.dtype == torch.float32 and torch.isfinite(term) for term in terms.values())
    terms["total"].backward()
    for layer in (outputs.final, *outputs.auxiliary):
        assert layer.actionness_logits.grad.abs().min() > 0  # every query learns to be background
        assert layer.class_logits.grad.abs().max() == 0  # reached, with nothing to learn
        assert layer.segments_cw.grad.abs().max() == 0


def test_float32_inside_autocast_equals_float32_outside():
    outputs = random_outputs()
    batch = batch_of([target([0, 2], [[0.3, 0.2], [0.7, 0.2]]), target([1], [[0.5, 0.5]])])
    plain = criterion()(outputs, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = criterion()(outputs, batch)
    assert {name: term.item() for name, term in inside.items()} == {name: term.item() for name, term in plain.items()}


def _count_on_rank(rank, store, actions, results):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    count = count_actions([target([0] * actions[rank], [[0.5, 0.5]] * actions[rank])], torch.device("cpu"))
    results.put((rank, count.item()))
    dist.destroy_process_group()


@pytest.mark.parametrize(("actions", "expected"), [((3, 1), 2.0), ((0, 0), 0.5), ((1, 0), 0.5)])
def test_ranks_divide_by_the_same_number_of_actions(tmp_path, actions, expected):
    """Half of what one process with all actions divides by, which is max(1, actions): two ranks are averaged."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    ranks = [
        context.Process(target=_count_on_rank, args=(rank, tmp_path / "store", actions, results), daemon=True)
        for rank in (0, 1)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert dict(results.get() for _ in ranks) == {0: expected, 1: expected}
