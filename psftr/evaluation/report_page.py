"""One self-contained HTML page for predictions files: facts, tables, charts and a timeline browser. Nothing is fetched.

report.html is its template. Charts and tables are plain HTML and SVG, readable without script; the script draws the
timelines and, where several files are shown, switches between them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from psftr.data.annotations import Annotations
from psftr.data.splits import ClassSplit
from psftr.errors import PsftrError
from psftr.evaluation import charts, tables
from psftr.evaluation.aggregate import TenSplitReport, group_reports
from psftr.evaluation.average_precision import Matches
from psftr.evaluation.curves import reliability
from psftr.evaluation.error_analysis import ErrorAnalysis, analyse_errors, characteristics_for
from psftr.evaluation.facts import is_synthetic, mark, provenance_rows
from psftr.evaluation.figures import inline_svg
from psftr.evaluation.protocol import Evaluation, score_files
from psftr.evaluation.report_timelines import (
    file_addresses,
    known_durations,
    most_per_video,
    timeline_data,
    video_sources,
)
from psftr.evaluation.rules import Protocol
from psftr.evaluation.stage_trace import StageTrace
from psftr.files import write_text
from psftr.predictions import Predictions, canonical_id

_BANNERS = {
    "SYNTHETIC": "made from simulated features; says nothing about real videos.",
    "UNTRAINED ENCODER": "its weights are random; these detections only try the pipeline.",
    "PEER PROTOCOL": "the peers' rules, which may choose the checkpoint on the test classes; "
    "not comparable with clean numbers.",
    "HELD-OUT SEEN CLASSES": "not the test: seen classes kept out of training, on videos of the training subset.",
    "TRAINED ON": "some of the seen classes were held out of training to tune on them; not comparable with numbers "
    "of a model that was trained on all of them.",
}


@dataclass(frozen=True, eq=False)
class _File:
    """What concerns one predictions file: shown alone once the script runs.

    evaluation, matches, analysis: None where it was not scored; `at` is the analysed one of its tIoUs.
    """

    title: str
    facts: list[tuple[str, str]]
    evaluation: Evaluation | None = None
    matches: Matches | None = None
    analysis: ErrorAnalysis | None = None
    at: int = 0


def write_report_page(
    path: str | os.PathLike[str],
    files: Mapping[str, Predictions],
    *,
    annotations: Annotations | None = None,
    evaluations: Mapping[str, Evaluation] | None = None,
    protocol: Protocol | None = None,
    splits: Mapping[str, ClassSplit] | None = None,
    expected_splits: Iterable[int] | None = None,
    is_scored: bool = True,
    videos_dir: str | os.PathLike[str] | None = None,
    sources: Mapping[str, str | os.PathLike[str]] | None = None,
    durations_s: Mapping[str, float] | None = None,
    stages: Mapping[str, StageTrace] | None = None,
    further_tables: Sequence[tables.Table] = (),
    title: str = "psftr report",
) -> Path:
    """Write the page for predictions by name; returns its path.

    annotations: of the whole data set; without them, or with `is_scored` False, the page has timelines and facts only.
    evaluations: of the files, where they are at hand; else `score_files` makes them, by `protocol` and `splits`.
    expected_splits: default all ten where several published splits are given. videos_dir: where to look for video
    files, default the page's own folder; sources: known files, by video id. stages: by the name of their file, how its
    detections came about. further_tables: after the results. Raises PsftrError where files, splits and
    annotations do not belong together, or must not be averaged.
    """
    if not files:
        raise PsftrError("no predictions for the report; give at least one file")
    stages = stages or {}
    if stray := sorted(set(stages) - set(files)):
        raise PsftrError(f"stage trace of {', '.join(stray)}, but no such predictions; there are {', '.join(files)}")
    if evaluations is None and annotations is not None and is_scored:
        evaluations = score_files(files, annotations, protocol=protocol, splits=splits)
    evaluations = evaluations or {}
    path = Path(path)
    durations = known_durations(annotations, durations_s)
    addresses = video_sources(videos_dir or path.parent, path) | file_addresses(sources or {}, path)
    limit = most_per_video(list(files.values()))
    titles = {name: _file_title(name, file, evaluations.get(name)) for name, file in files.items()}
    data = [
        timeline_data(
            titles[name],
            **_shown_on_timelines(file, evaluations.get(name), annotations),
            durations_s=durations,
            sources=addresses,
            most_per_video=limit,
            stages=stages.get(name),
        )
        for name, file in files.items()
    ]
    has_stages = any("s" in video for file in data for video in file["videos"])
    # "<" inside the data must not end the script element.
    plain = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    by_rules: dict[tuple[Protocol, bool], list[TenSplitReport]] = {}
    for report in group_reports(evaluations.values(), expected=expected_splits):
        by_rules.setdefault((report.protocol, report.synthetic), []).append(report)
    page = (
        _environment()
        .get_template("report.html")
        .render(
            title=title,
            banners=_banners(files.values(), evaluations.values()),
            results=list(by_rules.values()),
            files=[_file(titles[name], file, evaluations.get(name), durations) for name, file in files.items()],
            further=further_tables,
            has_stages=has_stages,
            style=_parts("css", has_stages),
            script=_parts("js", has_stages),
            data=Markup(plain),
        )
    )
    return write_text(path, page.lstrip())


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"svg": lambda chart: Markup(inline_svg(chart)), "tables": tables, "charts": charts}
    environment.globals["reliability"] = reliability
    return environment


def _parts(kind: str, has_stages: bool) -> Markup:
    """The page's own style or script."""
    names = ("report", "report_stages") if has_stages else ("report",)
    folder = Path(__file__).parent
    return Markup("\n".join((folder / f"{name}.{kind}").read_text(encoding="utf-8") for name in names))


def _banners(files: Iterable[Predictions], evaluations: Iterable[Evaluation]) -> list[tuple[str, str]]:
    """What a reader must not overlook."""
    told = {word: word for evaluation in evaluations for word in evaluation.worth}
    for provenance in (file.provenance for file in files):
        if is_synthetic(provenance):
            told["SYNTHETIC"] = "SYNTHETIC"
        if provenance and ":random-seed" in str(provenance.features.get("encoder")):
            told["UNTRAINED ENCODER"] = "UNTRAINED ENCODER"
    return [(word, sentence) for begin, sentence in _BANNERS.items() for word in told if word.startswith(begin)]


def _file_title(name: str, predictions: Predictions, evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return mark(["SYNTHETIC"] if is_synthetic(predictions.provenance) else []) + name
    split = evaluation.split
    where = f"{split.ratio}/{100 - split.ratio} split {split.index}" if split else "all classes"
    method = evaluation.method if predictions.provenance else name
    score = f"average mAP {100 * evaluation.ap.average:.2f} %"
    return f"{evaluation.mark}{method}, {evaluation.protocol.dataset} {where}: {score}"


def _file(
    title: str, predictions: Predictions, evaluation: Evaluation | None, durations_s: Mapping[str, float]
) -> _File:
    if evaluation is None or evaluation.matches is None:
        return _File(title, provenance_rows(predictions))
    tious = evaluation.protocol.tious
    at = tious.index(0.5) if 0.5 in tious else len(tious) // 2
    analysis = analyse_errors(
        evaluation.matches,
        durations_s=durations_s,
        characteristics=characteristics_for(evaluation.protocol.dataset),
        tiou=tious[at],
    )
    return _File(title, evaluation.facts.rows(), evaluation, evaluation.matches, analysis, at)


def _shown_on_timelines(
    predictions: Predictions, evaluation: Evaluation | None, annotations: Annotations | None
) -> dict[str, Any]:
    """What was scored; else every detection, with every annotated and every ignored action of its videos."""
    if evaluation is not None and evaluation.selection is not None:
        scored = evaluation.selection
        return {"detections": scored.detections, "ground_truth": scored.ground_truth, "ignored": scored.ignored}
    detections = {canonical_id(v): rows for v, rows in predictions.detections.items()}
    known = [v for v in detections if annotations and v in annotations.videos]
    return {
        "detections": detections,
        "ground_truth": {v: annotations.videos[v].actions for v in known if annotations},
        "ignored": {v: annotations.ignored.get(v, ()) for v in known if annotations},
    }
