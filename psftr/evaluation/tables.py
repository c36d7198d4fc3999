"""Tables as data frames: built here once, written as text, HTML and CSV by `render` and the report page.

Every caption begins with what its numbers are worth: SYNTHETIC and PEER PROTOCOL are part of it, never a footnote.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from psftr.evaluation.aggregate import STD_KIND, TenSplitReport
from psftr.evaluation.average_precision import ApResult
from psftr.evaluation.error_analysis import ErrorAnalysis
from psftr.evaluation.facts import mark
from psftr.evaluation.paper import PaperRow
from psftr.evaluation.protocol import Evaluation
from psftr.evaluation.rules import Protocol

MISSING = "MISSING"
PLUS_MINUS = "±"  # the heading of a column that is shown in the cell before it
MOST_IN_MATRIX = 24  # classes; beyond that only the most confused pairs are listed
MOST_PAIRS = 12


@dataclass(frozen=True, eq=False)
class Table:
    """Rows for people and for programs.

    frame, summary: floats are fractions of 1 (people see percent), whole numbers are counts, the rest is text; NaN
    stands for what is not known. heads: column -> heading of what people see, in order; the first names the row.
    summary: rows below a line, with some of the columns. bar: a column that the page also draws as bars.
    """

    caption: str
    frame: pd.DataFrame
    heads: Mapping[str, str]
    summary: pd.DataFrame | None = None
    bar: str = ""

    @property
    def headings(self) -> list[str]:
        return [heading for heading in self.heads.values() if heading != PLUS_MINUS]

    @property
    def body(self) -> list[list[str]]:
        """The cells of every row as text; a row of which only the name is known says MISSING."""
        return [self._cells(row) for row in self.frame[[*self.heads]].itertuples(index=False, name=None)]

    @property
    def below(self) -> list[list[str]]:
        """The cells of the summary's rows; those of columns that it lacks are empty."""
        if self.summary is None:
            return []
        rows = self.summary.reindex(columns=[*self.heads], fill_value="").itertuples(index=False, name=None)
        return [self._cells(row) for row in rows]

    def _cells(self, row: Sequence[Any]) -> list[str]:
        name, *values = row
        if values and all(not isinstance(value, str) and pd.isna(value) for value in values):
            return [str(name), MISSING, *[""] * (len(self.headings) - 2)]
        cells = [str(name)]
        for heading, value in zip([*self.heads.values()][1:], values):
            if heading != PLUS_MINUS:
                cells.append(_cell(value))
            elif isinstance(value, float) and not math.isnan(value):
                cells[-1] += f" {PLUS_MINUS} {_cell(value)}"
        return cells


def average_first(table: Table) -> Table:
    """The same table with the average beside the names, where a narrow screen still shows it."""
    names = list(table.heads)
    average = next((names.index(name) for name, heading in table.heads.items() if heading in ("Avg", "AP mean")), 1)
    end = average + 1 + (names[average + 1 : average + 2] == ["std"])  # its spread stays with it
    order = [names[0], *names[average:end], *names[1:average], *names[end:]]
    return replace(table, heads={name: table.heads[name] for name in order})


def score_table(evaluation: Evaluation) -> Table:
    """mAP of one evaluation, with and without doubly labelled segments."""
    rows = {evaluation.method: evaluation.ap, "  without double labels": evaluation.without_double_labels}
    frame = pd.DataFrame([{"method": name, **_map_columns(ap)} for name, ap in rows.items() if ap is not None])
    heads = {"method": "mAP, %", **_tiou_heads(evaluation.protocol, "mAP")}
    return Table(f"{evaluation.mark}{evaluation.protocol.dataset}: mAP in percent by tIoU", frame, heads)


def split_frame(report: TenSplitReport) -> pd.DataFrame:
    """One row per evaluated split: what per_split.csv holds."""
    rows = [
        {
            "split": e.index,
            "synthetic": e.facts.synthetic,
            "protocol": e.protocol.name,
            **_map_columns(e.ap),
            "videos": e.num_videos,
            "actions": e.num_actions,
            "training_videos": e.training.videos,
            "classes": len(e.ap.classes),
            "training_classes": e.training.classes,
            "held_out_classes": len(e.training.held_out),
            "mAP_without_double_labels": e.without_double_labels and e.without_double_labels.average,
        }
        for e in report.evaluations
    ]
    counts = ("videos", "actions", "training_videos", "classes", "training_classes", "held_out_classes")
    kinds = {**dict.fromkeys(counts, "Int64"), "mAP_without_double_labels": "float64"}
    return pd.DataFrame(rows).astype(kinds)


def split_table(report: TenSplitReport) -> Table:
    """One row per split, missing ones included, then mean and standard deviation."""
    protocol, without = report.protocol, report.without_double_labels
    frame = split_frame(report).set_index("split").reindex([*report.expected]).reset_index()
    heads = {"split": "split", "training_videos": "train vid.", "videos": "test vid.", "actions": "actions"}
    heads |= {"classes": "classes", **_tiou_heads(protocol, "mAP")}
    spreads = {_column("mAP", t): report.per_tiou[t] for t in protocol.printed_tious} | {"mAP": report.average}
    told = f"{report.mark}{report.method}, {report.ratio_text}; mAP, %; std is the {STD_KIND}; {report.coverage}"
    if without is not None:
        heads["mAP_without_double_labels"] = "w/o double"
        spreads["mAP_without_double_labels"] = without
        told += (
            "; w/o double: without doubly labelled segments where such a pair straddles the split, "
            "whose mean takes the other splits as they are"
        )
    summary = pd.DataFrame(
        [
            {"split": "mean", **{name: spread.mean for name, spread in spreads.items()}},
            {"split": "std", **{name: spread.std for name, spread in spreads.items()}},
        ]
    )
    return Table(told, frame, heads, summary)


def comparison_table(reports: Sequence[TenSplitReport], *, with_ratio: bool = False) -> Table:
    """Methods below each other, then what the paper prints for the same data set and ratio (its own features)."""
    protocol = reports[0].protocol
    frame = pd.DataFrame(
        [
            {
                "method": f"{r.method}, {r.ratio_text}" if with_ratio else r.method,
                **{_column("mAP", t): r.per_tiou[t].mean for t in protocol.printed_tious},
                "mAP": r.average.mean,
                "std": r.average.std,
                "splits": f"{len(r.evaluations)} of {len(r.expected)}",
            }
            for r in reports
        ]
    )
    by_ratio = {r.ratio: r.paper_rows for r in reports}  # reports of one ratio share their rows
    paper = [row for rows in by_ratio.values() for row in rows]
    caption = mark(word for r in reports for word in r.worth)
    caption += f"{protocol.dataset}: mAP in percent by tIoU; mean over splits, %"
    caption += f"; ± {STD_KIND}" if any(len(r.evaluations) > 1 for r in reports) else ""
    if len(reports) == 2 and len(by_ratio) == 1:
        first, second = reports
        ratio = f"{first.average.mean / second.average.mean:.2f} times" if second.average.mean > 0 else "no multiple of"
        caption += f"; {first.method} is {ratio} {second.method}"
        caption += "" if first.indices == second.indices else " (BUT OVER DIFFERENT SPLITS)"
    if paper:
        caption += "; below the line: as printed, with the paper's own features and code, not measured here"
    elif any(r.synthetic for r in reports):
        caption += "; the paper's numbers are of real videos and are not shown beside synthetic ones"
    heads = {"method": "method", **_tiou_heads(protocol, "mAP"), "std": PLUS_MINUS, "splits": "splits"}
    return Table(caption, frame, heads, _paper_frame(paper, protocol.printed_tious, with_ratio))


def settings_table(reports: Mapping[str, TenSplitReport], *, paper: Mapping[tuple[str, int], float]) -> Table:
    """Average mAP of several settings, by label; `paper`: see `charts.save_settings_charts`."""
    frame = pd.DataFrame(
        [
            {
                "setting": label,
                "mAP": report.average.mean,
                "std": report.average.std,
                "splits": report.coverage,
                "paper": np.nan if report.synthetic else paper.get((setting_of(label), report.ratio), np.nan) / 100,
            }
            for label, report in reports.items()
        ]
    )
    heads = {"setting": "setting", "mAP": "Avg", "std": PLUS_MINUS, "splits": "splits"}
    worth = mark(word for report in reports.values() for word in report.worth)
    caption = f"{worth}{len(reports)} settings, average mAP in %; ± {STD_KIND}"
    if frame["paper"].notna().any():
        heads["paper"] = "paper"
        caption += "; paper: as printed, not measured here"
    return Table(caption, frame, heads)


def setting_of(label: str) -> str:
    """The setting of a label that ends with " · RATIO" where the ratio varies too."""
    return label.partition(" · ")[0]


def class_frame(evaluation: Evaluation) -> pd.DataFrame:
    """One row per class: what per_class.csv holds of every split."""
    ap = evaluation.ap
    return pd.DataFrame(
        {
            "split": evaluation.index,
            "class": ap.classes,
            "synthetic": evaluation.facts.synthetic,
            "protocol": evaluation.protocol.name,
            "AP": ap.ap.mean(axis=1),
            **{_column("AP", t): ap.ap[:, i] for i, t in enumerate(ap.tious)},
            "actions": ap.num_ground_truth,
            "detections": ap.num_detections,
        }
    )


def class_table(evaluation: Evaluation) -> Table:
    """AP of every class, best first, and the mean."""
    frame = class_frame(evaluation).sort_values(["AP", "class"], ascending=[False, True])
    heads = {"class": "class", **_tiou_heads(evaluation.protocol, "AP"), "actions": "actions"}
    heads["detections"] = "detections"
    means = {name.replace("mAP", "AP"): value for name, value in _map_columns(evaluation.ap).items()}
    sums = {name: int(frame[name].sum()) for name in ("actions", "detections")}
    summary = pd.DataFrame([{"class": "mean", **means, **sums}])
    return Table(f"{evaluation.mark}AP in percent by class and tIoU", frame, heads, summary, bar="AP")


def classes_over_splits(report: TenSplitReport, *, baseline: TenSplitReport | None = None) -> Table:
    """Every class over the splits it is unseen in, best first; the baseline's mean beside it."""
    frame = pd.DataFrame(
        [(name, s.mean, s.std, s.count) for name, s in report.per_class.items()],
        columns=["class", "mean", "std", "splits"],
    )
    heads = {"class": "class", "mean": "AP mean", "std": "std", "splits": "splits"}
    if baseline:
        heads["baseline"] = "baseline"
        frame["baseline"] = frame["class"].map({name: s.mean for name, s in baseline.per_class.items()})
    caption = f"{report.mark}AP averaged over tIoUs, %, by class, over the splits in which it is unseen"
    return Table(caption, frame, heads)


def confusion_matrix(analysis: ErrorAnalysis) -> pd.DataFrame | None:
    """Actions by own label (row) and by the label they get (column, the last: none); None for too many classes."""
    names = [*analysis.classes]
    if len(names) > MOST_IN_MATRIX:
        return None
    return pd.DataFrame(analysis.confusion, index=names, columns=[*names, "none"])


def confused_pairs(analysis: ErrorAnalysis, worth: str) -> Table:
    """The classes that are most often taken for another."""
    counts, names = analysis.confusion, analysis.classes
    wrong = counts[:, :-1] * ~np.eye(len(names), dtype=bool)
    pairs = sorted((-int(wrong[a, b]), f"{names[a]} called {names[b]}") for a, b in zip(*wrong.nonzero()))
    rows = [(pair, -number) for number, pair in pairs[:MOST_PAIRS]] or [("no pair is confused", 0)]
    right, missed = int(np.trace(counts)), int(counts[:, -1].sum())
    caption = f"{worth}{right} of {int(counts.sum())} actions get their own label, {missed} none; most confused"
    caption += f" ({len(pairs) - MOST_PAIRS} more pairs)" if len(pairs) > MOST_PAIRS else ""
    return Table(caption, pd.DataFrame(rows, columns=["pair", "actions"]), {"pair": "pair", "actions": "actions"})


def per_video_table(
    caption: str, rows: Mapping[str, Sequence[float]], tious: Sequence[float], paper: Iterable[PaperRow]
) -> Table:
    """Methods by name with an AP per tIoU, above printed rows."""
    columns = [_column("mAP", t) for t in tious]
    frame = pd.DataFrame([{"method": name, **dict(zip(columns, values))} for name, values in rows.items()])
    frame["mAP"] = frame[columns].mean(axis=1)
    heads = {"method": "method", **{column: f"@{t:.2f}" for column, t in zip(columns, tious)}, "mAP": "Avg"}
    return Table(caption, frame, heads, _paper_frame(paper, tious, False))


def _paper_frame(rows: Iterable[PaperRow], tious: Sequence[float], with_ratio: bool) -> pd.DataFrame | None:
    printed = [
        {
            "method": f"{row.method}{f', {row.ratio}/{100 - row.ratio}' if with_ratio else ''} ({row.source})",
            **{_column("mAP", t): row.per_tiou.get(t, np.nan) / 100 for t in tious},
            "mAP": row.average / 100,
        }
        for row in rows
    ]
    return pd.DataFrame(printed) if printed else None


def _column(kind: str, tiou: float) -> str:
    return f"{kind}@{tiou:.2f}"


def _map_columns(ap: ApResult) -> dict[str, float]:
    return {"mAP": ap.average, **{_column("mAP", t): float(v) for t, v in zip(ap.tious, ap.map_per_tiou)}}


def _tiou_heads(protocol: Protocol, kind: str) -> dict[str, str]:
    return {**{_column(kind, t): f"@{t:.2f}" for t in protocol.printed_tious}, kind: "Avg"}


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return "-"
    return f"{value:d}" if isinstance(value, int | np.integer) else f"{100 * value:.2f}"
