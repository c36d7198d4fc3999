"""One self-contained HTML page for predictions files: facts, tables, charts and a timeline browser. Nothing is fetched.

Charts and tables are plain HTML and SVG, readable without script; the script draws the timelines and, where several
files are shown, switches between them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from psftr.data.annotations import Action, Annotations
from psftr.data.splits import ClassSplit
from psftr.errors import PsftrError
from psftr.evaluation import report_charts as charts
from psftr.evaluation import report_tables as tables
from psftr.evaluation.aggregate import TenSplitReport, aggregate
from psftr.evaluation.average_precision import Matches, match_detections
from psftr.evaluation.curves import reliability
from psftr.evaluation.error_analysis import analyse_errors, characteristics_for
from psftr.evaluation.protocol import Evaluation, Protocol, evaluate_predictions, protocol_for, split_of
from psftr.evaluation.report_timelines import (
    file_addresses,
    known_durations,
    most_per_video,
    timeline_data,
    video_sources,
)
from psftr.evaluation.rules import CLEAN, PEER, PROTOCOLS
from psftr.evaluation.selection import Selection, select_scored
from psftr.evaluation.stage_trace import StageTrace
from psftr.evaluation.tables import marks, short_method
from psftr.predictions import CHECKPOINT_PEER, Predictions, canonical_id

DEFAULT_TIOUS = (0.3, 0.4, 0.5, 0.6, 0.7)
# Nothing but what is in the page, and video files beside it.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; media-src 'self' file:"
)


@dataclass(frozen=True, eq=False)
class _File:
    """A predictions file on the page; the last three are None where there is no ground truth to score against."""

    name: str
    predictions: Predictions
    evaluation: Evaluation | None = None
    selection: Selection | None = None
    matches: Matches | None = None


def write_report_page(
    path: str | os.PathLike[str],
    files: Mapping[str, Predictions],
    *,
    annotations: Annotations | None = None,
    protocol: Protocol | None = None,
    splits: Mapping[str, ClassSplit] | None = None,
    expected_splits: Iterable[int] | None = None,
    is_scored: bool = True,
    videos_dir: str | os.PathLike[str] | None = None,
    sources: Mapping[str, str | os.PathLike[str]] | None = None,
    durations_s: Mapping[str, float] | None = None,
    stages: Mapping[str, StageTrace] | None = None,
    title: str = "psftr report",
) -> Path:
    """Write the page for predictions by name; returns its path.

    annotations: of the whole data set; without them, or with `is_scored` False, the page has timelines and facts only.
    protocol: default per file, `protocol_of`. splits: for files that do not name theirs. expected_splits: default all
    ten where several published splits are given. videos_dir: where to look for video files, default the page's own
    folder; sources: known files, by video id. stages: by the name of their file, how its detections came about.
    Raises PsftrError where files, splits and annotations do not belong together, or must not be averaged.
    """
    if not files:
        raise PsftrError("no predictions for the report; give at least one file")
    stages = stages or {}
    if stray := sorted(set(stages) - set(files)):
        raise PsftrError(f"stage trace of {', '.join(stray)}, but no such predictions; there are {', '.join(files)}")
    path = Path(path)
    shown = [
        _scored(name, predictions, annotations, protocol, (splits or {}).get(name))
        if annotations is not None and is_scored
        else _File(name, predictions)
        for name, predictions in files.items()
    ]
    durations = known_durations(annotations, durations_s)
    addresses = video_sources(videos_dir or path.parent, path) | file_addresses(sources or {}, path)
    reports = _reports([file.evaluation for file in shown if file.evaluation], expected_splits)
    protocols = [report.protocol for report in reports]
    synthetic, untrained = any(map(_is_synthetic, shown)), any(map(_is_untrained, shown))
    warning = tables.banner(protocols, synthetic=synthetic, untrained=untrained)
    limit = most_per_video(list(files.values()))
    data = [_timelines(file, annotations, durations, addresses, limit, stages.get(file.name)) for file in shown]
    has_stages = any("s" in video for file in data for video in file["videos"])
    body = [
        f"<header><h1>{escape(title)}</h1>{warning}</header>",
        _results(reports),
        _file_choice(shown),
        *(_file_sections(number, file, durations) for number, file in enumerate(shown)),
        _BROWSER,
        _STAGES_HINT if has_stages else "",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_page(title, "".join(body), data, has_stages), encoding="utf-8")
    return path


def score_files(
    files: Mapping[str, Predictions],
    annotations: Annotations,
    *,
    protocol: Protocol | None = None,
    splits: Mapping[str, ClassSplit] | None = None,
    expected_splits: Iterable[int] | None = None,
) -> list[TenSplitReport]:
    """The reports behind the page: files that have a common mean together, in order. Arguments as for the page."""
    shown = [_scored(name, file, annotations, protocol, (splits or {}).get(name)) for name, file in files.items()]
    return _reports([file.evaluation for file in shown if file.evaluation], expected_splits)


def protocol_of(
    predictions: Predictions,
    *,
    dataset: str | None = None,
    subset: str | None = None,
    tious: Sequence[float] | None = None,
) -> Protocol:
    """The rules for a file: those of `dataset` or of the data set it names, or, for data of one's own, plain ones.

    A file whose checkpoint was chosen on the test classes gets the peer rules, which mark every number.
    """
    provenance = predictions.provenance
    stated = dataset or ((provenance.split or {}).get("dataset") if provenance else None)
    name = PEER if provenance and provenance.checkpoint_rule == CHECKPOINT_PEER else CLEAN
    if dataset is not None or (stated and (stated, name) in PROTOCOLS):
        return protocol_for(str(stated), name)
    tious = tuple(tious or DEFAULT_TIOUS)
    return Protocol(
        dataset=stated or "custom",
        test_subset=subset or "test",
        train_subset="",
        tious=tious,
        printed_tious=tious,
        name=name,
    )


def _scored(
    name: str,
    predictions: Predictions,
    annotations: Annotations,
    protocol: Protocol | None,
    split: ClassSplit | None,
) -> _File:
    rules = protocol or protocol_of(predictions)
    evaluation = evaluate_predictions(
        predictions, annotations, None if split_of(predictions.provenance) else split, protocol=rules
    )
    classes = evaluation.split.unseen if evaluation.split else evaluation.ap.classes
    selection = select_scored(predictions, annotations, protocol=rules, classes=classes)
    matches = match_detections(
        selection.ground_truth,
        selection.detections,
        classes=selection.classes,
        tious=rules.tious,
        ignored=selection.ignored,
    )
    return _File(name, predictions, evaluation, selection, matches)


def _reports(evaluations: Sequence[Evaluation], expected: Iterable[int] | None) -> list[TenSplitReport]:
    """One report for all evaluations that have a common mean, in order of first appearance."""
    groups: dict[tuple[Any, ...], list[Evaluation]] = {}
    for e in evaluations:
        split = (e.split.ratio, e.split.source) if e.split else None
        key = (e.protocol, split, short_method(e.facts.method), e.facts.checkpoint, e.facts.synthetic)
        groups.setdefault(key, []).append(e)
    wanted = None if expected is None else list(expected)
    reports = []
    for group in groups.values():
        own = [e.split.index if e.split else 0 for e in group]
        published = len(group) > 1 and group[0].split is not None and group[0].split.source == "published"
        reports.append(aggregate(group, expected=wanted if wanted is not None else range(10) if published else own))
    return reports


def _results(reports: Sequence[TenSplitReport]) -> str:
    """Tables and charts over splits, by data set and rules."""
    by_rules: dict[tuple[Protocol, bool], list[TenSplitReport]] = {}
    for report in reports:
        by_rules.setdefault((report.protocol, report.synthetic), []).append(report)
    sections = []
    for group in by_rules.values():
        parts = [tables.comparison(group)]
        for report in group:
            rows = [*report.shared_facts]
            rows += [(f"splits {_numbers(at)}: {topic}", text) for (topic, text), at in report.differing_facts.items()]
            name = f"What these numbers are: {short_method(report.method)}, {tables.ratio_text(report)}"
            parts.append(f"<details open><summary>{escape(name)}</summary>{tables.facts_list(rows)}</details>")
        if any(len(report.evaluations) > 1 for report in group):
            parts.append(f"<h3>By class split</h3>{charts.split_charts(group)}{tables.split_tables(group)}")
        sections.append(f'<section aria-label="results"><h2>Results</h2>{"".join(parts)}</section>')
    return "".join(sections)


def _file_choice(files: Sequence[_File]) -> str:
    if len(files) == 1:
        return ""
    options = "".join(f'<option value="{n}">{escape(_file_title(file))}</option>' for n, file in enumerate(files))
    return f'<p class="choice"><label for="file">Show in detail</label> <select id="file">{options}</select></p>'


def _file_sections(number: int, file: _File, durations_s: Mapping[str, float]) -> str:
    """What concerns one predictions file: shown alone once the script runs."""
    evaluation, matches = file.evaluation, file.matches
    heading = f"<h2>{escape(_file_title(file))}</h2>"
    if evaluation is None or matches is None:
        rows = _provenance_rows(file.predictions)
        inside = f"{heading}<details open><summary>What made this file</summary>{tables.facts_list(rows)}</details>"
        return f'<section class="of-file" data-file="{number}">{inside}</section>'
    tious = evaluation.protocol.tious
    tiou = 0.5 if 0.5 in tious else tious[len(tious) // 2]
    mark = marks(evaluation.protocol, evaluation.facts.synthetic)
    analysis = analyse_errors(
        matches,
        durations_s=durations_s,
        characteristics=characteristics_for(evaluation.protocol.dataset),
        tiou=tiou,
    )
    curves = charts.precision_recall_chart(matches, tious.index(tiou), mark)
    calibration = charts.reliability_chart(reliability(matches, tious.index(tiou)), mark)
    parts = [
        heading,
        f"<details><summary>What these numbers are</summary>{tables.facts_list(evaluation.facts.rows())}</details>",
        "<h3>Classes</h3>",
        tables.classes_table(evaluation),
        f'<h3>Curves</h3><div class="charts">{curves}{calibration}</div>',
        "<h3>Confusion of classes</h3>",
        tables.confusion_tables(analysis, mark),
        "<h3>Errors</h3>",
        charts.errors_section(analysis, mark),
    ]
    return f'<section class="of-file" data-file="{number}">{"".join(parts)}</section>'


def _file_title(file: _File) -> str:
    evaluation = file.evaluation
    if evaluation is None:
        mark = "[SYNTHETIC] " if _is_synthetic(file) else ""
        return f"{mark}{file.name}"
    split = evaluation.split
    where = f"{split.ratio}/{100 - split.ratio} split {split.index}" if split else "all classes"
    method = short_method(evaluation.facts.method) if file.predictions.provenance else file.name
    mark = marks(evaluation.protocol, evaluation.facts.synthetic)
    return f"{mark}{method}, {evaluation.protocol.dataset} {where}: average mAP {100 * evaluation.ap.average:.2f} %"


def _is_synthetic(file: _File) -> bool:
    if file.evaluation is not None:
        return file.evaluation.facts.synthetic
    provenance = file.predictions.provenance
    return bool(provenance and (provenance.features.get("synthetic") or (provenance.text or {}).get("synthetic")))


def _is_untrained(file: _File) -> bool:
    provenance = file.predictions.provenance
    return provenance is not None and ":random-seed" in str(provenance.features.get("encoder"))


def _provenance_rows(predictions: Predictions) -> list[tuple[str, str]]:
    provenance = predictions.provenance
    if provenance is None:
        return [("origin", "not stated: the file says nothing about what made it")]
    features, text = provenance.features, provenance.text or {}
    rows = [
        ("method", f"{provenance.method} (psftr {provenance.code_version})"),
        ("checkpoint", provenance.checkpoint_rule),
        ("features", str(features.get("encoder", "not stated"))),
        ("class text", f"prompt “{text['prompt']}”" if text.get("prompt") else "not stated"),
        ("detections", f"{predictions.num_detections} in {len(predictions.detections)} videos"),
        ("scored", "no: no ground truth with these labels was given"),
    ]
    return rows


def _timelines(
    file: _File,
    annotations: Annotations | None,
    durations_s: Mapping[str, float],
    sources: Mapping[str, str],
    limit: int,
    stages: StageTrace | None,
) -> dict[str, Any]:
    if file.selection is not None:
        truth, ignored = file.selection.ground_truth, file.selection.ignored
        detections = file.selection.detections
    else:
        detections = {canonical_id(v): rows for v, rows in file.predictions.detections.items()}
        truth, ignored = _annotated(annotations, detections)
    return timeline_data(
        _file_title(file),
        detections=detections,
        ground_truth=truth,
        ignored=ignored,
        durations_s=durations_s,
        sources=sources,
        most_per_video=limit,
        stages=stages,
    )


def _annotated(
    annotations: Annotations | None, videos: Iterable[str]
) -> tuple[dict[str, tuple[Action, ...]], dict[str, tuple[Action, ...]]]:
    """Every annotated action, and every ignored one, of these videos."""
    if annotations is None:
        return {}, {}
    known = [video_id for video_id in videos if video_id in annotations.videos]
    truth = {video_id: annotations.videos[video_id].actions for video_id in known}
    return truth, {video_id: annotations.ignored.get(video_id, ()) for video_id in known}


def _numbers(indices: Sequence[int]) -> str:
    return " ".join(map(str, indices))


def _page(title: str, body: str, data: Sequence[Mapping[str, Any]], has_stages: bool) -> str:
    folder = Path(__file__).parent
    names = ("report", "report_stages") if has_stages else ("report",)
    style, script = (
        "\n".join((folder / f"{name}.{kind}").read_text(encoding="utf-8") for name in names) for kind in ("css", "js")
    )
    # "<" inside the data must not end the script element.
    plain = json.dumps(_finite(data), separators=(",", ":"), ensure_ascii=False, allow_nan=False).replace(
        "<", "\\u003c"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>\n{style}</style></head>\n<body><main>{body}</main>\n"
        f'<script type="application/json" id="data">{plain}</script>\n<script>\n{script}</script></body></html>\n'
    )


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


_BROWSER = """
<section id="browser" aria-label="timelines"><h2>Timelines</h2>
<noscript><p>The timelines are drawn by a script, which this browser does not run.</p></noscript>
<div class="tools">
<label for="video">Video</label>
<span class="pick"><button type="button" id="previous" aria-label="previous video (k)">&#9664;</button>
<select id="video"></select>
<button type="button" id="next" aria-label="next video (j)">&#9654;</button></span>
<label for="least">Score from <output id="least-told" for="least"></output></label>
<input type="range" id="least" min="0" max="1000" step="1">
</div>
<p id="summary"></p>
<div id="player"></div>
<p id="told" role="status" aria-live="polite"></p>
<div id="rows" role="group" aria-label="ground truth and detections on a time axis; arrow keys move, Enter seeks"></div>
<ul class="legend"><li><span class="key truth-key"></span>ground truth</li>
<li><span class="key found-key"></span>detection: the surer, the darker</li>
<li><span class="key ignored-key"></span>not counted either way</li></ul>
<p class="keys">Keys: <kbd>j</kbd> and <kbd>k</kbd> next and previous video; on a bar <kbd>&larr;</kbd>
<kbd>&rarr;</kbd> along the row, <kbd>&uarr;</kbd> <kbd>&darr;</kbd> between rows, <kbd>Enter</kbd> seeks the video
where its file is there.</p>
</section>
"""

_STAGES_HINT = """
<p class="keys">An underlined detection has a stage trace: a click or <kbd>Enter</kbd> shows its stages, the runs
that were merged into it and those of its class that were dropped; once more closes it.</p>
"""
