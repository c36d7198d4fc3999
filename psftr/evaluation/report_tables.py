"""The report page's facts and tables as HTML. Every table of numbers begins with what they are worth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from psftr.evaluation.aggregate import STD_KIND, Spread, TenSplitReport
from psftr.evaluation.error_analysis import ErrorAnalysis
from psftr.evaluation.protocol import Evaluation, Protocol
from psftr.evaluation.tables import marks, short_method

MOST_IN_MATRIX = 24  # classes; beyond that only the most confused pairs are listed
MOST_PAIRS = 12


def facts_list(rows: Iterable[tuple[str, str]]) -> str:
    told = "".join(f"<div><dt>{escape(topic)}</dt><dd>{escape(text)}</dd></div>" for topic, text in rows)
    return f"<dl>{told}</dl>"


def banner(protocols: Sequence[Protocol], *, synthetic: bool, untrained: bool) -> str:
    """What a reader must not overlook."""
    told = []
    if synthetic:
        told.append("<strong>SYNTHETIC</strong>: made from simulated features; says nothing about real videos.")
    if untrained:
        told.append(
            "<strong>UNTRAINED ENCODER</strong>: its weights are random; these detections only try the pipeline."
        )
    if any(protocol.is_peer for protocol in protocols):
        told.append(
            "<strong>PEER PROTOCOL</strong>: the peers' rules, which may choose the checkpoint on the test classes; "
            "not comparable with clean numbers."
        )
    return "".join(f'<p class="banner" role="note">{text}</p>' for text in told)


def table(
    caption: str, heads: Sequence[str], body: Sequence[Sequence[str]], summary: Sequence[Sequence[str]] = ()
) -> str:
    """A table that scrolls within itself on a narrow screen; cells are text, the first column names the row."""

    def row(cells: Sequence[str]) -> str:
        first, *others = map(escape, cells)
        return f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in others)}</tr>'

    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    foot = f"<tfoot>{''.join(map(row, summary))}</tfoot>" if summary else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(map(row, body))}</tbody>{foot}</table></div>"
    )


def comparison(reports: Sequence[TenSplitReport]) -> str:
    """All methods and ratios below each other, then what the paper prints for the same."""
    protocol = reports[0].protocol
    body = [
        [
            f"{short_method(r.method)}, {ratio_text(r)}",
            *(percent(r.per_tiou[t].mean) for t in protocol.printed_tious),
            plus_minus(r.average),
            f"{len(r.evaluations)} of {len(r.expected)}",
        ]
        for r in reports
    ]
    by_ratio = {r.ratio: r.paper_rows for r in reports}  # reports of one ratio share their rows
    rows = [row for group in by_ratio.values() for row in group]
    printed = [
        [
            f"{row.method}, {row.ratio}/{100 - row.ratio} ({row.source})",
            *(f"{row.per_tiou[t]:.2f}" if t in row.per_tiou else "–" for t in protocol.printed_tious),
            f"{row.average:.2f}",
            "",
        ]
        for row in rows
    ]
    several = any(len(r.evaluations) > 1 for r in reports)
    caption = marked(reports[0], f"{protocol.dataset}: mAP in percent by tIoU")
    caption += f"; mean over splits, ± {STD_KIND}" if several else ""
    if printed:
        caption += "; below the line as printed, with the paper's own features and code, not measured here"
    return table(caption, ["", *tiou_heads(protocol), "splits"], body, printed)


def split_tables(reports: Sequence[TenSplitReport]) -> str:
    """Every split as a row, missing ones included, then mean and standard deviation."""
    tables = []
    for report in reports:
        protocol = report.protocol
        by_index = dict(zip(report.indices, report.evaluations))
        body = []
        for index in report.expected:
            e = by_index.get(index)
            if e is None:
                body.append([str(index), "MISSING", *[""] * (3 + len(protocol.printed_tious))])
                continue
            training = "–" if e.num_training_videos is None else str(e.num_training_videos)
            counts = [training, str(e.num_videos), str(int(e.ap.num_ground_truth.sum()))]
            body.append([str(index), *counts, *percents(e, protocol)])
        spreads = [*(report.per_tiou[t] for t in protocol.printed_tious), report.average]
        summary = [
            ["mean", "", "", "", *(percent(s.mean) for s in spreads)],
            ["std", "", "", "", *(percent(s.std) for s in spreads)],
        ]
        caption = marked(report, f"{short_method(report.method)}, {ratio_text(report)}; {report.coverage}")
        heads = ["split", "train videos", "test videos", "actions", *tiou_heads(protocol)]
        tables.append(table(caption, heads, body, summary))
    return "".join(tables)


def classes_table(evaluation: Evaluation) -> str:
    """AP of every class, best first, the average as a bar."""
    protocol, ap = evaluation.protocol, evaluation.ap
    averages = ap.ap.mean(axis=1)
    order = sorted(range(len(ap.classes)), key=lambda c: (-averages[c], ap.classes[c]))
    rows = []
    for c in order:
        cells = "".join(f"<td>{percent(float(ap.ap[c, ap.tious.index(t)]))}</td>" for t in protocol.printed_tious)
        share = 0.0 if math.isnan(averages[c]) else 100 * float(averages[c])
        meter = f'<td class="meter"><span style="width:{share:.1f}%"></span>{percent(float(averages[c]))}</td>'
        counts = f"<td>{ap.num_ground_truth[c]}</td><td>{ap.num_detections[c]}</td>"
        rows.append(f'<tr><th scope="row">{escape(ap.classes[c])}</th>{cells}{meter}{counts}</tr>')
    mean = "".join(f"<td>{cell}</td>" for cell in percents(evaluation, protocol))
    caption = f"{marks(protocol, evaluation.facts.synthetic)}AP in percent by class and tIoU"
    heads = "".join(f'<th scope="col">{h}</th>' for h in ("class", *tiou_heads(protocol), "actions", "detections"))
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="AP by class"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody>"
        f'<tfoot><tr><th scope="row">mean</th>{mean}<td>{int(ap.num_ground_truth.sum())}</td>'
        f"<td>{int(ap.num_detections.sum())}</td></tr></tfoot></table></div>"
    )


def confusion_tables(analysis: ErrorAnalysis, mark: str) -> str:
    """A matrix for few classes, the most confused pairs for many."""
    counts, names = analysis.confusion, analysis.classes
    told = (
        f"{mark}For each action (row), the label of the best-scored detection that overlaps it with tIoU "
        f"{analysis.tiou:.2f} or more (column)"
    )
    pairs = [
        (int(counts[a, b]), names[a], names[b])
        for a in range(len(names))
        for b in range(len(names))
        if a != b and counts[a, b]
    ]
    pairs.sort(key=lambda pair: (-pair[0], pair[1:]))
    listed = [[f"{a} called {b}", str(n)] for n, a, b in pairs[:MOST_PAIRS]]
    rest = f" ({len(pairs) - MOST_PAIRS} more pairs)" if len(pairs) > MOST_PAIRS else ""
    found, missed = int(np.trace(counts)), int(counts[:, -1].sum())
    overall = f"{mark}{found} of {counts.sum()} actions get their own label, {missed} none"
    most = table(overall + "; most confused" + rest, ["pair", "actions"], listed or [["no pair is confused", "0"]])
    if len(names) > MOST_IN_MATRIX:
        return most
    totals = np.maximum(counts.sum(axis=1), 1)
    rows = []
    for a, name in enumerate(names):
        cells = []
        for b in range(len(names) + 1):
            number = int(counts[a, b])
            share = number / totals[a]
            kind = "own" if a == b else "none" if b == len(names) else "other"
            style = f' style="--share:{share:.2f}"' if number else ""
            what = "own label" if a == b else names[b] if b < len(names) else "no detection"
            cells.append(f'<td class="{kind}"{style} title="{escape(f"{name}: {what}")}">{number or ""}</td>')
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    heads = "".join(f'<th scope="col"><span>{escape(n)}</span></th>' for n in (*names, "none"))
    matrix = (
        f'<div class="scroll" tabindex="0" role="region" aria-label="confusion of classes"><table class="matrix">'
        f"<caption>{escape(told)}</caption><thead><tr><td></td>{heads}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
    return matrix + most


def marked(report: TenSplitReport, text: str) -> str:
    return f"{marks(report.protocol, report.synthetic)}{text}"


def ratio_text(report: TenSplitReport) -> str:
    return "all classes" if report.ratio == 100 else f"{report.ratio}/{100 - report.ratio}"


def tiou_heads(protocol: Protocol) -> list[str]:
    return [*(f"@{t:.2f}" for t in protocol.printed_tious), "Avg"]


def percents(evaluation: Evaluation, protocol: Protocol) -> list[str]:
    ap = evaluation.ap
    values = [float(ap.map_per_tiou[ap.tious.index(t)]) for t in protocol.printed_tious]
    return [percent(value) for value in (*values, ap.average)]


def percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.2f}"


def plus_minus(spread: Spread) -> str:
    return percent(spread.mean) + ("" if math.isnan(spread.std) else f" ± {percent(spread.std)}")
