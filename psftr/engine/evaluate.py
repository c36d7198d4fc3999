"""From run folders, folders of a training-free method, or a method by name, to evaluations, one table per setting."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from psftr.checkpoints import load_saved
from psftr.data.datasets import Dataset, open_dataset
from psftr.data.splits import hold_out_classes
from psftr.engine.configuration import read_config
from psftr.engine.localize import localize_split
from psftr.engine.runs import RunFolder, different_keys, lookup
from psftr.errors import PsftrError
from psftr.evaluation.comparison import TrainedOn
from psftr.evaluation.protocol import Evaluation, evaluate_predictions
from psftr.evaluation.rules import CLEAN, protocol_for
from psftr.methods import find_method
from psftr.predictions import CHECKPOINT_NONE, Predictions, Provenance, read_predictions, write_predictions
from psftr.settings import CommonSettings, EvaluateSettings, SplitSettings, TrainSettings

log = logging.getLogger("psftr")
SEED_WORDS = " · seed "  # what stands before the seed in the label of a setting

# what a user may change about a run when evaluating it, beside the method's own inference groups
OVERRIDABLE = (
    "dataset.root", "dataset.annotations", "dataset.splits", "dataset.features", "dataset.allow_missing", "data_root",
    "text.embeddings", "data.batch_size", "data.workers",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Job:
    """One split of one setting: its predictions, and what they are scored on.

    config: of a trained run, its settings with what was given now.
    """

    name: str
    common: CommonSettings
    dataset: Dataset
    predictions: Predictions
    protocol: str
    folder: Path
    device: str
    precision: str
    config: Mapping[str, Any] | None = None

    def evaluate(self, predictions: Predictions | None = None) -> Evaluation:
        """Score these predictions, or others of the same split such as the baseline's."""
        return score(predictions or self.predictions, self.dataset, self.protocol, exclude=self.common.dataset.exclude)

    def baseline(self) -> Predictions:
        """The training-free CLIP baseline on the same features and split."""
        method = find_method("clip_baseline")
        return localize_split(
            self.common, method, method.settings(), self.dataset,
            protocol=self.protocol, device=self.device, precision=self.precision,
        )  # fmt: skip


def score(predictions: Predictions, dataset: Dataset, protocol: str, *, exclude: Iterable[str] = ()) -> Evaluation:
    rules = protocol_for(dataset.spec, protocol, exclude=exclude)
    return evaluate_predictions(
        predictions,
        dataset.annotations,
        dataset.split,
        protocol=rules,
        features_identity=dataset.store.identity,
    )


def asked_of(dataset: Dataset, common: CommonSettings, classes: str) -> Dataset:
    """The data set with the classes and videos that are looked for: unseen ones in the test, or held-out seen ones.

    Held-out classes are those of `data.held_out_classes`, in videos of the training subset. Nothing of the test is
    looked at then. Raises PsftrError where the run held none out.
    """
    if classes == "unseen":
        return dataset
    data = common.data
    if not data.held_out_classes:
        raise PsftrError("classes=held-out: this run held no seen class out of training (data.held_out_classes=0)")
    split = hold_out_classes(dataset.split, count=data.held_out_classes, seed=data.held_out_seed)
    return replace(dataset, split=split, spec=replace(dataset.spec, test_subset=dataset.spec.train_subset))


def trained_on(run: RunFolder) -> TrainedOn:
    """Which training a run is, beside its settings."""
    config = run.read()["config"]
    split, data = config["split"], config["data"]
    return TrainedOn(split["ratio"], split["index"], data["held_out_seed"], config["seed"])


def run_job(run: RunFolder, settings: EvaluateSettings, given: Mapping[str, Any], *, tells: bool = True) -> Job:
    """A trained run with the paths and the post-processing the user gave now; `given` holds these by dotted key.

    Its predictions are read from the run folder if they are of these weights and settings, else made and written.
    tells: say so where they were there.
    Raises PsftrError where features or split files are not those the run was trained on.
    """
    facts = run.read()
    config = facts["config"]
    groups = find_method(config["method"]).inference_groups
    for key, value in given.items():
        if any(key == known or key.startswith(f"{known}.") for known in (*OVERRIDABLE, *groups)):
            config = _replaced(config, key.split("."), value)
    common, method, own = read_config(TrainSettings, config)
    dataset = open_dataset(common.dataset, common.split, data_root=common.data_root)
    trained_on, at_hand = facts["features"]["identity"], dataset.store.identity
    if trained_on != at_hand:
        raise PsftrError(
            f"{run.path} was trained on features {trained_on}, but the store given is {at_hand}: "
            "give its own with dataset.features=FILE, or train again"
        )
    if set(facts["split"]["unseen"]) != set(dataset.split.unseen):
        raise PsftrError(f"the split files have changed since {run.path} was trained: restore them or train again")
    protocol = settings.protocol or common.protocol
    if common.protocol == "peer" and protocol == "clean":
        raise PsftrError(f"{run.path} chose its checkpoint on the test classes: protocol=clean cannot score it")
    dataset = asked_of(dataset, common, settings.classes)
    words = ["predictions", *filter(None, ["held-out" * (settings.classes != "unseen"), method.condition(own)])]
    file = run.path / f"{'-'.join(words)}.json"
    predictions = None if settings.redo else _predictions_of(run, file, config, protocol, groups, settings.precision)
    if predictions is not None and tells:
        log.info("predictions  %s (made before; redo=true localizes again)", file)
    if predictions is None:
        saved = load_saved(run.path)
        saved = replace(saved, facts={**saved.facts, "config": config})
        predictions = localize_split(
            common, method, own, dataset,
            protocol=protocol, device=settings.device, precision=settings.precision, saved=saved,
        )  # fmt: skip
        write_predictions(file, predictions)
        log.info("predictions  %s", file)
    return Job(
        method.name, common, dataset, predictions, protocol, run.path, settings.device, settings.precision, config
    )


def _predictions_of(
    run: RunFolder, file: Path, config: Mapping[str, Any], protocol: str, groups: Sequence[str], precision: str
) -> Predictions | None:
    """The predictions that lie in the run folder, if these weights made them with these settings.

    precision=auto takes those of any precision; files of before there was a choice are 32-true.
    """
    weights = run.path / "model.safetensors"
    if not file.is_file() or file.stat().st_mtime < weights.stat().st_mtime:
        return None
    predictions = read_predictions(file)
    made = predictions.provenance.config if predictions.provenance else {}
    if precision not in ("auto", made.get("precision") or "32-true"):
        return None
    if made.get("protocol") != protocol or any(lookup(made, key) != lookup(config, key) for key in groups):
        return None
    return predictions


def method_job(settings: EvaluateSettings, folder: Callable[[Dataset], Path], own: Any) -> Job:
    """A training-free method on one split; its predictions are written to `folder`(data set)."""
    method = find_method(settings.method)
    if method.is_trained:
        raise PsftrError(f"{method.name} is a trained method: give run=DIR, a run or a multirun folder")
    protocol = settings.protocol or CLEAN
    dataset = open_dataset(settings.dataset, settings.split, data_root=settings.data_root)
    predictions = localize_split(
        settings, method, own, dataset, protocol=protocol, device=settings.device, precision=settings.precision
    )
    out = folder(dataset)
    write_predictions(out / "predictions.json", predictions)
    return Job(method.name, settings, dataset, predictions, protocol, out, settings.device, settings.precision)


@dataclass(frozen=True, eq=False)
class TrainingFree:
    """Predictions of a training-free method on one class split, and where they lie."""

    file: Path
    predictions: Predictions
    provenance: Provenance
    split: Mapping[str, Any]

    @property
    def setting(self) -> str:
        """What all splits of one table have in common."""
        made, where = self.provenance, [self.split[key] for key in ("dataset", "ratio", "source")]
        return json.dumps([made.method, *where, made.features, made.text, made.config], sort_keys=True, default=str)

    @property
    def name(self) -> str:
        made, ratio = self.provenance, self.split["ratio"]
        return " ".join(filter(None, (made.method, made.config.get("backend"), f"{ratio}/{100 - ratio}")))


def find_training_free(folder: Path) -> list[TrainingFree]:
    """Of the folder, or one level below it. Empty where there is a run of `psftr train`, or no such file."""
    if (folder / "run.json").is_file() or any(folder.glob("*/run.json")):
        return []
    own = folder / "predictions.json"
    files = [own] if own.is_file() else sorted(folder.glob("*/predictions.json"))
    found = []
    for file in files:
        predictions = read_predictions(file)
        made = predictions.provenance
        if made and made.split and made.checkpoint_rule == CHECKPOINT_NONE:
            found.append(TrainingFree(file, predictions, made, made.split))
    return found


def training_free_job(one: TrainingFree, settings: EvaluateSettings) -> Job:
    """The data set that the predictions name, from the paths given now, at the split that they name.

    `settings.dataset` must be of that data set. Raises PsftrError where the split files say other classes.
    """
    name, split = str(one.split["dataset"]), one.split
    if name != settings.dataset.name:
        raise PsftrError(f"{one.file} is of the data set {name!r}, not {settings.dataset.name!r}: leave out dataset=")
    kind, _, file = str(split["source"]).partition(":")
    chosen: SplitSettings = replace(
        settings.split, kind=kind, ratio=split["ratio"], index=split["index"], file=file or settings.split.file
    )
    settings = replace(settings, split=chosen)
    dataset = open_dataset(settings.dataset, chosen, data_root=settings.data_root)
    if set(split["unseen"]) != set(dataset.split.unseen):
        raise PsftrError(f"the splits given are not those of {one.file}: restore the split files, or localize again")
    return Job(
        one.name, settings, dataset, one.predictions, settings.protocol or CLEAN, one.file.parent,
        settings.device, settings.precision,
    )  # fmt: skip


def group_by_setting(runs: Sequence[RunFolder]) -> dict[str, list[RunFolder]]:
    """Runs that differ in nothing but the split index share a table; the label names what differs between tables.

    An experiment's own `setting` is the label where it has one, followed by the ratio where that varies too.
    """
    configs = [run.read()["config"] for run in runs]
    varying = sorted({key for config in configs for key in different_keys(configs[0], config)} - {"split.index"})
    groups: dict[str, list[RunFolder]] = {}
    for run, config in zip(runs, configs):
        label = ", ".join(f"{key}={lookup(config, key)}" for key in varying)
        if config.get("setting") and "setting" in varying:
            ratio = f" · {config['split']['ratio']}" if "split.ratio" in varying else ""
            seed = f"{SEED_WORDS}{config['seed']}" if "seed" in varying else ""
            label = config["setting"] + ratio + seed
        groups.setdefault(label, []).append(run)
    return groups


def _replaced(config: Any, path: Sequence[str], value: Any) -> dict[str, Any]:
    head, *rest = path
    return {**config, head: _replaced(config.get(head) or {}, rest, value) if rest else value}
