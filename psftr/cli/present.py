"""What `psftr evaluate` prints, writes and draws of its reports."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psftr.engine.evaluate import Job
    from psftr.evaluation.aggregate import TenSplitReport
    from psftr.evaluation.comparison import TrainedOn

log = logging.getLogger("psftr")


def show(report: TenSplitReport, baseline: TenSplitReport | None, out: Path | None, *, figures: bool) -> None:
    """Print the tables, write them as files and, if asked, draw the figures."""
    from psftr.evaluation.charts import save_charts
    from psftr.evaluation.render import evaluation_text, report_text, write_report

    alone = len(report.evaluations) == 1 and len(report.expected) == 1 and baseline is None
    log.info("%s", evaluation_text(report.evaluations[0]) if alone else report_text(report, baseline=baseline))
    if out is None:
        return
    paths = write_report(out, report)
    if baseline is not None:
        paths += write_report(out / "baseline", baseline)
    if figures:
        paths += save_charts(out, report, baseline=baseline)
    log.info("written:\n%s", "\n".join(f"  {path}" for path in paths))


def compare_settings(reports: dict[str, TenSplitReport], table: str | None, out: Path, *, figures: bool) -> None:
    """One line per setting and the ablation's figure; the paper's row beside where an experiment names its table."""
    from psftr.evaluation.charts import save_settings_charts
    from psftr.evaluation.paper import TABLES
    from psftr.evaluation.render import text, write_frame
    from psftr.evaluation.tables import settings_table

    printed = {(row.method, row.ratio): row.average for row in TABLES.get(table or "", ())}
    settings = settings_table(reports, paper=printed)
    log.info("\n%s\n", text(settings))
    paths = [write_frame(out / "settings.csv", settings.frame)]
    if figures:
        paths += save_settings_charts(out, reports, name=f"Table {table}" if table else "settings", paper=printed)
    log.info("written:\n%s", "\n".join(f"  {path}" for path in paths))


def show_seeds(
    scores: Mapping[str, Mapping[TrainedOn, float]],
    root: Path,
    *,
    laps: Mapping[str, Mapping[TrainedOn, float]],
    synthetic: bool,
) -> None:
    """Settings that were trained with several seeds each, in one table; seeds.csv is written too."""
    from psftr.evaluation.render import text, write_frame
    from psftr.evaluation.seeds import seeds_table

    table = seeds_table(scores, laps=laps, synthetic=synthetic)
    log.info("=== all seeds\n%s\nwritten:\n  %s", text(table), write_frame(root / "seeds.csv", table.frame))


def draw_example(path: Path, job: Job) -> Path:
    """The timeline of the first test video, by id, that has two actions or more of unseen classes: not a chosen one."""
    from psftr.api.curves import score_curves
    from psftr.evaluation.shown import shown_from
    from psftr.evaluation.timeline import draw_timeline
    from psftr.features.class_text import class_text
    from psftr.methods import find_method, method_names

    dataset, predictions = job.dataset, job.predictions
    unseen = dataset.split.unseen
    annotated = dataset.annotations.only_classes(unseen).videos
    candidates = sorted(video_id for video_id in predictions.detections if video_id in annotated)
    video = annotated[next((v for v in candidates if len(annotated[v].actions) > 1), candidates[0])]
    found = predictions.detections[video.video_id]
    least = shown_from(predictions)
    features = dataset.store.read(video.video_id)
    curves = None
    name = predictions.provenance.method if predictions.provenance else ""
    if name not in method_names() or find_method(name).reads_text:
        text = class_text(unseen, store=dataset.store, root=dataset.root, settings=job.common.text)
        curves = score_curves(features, unseen, text.select(unseen).numpy())
    marks = "[SYNTHETIC] " if dataset.store.synthetic else ""
    return draw_timeline(
        path,
        title=f"{marks}{video.video_id}, {dataset.name} split {dataset.split.ratio}/{dataset.split.index}",
        duration_s=features.duration_s,
        detections=[d for d in found if d.score >= least],
        ground_truth=video.actions,
        curves={label: (curves.seconds, values) for label, values in curves.values.items()} if curves else None,
        curve_title=curves.title if curves else "",
        note=f"detections with a score of {least:.3g} or more",
        most_labels=5,
    )
