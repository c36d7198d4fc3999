"""Train a method on the seen classes of one split. Under protocol=clean no class of the test split gets in here."""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from psftr.checkpoints import save_pretrained, training_facts
from psftr.data.annotations import Annotations
from psftr.data.datasets import open_dataset
from psftr.data.splits import CLOSED
from psftr.engine.configuration import read_config, write_config
from psftr.engine.launch import run_ranks
from psftr.engine.memory import keep_freed_memory
from psftr.engine.runs import RunFolder, different_keys, lookup
from psftr.engine.trainer import build_trainer, check_trainer, silence_lightning
from psftr.errors import PsftrError
from psftr.evaluation.protocol import scorer
from psftr.evaluation.rules import protocol_for
from psftr.features.class_text import class_text
from psftr.methods import Method, Training, TrainingSetup
from psftr.predictions import (
    CHECKPOINT_BEST_SEEN,
    CHECKPOINT_LAST,
    CHECKPOINT_PEER,
    Detection,
)
from psftr.settings import TrainSettings

log = logging.getLogger("psftr")


def train(
    common: TrainSettings, method: Method, own: Any, folder: Path, *, log_config: Mapping[str, Any] | None = None
) -> float | None:
    """Train, or go on with the training in `folder`. Returns the validation mAP, None where nothing was validated.

    On several devices, one process is started for each; log_config, as logging.config takes it, is how rank 0 logs.
    A folder whose training is finished is left as it is. Raises PsftrError where it holds a run of other settings, and
    where another process trains into it.
    """
    if method.training is None:
        raise PsftrError(f"{method.name} needs no training: score it with `psftr evaluate method={method.name}`")
    run, ranks = RunFolder(folder), check_trainer(common)
    if not ranks.is_first:
        log.setLevel(logging.ERROR)  # rank 0 says the same
    with run.held() if ranks.is_first else nullcontext():
        check_settings(common, own, run)
        if run.facts_file.is_file() and (facts := run.read())["status"] == "finished":
            log.info("%s is finished already (%s)", run.path, score_words(facts["val_score"], facts["training"]))
            return facts["val_score"]
        if not ranks.on_this_machine:
            return train_here(common, method, own, run)
        # what is missing is told before anything starts, and the synthetic world is built once
        open_dataset(common.dataset, common.split, data_root=common.data_root)
        job = {"config": write_config(common, own), "folder": str(folder), "logging": log_config}
        run_ranks(job, num_ranks=ranks.on_this_machine, num_nodes=common.trainer.num_nodes, folder=folder)
        return run.read()["val_score"]


def check_settings(common: TrainSettings, own: Any, run: RunFolder) -> None:
    """Raises PsftrError where the folder holds a run of other settings."""
    if not run.facts_file.is_file():
        return
    before, _, its_own = read_config(TrainSettings, run.read()["config"])  # with today's defaults for newer settings
    old, new = (_plain(write_config(*settings)) for settings in ((before, its_own), (common, own)))
    if differing := sorted(different_keys(old, new)):
        there = " ".join(f"{key}={json.dumps(lookup(old, key))}" for key in differing[:6])
        raise PsftrError(
            f"{run.path} holds a run that differs in {', '.join(differing[:6])}: to go on with it, give its command "
            f"again with {there}; or choose another folder (hydra.run.dir=… or hydra.sweep.dir=…), or remove this one"
        )


def train_here(common: TrainSettings, method: Method, own: Any, run: RunFolder) -> float | None:
    """Train in this process, alone or as one of several that find each other through the environment."""
    silence_lightning()
    keep_freed_memory()
    if common.trainer.threads:
        torch.set_num_threads(common.trainer.threads)
    pl.seed_everything(common.seed, workers=True, verbose=False)
    training, facts = prepare_training(common, method, own)
    return _fit(common, training, facts, run)


def prepare_training(common: TrainSettings, method: Method, own: Any) -> tuple[Training, dict[str, Any]]:
    """(what Lightning trains, what the run says about itself), for a Trainer of one's own too."""
    dataset = open_dataset(common.dataset, common.split, data_root=common.data_root)
    protocol = protocol_for(dataset.spec)

    def score(
        annotations: Annotations, class_names: Sequence[str]
    ) -> Callable[[Mapping[str, Sequence[Detection]]], dict[str, float]]:
        return scorer(annotations, classes=class_names, protocol=protocol)

    assert method.training is not None
    training = method.training(
        TrainingSetup(
            own=own,
            common=common,
            dataset=dataset,
            text=partial(class_text, store=dataset.store, root=dataset.root, settings=common.text),
            score=score,
        )
    )
    text = training.text
    facts = training_facts(
        method=method.name,
        config=write_config(common, own),
        network=training.network_facts,
        train_classes=training.train_classes,
        encoder=text.encoder if text else dataset.store.encoder,
        synthetic=(text is not None and text.synthetic) or dataset.store.synthetic,
        **dataset.provenance(),
        checkpoint_rule=checkpoint_rule(common),
        text=text.provenance() if text else None,
        training=training.facts,
        data=training.summary,
    )
    return training, facts


def _fit(common: TrainSettings, training: Training, facts: dict[str, Any], run: RunFolder) -> float | None:
    chooses = common.checkpoint.rule != "last" or common.protocol == "peer"
    resumed = run.last_checkpoint if run.last_checkpoint.is_file() else None
    if run.facts_file.is_file() and resumed is None:
        log.info("no checkpoint in %s yet: starting from the beginning", run.path)
    trainer = build_trainer(common, run, facts, callbacks=training.callbacks, chooses=chooses)
    for line in describe(common, training, facts):
        log.info("%s", line)
    if resumed is not None:
        log.info("resuming from %s", resumed)
    if trainer.is_global_zero:
        run.write(status="training", val_score=None, **facts)
    started = time.monotonic()
    with keyboard_interrupts():
        trainer.fit(
            training.module, datamodule=training.data, ckpt_path=resumed, weights_only=True if resumed else None
        )
    metrics = trainer.callback_metrics
    if "val/mAP" in metrics and trainer.current_epoch % common.trainer.validate_every:
        trainer.validate(training.module, datamodule=training.data, verbose=False)  # the last epoch in any case
    score = float(trainer.callback_metrics["val/mAP"]) if "val/mAP" in trainer.callback_metrics else None
    if chooses:
        score = _load_best(training, run, score)
    if trainer.is_global_zero:
        save_pretrained(run.path, training.network, facts)
        run.update(status="finished", val_score=score, train_seconds=round(time.monotonic() - started, 1))
    log.info("%s", score_words(score, training.facts))
    log.info("run folder  %s\nscore it    psftr evaluate run=%s", run.path, run.path)
    return score


@contextmanager
def keyboard_interrupts() -> Iterator[None]:
    """Ctrl-C in Lightning's loop raises KeyboardInterrupt; Lightning would end the program and ignore the next one."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            if in_main_thread:
                signal.signal(signal.SIGINT, before)
            raise KeyboardInterrupt from stop
        raise


def _load_best(training: Training, run: RunFolder, fallback: float | None) -> float | None:
    """Put the best checkpoint's weights into the module; its validation score."""
    if not run.best_checkpoint.is_file():
        return fallback
    saved = torch.load(run.best_checkpoint, map_location="cpu", weights_only=True)
    training.module.load_state_dict(saved["state_dict"])
    scores = [
        state["best_model_score"]
        for name, state in saved["callbacks"].items()
        if name.startswith("ModelCheckpoint") and state.get("best_model_score") is not None
    ]
    return float(scores[0]) if scores else fallback


def checkpoint_rule(common: TrainSettings) -> str:
    if common.protocol == "peer":
        return CHECKPOINT_PEER
    return CHECKPOINT_LAST if common.checkpoint.rule == "last" else CHECKPOINT_BEST_SEEN


def score_words(score: float | None, training: Mapping[str, Any]) -> str:
    """The validation figure and what it is of; `training` are the facts of the training."""
    measured = "not validated" if score is None else f"validation mAP {100 * score:.2f}"
    return f"{measured} (validation: {training.get('validation', 'not stated')})"


def describe(common: TrainSettings, training: Training, facts: Mapping[str, Any]) -> list[str]:
    """What is trained on what, before the first epoch."""
    split, synthetic = facts["split"], ", SYNTHETIC features" if facts["synthetic"] else ""
    seen, unseen = len(split["seen"]), len(split["unseen"])
    name = f"{split['dataset']}{synthetic} · {split['source']} split"
    lines = [
        f"{name}: {seen} classes, all trained on and all looked for"
        if split["source"] == CLOSED
        else f"{name} {split['ratio']}/{split['index']}: {seen} seen, {unseen} unseen classes",
        "training: "
        + ", ".join(
            f"{facts['training'][k]} {k}" for k in ("classes", "videos", "windows", "actions") if k in facts["training"]
        ),
        *training.lines,
    ]
    if common.protocol == "peer":
        lines.append("protocol=peer: the best epoch is chosen on the TEST classes; every table will say so")
    return lines


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """As the same settings look after a turn through JSON."""
    return json.loads(json.dumps(config))
