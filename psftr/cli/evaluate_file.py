"""`psftr evaluate predictions=FILE`: a predictions file of any tool against ground truth."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from psftr.cli.hydra_app import given_keys
from psftr.cli.language import show_language
from psftr.cli.present import show

if TYPE_CHECKING:
    from psftr.evaluation.protocol import Evaluation
    from psftr.predictions import Predictions
    from psftr.settings import EvaluateSettings

log = logging.getLogger("psftr")


def evaluate_file(settings: EvaluateSettings) -> float:
    """A predictions file of any tool against ground truth."""
    from psftr.cli.ground_truth import read_ground_truth
    from psftr.data.datasets import DATASETS, spec_of
    from psftr.data.splits import open_split
    from psftr.evaluation.aggregate import aggregate
    from psftr.evaluation.protocol import evaluate_predictions, split_of
    from psftr.evaluation.rules import protocol_for, protocol_of
    from psftr.predictions import read_predictions

    predictions = read_predictions(str(settings.predictions))
    provenance = predictions.provenance
    stated = (provenance.split or {}).get("dataset") if provenance else None
    given = given_keys()
    spec = spec_of(settings.dataset) if "dataset" in given else DATASETS.get(str(stated))
    protocol = protocol_of(predictions, dataset=spec, subset=settings.subset, tious=settings.tious)
    if settings.protocol and spec:
        protocol = protocol_for(spec, settings.protocol)
    root = Path(settings.dataset.root or Path(settings.data_root) / (spec.name if spec else settings.dataset.name))
    truth = Path(settings.annotations or settings.dataset.annotations or root / "annotations.json")
    ignored = settings.dataset.ignore_labels or (spec.ignore_labels if spec else ("Ambiguous",))
    annotations = read_ground_truth(str(truth), ignore_labels=ignored)
    splits = Path(settings.dataset.splits or root / "splits")
    asked = any(key.startswith("split") for key in given)
    split = None
    if asked and split_of(provenance) is None:
        split = open_split(settings.split, splits_dir=splits, classes=annotations.classes)
    evaluation = evaluate_predictions(predictions, annotations, split, protocol=protocol)
    report = aggregate([evaluation], expected=[evaluation.split.index if evaluation.split else 0])
    out = Path(settings.out) if settings.out else None
    show(report, None, out, figures=settings.figures and out is not None)
    if hint := empty_classes(predictions, evaluation, (splits, truth.parent / "splits")):
        log.warning("%s", hint)

    def score(other: Predictions) -> Evaluation:
        return evaluate_predictions(other, annotations, split, protocol=protocol)

    show_language({Path(str(settings.predictions)).name: evaluation}, score, settings, out)
    return report.average.mean


def empty_classes(predictions: Predictions, evaluation: Evaluation, folders: Sequence[Path]) -> str:
    """Which of the scored classes have no detection at all, and the split that the file was made for, if one fits."""
    from psftr.data.splits import splits_that_test
    from psftr.evaluation.render import wrap
    from psftr.files import some

    wanted = evaluation.ap.classes
    found = {one.label for detections in predictions.detections.values() for one in detections}
    empty = [name for name in wanted if name not in found]
    if not empty:
        return ""
    told = f"NO DETECTION of {len(empty)} of the {len(wanted)} scored classes, which count as 0: {some(empty, 20)}."
    fitting = next(filter(None, (splits_that_test(found & set(wanted), folder) for folder in folders)), [])
    if fitting:
        first = fitting[0]
        more = f" (or {len(fitting) - 1} more)" if len(fitting) > 1 else ""
        told += (
            f" The labels in the file are the unseen classes of split {first.ratio}/{first.index}{more}: "
            f"score it with split.ratio={first.ratio} split.index={first.index}"
        )
    elif evaluation.split is None:
        told += " Of a file made for a class split, name the split: split.index=N, or split=file split.file=FILE"
    return wrap(told)
