import copy
from dataclasses import replace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from parts import PAPER, postprocessor
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from psftr.checkpoints import load_saved, training_facts
from psftr.data.annotations import Action
from psftr.data.batches import Collate, Sample
from psftr.data.windows import Window
from psftr.engine.trainer import Facts
from psftr.errors import PsftrError
from psftr.evaluation.average_precision import evaluate_detections
from psftr.features.text import TextEmbeddings
from psftr.methods.psftr.averaging import LastEpochsAverage
from psftr.methods.psftr.build import NetworkConfig, build_network, network_config
from psftr.methods.psftr.module import PsftrModule, make_optimizer, parameter_groups
from psftr.methods.psftr.settings import (
    LossSettings,
    MatcherSettings,
    ModelSettings,
    OptimizerSettings,
    PostprocessSettings,
    PsftrSettings,
)
from psftr.segments import Timeline
from psftr.settings import to_dict

CLASSES = ("jump", "run", "throw")
DIM, SIZE = 16, 32
TINY = ModelSettings(**PAPER, dim=32, heads=2, points=2, encoder_layers=1, decoder_layers=2, queries=8, dropout=0.0)
WIDTHS = {"feature_dim": DIM, "text_dim": DIM}
ACTIONS = {  # seconds; a row is a second
    "one": (Action(2.0, 9.0, "jump"), Action(14.0, 26.0, "run")),
    "two": (Action(5.0, 11.0, "throw"),),
    "three": (Action(1.0, 6.0, "run"), Action(9.0, 17.0, "throw"), Action(20.0, 28.0, "jump")),
}


def text():
    embeddings = torch.randn(4, DIM, generator=torch.Generator().manual_seed(7))
    return TextEmbeddings(names=(*CLASSES, "swim"), embeddings=embeddings, encoder="made-up", prompt="{}")


def one_batch(videos=tuple(ACTIONS)):
    """Windows whose rows look like their class inside an action and like nothing outside; the last is padded."""
    generator = np.random.default_rng(0)
    named = dict(zip(text().names, text().embeddings.numpy()))
    items = []
    for video in videos:
        valid = 24 if video == "two" else SIZE
        timeline = Timeline(stride=10, fps=10.0, num_steps=valid, duration_s=float(valid))
        window = Window(video, timeline, 0.0, float(valid), valid, SIZE)
        rows = generator.normal(size=(SIZE, DIM)).astype(np.float32)
        for action in ACTIONS[video]:
            rows[int(action.start_s) : int(action.end_s)] += 3 * named[action.label]
        rows[valid:] = 0.0
        targets = [(a, (a.start_s / SIZE, a.end_s / SIZE)) for a in ACTIONS[video]]
        items.append((Sample(window, targets, ACTIONS[video]), rows))
    return Collate(CLASSES)(items)


def mean_ap(detections):
    result = evaluate_detections(
        {video: ACTIONS[video] for video in detections}, detections, classes=CLASSES, tious=(0.3, 0.5, 0.7)
    )
    return {"mAP": result.average}


def optimizer_settings(**changes):
    return OptimizerSettings(**{"warmup_steps": 0} | changes)


def module(*, seed=0, model=TINY, train_classes=CLASSES, score=mean_ap, optimizer=None, denoising=0.0, **more):
    torch.manual_seed(seed)
    settings = PsftrSettings(
        model=model,
        matcher=MatcherSettings(cost="class"),
        loss=LossSettings(denoising=denoising),
        optimizer=optimizer or optimizer_settings(lr=1e-3, lr_backbone=1e-3),
        postprocess=PostprocessSettings(roi_weight=1.0, soft_nms_sigma=0.5),
    )
    parts = {"settings": to_dict(settings), **WIDTHS, "text": text(), "score": score}
    return PsftrModule(**parts | {"train_classes": list(train_classes), "val_classes": list(CLASSES)} | more)


def facts(**changes):
    """What `psftr train` keeps in a checkpoint of such a module."""
    told = {
        "method": "psftr",
        "config": {"seed": 0},
        "network": {**to_dict(TINY), **WIDTHS},
        "train_classes": CLASSES,
        "encoder": "made-up",
        "synthetic": False,
    }
    return training_facts(**told | changes)


def network_of(path):
    """The network in a checkpoint."""
    saved = load_saved(path)
    network = build_network(NetworkConfig(**saved.facts["network"]))
    saved.fill(network)
    return network.eval(), saved.facts


def loader(batches=1):
    return DataLoader([one_batch() for _ in range(batches)], batch_size=None)


def trainer(folder, *, callbacks=(), checkpointing=False, **more):
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=checkpointing,
        gradient_clip_val=0.1,
        default_root_dir=folder,
        callbacks=list(callbacks),
        **more,
    )


def test_one_batch_is_learnt_by_heart():
    batch, model = one_batch(), module()
    optimizer = torch.optim.AdamW(parameter_groups(model.network, optimizer_settings(lr=4e-3, lr_backbone=4e-3)))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.01, total_iters=150)
    history = []
    for _ in range(150):
        losses = model.criterion(model(batch, model.names(CLASSES)), batch)
        optimizer.zero_grad()
        losses["total"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        history.append({name: term.item() for name, term in losses.items()})
    assert set(history[0]) >= {"class", "l1", "iou", "actionness", "saliency", "aux0/class", "total"}
    for name, first in history[0].items():
        assert history[-1][name] < 0.3 * first, f"{name} went from {first} to {history[-1][name]}"
    with torch.no_grad():
        outputs = model(batch, model.names(CLASSES))
    # The class head learnt the names by heart; ROIAligned features know them anyway. Both must find everything.
    for roi_weight in (0.0, 1.0):
        decoder = postprocessor(roi_weight=roi_weight, soft_nms_sigma=0.1)
        detections = decoder.merge_videos(decoder.detect(outputs.final, batch, model.names(CLASSES), CLASSES))
        assert mean_ap(detections) == {"mAP": 1.0}


def test_gradients_reach_every_parameter():
    batch, model = one_batch(), module()
    model.criterion(model(batch, model.names(CLASSES)), batch)["total"].backward()
    unreached = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert unreached == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_fit_logs_every_term_and_scores_whole_videos(tmp_path):
    seen = []

    def score(detections):
        seen.append(detections)
        return mean_ap(detections)

    run = trainer(tmp_path, max_epochs=2, num_sanity_val_steps=1)
    run.fit(module(score=score), loader(2), loader(1))
    terms = {"class", "l1", "iou", "actionness", "saliency", "total", "aux0/class"}
    assert {f"train/{t}" for t in terms} | {f"val/{t}" for t in terms} | {"val/mAP"} <= set(run.callback_metrics)
    assert 0.0 <= run.callback_metrics["val/mAP"].item() <= 1.0
    assert len(seen) == 2  # one per epoch; the sanity check, which sees a part, is not scored
    assert list(seen[0]) == ["one", "two", "three"]
    for video, found in seen[0].items():
        duration_s = 24.0 if video == "two" else 32.0
        assert all(0 <= d.start_s < d.end_s <= duration_s for d in found)


def test_without_targets_in_validation_only_the_score_is_logged(tmp_path):
    run = trainer(tmp_path, max_epochs=1, num_sanity_val_steps=0)
    run.fit(module(is_peer=True), loader(1), loader(1))
    assert [name for name in run.callback_metrics if name.startswith("val/")] == ["val/mAP"]


def test_a_checkpoint_holds_plain_values_and_no_text(tmp_path):
    keep = ModelCheckpoint(dirpath=tmp_path, filename="best", monitor="val/mAP", mode="max")
    run = trainer(tmp_path, max_epochs=2, num_sanity_val_steps=0, callbacks=[keep, Facts(facts())], checkpointing=True)
    model = module(optimizer=optimizer_settings(warmup_steps=3, drop_epoch=1))
    run.fit(model, loader(2), loader(1))
    run.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    told = saved["psftr"]
    assert told["train_classes"] == list(CLASSES)
    assert told["encoder"] == "made-up"
    assert told["network"] == {**to_dict(TINY), **WIDTHS}
    assert (told["format_version"], told["config"]) == (2, {"seed": 0})
    assert told["code_version"]
    assert not [name for name in saved["state_dict"] if "text" in name and not name.startswith("network.")]
    assert all(name.startswith("network.") for name in saved["state_dict"])
    network, read = network_of(tmp_path / "last.ckpt")
    # what a configuration does not say of it was not there
    assert read == told | {"config": {"seed": 0, "postprocess": {"seen_weight": 0.0}}}
    batch, two_names = one_batch(), text().select(("swim", "run"))
    expected = model.network.eval()(batch.features, batch.is_padding, two_names)
    found = network(batch.features, batch.is_padding, two_names)
    assert torch.equal(found.final.class_logits, expected.final.class_logits)
    assert found.final.class_logits.shape == (3, 8, 2)


def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path):
    def fit(epochs, resume=None):
        run = trainer(tmp_path, max_epochs=epochs, limit_val_batches=0)
        model = module(optimizer=optimizer_settings(lr=1e-3, warmup_steps=5, drop_epoch=2))
        run.fit(model, loader(2), ckpt_path=resume, weights_only=True if resume else None)
        return run, model

    first, _ = fit(1)
    first.save_checkpoint(tmp_path / "stopped.ckpt")
    _, resumed = fit(3, resume=tmp_path / "stopped.ckpt")
    _, unbroken = fit(3)
    for (name, one), other in zip(resumed.named_parameters(), unbroken.parameters()):
        assert torch.equal(one, other), name


def test_another_training_is_refused():
    def resume(there, here):
        Facts(here).on_load_checkpoint(None, None, {"psftr": there})

    saved = facts()
    resume(copy.deepcopy(saved), facts())
    with pytest.raises(PsftrError, match=r"other seen classes \(throw only there, none only here\).*with its split"):
        resume(saved, facts(train_classes=("jump", "run")))
    with pytest.raises(PsftrError, match=r"network differs \(heads 2 there, 4 here\)"):
        resume(saved, facts(network={**saved["network"], "heads": 4}))
    with pytest.raises(PsftrError, match=r"format version 9, this psftr reads 1 and 2: use the psftr that wrote it"):
        resume({**saved, "format_version": 9}, facts())
    with pytest.raises(PsftrError, match="trained on features of other, these are of made-up"):
        resume({**saved, "encoder": "other"}, facts())
    with pytest.raises(PsftrError, match="not a checkpoint of psftr"):
        Facts(facts()).on_load_checkpoint(None, None, {"state_dict": {}})


def test_checkpoint_facts_must_be_plain():
    with pytest.raises(ValueError, match="plain values"):
        facts(network=TINY)


def test_lightning_builds_the_module_again_from_its_checkpoint(tmp_path):
    run = trainer(tmp_path, max_epochs=1, num_sanity_val_steps=0)
    model = module()
    run.fit(model, loader(1), loader(1))
    run.save_checkpoint(tmp_path / "own.ckpt")
    again = PsftrModule.load_from_checkpoint(tmp_path / "own.ckpt", weights_only=True)
    assert (again.train_classes, again.hparams.feature_dim) == (CLASSES, DIM)
    for (name, one), other in zip(model.named_parameters(), again.parameters()):
        assert torch.equal(one, other), name
    with pytest.raises(PsftrError, match=r"no class texts: give text=TextEmbeddings"):
        again.names(CLASSES)
    told = PsftrModule.load_from_checkpoint(tmp_path / "own.ckpt", weights_only=True, text=text())
    assert told.names(("swim",)).shape == (1, DIM)


def test_a_checkpoint_from_before_frames_were_cut_down_reads_whole_frames(tmp_path):
    def saved(model, name):
        run = trainer(tmp_path, max_epochs=1, num_sanity_val_steps=0)
        run.fit(model, loader(1), loader(1))
        run.save_checkpoint(tmp_path / name)
        return torch.load(tmp_path / name, weights_only=True)

    batch = one_batch()
    whole, cut = module(), module(model=replace(TINY, frame_components=3))
    old, new = saved(whole, "old.ckpt"), saved(cut, "new.ckpt")
    assert "network.convolution.basis" in new["state_dict"]
    # nothing was written down; a later default must not reach it
    old["hyper_parameters"]["settings"]["model"]["frame_components"] = 3
    torch.save(old, tmp_path / "old.ckpt")
    for name, trained in (("old.ckpt", whole), ("new.ckpt", cut)):
        again = PsftrModule.load_from_checkpoint(tmp_path / name, weights_only=True, text=text()).eval()
        expected = trained.eval()(batch, trained.names(CLASSES)).final.segments_cw
        assert torch.equal(again(batch, again.names(CLASSES)).final.segments_cw, expected)


@pytest.mark.parametrize("averages", [False, True])
def test_checkpoints_keep_the_names_of_training_and_those_of_before_have_none(tmp_path, averages):
    def begun(epochs):
        callbacks = [LastEpochsAverage(share=0.5, max_epochs=2)] if averages else []
        return trainer(tmp_path, max_epochs=epochs, num_sanity_val_steps=0, callbacks=callbacks)

    def saved(model, name):
        run = begun(1)
        run.fit(model, loader(1), loader(1))
        run.save_checkpoint(tmp_path / name)

    knowing, old = module(), module()
    knowing.network.remember_seen(knowing.names(CLASSES))
    saved(knowing, "new.ckpt")
    saved(old, "old.ckpt")
    again = PsftrModule.load_from_checkpoint(tmp_path / "new.ckpt", weights_only=True)
    assert torch.equal(again.network.seen_text, knowing.names(CLASSES))
    assert PsftrModule.load_from_checkpoint(tmp_path / "old.ckpt", weights_only=True).network.seen_text is None
    # a training of before goes on, and learns them
    onward = module()
    onward.network.remember_seen(onward.names(CLASSES))
    begun(2).fit(onward, loader(1), loader(1), ckpt_path=tmp_path / "old.ckpt", weights_only=True)
    assert torch.equal(onward.network.seen_text, onward.names(CLASSES))


def test_moving_average_of_weights_is_what_is_validated_and_saved(tmp_path):
    keep = ModelCheckpoint(dirpath=tmp_path, filename="last")
    callbacks = [EMAWeightAveraging(decay=0.5), keep, Facts(facts())]
    run = trainer(tmp_path, max_epochs=1, num_sanity_val_steps=0, checkpointing=True, callbacks=callbacks)
    model = module()
    start = copy.deepcopy(model.network.state_dict())
    run.fit(model, loader(3), loader(1))
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    name = "saliency_head.logit.weight"
    averaged, current = saved["state_dict"][f"network.{name}"], saved["current_model_state"][f"network.{name}"]
    assert not torch.equal(averaged, current)
    assert torch.equal(model.network.state_dict()[name], averaged)  # training ends with the average in place
    assert not torch.equal(averaged, start[name])
    network, _ = network_of(tmp_path / "last.ckpt")
    assert torch.equal(network.state_dict()[name], averaged)


def test_optimizer_groups_by_hand():
    network = SimpleNetwork()
    config = optimizer_settings(lr=0.1, lr_backbone=0.01, weight_decay=0.5)
    groups = {group["name"]: group for group in parameter_groups(network, config)}
    shapes = {name: sorted(tuple(p.shape) for p in group["params"]) for name, group in groups.items()}
    assert shapes == {
        "network": [(3, 2)],
        "network-undecayed": [(2,), (2,), (3,), (5, 2)],  # norm weight and bias, linear bias, queries
        "backbone": [(2, 2, 3)],
        "backbone-undecayed": [(2,)],
    }
    assert {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()} == {
        "network": (0.1, 0.5),
        "network-undecayed": (0.1, 0.0),
        "backbone": (0.01, 0.5),
        "backbone-undecayed": (0.01, 0.0),
    }


class SimpleNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv1d(2, 2, 3)
        self.norm = nn.LayerNorm(2)
        self.linear = nn.Linear(2, 3)
        self.queries = nn.Parameter(torch.zeros(5, 2))
        self.fixed = nn.Parameter(torch.zeros(7), requires_grad=False)

    def backbone_parameters(self):
        return list(self.convolution.parameters())


def test_every_parameter_of_the_network_is_in_one_group():
    network = build_network(NetworkConfig(**to_dict(TINY), **WIDTHS))
    grouped = [id(p) for group in parameter_groups(network, optimizer_settings()) for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in network.parameters())


def test_learning_rate_warms_up_and_drops(tmp_path):
    rates = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    optimizer = optimizer_settings(lr=1.0, lr_backbone=1.0, warmup_steps=3, drop_epoch=2, drop_factor=0.5)
    run = trainer(tmp_path, max_epochs=3, limit_val_batches=0, callbacks=[Watch()])
    run.fit(module(optimizer=optimizer), loader(2))
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.5, 0.5])
    with pytest.raises(PsftrError, match="lr must be above 0, got 0"):
        optimizer_settings(lr=0)
    with pytest.raises(PsftrError, match="warmup_steps must be at least 0, got -1"):
        optimizer_settings(warmup_steps=-1)


def test_bfloat16_training_step_on_the_cpu(tmp_path):
    run = trainer(tmp_path, max_epochs=1, num_sanity_val_steps=0, precision="bf16-mixed")
    model = module()
    before = copy.deepcopy(model.network.state_dict())
    run.fit(model, loader(1), loader(1))
    assert torch.isfinite(run.callback_metrics["train/total"])
    after = model.network.state_dict()
    assert all(torch.isfinite(value).all() and value.dtype == torch.float32 for value in after.values())
    assert any(not torch.equal(value, before[name]) for name, value in after.items())


def test_prediction_takes_any_vocabulary(tmp_path):
    model = module()
    model.predict_classes = ("swim", "jump")
    run = trainer(tmp_path)
    merged = model.merge_predictions(run.predict(model, loader(1)))
    assert list(merged) == ["one", "two", "three"]
    assert {d.label for found in merged.values() for d in found} == {"swim", "jump"}
    model.predict_classes = ("throw",)
    merged = model.merge_predictions(run.predict(model, loader(1)))
    assert {d.label for found in merged.values() for d in found} == {"throw"}


def test_names_without_text_are_refused():
    with pytest.raises(PsftrError, match="no text embedding for 'fly'"):
        module(train_classes=("jump", "fly")).names(("jump", "fly"))


def test_the_log_weighs_batches_by_their_windows(tmp_path):
    # Two batches of 3 and 1 windows: the epoch's figure is the mean over windows, not over batches.
    batches = [one_batch(), one_batch(("one",))]
    model = module(optimizer=optimizer_settings(lr=1e-12, lr_backbone=1e-12, weight_decay=0.0))
    run = trainer(tmp_path, max_epochs=1, limit_val_batches=0)
    with torch.no_grad():
        terms = [model.criterion(model(batch, model.names(CLASSES)), batch)["total"].item() for batch in batches]
    run.fit(model, DataLoader(batches, batch_size=None))
    expected = (3 * terms[0] + terms[1]) / 4
    assert run.callback_metrics["train/total"].item() == pytest.approx(expected, rel=1e-3)


def test_a_fused_step_equals_a_plain_one():
    torch.manual_seed(0)
    network = build_network(network_config(TINY, feature_dim=4, text_dim=4))
    twin = copy.deepcopy(network)
    config = optimizer_settings(lr=1e-2, lr_backbone=1e-3, weight_decay=0.1)
    for net, fused in ((network, True), (twin, False)):
        optimizer = make_optimizer(net, config, fused=fused)
        for step in range(3):
            for number, parameter in enumerate(net.parameters()):
                parameter.grad = torch.sin(torch.arange(parameter.numel()) + number + step).view_as(parameter)
            optimizer.step()
    for ours, plain in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_is_fused_and_still_clips(tmp_path, precision):
    norms = []

    def note(optimizer, *_):
        assert optimizer.defaults["fused"]
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(nn.utils.get_total_norm(grads).item())

    class Watch(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            note(optimizer)
            optimizer.register_step_post_hook(note)

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            assert all(p.grad is None for p in pl_module.parameters())  # freed before the next forward pass

    trainer(tmp_path, callbacks=[Watch()], max_steps=1, precision=precision).fit(module(), loader())
    before, after = norms
    assert before > 1
    assert after == pytest.approx(0.1, rel=1e-3)
