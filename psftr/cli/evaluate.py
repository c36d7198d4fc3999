"""Score runs, multiruns, the training-free baseline or any predictions file; numbers come from predictions files."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psftr.cli.evaluate_predictions import evaluate_training_free, find_training_free
from psftr.cli.present import compare_settings, draw_example, show
from psftr.engine.runs import RunFolder, find_runs, planned_overrides
from psftr.errors import PsftrError

if TYPE_CHECKING:
    from psftr.cli.objects import Config, Dataset
    from psftr.evaluation.aggregate import TenSplitReport
    from psftr.evaluation.protocol import Evaluation
    from psftr.predictions import Predictions

CONFIG = "evaluate"
HELP = """
usage: psftr evaluate run=DIR | predictions=FILE annotations=FILE | method=clip_baseline [key=value …]

Localize the unseen classes with trained runs and score them, or score a predictions file of any tool.

examples:
  psftr evaluate run=outputs/synthetic/75-split0/2026-01-31_12-00-00 baseline=true
  psftr evaluate run=outputs/thumos14/multirun/2026-01-31_12-00-00     mean, std, every split, every class
  psftr evaluate method=clip_baseline dataset=thumos14 split.ratio=75 split.index=0
  psftr evaluate predictions=pred.json annotations=data/thumos14/annotations.json dataset=thumos14

main keys:
  run=DIR             a run or a multirun folder of `psftr train`, or of `psftr cascade`; missing splits are named
  predictions=FILE    ActivityNet results JSON or CSV
  annotations=FILE    its ground truth, JSON or CSV; subset=NAME and tious=[0.5,…] for a data set of your own
  baseline=true       the training-free CLIP baseline beside each run
  protocol=peer       the peers' rules, marked in every table
  redo=true           predict again; decode.* then overrides the run's own decoding
  out=DIR  figures=false  device=cpu|cuda
"""
log = logging.getLogger("psftr")

# what a user may change about a run when evaluating it; everything else is the run's own
OVERRIDABLE = (
    "dataset.root", "dataset.annotations", "dataset.splits", "dataset.features", "data_root", "text.embeddings",
    "decode", "data.batch_size", "data.workers",
)  # fmt: skip


def run(cfg: Any) -> float | None:
    from hydra.core.hydra_config import HydraConfig

    from psftr.cli.objects import plain

    config = plain(cfg)
    given = {text.lstrip("+").partition("=")[0] for text in HydraConfig.get().overrides.task}
    wanted = [key for key in ("run", "predictions") if config[key]]
    if config["method"] == "clip_baseline":
        wanted.append("method=clip_baseline")
    if len(wanted) != 1:
        raise PsftrError(
            f"{' and '.join(wanted) or 'nothing'} given: say one of run=DIR, predictions=FILE (with annotations=FILE) "
            "or method=clip_baseline"
        )
    if config["protocol"] not in (None, "clean", "peer"):
        raise PsftrError(f"protocol={config['protocol']} is unknown; choose clean or peer")
    if config["predictions"]:
        return evaluate_file(config, given)
    if config["run"]:
        return evaluate_folder(config, given)
    return evaluate_baseline(config)


def evaluate_folder(config: Config, given: set[str]) -> float:
    """A run, or every finished run of a multirun, one table per setting."""
    from psftr.evaluation.aggregate import aggregate

    folder = Path(config["run"])
    if training_free := find_training_free(folder):
        return evaluate_training_free(folder, training_free, config, given)
    runs = find_runs(folder)
    planned = planned_overrides(folder)
    finished = [run for run in runs if run.read()["status"] == "finished"]
    say_what_is_missing(folder, runs, finished, planned)
    settings = group_by_setting(finished)
    reports: dict[str, TenSplitReport] = {}
    root = Path(config["out"] or folder / "evaluation")
    for label, members in settings.items():
        jobs = [job for job in planned if matches(job, members[0])]
        expected = sorted({int(job["split.index"]) for job in jobs if "split.index" in job})
        evaluations, baselines, files = [], [], {}
        for member in members:
            job = run_job(member, config, given)
            files[f"psftr, split {job.dataset.split.index}"] = predictions = job.predictions()
            evaluations.append(job.score(predictions))
            if config["baseline"]:
                name = f"clip_baseline, split {job.dataset.split.index}"
                files[name] = predictions = baseline_predictions(job.config, job.dataset)
                baselines.append(job.score(predictions))
        indices = expected or sorted({e.split.index for e in evaluations if e.split})
        report = aggregate(evaluations, expected=indices)
        baseline = aggregate(baselines, expected=indices) if baselines else None
        if label:
            log.info("=== %s", label)
        show(report, baseline, root / slug(label), figures=config["figures"])
        if config["figures"]:
            show_page(root / slug(label), files, job, report)
        reports[label] = report
    if len(reports) > 1:
        compare_settings(reports, finished[0].read()["config"].get("paper_table"), root, figures=config["figures"])
    return max(report.average.mean for report in reports.values())


def show_page(out: Path, files: dict[str, Predictions], job: Job, report: TenSplitReport) -> None:
    """The HTML page over all predictions of a setting, and one test video's timeline."""
    from psftr.evaluation.report_page import write_report_page

    page = write_report_page(
        out / "report.html",
        files,
        annotations=job.dataset.annotations,
        protocol=report.protocol,
        expected_splits=report.expected,
        title=f"psftr on {job.dataset.name}",
    )
    own = files[f"psftr, split {job.dataset.split.index}"]
    picture = draw_example(out / "timeline.png", own, job.dataset, job.config)
    log.info("  %s\n  %s", page, picture)


def say_what_is_missing(
    folder: Path, runs: Sequence[RunFolder], finished: Sequence[RunFolder], planned: Sequence[dict[str, str]]
) -> None:
    open_runs = [run for run in runs if run not in finished]
    absent = max(0, len(planned) - len(runs))
    if open_runs or absent:
        names = ", ".join(run_name(run) for run in open_runs)
        log.info(
            "INCOMPLETE: %d of %d runs finished%s%s; go on with: psftr train resume=%s",
            len(finished), max(len(planned), len(runs)),
            f"; started but not finished: {names}" if open_runs else "",
            f"; not started: {absent}" if absent else "",
            folder,
        )  # fmt: skip
    if not finished:
        raise PsftrError(f"no finished run in {folder} to evaluate: go on with `psftr train resume={folder}`")


def run_name(run: RunFolder) -> str:
    split = run.read()["config"]["split"]
    return f"{run.path.name} (split {split['ratio']}/{split['index']})"


def group_by_setting(runs: Sequence[RunFolder]) -> dict[str, list[RunFolder]]:
    """Runs that differ in nothing but the split index share a table; the label names what differs between tables.

    An experiment's own `setting` is the label where it has one, followed by the ratio where that varies too.
    """
    from psftr.cli.train import different_keys

    configs = [run.read()["config"] for run in runs]
    varying = sorted({key for config in configs for key in different_keys(configs[0], config)} - {"split.index"})
    groups: dict[str, list[RunFolder]] = {}
    for run, config in zip(runs, configs):
        label = ", ".join(f"{key}={lookup(config, key)}" for key in varying)
        if config.get("setting") and "setting" in varying:
            ratio = f" · {config['split']['ratio']}" if "split.ratio" in varying else ""
            label = config["setting"] + ratio
        groups.setdefault(label, []).append(run)
    return groups


def lookup(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config


def matches(job: dict[str, str], run: RunFolder) -> bool:
    """Whether a planned job is of the run's setting: every plain key but the split index agrees."""
    config = run.read()["config"]
    for key, value in job.items():
        actual = lookup(config, key)
        if key == "split.index" or actual is None or isinstance(actual, dict | list):
            continue
        if str(actual).lower() != value.lower().strip("'\""):
            return False
    return True


def slug(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9.=_-]+", "_", label)


@dataclass(frozen=True)
class Job:
    """A trained run, its data and where its predictions go."""

    folder: RunFolder
    config: Config
    facts: dict[str, Any]
    dataset: Dataset
    protocol_name: str
    device: str
    redo: bool

    def score(self, predictions: Predictions) -> Evaluation:
        return score(predictions, self.dataset, self.protocol_name, exclude=self.config["dataset"]["exclude"])

    def predictions(self) -> Predictions:
        """Read from the run folder if they are those of these weights and this decoding, else made and written."""
        from psftr.predictions import read_predictions, write_predictions

        file = self.folder.path / "predictions.json"
        weights = self.folder.path / "model.safetensors"
        if file.is_file() and not self.redo and file.stat().st_mtime >= weights.stat().st_mtime:
            predictions = read_predictions(file)
            made = predictions.provenance.config if predictions.provenance else {}
            if made.get("decode") == self.config["decode"] and made.get("protocol") == self.protocol_name:
                log.info("predictions  %s (made before; redo=true predicts again)", file)
                return predictions
        predictions = self.predict()
        write_predictions(file, predictions)
        log.info("predictions  %s", file)
        return predictions

    def predict(self) -> Predictions:
        from psftr.checkpoints import load_pretrained
        from psftr.cli.objects import build_decoder, load_class_text, window_policy
        from psftr.features.encoders import pick_device
        from psftr.methods.psftr.localizer import PsftrLocalizer
        from psftr.predictions import Predictions, Provenance

        unseen = self.dataset.split.unseen
        network, _ = load_pretrained(self.folder.path)
        text = load_class_text(self.config, self.dataset.store, unseen)
        config = {**self.config, "protocol": self.protocol_name}
        localizer = PsftrLocalizer(
            network=network,
            text=text,
            decoder=build_decoder(config),
            policy=window_policy(config),
            batch_size=self.config["data"]["batch_size"],
            device=pick_device(self.device),
        )
        videos = (self.dataset.store.read(video_id) for video_id in test_video_ids(self.config, self.dataset))
        detections = dict(localizer.localize_many(videos, unseen))
        provenance = Provenance(
            method="psftr",
            checkpoint_rule=self.facts["checkpoint_rule"],
            config=config,
            text=text_facts(text),
            **self.dataset.provenance(),
        )
        return Predictions(detections, provenance)


def run_job(folder: RunFolder, config: Config, given: set[str]) -> Job:
    """The run's own configuration, with the paths and decoding the user gave now.

    Raises:
        PsftrError: the feature store is not the one the run was trained on.
    """
    from psftr.cli.objects import load_dataset

    facts = folder.read()
    own = facts["config"]
    for key in sorted(given):
        if any(key == known or key.startswith(known + ".") for known in OVERRIDABLE):
            own = replaced(own, key.split("."), lookup(config, key))
    dataset = load_dataset(own)
    trained_on, at_hand = facts["features"]["identity"], dataset.store.identity
    if trained_on != at_hand:
        raise PsftrError(
            f"{folder.path} was trained on features {trained_on}, but the store at hand is {at_hand}: "
            "give its own with dataset.features=FILE, or train again"
        )
    if set(facts["split"]["unseen"]) != set(dataset.split.unseen):
        raise PsftrError(f"the split files have changed since {folder.path} was trained: restore them or train again")
    protocol = config["protocol"] or own["protocol"]
    if own["protocol"] == "peer" and protocol == "clean":
        raise PsftrError(f"{folder.path} chose its checkpoint on the test classes: protocol=clean cannot score it")
    return Job(folder, own, facts, dataset, protocol, config["device"], config["redo"])


def replaced(config: Any, path: Sequence[str], value: Any) -> dict[str, Any]:
    head, *rest = path
    return {**config, head: replaced(config.get(head) or {}, rest, value) if rest else value}


def evaluate_baseline(config: Config) -> float:
    """The training-free baseline on one split."""
    from psftr.cli.objects import load_dataset
    from psftr.evaluation.aggregate import aggregate
    from psftr.predictions import write_predictions

    config = {**config, "protocol": config["protocol"] or "clean"}
    dataset = load_dataset(config)
    split = dataset.split
    predictions = baseline_predictions(config, dataset)
    default = Path("outputs") / dataset.name / f"clip_baseline-{split.ratio}-split{split.index}"
    out = Path(config["out"] or default)
    out.mkdir(parents=True, exist_ok=True)
    write_predictions(out / "predictions.json", predictions)
    evaluation = score(predictions, dataset, config["protocol"], exclude=config["dataset"]["exclude"])
    report = aggregate([evaluation], expected=[split.index])
    show(report, None, out, figures=config["figures"])
    return report.average.mean


def baseline_predictions(config: Config, dataset: Dataset) -> Predictions:
    from psftr.cli.objects import load_class_text
    from psftr.methods.clip_baseline import NAME, ClipBaseline
    from psftr.predictions import CHECKPOINT_NONE, Predictions, Provenance

    unseen = dataset.split.unseen
    text = load_class_text(config, dataset.store, unseen)
    localizer = ClipBaseline(text=text)
    ids = test_video_ids(config, dataset)
    detections = {video_id: tuple(localizer.localize(dataset.store.read(video_id), unseen)) for video_id in ids}
    provenance = Provenance(
        method=NAME,
        checkpoint_rule=CHECKPOINT_NONE,
        config=localizer.config,
        text=text_facts(text),
        **dataset.provenance(),
    )
    return Predictions(detections, provenance)


def text_facts(text: Any) -> dict[str, Any]:
    return {"encoder": text.encoder, "prompt": text.prompt, "synthetic": text.synthetic}


def test_video_ids(config: Config, dataset: Dataset) -> list[str]:
    """Test videos with an action of an unseen class and with features."""
    from psftr.cli.objects import build_datamodule

    module_config = {**config, "protocol": config.get("protocol") or "clean"}
    if "window" not in module_config:
        raise PsftrError("the configuration has no window section")
    return list(build_datamodule(module_config, dataset).test_annotations.videos)


def score(predictions: Predictions, dataset: Dataset, protocol_name: str, *, exclude: Iterable[str]) -> Evaluation:
    from psftr.evaluation.protocol import evaluate_predictions
    from psftr.evaluation.rules import protocol_for

    return evaluate_predictions(
        predictions,
        dataset.annotations,
        dataset.split,
        protocol=protocol_for(dataset.name, protocol_name, exclude=exclude),
        features_identity=dataset.store.identity,
    )


def evaluate_file(config: Config, given: set[str]) -> float:
    """A predictions file of any tool against ground truth."""
    from psftr.cli.objects import read_split
    from psftr.data.annotations import read_annotations
    from psftr.evaluation.aggregate import aggregate
    from psftr.evaluation.protocol import evaluate_predictions, split_of
    from psftr.evaluation.rules import protocol_for, protocol_of
    from psftr.predictions import read_predictions

    if not config["annotations"]:
        raise PsftrError("predictions=FILE needs annotations=FILE, its ground truth (JSON or CSV)")
    predictions = read_predictions(config["predictions"])
    provenance = predictions.provenance
    stated = (provenance.split or {}).get("dataset") if provenance else None
    name = config["dataset"]["name"] if "dataset" in given else stated
    if name:
        protocol = protocol_for(name, config["protocol"] or "clean", exclude=config["dataset"]["exclude"])
        ignore = tuple(config["dataset"]["ignore_labels"]) if "dataset" in given else ("Ambiguous",)
    else:
        protocol = protocol_of(predictions, subset=config["subset"], tious=config["tious"])
        ignore = ("Ambiguous",)
    annotations = read_annotations(config["annotations"], ignore_labels=ignore)
    asked = any(key.startswith("split") for key in given)
    split = read_split(config, annotations.classes) if asked and split_of(provenance) is None else None
    evaluation = evaluate_predictions(predictions, annotations, split, protocol=protocol)
    index = evaluation.split.index if evaluation.split else 0
    report = aggregate([evaluation], expected=[index])
    out = Path(config["out"]) if config["out"] else None
    show(report, None, out, figures=config["figures"] and out is not None)
    return report.average.mean
