"""Score folders of a training-free method: predictions.json, which says data set and split, without a run behind it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psftr.cli.objects import Config
from psftr.errors import PsftrError

if TYPE_CHECKING:
    from psftr.cli.objects import Dataset
    from psftr.evaluation.aggregate import TenSplitReport
    from psftr.predictions import Predictions, Provenance

log = logging.getLogger("psftr")
PUBLISHED_SPLITS = range(10)


@dataclass(frozen=True, eq=False)
class TrainingFree:
    """Predictions on one class split, and where they lie."""

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
    from psftr.predictions import CHECKPOINT_NONE, read_predictions

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


def evaluate_training_free(folder: Path, found: Sequence[TrainingFree], config: Config, given: set[str]) -> float:
    """One table per setting: splits that differ in nothing else are averaged, missing ones are named."""
    root = Path(config["out"] or folder / "evaluation")
    settings: dict[str, list[TrainingFree]] = {}
    for one in found:
        settings.setdefault(one.setting, []).append(one)
    names = [members[0].name for members in settings.values()]
    reports = {}
    for number, members in enumerate(settings.values()):
        label = names[number] if names.count(names[number]) == 1 else f"{names[number]} ({members[0].file.parent.name})"
        if len(settings) > 1:
            log.info("=== %s", label)
        out = root / label.replace("/", "-").replace(" ", "_") if len(settings) > 1 else root
        reports[label] = evaluate_setting(folder, members, config, given, out)
    if len(reports) > 1:
        from psftr.cli.present import compare_settings

        compare_settings(reports, None, root, figures=False)
    return max(report.average.mean for report in reports.values())


def evaluate_setting(
    folder: Path, members: Sequence[TrainingFree], config: Config, given: set[str], out: Path
) -> TenSplitReport:
    from psftr.cli.evaluate import baseline_predictions, score
    from psftr.cli.present import show
    from psftr.evaluation.aggregate import aggregate

    protocol = config["protocol"] or "clean"
    evaluations, baselines = [], []
    for one in members:
        own, dataset = load_split(one, config, given)
        exclude = own["dataset"]["exclude"]
        evaluations.append(score(one.predictions, dataset, protocol, exclude=exclude))
        if config["baseline"]:
            baseline = baseline_predictions({**own, "protocol": protocol}, dataset)
            baselines.append(score(baseline, dataset, protocol, exclude=exclude))
    is_sweep = members[0].file.parent != folder and members[0].split["source"] == "published"
    expected = PUBLISHED_SPLITS if is_sweep else [int(one.split["index"]) for one in members]
    report = aggregate(evaluations, expected=expected)
    show(report, aggregate(baselines, expected=expected) if baselines else None, out, figures=config["figures"])
    if config["figures"]:
        show_page(out, members, dataset, report)
    return report


def show_page(out: Path, members: Sequence[TrainingFree], dataset: Dataset, report: TenSplitReport) -> None:
    """The HTML page, with the stage traces that lie beside the predictions."""
    from psftr.evaluation.report_page import write_report_page
    from psftr.evaluation.stage_trace import find_stage_trace, read_stage_trace

    files = {f"{one.name}, split {one.split['index']}": one for one in members}
    traces = {name: find_stage_trace(one.file) for name, one in files.items()}
    page = write_report_page(
        out / "report.html",
        {name: one.predictions for name, one in files.items()},
        annotations=dataset.annotations,
        protocol=report.protocol,
        expected_splits=report.expected,
        stages={name: read_stage_trace(trace) for name, trace in traces.items() if trace},
        title=f"{report.method} on {dataset.name}",
    )
    log.info("  %s", page)


def load_split(one: TrainingFree, config: Config, given: set[str]) -> tuple[dict[str, Any], Dataset]:
    """The data set that the predictions name, from the paths given now, at the split that they name.

    Raises:
        PsftrError: the data set is not one of psftr's, or its split files say other classes.
    """
    from psftr.cli.hydra_app import config_groups
    from psftr.cli.objects import load_dataset

    name, split = str(one.split["dataset"]), one.split
    own: dict[str, Any] = dict(config)
    if "dataset" not in given and name != config["dataset"]["name"]:
        if name not in config_groups()["dataset"]:
            raise PsftrError(f"{one.file} is of the data set {name!r}: say where it is with dataset=… dataset.root=DIR")
        own = config_for(name)
    kind, _, file = str(split["source"]).partition(":")
    chosen = {"kind": kind, "ratio": split["ratio"], "index": split["index"]} | ({"file": file} if file else {})
    if name != own["dataset"]["name"]:
        raise PsftrError(f"{one.file} is of the data set {name!r}, not {own['dataset']['name']!r}: leave out dataset=")
    own["split"] = {"seed": own["seed"], "file": None, **own["split"], **chosen}
    dataset = load_dataset(own)
    if set(split["unseen"]) != set(dataset.split.unseen):
        raise PsftrError(f"the splits at hand are not those of {one.file}: restore the split files, or localize again")
    return own, dataset


def config_for(dataset: str) -> dict[str, Any]:
    """What the user gave now, with the paths of this data set."""
    from hydra import compose
    from hydra.core.hydra_config import HydraConfig

    from psftr.cli.objects import plain

    return plain(compose("evaluate", overrides=[*HydraConfig.get().overrides.task, f"dataset={dataset}"]))
