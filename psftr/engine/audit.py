"""The audit of trained runs: what each text, in each place, is worth, as one table over all runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from psftr.checkpoints import Saved
from psftr.engine.evaluate import Job
from psftr.engine.localize import build_localizer
from psftr.errors import PsftrError
from psftr.evaluation.average_precision import evaluate_detections
from psftr.evaluation.comparison import Comparison, TrainedOn, compare
from psftr.evaluation.rules import protocol_for
from psftr.evaluation.tables import Table
from psftr.features.class_text import class_text
from psftr.methods import AuditSetup, find_method
from psftr.predictions import Detection

OWN, ZERO = "own names everywhere", "zero text in encoder and queries"
ANY = "any action"
MOST_RUNS = 6  # columns a terminal has room for


@dataclass(frozen=True)
class Audit:
    """One run: mAP and class-agnostic AP of every row, as fractions; `key` says which training it is."""

    key: TrainedOn
    name: str
    synthetic: bool
    rows: Mapping[str, tuple[float, float]]


def audit_job(job: Job, saved: Saved, key: TrainedOn) -> Audit:
    """Ask the method's questions of one run, on the classes and videos that the job looks for, by its settings.

    Raises PsftrError where the method has no audit.
    """
    method = find_method(job.name)
    if method.audit is None:
        raise PsftrError(f"{method.name} has no audit: leave out audit=true")
    saved = replace(saved, facts={**saved.facts, "config": job.config})
    dataset, trained_on = job.dataset, tuple(saved.facts["train_classes"])
    unseen, store = dataset.split.unseen, dataset.store
    text = class_text(
        (*unseen, *(name for name in trained_on if name not in unseen)),
        store=store, root=dataset.root, settings=job.common.text,
    )  # fmt: skip
    training, _ = dataset.usable(dataset.spec.train_subset, trained_on, ())
    ids = dataset.test_videos(job.protocol, exclude=job.common.dataset.exclude)
    videos = dataset.annotations.only_classes(unseen).videos
    truth = {video_id: videos[video_id].actions for video_id in ids}
    ignored = {video_id: dataset.annotations.ignored.get(video_id, ()) for video_id in ids}
    setup = AuditSetup(
        localizer=build_localizer(saved, text, device=job.device, precision=job.precision),
        videos=[store.read(video_id) for video_id in ids],
        training_videos=(store.read(video.video_id) for video in training),
        class_names=unseen,
        seen_text=text.select(trained_on),
        ground_truth=truth,
    )
    tious = protocol_for(dataset.spec, job.protocol).tious
    agnostic_truth = {video: [replace(a, label=ANY) for a in actions] for video, actions in truth.items()}
    rows = {}
    for row, found in method.audit(setup):
        ap = evaluate_detections(truth, found, classes=unseen, tious=tious, ignored=ignored)
        any_action = {video: _without_labels(detections) for video, detections in found.items()}
        agnostic = evaluate_detections(agnostic_truth, any_action, classes=(ANY,), tious=tious, ignored=ignored)
        rows[row] = (ap.average, agnostic.average)
    name = f"{key.ratio}/{100 - key.ratio} split {key.split}, seed {key.seed}"
    return Audit(key, name, bool(saved.facts.get("synthetic")), rows)


def audit_table(audits: Sequence[Audit]) -> Table:
    """Rows of the audit; the mean over runs, class-agnostic AP, and every run."""
    marks = "[SYNTHETIC] " if any(one.synthetic for one in audits) else ""
    rows = [
        {
            "row": row,
            "mean": _mean(one.rows[row][0] for one in audits),
            "agnostic": _mean(one.rows[row][1] for one in audits),
            **{f"run {n}": one.rows[row][0] for n, one in enumerate(audits)},
        }
        for row in audits[0].rows
    ]
    heads = {"row": "audit", "mean": "mAP", "agnostic": "any class"}
    if 1 < len(audits) <= MOST_RUNS:
        heads |= {f"run {n}": f"{one.key.split}/{one.key.seed}" for n, one in enumerate(audits)}
    columns = ""
    if len(audits) > 1:
        columns = "; then every run as split/seed" if len(audits) <= MOST_RUNS else "; audit.csv has every run"
    caption = (
        f"{marks}Does text guide what is found? mAP in percent, mean over {len(audits)} runs; any class: AP when "
        f"labels do not count{columns}. Rows that are given the truth are bounds, not results"
    )
    return Table(caption=caption, frame=pd.DataFrame(rows), heads=heads)


def text_guidance(audits: Sequence[Audit]) -> Comparison:
    """Own names against zero text in encoder and queries, paired over the same trainings."""
    own = {one.key: one.rows[OWN][0] for one in audits}
    return compare(own, {one.key: one.rows[ZERO][0] for one in audits})


def guidance_line(comparison: Comparison) -> str:
    """`text guidance: +5.8 (…)`, with an interval where several seeds were trained."""
    interval = comparison.of_these_splits
    told = (
        "one seed in each split: no interval"
        if interval is None
        else (f"95 % interval {100 * interval.low:+.1f} to {100 * interval.high:+.1f}, seeds drawn within each split")
    )
    return (
        f"text guidance: {100 * comparison.difference:+.1f} mAP, own names against zero text in encoder and queries "
        f"({comparison.num_pairs} runs; {told})"
    )


def _without_labels(detections: Iterable[Detection]) -> list[Detection]:
    """One detection for each segment, with the best score that any label gave it."""
    best: dict[tuple[float, float], Detection] = {}
    for one in detections:
        place = (round(one.start_s, 3), round(one.end_s, 3))
        if place not in best or one.score > best[place].score:
            best[place] = replace(one, label=ANY)
    return list(best.values())


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
