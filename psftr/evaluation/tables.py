"""Evaluations as plain text, 110 columns wide. Every table says in its first line what its numbers are worth:
`SYNTHETIC` and `PEER PROTOCOL` are part of the title, never a footnote."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np

from psftr.evaluation.aggregate import STD_KIND, Spread, TenSplitReport
from psftr.evaluation.average_precision import ApResult
from psftr.evaluation.paper import PaperRow
from psftr.evaluation.protocol import Evaluation, Protocol

WIDTH = 110


def evaluation_text(evaluation: Evaluation, *, classes: bool = True) -> str:
    """One evaluation: facts, mAP, then every class."""
    protocol, ap = evaluation.protocol, evaluation.ap
    where = (
        f"{evaluation.split.ratio}/{100 - evaluation.split.ratio} split {evaluation.split.index}"
        if evaluation.split
        else "all classes"
    )
    rows = [[short_method(evaluation.facts.method), *_percents(ap, protocol)]]
    if evaluation.without_double_labels is not None:
        rows.append(["  without double labels", *_percents(evaluation.without_double_labels, protocol)])
    parts = [
        title(protocol, where, evaluation.facts.synthetic),
        facts_text(evaluation.facts.rows()),
        table(["mAP, %", *_tiou_heads(protocol)], rows),
    ]
    if classes:
        body = [
            [name, *_cells(ap.ap[c], ap, protocol), str(ap.num_ground_truth[c]), str(ap.num_detections[c])]
            for c, name in enumerate(ap.classes)
        ]
        parts.append(table(["AP, %", *_tiou_heads(protocol), "actions", "detections"], body))
    return "\n\n".join(parts)


def report_text(report: TenSplitReport, *, baseline: TenSplitReport | None = None, classes: bool = True) -> str:
    """All splits of one ratio: facts, every split, mean and spread, the baseline and the paper, every
    class."""
    protocol = report.protocol
    parts = [
        title(protocol, f"{report.ratio}/{100 - report.ratio}, {report.coverage}", report.synthetic),
        facts_text(report.shared_facts),
        split_table(report),
        comparison_table([report, baseline] if baseline else [report], paper=report.paper_rows),
    ]
    differing = report.differing_facts
    if differing:
        told = [(_splits_label(indices), f"{topic}: {text}") for (topic, text), indices in differing.items()]
        parts.append("What differs between splits\n" + facts_text(told))
    if classes:
        parts.append(class_table(report, baseline=baseline))
    return "\n\n".join(parts)


def split_table(report: TenSplitReport) -> str:
    """One row per split, missing ones included, then mean and standard deviation."""
    protocol = report.protocol
    without = report.without_double_labels
    heads = ["split", "train vid.", "test vid.", "actions", "classes", *_tiou_heads(protocol)]
    by_index = dict(zip(report.indices, report.evaluations))
    body = []
    for index in report.expected:
        e = by_index.get(index)
        if e is None:
            body.append([str(index), "MISSING", *[""] * (len(heads) - 2 + (without is not None))])
            continue
        training = "-" if e.num_training_videos is None else str(e.num_training_videos)
        counts = [str(e.num_videos), str(e.ap.num_ground_truth.sum()), str(len(e.ap.classes))]
        row = [str(index), training, *counts, *_percents(e.ap, protocol)]
        if without is not None:
            single = e.without_double_labels
            row.append("" if single is None else _percent(single.average))
        body.append(row)
    spreads = [*(report.per_tiou[t] for t in protocol.printed_tious), report.average]
    if without is not None:
        heads.append("w/o double")
        spreads.append(without)
    blank = [""] * 4
    summary = [
        ["mean", *blank, *(_percent(s.mean) for s in spreads)],
        ["std", *blank, *(_percent(s.std) for s in spreads)],
    ]
    told = f"mAP, %; std is the {STD_KIND}; {report.coverage}"
    if without is not None:
        told += (
            "; w/o double: without doubly labelled segments where such a pair straddles the split, "
            "whose mean takes the other splits as they are"
        )
    return f"{wrap(marks(protocol, report.synthetic) + told)}\n{table(heads, body, summary)}"


def comparison_table(reports: Sequence[TenSplitReport], *, paper: Sequence[PaperRow] = ()) -> str:
    """Methods below each other on the same splits, ours above what the paper prints (its own features)."""
    protocol = reports[0].protocol
    body = [
        [
            short_method(r.method),
            *(_percent(r.per_tiou[t].mean) for t in protocol.printed_tious),
            _plus_minus(r.average),
            f"{len(r.evaluations)} of {len(r.expected)}",
        ]
        for r in reports
    ]
    printed = [
        [
            f"{row.method} ({row.source})",
            *(f"{row.per_tiou[t]:.2f}" if t in row.per_tiou else "-" for t in protocol.printed_tious),
            f"{row.average:.2f}",
            "",
        ]
        for row in paper
    ]
    synthetic = any(r.synthetic for r in reports)
    caption = f"{marks(protocol, synthetic)}mean over splits, %"
    if len(reports) > 1:
        first, second = reports[0].average.mean, reports[1].average.mean
        ratio = f"{first / second:.2f} times" if second > 0 else "no multiple of"
        same = reports[0].indices == reports[1].indices
        caption += f"; {short_method(reports[0].method)} is {ratio} {short_method(reports[1].method)}"
        caption += "" if same else " (BUT OVER DIFFERENT SPLITS)"
    if paper:
        caption += "; below the line: as printed, with the paper's own features and code, not measured here"
    elif synthetic:
        caption += "; the paper's numbers are of real videos and have no place here"
    return f"{wrap(caption)}\n{table(['method', *_tiou_heads(protocol), 'splits'], body, printed)}"


def class_table(report: TenSplitReport, *, baseline: TenSplitReport | None = None) -> str:
    """Every class over the splits it is unseen in, best first; the baseline's mean beside it."""
    other = baseline.per_class if baseline else {}
    heads = ["class", "AP mean", "std", "splits", *(["baseline"] if baseline else [])]
    body = []
    for name, spread in report.per_class.items():
        row = [name, _percent(spread.mean), _percent(spread.std), str(spread.count)]
        if baseline:
            row.append(_percent(other[name].mean) if name in other else "-")
        body.append(row)
    caption = "AP averaged over tIoUs, %, by class, over the splits in which it is to be found"
    return f"{marks(report.protocol, report.synthetic)}{caption}\n{table(heads, body)}"


def facts_text(rows: Sequence[tuple[str, str]]) -> str:
    """ "topic  sentence" lines, wrapped with a hanging indent."""
    indent = max((len(topic) for topic, _ in rows), default=0) + 2
    lines: list[str] = []
    for topic, sentence in rows:
        lines += textwrap.wrap(
            sentence,
            WIDTH,
            initial_indent=topic.ljust(indent),
            subsequent_indent=" " * indent,
            break_long_words=False,
        )
    return "\n".join(lines)


def title(protocol: Protocol, where: str, synthetic: bool) -> str:
    """The line no table goes without."""
    return wrap(f"{marks(protocol, synthetic)}{protocol.dataset} {where}")


def table(header: Sequence[str], body: Sequence[Sequence[str]], summary: Sequence[Sequence[str]] = ()) -> str:
    """Aligned columns: the first to the left, the others to the right; `summary` rows below a rule."""
    rows = [list(header), *map(list, body), *map(list, summary)]
    widths = [max(len(row[c]) for row in rows) for c in range(len(header))]
    spare = WIDTH - sum(widths) - 2 * (len(widths) - 1)
    widths[0] = max(8, widths[0] + min(0, spare))

    def line(row: Sequence[str]) -> str:
        first = row[0] if len(row[0]) <= widths[0] else row[0][: widths[0] - 1] + "…"
        return "  ".join([first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:]))]).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [line(header), rule, *map(line, body)]
    if summary:
        lines += [rule, *map(line, summary)]
    return "\n".join(lines)


def wrap(text: str) -> str:
    return "\n".join(textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_long_words=False))


def marks(protocol: Protocol, synthetic: bool) -> str:
    """What every title begins with where a number needs it: "[SYNTHETIC, PEER PROTOCOL] ", or nothing."""
    told = [*(["SYNTHETIC"] if synthetic else []), *(["PEER PROTOCOL"] if protocol.is_peer else [])]
    return f"[{', '.join(told)}] " if told else ""


def _splits_label(indices: Sequence[int]) -> str:
    return f"split{'s' if len(indices) > 1 else ''} {' '.join(map(str, indices))}"


def _tiou_heads(protocol: Protocol) -> list[str]:
    return [*(f"@{t:.2f}" for t in protocol.printed_tious), "Avg"]


def _percents(ap: ApResult, protocol: Protocol) -> list[str]:
    return _cells(ap.map_per_tiou, ap, protocol)


def _cells(values: np.ndarray, ap: ApResult, protocol: Protocol) -> list[str]:
    printed = [float(values[ap.tious.index(t)]) for t in protocol.printed_tious]
    return [_percent(value) for value in (*printed, float(values.mean()))]


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"


def _plus_minus(spread: Spread) -> str:
    return _percent(spread.mean) + ("" if math.isnan(spread.std) else f" ± {_percent(spread.std)}")


def short_method(method: str) -> str:
    """The method fact without its code version."""
    return method.partition(" (")[0]
