"""One self-contained HTML page for predictions files: result, timelines, tables, charts and facts. Nothing is fetched.

report.html is its template. Charts and tables are plain HTML and SVG, readable without script; the script draws the
timelines and the table of detections, plays videos and, where several files are shown, switches between them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from psftr.data.annotations import Annotations
from psftr.data.splits import ClassSplit
from psftr.errors import PsftrError
from psftr.evaluation import charts, tables
from psftr.evaluation.aggregate import TenSplitReport, group_reports, tell_apart
from psftr.evaluation.average_precision import Matches
from psftr.evaluation.curves import reliability
from psftr.evaluation.error_analysis import ErrorAnalysis, analyse_errors, characteristics_for
from psftr.evaluation.facts import mark, provenance_rows
from psftr.evaluation.figures import Chart, inline_svg
from psftr.evaluation.glance import classes_at_a_glance, found_table, scores_chart
from psftr.evaluation.labels import searched_labels
from psftr.evaluation.per_video import ap_by_video
from psftr.evaluation.protocol import Evaluation, score_files
from psftr.evaluation.report_timelines import (
    addresses,
    known_durations,
    most_per_video,
    partners_of,
    timeline_data,
    videos_in,
)
from psftr.evaluation.rules import Protocol
from psftr.evaluation.selection import videos_under_test
from psftr.evaluation.shown import shown_from
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
    copy_videos: bool = False,
    thresholds: Mapping[str, float] | None = None,
    durations_s: Mapping[str, float] | None = None,
    stages: Mapping[str, StageTrace] | None = None,
    further_tables: Sequence[tables.Table] = (),
    title: str = "psftr report",
) -> Path:
    """Write the page for predictions by name; returns its path.

    annotations: of the whole data set; without them, or with `is_scored` False, the page has timelines and facts only.
    evaluations: of the files, where they are at hand; else `score_files` makes them, by `protocol` and `splits`.
    expected_splits: default all ten where several published splits are given. videos_dir: where to look for video
    files, default the page's own folder; sources: known files, by video id; copy_videos: put them beside the page.
    thresholds: the least score shown at first, by file; default `shown_from`. stages: by the name of their file, how
    its detections came about. further_tables: after the results. Raises PsftrError where files, splits and
    annotations do not belong together, or must not be averaged.
    """
    if not files:
        raise PsftrError("no predictions for the report; give at least one file")
    stages = stages or {}
    if stray := sorted(set(stages) - set(files)):
        raise PsftrError(f"stage trace of {', '.join(stray)}, but no such predictions; there are {', '.join(files)}")
    if evaluations is None and annotations is not None and is_scored:
        evaluations = score_files(files, annotations, protocol=protocol, splits=splits)
    evaluations = tell_apart(evaluations or {})
    path = Path(path)
    durations = known_durations(annotations, durations_s)
    shown = {name: _shown_on_timelines(file, evaluations.get(name), annotations) for name, file in files.items()}
    videos = {name: {*parts["detections"], *parts["ground_truth"]} for name, parts in shown.items()}
    found_files = {**videos_in(videos_dir or path.parent), **(sources or {})}
    copies = {canonical_id(video_id) for own in videos.values() for video_id in own} if copy_videos else ()
    places = addresses(found_files, path, copies=copies)
    limit = most_per_video(list(files.values()))
    least = {name: (thresholds or {}).get(name, shown_from(file)) for name, file in files.items()}
    worth = {name: _worth(file, evaluations.get(name)) for name, file in files.items()}
    shared = [word for word in next(iter(worth.values())) if all(word in words for words in worth.values())]
    asked = {name: _asked(file, evaluations.get(name), annotations) for name, file in files.items()}
    titles = {name: _file_title(name, file, evaluations.get(name), without=shared) for name, file in files.items()}
    partners = partners_of(videos, asked)
    methods = _methods(files, evaluations, partners)
    data = [
        timeline_data(
            titles[name],
            method=methods[name],
            asked=asked[name],
            least=least[name],
            marks=worth[name],
            partners=partners[name],
            **shown[name],
            ap=_ap_by_video(evaluations.get(name)),
            durations_s=durations,
            sources=places,
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
    results = list(by_rules.values())
    first = next(iter(files))
    page = (
        _environment(shared)
        .get_template("report.html")
        .render(
            title=title,
            banners=_banners(worth.values()),
            results=results,
            found=None if results else found_table(files[first], asked[first], least[first]),
            picture=_picture(results, files[first], asked[first], least[first]),
            files=[_file(titles[name], file, evaluations.get(name), durations) for name, file in files.items()],
            has_partners=any(partners.values()),
            further=further_tables,
            has_stages=has_stages,
            style=_parts("css", has_stages),
            script=_parts("js", has_stages),
            data=Markup(plain),
        )
    )
    return write_text(path, page.lstrip())


def _environment(told_once: Collection[str]) -> jinja2.Environment:
    """told_once: marks that hold of the whole page; its banner says them, and titles do not repeat them."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"svg": lambda chart: Markup(inline_svg(chart)), "tables": tables, "charts": charts}
    environment.globals["reliability"] = reliability
    environment.filters["titled"] = _titled(told_once)
    return environment


def _titled(told_once: Collection[str]) -> Callable[[str], str]:
    """A filter that takes those words out of the mark that a title begins with."""

    def titled(title: str) -> str:
        marked = re.match(r"\[([^\]]*)\] ", title)
        if not marked:
            return title
        return mark(word for word in marked[1].split(", ") if word not in told_once) + title[marked.end() :]

    return titled


def _parts(kind: str, has_stages: bool) -> Markup:
    """The page's own style or script."""
    names = {"css": ["report"], "js": ["report_lanes", "report_detections", "report"]}[kind]
    names += ["report_stages"] if has_stages else []
    folder = Path(__file__).parent
    return Markup("\n".join((folder / f"{name}.{kind}").read_text(encoding="utf-8") for name in names))


def _worth(predictions: Predictions, evaluation: Evaluation | None) -> tuple[str, ...]:
    """What a reader must not overlook about a file."""
    made = predictions.provenance
    return tuple(dict.fromkeys([*(evaluation.worth if evaluation else ()), *(made.marks if made else ())]))


def _banners(worth: Iterable[Sequence[str]]) -> list[tuple[str, str]]:
    told = dict.fromkeys(word for words in worth for word in words)
    return [(word, sentence) for begin, sentence in _BANNERS.items() for word in told if word.startswith(begin)]


def _asked(predictions: Predictions, evaluation: Evaluation | None, annotations: Annotations | None) -> tuple[str, ...]:
    """The labels that were searched for; each has a row, found or not."""
    if evaluation is not None and evaluation.split is not None:
        return tuple(evaluation.split.unseen)
    stated = searched_labels(predictions, annotations.classes if annotations else ())
    found = sorted({d.label for detections in predictions.detections.values() for d in detections})
    return stated or (evaluation.ap.classes if evaluation else tuple(found))


def _methods(
    files: Mapping[str, Predictions], evaluations: Mapping[str, Evaluation], partners: Mapping[str, Sequence[int]]
) -> dict[str, str]:
    """What each file's bars are called: its method, or its own name where a partner has the same method."""
    names = list(files)
    methods = {name: evaluations[name].method if name in evaluations else name for name in names}
    return {
        name: name if any(methods[names[place]] == methods[name] for place in partners[name]) else methods[name]
        for name in names
    }


def _ap_by_video(evaluation: Evaluation | None) -> dict[str, float]:
    """Fractions of 1: AP of each scored video by itself, over its classes and the protocol's tIoUs."""
    if evaluation is None or evaluation.selection is None:
        return {}
    scored, tious = evaluation.selection, evaluation.protocol.tious
    rows = ap_by_video(scored.ground_truth, scored.detections, tious=tious, ignored=scored.ignored)
    return {video_id: float(row.mean()) for video_id, row in rows.items()}


def _picture(
    results: Sequence[Sequence[TenSplitReport]], predictions: Predictions, asked: Sequence[str], least: float
) -> Chart:
    """The one chart that is seen without scrolling."""
    if not results:
        return scores_chart(predictions, asked, least)
    reports = results[0]
    if any(len(report.evaluations) > 1 for report in reports):
        return charts.splits_chart(reports)
    return classes_at_a_glance(reports)


def _file_title(name: str, predictions: Predictions, evaluation: Evaluation | None, *, without: Collection[str]) -> str:
    worth = mark(word for word in _worth(predictions, evaluation) if word not in without)
    if evaluation is None:
        return worth + name
    split = evaluation.split
    where = f"{split.ratio}/{100 - split.ratio} split {split.index}" if split else "all classes"
    score = f"average mAP {100 * evaluation.ap.average:.2f} %"
    return f"{worth}{evaluation.method}, {evaluation.protocol.dataset} {where}: {score}"


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
    """What was scored on a class split; else every detection of the test, with every action and ignored action."""
    scored = evaluation.selection if evaluation is not None else None
    if evaluation is not None and evaluation.split is not None and scored is not None:
        return {"detections": scored.detections, "ground_truth": scored.ground_truth, "ignored": scored.ignored}
    detections = {canonical_id(v): rows for v, rows in predictions.detections.items()}
    if evaluation is not None and annotations is not None:  # those of other subsets are not under test
        tested = {video.video_id for video in videos_under_test(annotations, evaluation.protocol)}
        detections = {v: rows for v, rows in detections.items() if v in tested or v not in annotations.videos}
    known = [v for v in detections if annotations and v in annotations.videos]
    parts: dict[str, dict[str, Any]] = {
        "detections": detections,
        "ground_truth": {v: annotations.videos[v].actions for v in known if annotations},
        "ignored": {v: annotations.ignored.get(v, ()) for v in known if annotations},
    }
    if scored is not None:
        parts["ground_truth"] |= scored.ground_truth
        parts["ignored"] |= scored.ignored
    return parts
