"""What the report page shows before anyone scrolls: the one chart, and what was found where nothing can be scored."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from psftr.evaluation.aggregate import TenSplitReport
from psftr.evaluation.figures import COLOURS, GREY, INK, PAGE_SIZE_IN, SOFT, Chart, canvas, hint
from psftr.evaluation.tables import Table
from psftr.evaluation.timeline import LONG_S, clock
from psftr.predictions import Detection, Predictions

MOST_ROWS = 12  # of a chart in the height of a screen
MOST_LETTERS = 18  # of a name beside it
LEAST_SHARE = 0.9  # percent: what is not zero is at least two pixels of a phone
_NAMES = 0.34  # share of the width


def classes_at_a_glance(reports: Sequence[TenSplitReport]) -> Chart:
    """AP of every class of the first report as bars, of the second as ticks; of many classes the best and the worst."""
    report, *others = reports
    rows = [(name, spread.mean) for name, spread in report.per_class.items()]
    left_out = max(0, len(rows) - MOST_ROWS)
    rows = rows[: MOST_ROWS // 2] + rows[-(MOST_ROWS // 2) :] if left_out else rows
    axes = _rows([name for name, _ in rows], x_label="AP averaged over tIoUs, %")
    widths = [max(100 * ap, LEAST_SHARE if ap > 0 else 0) for _, ap in rows]
    bars = axes.barh(range(len(rows)), widths, 0.62, color=COLOURS[0])
    keys = [(COLOURS[0], report.method)]
    known = others[0].per_class if others else {}
    for bar, (name, ap) in zip(bars, rows):
        hint(bar, f"{name}: {100 * ap:.2f}")
        right = max(ap, known[name].mean if name in known else 0)
        axes.annotate(f"{100 * ap:.1f}", (100 * right, bar.get_y() + 0.31), (5, 0), textcoords="offset points",
                      va="center", fontsize=8)  # fmt: skip
    if others:
        for place, (name, _) in enumerate(rows):
            if name in known:
                (tick,) = axes.plot([100 * known[name].mean] * 2, [place - 0.42, place + 0.42], color=INK, linewidth=2)
                hint(tick, f"{name}: {others[0].method} {100 * known[name].mean:.2f}")
        keys.append((INK, others[0].method))
    axes.set_xlim(0, 109)
    axes.set_xticks(range(0, 101, 20))
    told = f"; the middle {left_out} are left out" if left_out else ""
    return Chart(axes, f"{report.mark}AP of every class, best first{told}", "AP of every class", keys)


def scores_chart(predictions: Predictions, labels: Sequence[str], least: float) -> Chart:
    """Every detection as a dot: its label by its score. What stands out, and what the threshold leaves."""
    scores = _scores_by_label(predictions, labels)
    order = sorted(labels, key=lambda label: -max((d.score for d in scores[label]), default=-1.0))
    axes = _rows(order[:MOST_ROWS], x_label="score")
    for place, label in enumerate(order[:MOST_ROWS]):
        found = scores[label]
        for colour, is_shown in ((GREY, False), (COLOURS[0], True)):
            own = [d.score for d in found if (d.score >= least) is is_shown]
            axes.plot(own, [place] * len(own), "o", color=colour, markersize=5, markeredgewidth=0)
    line = axes.axvline(least, color=SOFT, linestyle="--", linewidth=1)
    hint(line, f"shown from {least:.3g}")
    axes.margins(x=0.04)
    more = len(order) - MOST_ROWS
    note = f"{more} more labels, with lower scores, are not drawn." if more > 0 else ""
    keys = [(COLOURS[0], f"shown: from {least:.3g} on"), (GREY, "below that")]
    return Chart(axes, "Scores of all detections, by label", "every detection's score, by label", keys, note)


def found_table(predictions: Predictions, labels: Sequence[str], least: float) -> Table:
    """What was found of each label, the surest first; a label of which nothing is shown has its row too."""
    rows = []
    for label, found in sorted(
        _scores_by_label(predictions, labels).items(), key=lambda item: -max((d.score for d in item[1]), default=-1.0)
    ):
        shown = [d for d in found if d.score >= least]
        best = max(found, key=lambda d: d.score, default=None)
        where = f"{best.video_id}, {_span(best)}" if best else ""
        videos = len({d.video_id for d in shown})
        rows.append((label, len(shown), videos, f"{best.score:.3g}" if best else "nothing found", where))
    frame = pd.DataFrame(rows, columns=["label", "shown", "videos", "best", "where"])
    heads = {"label": "label", "best": "best score", "where": "where", "shown": "shown", "videos": "in videos"}
    number, total = sum(int(row[1]) for row in rows), predictions.num_detections
    caption = f"{number} of {total} detections have a score of {least:.3g} or more; the others are in the file"
    return Table(caption, frame, heads)


def _span(d: Detection) -> str:
    """Its times, as the axis of a video that ends with it would have them."""
    start, end = (clock(round(at_s, 1), d.end_s) for at_s in (d.start_s, d.end_s))
    return f"{start} to {end}{' s' if d.end_s < LONG_S else ''}"


def _scores_by_label(predictions: Predictions, labels: Sequence[str]) -> dict[str, list[Detection]]:
    """The searched labels first, each with its detections."""
    by_label: dict[str, list[Detection]] = {label: [] for label in labels}
    for found in predictions.detections.values():
        for d in found:
            by_label.setdefault(d.label, []).append(d)
    return by_label


def _rows(names: Sequence[str], *, x_label: str) -> Axes:
    axes = canvas(x_label=x_label, grid="x")
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    number = max(len(names), 3)
    high_in = 0.65 + 0.24 * number
    figure.set_size_inches(PAGE_SIZE_IN[0], high_in)
    axes.set_position((_NAMES, 0.48 / high_in, 0.98 - _NAMES, 1 - 0.52 / high_in))
    short = [name if len(name) <= MOST_LETTERS else name[: MOST_LETTERS - 1] + "…" for name in names]
    axes.set_yticks(range(len(names)), short, fontsize=8)
    axes.set_ylim(number - 0.4, -0.6)
    axes.spines["left"].set_color(GREY)
    return axes
