"""Figures of an evaluation as PNG files. Each function writes one and returns its path.

Drawn with Agg through `Figure` alone, so nothing here touches pyplot's global state or needs a display. As
in the tables, a title begins with SYNTHETIC or PEER PROTOCOL where that is what the numbers are.
"""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from psftr.errors import PsftrError
from psftr.evaluation.aggregate import Spread, TenSplitReport
from psftr.evaluation.paper import SPLIT_RANGE
from psftr.evaluation.tables import marks, short_method

# Okabe and Ito's palette: told apart with every kind of colour vision, and in grey.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
GREY = "#8a8a8a"


def plot_splits(
    path: str | os.PathLike[str],
    reports: Sequence[TenSplitReport],
    *,
    baselines: Sequence[TenSplitReport] = (),
) -> Path:
    """Figures 7 and 8: average mAP of every split, one colour per ratio, its mean as a line.

    baselines: one per report or none, drawn as ticks. A missing split is marked, not left blank. The range
    the paper gives is noted where it is comparable.
    """
    first = _first(reports)
    figure, axes = _canvas(10, 4.2)
    splits = sorted({i for r in reports for i in r.expected})
    width = 0.8 / len(reports)
    for number, report in enumerate(reports):
        colour = COLOURS[number % len(COLOURS)]
        values = dict(zip(report.indices, (100 * e.ap.average for e in report.evaluations)))
        offset = (number - (len(reports) - 1) / 2) * width
        places = [splits.index(i) + offset for i in values]
        label = f"{report.ratio}/{100 - report.ratio}: {_mean_text(report.average)}"
        published = SPLIT_RANGE.get((report.protocol.dataset, report.ratio))
        if published and not report.synthetic:
            label += f" (paper's range {published[0]:.2f} to {published[1]:.2f})"
        bars = axes.bar(places, list(values.values()), width * 0.94, color=colour, label=label)
        axes.bar_label(bars, fmt="%.1f", fontsize=7, padding=1)
        axes.axhline(100 * report.average.mean, color=colour, linestyle="--", linewidth=1)
        for index in report.missing:
            place = splits.index(index) + offset
            axes.text(place, 0, " missing", rotation=90, ha="center", va="bottom", fontsize=8, color=colour)
        if number < len(baselines):
            _baseline_ticks(axes, baselines[number], splits, offset, width, labelled=number == 0)
    axes.set_xticks(range(len(splits)), [str(i) for i in splits])
    axes.set_xlabel("class split")
    axes.set_ylabel("average mAP, %")
    axes.legend(fontsize=8, framealpha=0.9, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
    axes.margins(y=0.12)
    _title(axes, first, f"{short_method(first.method)}: average mAP by class split")
    return _save(figure, path)


def plot_data_scale(path: str | os.PathLike[str], reports: Sequence[TenSplitReport]) -> Path:
    """Figure 5: average mAP against the number of training videos of each split, with their correlation.

    Raises PsftrError when the annotations do not tell how many training videos a split has.
    """
    first = _first(reports)
    figure, axes = _canvas(7, 4.6)
    for number, report in enumerate(reports):
        colour = COLOURS[number % len(COLOURS)]
        points = [
            (e.num_training_videos, 100 * e.ap.average, index)
            for index, e in zip(report.indices, report.evaluations)
            if e.num_training_videos is not None
        ]
        if not points:
            raise PsftrError(
                f"no training video counts for {report.protocol.dataset}: evaluate with annotations that hold the "
                f"{report.protocol.train_subset!r} subset"
            )
        videos, values, indices = zip(*points)
        label = f"{report.ratio}/{100 - report.ratio}"
        if len(points) > 2 and len(set(videos)) > 1 and len(set(values)) > 1:
            correlation = float(np.corrcoef(videos, values)[0, 1])
            label += f", correlation {correlation:+.2f} over {len(points)} splits"
            line = np.polyfit(videos, values, 1)
            ends = np.array([min(videos), max(videos)], dtype=float)
            axes.plot(ends, np.polyval(line, ends), color=colour, linewidth=1, linestyle="--")
        axes.scatter(videos, values, color=colour, label=label, zorder=3)
        for x, y, index in zip(videos, values, indices):
            axes.annotate(str(index), (x, y), textcoords="offset points", xytext=(5, 3), fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("training videos (with at least one seen-class action)")
    axes.set_ylabel("average mAP, %")
    axes.legend(fontsize=8)
    axes.margins(0.08)
    _title(axes, first, f"{short_method(first.method)}: mAP against training-data scale")
    return _save(figure, path)


def plot_classes(
    path: str | os.PathLike[str],
    report: TenSplitReport,
    *,
    baseline: TenSplitReport | None = None,
    most: int = 60,
) -> Path:
    """AP of every class over the splits it is unseen in, best on top; beyond `most`, the best and the
    worst."""
    spreads = list(report.per_class.items())
    left_out = len(spreads) - most
    if left_out > 0:
        spreads = spreads[: most // 2] + spreads[-(most - most // 2) :]
    figure, axes = _canvas(8, 1.4 + 0.22 * len(spreads))
    places = range(len(spreads))
    axes.barh(
        places,
        [100 * s.mean for _, s in spreads],
        xerr=[0 if math.isnan(s.std) else 100 * s.std for _, s in spreads],
        color=COLOURS[0],
        ecolor=GREY,
        label=f"{short_method(report.method)}: mean over splits, ± std",
    )
    if baseline:
        other = baseline.per_class
        shared = [(i, 100 * other[name].mean) for i, (name, _) in enumerate(spreads) if name in other]
        axes.scatter(
            [value for _, value in shared],
            [place for place, _ in shared],
            marker="|",
            s=90,
            color=COLOURS[5],
            label=short_method(baseline.method),
            zorder=3,
        )
    axes.set_yticks(places, [f"{name} ({s.count})" for name, s in spreads], fontsize=8)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_xlim(left=0)
    axes.set_xlabel("AP averaged over tIoUs, % (in brackets: splits the class is unseen in)")
    axes.legend(fontsize=8, loc="lower right")
    told = f" (the middle {left_out} classes left out)" if left_out > 0 else ""
    _title(axes, report, f"{report.ratio}/{100 - report.ratio}: AP by class{told}")
    return _save(figure, path)


def plot_ablation(
    path: str | os.PathLike[str],
    variants: Mapping[str, TenSplitReport],
    *,
    name: str,
    paper: Mapping[str, float] | None = None,
) -> Path:
    """Tables 2, 3, 4 and 6: average mAP of each variant with its spread over splits.

    name: what varies, such as "Table 3: fusion in SPDE". paper: printed percentages by variant, drawn as
    open diamonds; left out beside synthetic numbers. Raises PsftrError if variants are not of one data set
    and protocol.
    """
    reports = list(variants.values())
    first = _first(reports)
    figure, axes = _canvas(max(5.5, 1.2 + 1.1 * len(reports)), 4.2)
    means = [100 * r.average.mean for r in reports]
    spread = [0 if math.isnan(r.average.std) else 100 * r.average.std for r in reports]
    bars = axes.bar(range(len(reports)), means, 0.6, yerr=spread, color=COLOURS[0], ecolor=GREY, capsize=3)
    axes.bar_label(bars, fmt="%.2f", fontsize=8, padding=2)
    if paper and not any(r.synthetic for r in reports):
        shared = [(i, paper[n]) for i, n in enumerate(variants) if n in paper]
        axes.scatter(
            [place for place, _ in shared],
            [value for _, value in shared],
            marker="D",
            facecolors="none",
            edgecolors=COLOURS[5],
            label="as printed in the paper (its own features)",
            zorder=3,
        )
        axes.legend(fontsize=8)
    labels = [
        f"{textwrap.fill(n, 14)}\n{len(r.evaluations)} split{'s' if len(r.evaluations) > 1 else ''}"
        for n, r in variants.items()
    ]
    axes.set_xticks(range(len(reports)), labels, fontsize=8)
    axes.set_ylabel("average mAP, % (bars: ± std over splits)")
    axes.margins(y=0.15)
    _title(axes, first, f"{first.ratio}/{100 - first.ratio} {name}")
    return _save(figure, path)


def _baseline_ticks(
    axes: Axes, baseline: TenSplitReport, splits: Sequence[int], offset: float, width: float, *, labelled: bool
) -> None:
    places = [splits.index(i) + offset for i in baseline.indices if i in splits]
    values = [100 * e.ap.average for i, e in zip(baseline.indices, baseline.evaluations) if i in splits]
    label = short_method(baseline.method) if labelled else "_nolegend_"
    axes.hlines(
        values,
        [p - width / 2 for p in places],
        [p + width / 2 for p in places],
        color="black",
        linewidth=1.5,
        label=label,
    )


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


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="both", linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)
    return figure, axes


def _title(axes: Axes, report: TenSplitReport, text: str) -> None:
    told = f"{marks(report.protocol, report.synthetic)}{report.protocol.dataset} {text}"
    axes.set_title(textwrap.fill(told, 80), fontsize=10, loc="left")


def _mean_text(spread: Spread) -> str:
    told = f"mean {100 * spread.mean:.2f}"
    return told if math.isnan(spread.std) else f"{told} ± {100 * spread.std:.2f}"


def _save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    return path
