"""The report page's charts as HTML. Every title begins with what the numbers are worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from psftr.evaluation import svg
from psftr.evaluation.aggregate import TenSplitReport
from psftr.evaluation.average_precision import Matches
from psftr.evaluation.curves import RECALLS, Reliability, precision_at_recalls
from psftr.evaluation.error_analysis import GROUPS, TYPE_NAMES, ErrorAnalysis
from psftr.evaluation.paper import SPLIT_RANGE
from psftr.evaluation.report_tables import marked, plus_minus, ratio_text
from psftr.evaluation.tables import short_method

TYPE_SERIES = (2, 4, 1, 0, 3, 5)  # colour of each type of TYPE_NAMES
CHARACTERISTICS = {
    "length": "length of an action",
    "coverage": "share of the video an action covers",
    "instances": "actions of the class in the video",
}


def split_charts(reports: Sequence[TenSplitReport]) -> str:
    """Every split as a bar (Figures 7 and 8), and mAP against the training data (Figure 5)."""
    charts = [_split_bars(reports)]
    if all(e.num_training_videos for r in reports for e in r.evaluations):
        charts.append(_data_scale(reports))
    return f'<div class="charts">{"".join(charts)}</div>'


def _split_bars(reports: Sequence[TenSplitReport]) -> str:
    splits = sorted({i for r in reports for i in r.expected})
    top = max((100 * e.ap.average for r in reports for e in r.evaluations), default=1.0)
    chart = svg.Chart(
        label="average mAP of every class split",
        x=(-0.5, len(splits) - 0.5),
        y=(0, top * 1.15),
        x_title="class split",
        y_title="average mAP, %",
        x_ticks=[(place, str(index)) for place, index in enumerate(splits)],
    )
    width = 0.84 / len(reports)
    keys = []
    for number, report in enumerate(reports):
        series = number % 6
        values = {index: 100 * e.ap.average for index, e in zip(report.indices, report.evaluations)}
        for place, index in enumerate(splits):
            left = place - 0.42 + number * width
            name = f"{short_method(report.method)}, {ratio_text(report)}, split {index}"
            if index in values:
                text = f"{values[index]:.1f}" if len(reports) * len(splits) <= 12 else ""
                hint = f"{name}: {values[index]:.2f}"
                chart.bar(left, left + width * 0.94, 0, values[index], series=series, hint=hint, text=text)
            elif index in report.missing:
                chart.note(left + width / 2, 0, "missing", dx=3, dy=-3, upright=True)
        mean = 100 * report.average.mean
        chart.line([(-0.5, mean), (len(splits) - 0.5, mean)], series=series, kind="dashed", hint=f"mean {mean:.2f}")
        text = f"{short_method(report.method)}, {ratio_text(report)}: mean {plus_minus(report.average)}"
        published = SPLIT_RANGE.get((report.protocol.dataset, report.ratio))
        if published and not report.synthetic:
            text += f" (paper's range {published[0]:.2f} to {published[1]:.2f})"
        keys.append((series, text))
    title = marked(reports[0], "Average mAP by class split (the paper's Figures 7 and 8)")
    return figure(title, chart.svg() + svg.legend(keys))


def _data_scale(reports: Sequence[TenSplitReport]) -> str:
    points = [
        [(e.num_training_videos or 0, 100 * e.ap.average, i) for i, e in zip(r.indices, r.evaluations)] for r in reports
    ]
    every = [point for group in points for point in group]
    low, high = min(x for x, _, _ in every), max(x for x, _, _ in every)
    margin = max(1, (high - low) * 0.08)
    chart = svg.Chart(
        label="average mAP against the number of training videos of each split",
        x=(low - margin, high + margin),
        y=(0, max(y for _, y, _ in every) * 1.12),
        x_title="training videos (with a seen-class action)",
        y_title="average mAP, %",
    )
    keys = []
    for number, (report, group) in enumerate(zip(reports, points)):
        for x, y, index in group:
            hint = f"{ratio_text(report)} split {index}: {x} training videos, {y:.2f}"
            chart.point(x, y, series=number % 6, hint=hint, text=str(index) if len(every) <= 12 else "")
        told = f"{short_method(report.method)}, {ratio_text(report)}"
        videos, values = [x for x, _, _ in group], [y for _, y, _ in group]
        if len(group) > 2 and len(set(videos)) > 1 and len(set(values)) > 1:
            told += f": correlation {float(np.corrcoef(videos, values)[0, 1]):+.2f} over {len(group)} splits"
        keys.append((number % 6, told))
    title = marked(reports[0], "mAP against training-data scale (the paper's Figure 5)")
    return figure(title, chart.svg() + svg.legend(keys))


def precision_recall_chart(matches: Matches, tiou_index: int, mark: str) -> str:
    chart = svg.Chart(
        label="precision against recall, one line per class and their mean",
        x=(0, 1),
        y=(0, 1),
        x_title="recall",
        y_title="precision (interpolated)",
    )
    curves = []
    for c, name in enumerate(matches.classes):
        values = precision_at_recalls(matches, c, tiou_index)
        curves.append(values)
        series = c % 6 if len(matches.classes) <= 6 else 6
        chart.line(list(zip(RECALLS, values)), series=series, kind="thin", hint=name)
    mean = np.mean(curves, axis=0)
    chart.line(list(zip(RECALLS, mean)), series=7, kind="bold", hint="mean over classes")
    few = len(matches.classes) <= 6
    keys = [(c, name) for c, name in enumerate(matches.classes)] if few else [(6, f"{len(matches.classes)} classes")]
    title = f"{mark}Precision and recall at tIoU {matches.tious[tiou_index]:.2f}"
    return figure(title, chart.svg() + svg.legend([*keys, (7, "mean over classes")]))


def reliability_chart(found: Reliability, mark: str) -> str:
    if not found.count:
        return figure(f"{mark}Calibration", "<p>no detections</p>")
    top = float(max(found.scores.max(), found.precision.max())) * 1.08 or 1.0
    low = min(0.0, float(found.scores.min()))
    chart = svg.Chart(
        label="reliability diagram: share of true positives against mean score, in bins of equal number",
        x=(low, top if found.is_probability else float(found.scores.max())),
        y=(0, top if found.is_probability else float(found.precision.max()) * 1.08 or 1.0),
        x_title="mean score of a bin",
        y_title="true positives, share",
    )
    if found.is_probability:
        chart.line([(0, 0), (top, top)], series=6, kind="dashed", hint="a score that says how often it is right")
    chart.line(list(zip(found.scores.tolist(), found.precision.tolist())), series=0, kind="thin")
    for score, share, lowest, highest in zip(found.scores, found.precision, found.lowest, found.highest):
        hint = f"scores {lowest:.4g} to {highest:.4g}, mean {score:.4g}: {100 * share:.1f} % true positives"
        chart.point(float(score), float(share), series=0, hint=hint)
    note = f"{found.count} detections in {len(found.scores)} bins of equal number. "
    note += (
        f"Expected calibration error {found.error:.3f}; on the dashed line a score is the chance to be right."
        if found.is_probability
        else "Scores lie outside [0, 1], so they are no probabilities and have no calibration error."
    )
    return figure(f"{mark}Calibration: score against true positives at tIoU {found.tiou:.2f}", chart.svg(), note)


def errors_section(analysis: ErrorAnalysis, mark: str) -> str:
    """False-positive profile, what each type of error costs, sensitivity and misses."""
    charts = [
        _profile_chart(analysis, mark),
        _gains_chart(analysis, mark),
        *(_bucket_chart(analysis, name, mark) for name in dict.fromkeys(b.characteristic for b in analysis.buckets)),
    ]
    told = (
        "After Alwassel et al., “Diagnosing Error in Temporal Action Detectors” (ECCV 2018). A detection is "
        f"judged by the action it overlaps most, at tIoU {analysis.tiou:.2f}: double detection (right label, but a "
        "better-scored one has it), wrong label, localization (right label, tIoU from 0.1), confusion "
        "(wrong label, tIoU from 0.1), background (below 0.1). Actions of classes "
        "that are not to be found count as background."
    )
    return f'<p>{escape(told)}</p><div class="charts">{"".join(charts)}</div>'


def _profile_chart(analysis: ErrorAnalysis, mark: str) -> str:
    chart = svg.Chart(
        label="types of detections by rank, in percent of each rank group",
        x=(-0.5, GROUPS - 0.5),
        y=(0, 100),
        x_title="rank within a class with G actions",
        y_title="detections, %",
        x_ticks=[(g, f"{g + 1}G") for g in range(GROUPS)],
    )
    for g, counts in enumerate(analysis.profile):
        total, below = counts.sum(), 0.0
        for kind, number in enumerate(counts):
            if not number:
                continue
            share = 100 * number / total
            hint = f"best {g + 1}G: {TYPE_NAMES[kind]} {share:.1f} % ({number} of {total})"
            chart.bar(g - 0.42, g + 0.42, below, below + share, series=TYPE_SERIES[kind], hint=hint)
            below += share
    keys = list(zip(TYPE_SERIES, TYPE_NAMES))
    title = f"{mark}False-positive profile at tIoU {analysis.tiou:.2f}"
    empty = [f"{g + 1}G" for g, counts in enumerate(analysis.profile) if not counts.sum()]
    note = f"No detections that far down the ranks: {', '.join(empty)}." if empty else ""
    return figure(title, chart.svg() + svg.legend(keys), note)


def _gains_chart(analysis: ErrorAnalysis, mark: str) -> str:
    gains = [100 * gain for gain in analysis.gains.values()]
    chart = svg.Chart(
        label="average mAP won by taking out all errors of a type",
        x=(-0.5, len(gains) - 0.5),
        y=(0, max([*gains, 0.1]) * 1.15),
        y_title="average mAP won, points",
        x_ticks=list(enumerate(analysis.gains)),
        x_ticks_stacked=True,
    )
    for place, (name, gain) in enumerate(zip(analysis.gains, gains)):
        series = TYPE_SERIES[TYPE_NAMES.index(name)]
        chart.bar(place - 0.4, place + 0.4, 0, gain, series=series, hint=f"{name}: +{gain:.2f}", text=f"{gain:.1f}")
    return figure(f"{mark}What each type of error costs (average mAP without it, minus with it)", chart.svg())


def _bucket_chart(analysis: ErrorAnalysis, characteristic: str, mark: str) -> str:
    buckets = [b for b in analysis.buckets if b.characteristic == characteristic]
    chart = svg.Chart(
        label=f"normalized mAP and misses by {characteristic}",
        x=(-0.5, len(buckets) - 0.5),
        y=(0, 112),
        x_title=CHARACTERISTICS[characteristic],
        y_title="%",
        x_ticks=[(place, f"{b.name} ({b.count})") for place, b in enumerate(buckets)],
        y_ticks=[(v, f"{v}") for v in (0, 20, 40, 60, 80, 100)],
    )
    for place, b in enumerate(buckets):
        if not b.count:
            continue
        told = f"{b.name}, {b.range_text}, {b.count} actions: "
        score, missed = 100 * b.map_n, 100 * b.missed
        chart.bar(place - 0.4, place, 0, score, series=0, hint=f"{told}mAP_N {score:.1f}", text=f"{score:.0f}")
        chart.bar(place, place + 0.4, 0, missed, series=5, hint=f"{told}missed {missed:.1f} %", text=f"{missed:.0f}")
    level = 100 * analysis.map_n
    if not math.isnan(level):
        chart.line([(-0.5, level), (len(buckets) - 0.5, level)], series=0, kind="dashed", hint=f"all: {level:.1f}")
    ranges = "; ".join(f"{b.name} {b.range_text}" for b in buckets)
    keys = [(0, "average mAP_N (dashed: of all)"), (5, f"missed at tIoU {analysis.tiou:.2f}")]
    title = f"{mark}Sensitivity and misses by {characteristic}"
    return figure(title, chart.svg() + svg.legend(keys), f"{ranges}. In brackets: actions.")


def figure(title: str, chart: str, note: str = "") -> str:
    told = f"<p>{escape(note)}</p>" if note else ""
    return f"<figure><figcaption>{escape(title)}</figcaption>{chart}{told}</figure>"
