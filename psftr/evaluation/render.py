"""Evaluations as plain text, 110 columns wide, and as files: JSON and CSV. The report page has its own template."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from psftr.evaluation.aggregate import TenSplitReport
from psftr.evaluation.protocol import Evaluation
from psftr.evaluation.tables import (
    Table,
    class_frame,
    class_table,
    classes_over_splits,
    comparison_table,
    score_table,
    split_frame,
    split_table,
)
from psftr.files import replacing, write_json

WIDTH = 110


def evaluation_text(evaluation: Evaluation) -> str:
    """One evaluation: facts, mAP, then every class."""
    split = evaluation.split
    where = f"{split.ratio}/{100 - split.ratio} split {split.index}" if split else "all classes"
    return "\n\n".join(
        [
            wrap(f"{evaluation.mark}{evaluation.protocol.dataset} {where}"),
            facts_text(evaluation.facts.rows()),
            text(score_table(evaluation)),
            text(class_table(evaluation)),
        ]
    )


def report_text(report: TenSplitReport, *, baseline: TenSplitReport | None = None) -> str:
    """All splits of one ratio: facts, every split, mean and spread, the baseline and the paper, every class."""
    parts = [
        title(report),
        facts_text(report.shared_facts),
        text(split_table(report)),
        text(comparison_table([report, baseline] if baseline else [report])),
    ]
    if report.differing_rows:
        parts.append("What differs between splits\n" + facts_text(report.differing_rows))
    return "\n\n".join([*parts, text(classes_over_splits(report, baseline=baseline))])


def means_text(report: TenSplitReport) -> str:
    """The mean over splits and the paper's rows, under a title."""
    return f"{title(report)}\n{text(comparison_table([report]))}"


def title(report: TenSplitReport) -> str:
    return wrap(f"{report.mark}{report.protocol.dataset} {report.ratio_text}, {report.coverage}")


def write_report(folder: str | os.PathLike[str], report: TenSplitReport) -> list[Path]:
    """evaluation.json (everything), per_split.csv and per_class.csv under `folder`; returns their paths."""
    folder = Path(folder)
    return [
        write_json(folder / "evaluation.json", report.to_dict()),
        write_frame(folder / "per_split.csv", split_frame(report)),
        write_frame(folder / "per_class.csv", pd.concat([class_frame(e) for e in report.evaluations])),
    ]


def write_frame(path: Path, frame: pd.DataFrame) -> Path:
    """A data frame as CSV: numbers as they are, fractions of 1; what is not known is empty."""
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False)
    return path


def text(table: Table) -> str:
    """Caption and aligned columns."""
    return f"{wrap(table.caption)}\n{aligned(table.headings, table.body, table.below)}"


def aligned(header: Sequence[str], body: Sequence[Sequence[str]], summary: Sequence[Sequence[str]] = ()) -> str:
    """Columns of text: the first to the left, the others to the right; `summary` rows below a rule."""
    rows = [list(header), *map(list, body), *map(list, summary)]
    widths = [max(len(row[c]) for row in rows) for c in range(len(header))]
    spare = WIDTH - sum(widths) - 2 * (len(widths) - 1)
    widths[0] = max(8, widths[0] + min(0, spare))

    def line(row: Sequence[str]) -> str:
        first = row[0] if len(row[0]) <= widths[0] else row[0][: widths[0] - 1] + "…"
        return "  ".join([first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:]))]).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [line(header), rule, *map(line, body)]
    return "\n".join([*lines, rule, *map(line, summary)] if summary else lines)


def facts_text(rows: Sequence[tuple[str, str]]) -> str:
    """ "topic  sentence" lines, wrapped with a hanging indent."""
    indent = max((len(topic) for topic, _ in rows), default=0) + 2
    return "\n".join(
        textwrap.fill(
            sentence, WIDTH, initial_indent=topic.ljust(indent), subsequent_indent=" " * indent, break_long_words=False
        )
        for topic, sentence in rows
    )


def wrap(told: str) -> str:
    return textwrap.fill(told, WIDTH, subsequent_indent="  ", break_long_words=False)
