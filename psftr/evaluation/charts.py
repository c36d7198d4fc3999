"""The charts of an evaluation. As in the tables, a title begins with what the numbers are worth."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.ticker import MaxNLocator

from psftr.errors import PsftrError
from psftr.evaluation.aggregate import TenSplitReport
from psftr.evaluation.average_precision import Matches
from psftr.evaluation.curves import RECALLS, Reliability, precision_at_recalls
from psftr.evaluation.error_analysis import GROUPS, TYPE_NAMES, ErrorAnalysis
from psftr.evaluation.figures import COLOURS, GREY, INK, PAPER, Chart, canvas, hint, save_chart
from psftr.evaluation.paper import SPLIT_RANGE
from psftr.evaluation.tables import setting_of

TYPE_COLOURS = tuple(COLOURS[number] for number in (2, 4, 1, 0, 3, 5))  # of TYPE_NAMES
CHARACTERISTICS = {
    "length": "length of an action",
    "coverage": "share of the video an action covers",
    "instances": "actions of the class in the video",
}
WIDE_IN, TALL_IN = (10.0, 4.6), (7.0, 4.8)


def save_charts(
    folder: str | os.PathLike[str], report: TenSplitReport, *, baseline: TenSplitReport | None = None, mark: str = ""
) -> list[Path]:
    """classes, splits and data_scale as PNG, the last two where several splits and the training are known."""
    folder = Path(folder)
    chart = classes_chart(report, baseline=baseline)
    paths = [save_chart(folder / f"classes{mark}.png", chart, size_in=(8, 1.8 + 0.22 * len(chart.axes.get_yticks())))]
    if len(report.evaluations) > 1:
        chart = splits_chart([report], baselines=[baseline] if baseline else [])
        paths.append(save_chart(folder / f"splits{mark}.png", chart, size_in=WIDE_IN))
        if report.is_data_scale_known:
            paths.append(save_chart(folder / f"data_scale{mark}.png", data_scale_chart([report]), size_in=TALL_IN))
    return paths


def save_settings_charts(
    folder: str | os.PathLike[str],
    reports: Mapping[str, TenSplitReport],
    *,
    name: str,
    paper: Mapping[tuple[str, int], float],
) -> list[Path]:
    """Several settings beside each other: by split where they differ in the ratio alone, else an ablation by ratio.

    reports: by label, with " · RATIO" at its end where the ratio varies too. paper: printed averages by setting and
    ratio.
    """
    folder = Path(folder)
    ratios = sorted({report.ratio for report in reports.values()}, reverse=True)
    if len(ratios) == len(reports):  # Figures 7 and 8
        every = list(reports.values())
        paths = [save_chart(folder / "splits.png", splits_chart(every), size_in=WIDE_IN)]
        if all(report.is_data_scale_known for report in every):
            paths.append(save_chart(folder / "data_scale.png", data_scale_chart(every), size_in=TALL_IN))
        return paths
    paths = []
    for ratio in ratios:
        rows = {setting_of(label): r for label, r in reports.items() if r.ratio == ratio}
        printed = {setting: average for (setting, of), average in paper.items() if of == ratio}
        chart = ablation_chart(rows, name=name, paper=printed)
        size_in = (max(5.5, 1.2 + 1.1 * len(rows)), 4.2)
        paths.append(save_chart(folder / f"settings_{ratio}.png", chart, size_in=size_in))
    return paths


def splits_chart(reports: Sequence[TenSplitReport], *, baselines: Sequence[TenSplitReport] = ()) -> Chart:
    """Figures 7 and 8: average mAP of every split, one colour per report, its mean as a line.

    baselines: one per report or none, drawn as ticks. A missing split is marked, not left blank. The range
    the paper gives is noted where it is comparable.
    """
    first = _first(reports)
    axes = canvas(x_label="class split", y_label="average mAP, %")
    splits = sorted({i for r in reports for i in r.expected})
    width, turn = 0.84 / len(reports), 90 if len(reports) * len(splits) > 12 else 0
    keys = []
    for number, report in enumerate(reports):
        colour, name = COLOURS[number % len(COLOURS)], f"{report.method}, {report.ratio_text}"
        offset = (number - (len(reports) - 1) / 2) * width
        values = {e.index: 100 * e.ap.average for e in report.evaluations}
        bars = axes.bar([splits.index(i) + offset for i in values], list(values.values()), width * 0.94, color=colour)
        _values(axes, bars, "%.1f", fontsize=7, rotation=turn)
        for bar, (index, value) in zip(bars, values.items()):
            hint(bar, f"{name}, split {index}: {value:.2f}")
        for index in report.missing:
            axes.annotate("missing", (splits.index(index) + offset, 0), (0, 4), textcoords="offset points",
                          rotation=90, ha="center", va="bottom", fontsize=8)  # fmt: skip
        _level(axes, 100 * report.average.mean, colour, "mean")
        text = f"{name}: mean {report.average.percent}"
        published = SPLIT_RANGE.get((report.protocol.dataset, report.ratio))
        if published and not report.synthetic:
            text += f" (paper's range {published[0]:.2f} to {published[1]:.2f})"
        keys.append((colour, text))
        if number < len(baselines):
            other = {splits.index(e.index) + offset: 100 * e.ap.average for e in baselines[number].evaluations
                     if e.index in splits}  # fmt: skip
            ends = [p - width / 2 for p in other], [p + width / 2 for p in other]
            axes.hlines(list(other.values()), *ends, color=INK, linewidth=1.5)
            keys += [(INK, baselines[number].method)] if number == 0 else []
    axes.set_xticks(range(len(splits)), [str(i) for i in splits])
    axes.set_xlim(-0.5, len(splits) - 0.5)
    axes.margins(y=0.2 if turn else 0.12)
    title = _title(first, "average mAP by class split (the paper's Figures 7 and 8)")
    return Chart(axes, title, "average mAP of every class split", keys)


def data_scale_chart(reports: Sequence[TenSplitReport]) -> Chart:
    """Figure 5: average mAP against the number of training videos of each split, with their correlation.

    Raises PsftrError where a run does not say how many videos it was trained on.
    """
    first = _first(reports)
    axes = canvas(x_label="videos trained on", y_label="average mAP, %", grid="both")
    keys = []
    for number, report in enumerate(reports):
        if not report.is_data_scale_known:
            raise PsftrError(
                f"{report.method} on {report.protocol.dataset}: its predictions do not say how many videos it was "
                "trained on; predict again with this psftr"
            )
        colour = COLOURS[number % len(COLOURS)]
        videos = np.array([e.training.videos for e in report.evaluations], dtype=float)
        values = np.array([100 * e.ap.average for e in report.evaluations])
        label = f"{report.method}, {report.ratio_text}"
        if len(videos) > 2 and len(set(videos)) > 1 and len(set(values)) > 1:
            label += f": correlation {np.corrcoef(videos, values)[0, 1]:+.2f} over {len(videos)} splits"
            ends = np.array([videos.min(), videos.max()])
            axes.plot(ends, np.polyval(np.polyfit(videos, values, 1), ends), "--", color=colour, linewidth=1)
        for x, y, index in zip(videos, values, report.indices):
            _point(axes, x, y, colour, f"{report.ratio_text} split {index}: {x:.0f} videos, {y:.2f}")
            axes.annotate(str(index), (x, y), textcoords="offset points", xytext=(5, 3), fontsize=8)
        keys.append((colour, label))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.margins(0.1)
    title = _title(first, "mAP against training-data scale (the paper's Figure 5)")
    return Chart(axes, title, "average mAP against the number of videos each split was trained on", keys)


def classes_chart(report: TenSplitReport, *, baseline: TenSplitReport | None = None, most: int = 60) -> Chart:
    """AP of every class over the splits it is unseen in, best on top; beyond `most`, the best and the worst."""
    spreads = list(report.per_class.items())
    left_out = len(spreads) - most
    if left_out > 0:
        spreads = spreads[: most // 2] + spreads[-(most - most // 2) :]
    axes = canvas(x_label="AP averaged over tIoUs, % (in brackets: splits the class is unseen in)", grid="x")
    places = range(len(spreads))
    axes.barh(
        places,
        [100 * s.mean for _, s in spreads],
        xerr=[0 if math.isnan(s.std) else 100 * s.std for _, s in spreads],
        color=COLOURS[0],
        ecolor=GREY,
    )
    keys = [(COLOURS[0], f"{report.method}: mean over splits, ± std")]
    if baseline:
        other = baseline.per_class
        shared = {place: 100 * other[name].mean for place, (name, _) in enumerate(spreads) if name in other}
        axes.scatter(list(shared.values()), list(shared), marker="|", s=90, color=COLOURS[5], zorder=3)
        keys.append((COLOURS[5], baseline.method))
    axes.set_yticks(places, [f"{name} ({s.count})" for name, s in spreads], fontsize=8)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_xlim(left=0)
    told = f" (the middle {left_out} classes left out)" if left_out > 0 else ""
    return Chart(axes, _title(report, f"{report.ratio_text}: AP by class{told}"), "AP of every class", keys)


def ablation_chart(
    variants: Mapping[str, TenSplitReport], *, name: str, paper: Mapping[str, float] | None = None
) -> Chart:
    """Tables 2, 3, 4 and 6: average mAP of each variant with its spread over splits.

    name: what varies, such as "Table 3: fusion in SPDE". paper: printed percentages by variant, drawn as
    open diamonds; left out beside synthetic numbers. Raises PsftrError if variants are not of one data set
    and protocol.
    """
    reports = list(variants.values())
    first = _first(reports)
    axes = canvas(y_label="average mAP, % (bars: ± std over splits)")
    means = [100 * r.average.mean for r in reports]
    spread = [0 if math.isnan(r.average.std) else 100 * r.average.std for r in reports]
    bars = axes.bar(range(len(reports)), means, 0.6, yerr=spread, color=COLOURS[0], ecolor=GREY, capsize=3)
    _values(axes, bars, "%.2f")
    keys = []
    if paper and not any(r.synthetic for r in reports):
        shared = {place: paper[variant] for place, variant in enumerate(variants) if variant in paper}
        axes.scatter(list(shared), list(shared.values()), marker="D", facecolors="none", edgecolors=COLOURS[5],
                     zorder=3)  # fmt: skip
        keys.append((COLOURS[5], "as printed in the paper (its own features)"))
    labels = [
        f"{textwrap.fill(variant, 14)}\n{len(r.evaluations)} split{'s' if len(r.evaluations) > 1 else ''}"
        for variant, r in variants.items()
    ]
    axes.set_xticks(range(len(reports)), labels, fontsize=8)
    axes.margins(y=0.15)
    return Chart(axes, _title(first, f"{first.ratio_text} {name}"), f"average mAP of {', '.join(variants)}", keys)


def precision_recall_chart(matches: Matches, tiou_index: int, mark: str) -> Chart:
    axes = canvas(x_label="recall", y_label="precision (interpolated)", grid="both")
    few = len(matches.classes) <= len(COLOURS)
    curves = [precision_at_recalls(matches, c, tiou_index) for c in range(len(matches.classes))]
    for c, (name, curve) in enumerate(zip(matches.classes, curves)):
        (line,) = axes.plot(RECALLS, curve, color=COLOURS[c] if few else GREY, linewidth=1.2)
        hint(line, name)
    (line,) = axes.plot(RECALLS, np.mean(curves, axis=0), color=INK, linewidth=2.4)
    hint(line, "mean over classes")
    axes.set(xlim=(0, 1.01), ylim=(0, 1.02))
    keys = list(zip(COLOURS, matches.classes)) if few else [(GREY, f"{len(matches.classes)} classes")]
    title = f"{mark}Precision and recall at tIoU {matches.tious[tiou_index]:.2f}"
    alternative = "precision against recall, one line per class and their mean"
    return Chart(axes, title, alternative, [*keys, (INK, "mean over classes")])


def reliability_chart(found: Reliability, mark: str) -> Chart:
    axes = canvas(x_label="mean score of a bin", y_label="true positives, share", grid="both")
    axes.plot(found.scores, found.precision, color=COLOURS[0], linewidth=1.2)
    for score, share, lowest, highest in zip(found.scores, found.precision, found.lowest, found.highest):
        told = f"scores {lowest:.4g} to {highest:.4g}, mean {score:.4g}: {100 * share:.1f} % true positives"
        _point(axes, score, share, COLOURS[0], told)
    note = "no detections"
    if found.count:
        note = f"{found.count} detections in {len(found.scores)} bins of equal number. "
        note += "Scores lie outside [0, 1], so they are no probabilities and have no calibration error."
    if found.is_probability:
        top = 1.08 * float(max(found.scores.max(), found.precision.max())) or 1.0
        axes.plot([0, top], [0, top], "--", color=GREY, linewidth=1)
        axes.set(xlim=(0, top), ylim=(0, top))
        note = note.partition(". ")[0] + (
            f". Expected calibration error {found.error:.3f}; on the dashed line a score is the chance to be right."
        )
    title = f"{mark}Calibration: score against true positives at tIoU {found.tiou:.2f}"
    alternative = "reliability diagram: share of true positives against mean score, in bins of equal number"
    return Chart(axes, title, alternative, note=note)


def error_charts(analysis: ErrorAnalysis, mark: str) -> list[Chart]:
    """False-positive profile, what each type of error costs, sensitivity and misses."""
    names = dict.fromkeys(bucket.characteristic for bucket in analysis.buckets)
    return [_profile(analysis, mark), _gains(analysis, mark), *(_buckets(analysis, name, mark) for name in names)]


def _profile(analysis: ErrorAnalysis, mark: str) -> Chart:
    axes = canvas(x_label="rank within a class with G actions", y_label="detections, %")
    totals = analysis.profile.sum(axis=1)
    shares = 100 * analysis.profile / np.maximum(totals, 1)[:, None]
    below = np.zeros(GROUPS)
    for kind, (name, colour) in enumerate(zip(TYPE_NAMES, TYPE_COLOURS)):
        groups = analysis.profile[:, kind].nonzero()[0]
        bars = axes.bar(groups, shares[groups, kind], 0.84, bottom=below[groups], color=colour)
        below += shares[:, kind]
        for group, bar in zip(groups, bars):
            counts = f"{shares[group, kind]:.1f} % ({analysis.profile[group, kind]} of {totals[group]})"
            hint(bar, f"best {group + 1}G: {name} {counts}")
    axes.set_xticks(range(GROUPS), [f"{group + 1}G" for group in range(GROUPS)])
    axes.set(xlim=(-0.5, GROUPS - 0.5), ylim=(0, 100))
    empty = [f"{group + 1}G" for group in range(GROUPS) if not totals[group]]
    note = f"No detections that far down the ranks: {', '.join(empty)}." if empty else ""
    title = f"{mark}False-positive profile at tIoU {analysis.tiou:.2f}"
    alternative = "types of detections by rank, in percent of each rank group"
    return Chart(axes, title, alternative, list(zip(TYPE_COLOURS, TYPE_NAMES)), note)


def _gains(analysis: ErrorAnalysis, mark: str) -> Chart:
    axes = canvas(y_label="average mAP won, points")
    gains = {name: 100 * gain for name, gain in analysis.gains.items()}
    colours = [TYPE_COLOURS[TYPE_NAMES.index(name)] for name in gains]
    bars = axes.bar(range(len(gains)), list(gains.values()), 0.8, color=colours)
    _values(axes, bars, "%.1f")
    for bar, (name, gain) in zip(bars, gains.items()):
        hint(bar, f"{name}: +{gain:.2f}")
    axes.set_xticks(range(len(gains)), [name.replace(" ", "\n") for name in gains])
    axes.set_ylim(0, 1.15 * max([*gains.values(), 0.1]))
    title = f"{mark}What each type of error costs (average mAP without it, minus with it)"
    return Chart(axes, title, "average mAP won by taking out all errors of a type")


def _buckets(analysis: ErrorAnalysis, characteristic: str, mark: str) -> Chart:
    buckets = [b for b in analysis.buckets if b.characteristic == characteristic]
    axes = canvas(x_label=CHARACTERISTICS[characteristic], y_label="%")
    for offset, colour, what in ((-0.2, COLOURS[0], "mAP_N"), (0.2, COLOURS[5], "missed")):
        known = {place: b for place, b in enumerate(buckets) if b.count}
        values = [100 * (b.map_n if what == "mAP_N" else b.missed) for b in known.values()]
        bars = axes.bar([place + offset for place in known], values, 0.4, color=colour)
        _values(axes, bars, "%.0f")
        for bar, b, value in zip(bars, known.values(), values):
            hint(bar, f"{b.name}, {b.range_text}, {b.count} actions: {what} {value:.1f} %")
    _level(axes, 100 * analysis.map_n, COLOURS[0], "mAP_N of all actions")
    axes.set_xticks(range(len(buckets)), [f"{b.name} ({b.count})" for b in buckets])
    axes.set(xlim=(-0.5, len(buckets) - 0.5), ylim=(0, 112), yticks=range(0, 101, 20))
    keys = [(COLOURS[0], "average mAP_N (dashed: of all)"), (COLOURS[5], f"missed at tIoU {analysis.tiou:.2f}")]
    note = "; ".join(f"{b.name} {b.range_text}" for b in buckets) + ". In brackets: actions."
    title = f"{mark}Sensitivity and misses by {characteristic}"
    return Chart(axes, title, f"normalized mAP and misses by {characteristic}", keys, note)


def _values(axes: Axes, bars: BarContainer, form: str, *, fontsize: int = 8, rotation: float = 0) -> None:
    """Each bar's value above it, on a ground that hides the lines behind."""
    ground = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.3}
    axes.bar_label(bars, fmt=form, fontsize=fontsize, padding=2, rotation=rotation, bbox=ground, zorder=4)


def _point(axes: Axes, x: float, y: float, colour: str, told: str) -> None:
    (point,) = axes.plot([x], [y], "o", color=colour, markersize=6, markeredgewidth=0)
    hint(point, told)


def _level(axes: Axes, value: float, colour: str, told: str) -> None:
    if not math.isnan(value):
        hint(axes.axhline(value, color=colour, linestyle="--", linewidth=1), f"{told}: {value:.2f}")


def _first(reports: Sequence[TenSplitReport]) -> TenSplitReport:
    if not reports:
        raise PsftrError("nothing to draw; give at least one report")
    for other in reports[1:]:
        if other.protocol != reports[0].protocol or other.synthetic != reports[0].synthetic:
            raise PsftrError(
                f"one figure cannot hold {reports[0].protocol.dataset} ({reports[0].protocol.name}) and "
                f"{other.protocol.dataset} ({other.protocol.name}) numbers made by different rules; draw two"
            )
    return reports[0]


def _title(report: TenSplitReport, text: str) -> str:
    return f"{report.mark}{report.protocol.dataset} {text}"
