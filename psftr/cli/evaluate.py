"""Score runs, multiruns, a training-free method or any predictions file; numbers come from predictions files."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psftr.cli.evaluate_file import evaluate_file
from psftr.cli.hydra_app import compose_with, config_groups, given_keys, planned_overrides
from psftr.cli.language import lies_in_runs, mismatched_of, show_language
from psftr.cli.present import compare_settings, draw_example, show, show_seeds
from psftr.errors import PsftrError
from psftr.files import read_json
from psftr.methods import method_names
from psftr.settings import DatasetSettings, EvaluateSettings

if TYPE_CHECKING:
    from psftr.engine.audit import Audit
    from psftr.engine.evaluate import Job
    from psftr.engine.runs import RunFolder
    from psftr.evaluation.aggregate import TenSplitReport
    from psftr.evaluation.comparison import TrainedOn
    from psftr.evaluation.protocol import Evaluation
    from psftr.evaluation.tables import Table
    from psftr.predictions import Predictions

CONFIG = "evaluate"
SETTINGS = EvaluateSettings
HELP = """
usage: psftr evaluate run=DIR | predictions=FILE annotations=FILE | method=clip_baseline [key=value …]

Localize the unseen classes with trained runs and score them, or score a predictions file of any tool.

examples:
  psftr evaluate run=outputs/synthetic/75-split0/2026-01-31_12-00-00 baseline=true
  psftr evaluate run=outputs/thumos14/multirun/2026-01-31_12-00-00     mean, std, every split, every class
  psftr evaluate method=clip_baseline dataset=thumos14 split.ratio=75 split.index=0
  psftr evaluate predictions=pred.json annotations=data/thumos14/annotations.json dataset=thumos14
  psftr evaluate run=DIR audit=true              does text guide what is found?
  psftr evaluate predictions=pred.json annotations=gt.json mismatched=other.json vision_only=plain.json
  psftr evaluate run=DIR mismatched=predictions-mismatched.json    of every run: LAP, what wrong descriptions cost
  psftr evaluate run=DIR against=OTHER_DIR       is it better? paired over splits and seeds, with an interval

With run=DIR the run's own settings hold; paths, batch size, post-processing and window.test_overlap may be overridden.
"""
log = logging.getLogger("psftr")
PUBLISHED_SPLITS = range(10)


def rewrite_arguments(arguments: list[str]) -> list[str]:
    """With run=DIR the keys of the run's own method are known, without its name being given."""
    folders = [Path(text.partition("=")[2]) for text in arguments if text.startswith("run=")]
    if not folders or any(text.startswith("method=") for text in arguments):
        return arguments
    for file in (folders[-1] / "run.json", *sorted(folders[-1].glob("*/run.json"))):
        if file.is_file():
            name = read_json(file, remedy="train again").get("method")
            return [f"method={name}", *arguments] if name in method_names() else arguments
    return arguments


def check(config: Mapping[str, Any]) -> None:
    """Refuse what cannot be evaluated, before anything is read."""
    from psftr.engine.configuration import read_config

    settings, _, _ = read_config(EvaluateSettings, config)
    wanted = [key for key in ("run", "predictions") if getattr(settings, key)]
    if settings.method == "clip_baseline" and not wanted:
        from psftr.data.datasets import spec_of

        spec_of(settings.dataset)
        return
    if len(wanted) != 1:
        raise PsftrError(
            f"{' and '.join(wanted) or 'nothing'} given: say one of run=DIR, predictions=FILE (with annotations=FILE) "
            "or method=clip_baseline"
        )
    if settings.predictions and not settings.annotations and settings.dataset.name == DatasetSettings().name:
        raise PsftrError("predictions=FILE needs annotations=FILE, its ground truth (JSON or CSV), or dataset=…")
    if settings.tious == ():
        raise PsftrError("tious=[] names no tIoU; give at least one, such as tious=[0.5]")


def run(config: Mapping[str, Any]) -> float:
    from psftr.engine.configuration import read_config

    settings, _, own = read_config(EvaluateSettings, config)
    if settings.predictions:
        return evaluate_file(settings)
    if settings.run:
        return evaluate_folder(settings, config)
    return evaluate_method(settings, own)


def evaluate_folder(settings: EvaluateSettings, config: Mapping[str, Any]) -> float:
    """A run, or every finished run of a multirun, or a training-free method's folders: one table per setting."""
    from psftr.engine.evaluate import (
        SEED_WORDS,
        find_training_free,
        group_by_setting,
        trained_on,
        training_free_job,
    )
    from psftr.engine.runs import find_runs
    from psftr.engine.side_by_side import ask_runs
    from psftr.evaluation.language import lap_of

    folder = Path(str(settings.run))
    root = Path(settings.out or folder / "evaluation")
    if settings.against:
        return compare_folders(folder, Path(settings.against), settings, config, root)
    if found := find_training_free(folder):
        by_setting: dict[str, list[Any]] = {}
        for one in found:
            by_setting.setdefault(one.setting, []).append(one)
        names = [members[0].name for members in by_setting.values()]
        reports = {}
        for name, members in zip(names, by_setting.values()):
            label = name if names.count(name) == 1 else f"{name} ({members[0].file.parent.name})"
            jobs = [training_free_job(one, dataset_settings(one.split, settings)) for one in members]
            is_sweep = members[0].file.parent != folder and members[0].split["source"] == "published"
            expected = PUBLISHED_SPLITS if is_sweep else [int(one.split["index"]) for one in members]
            label = label if len(by_setting) > 1 else ""
            baselines = [job.baseline() for job in jobs] if settings.baseline else []
            reports[label] = report_of(label, jobs, expected, settings, root / slug(label), baselines=baselines)
        table = None
    else:
        runs, planned = find_runs(folder), planned_overrides(folder)
        finished = [run for run in runs if run.read()["status"] == "finished"]
        say_what_is_missing(folder, runs, finished, planned)
        given = {key: _value(config, key) for key in given_keys()}
        in_runs = lies_in_runs(settings.mismatched, finished)
        reports = {}
        audited: list[Audit] = []
        by_seed: dict[str, dict[TrainedOn, float]] = {}
        answers = {run.path: asked for run, asked in zip(finished, ask_runs(finished, settings, given))}
        laps: dict[str, dict[TrainedOn, float]] = {}
        for label, members in group_by_setting(finished).items():
            asked = [int(job["split.index"]) for job in planned if "split.index" in job and matches(job, members[0])]
            answered = [answers[member.path] for member in members]
            jobs = [one.job for one in answered]
            expected = asked or [job.dataset.split.index for job in jobs]
            audits = [one.audit for one in answered if one.audit]
            out, baselines = root / slug(label), [one.baseline for one in answered if one.baseline]
            others = mismatched_of({named(job): job for job in jobs}, str(settings.mismatched)) if in_runs else None
            reports[label] = report_of(
                label, jobs, sorted(set(expected)), settings, out, audits=audits, baselines=baselines, mismatched=others
            )
            audited += audits
            for member, job in zip(members, jobs):
                scored = next(e for e in reports[label].evaluations if e.index == job.dataset.split.index)
                name = label.partition(SEED_WORDS)[0] or label
                by_seed.setdefault(name, {})[trained_on(member)] = scored.ap.average
                if others and named(job) in others:
                    laps.setdefault(name, {})[trained_on(member)] = lap_of(scored, others[named(job)])
        if len(reports) > 1 and audited:
            log.info("=== all runs\n%s", audit_text(audited, root))
        if 1 < len(by_seed) < len(reports):
            show_seeds(by_seed, root, laps=laps, synthetic=bool(finished[0].read().get("synthetic")))
        table = finished[0].read()["config"].get("paper_table")
    if len(reports) > 1:
        compare_settings(reports, table, root, figures=settings.figures)
    return max(report.average.mean for report in reports.values())


def report_of(
    label: str,
    jobs: Sequence[Job],
    expected: Sequence[int],
    settings: EvaluateSettings,
    out: Path,
    *,
    audits: Sequence[Audit] = (),
    baselines: Sequence[Predictions] = (),
    mismatched: Mapping[str, Evaluation] | None = None,
) -> TenSplitReport:
    """Score the splits of one setting; print, write and draw them. baselines: one for each job, if asked for."""
    from psftr.engine.audit import audit_table
    from psftr.evaluation.aggregate import aggregate

    files, own, theirs = {}, {}, {}
    for number, job in enumerate(jobs):
        name = named(job)
        files[name], own[name] = job.predictions, job.evaluate()
        if baselines:
            name = f"clip_baseline, split {job.dataset.split.index}"
            files[name] = baselines[number]
            theirs[name] = job.evaluate(baselines[number])
    report = aggregate(list(own.values()), expected=expected)
    if label:
        log.info("=== %s", label)
    baseline = aggregate(list(theirs.values()), expected=expected) if theirs else None
    show(report, baseline, out, figures=settings.figures)
    tables = show_language(own, jobs[-1].evaluate, settings, out, mismatched=mismatched)
    if audits:
        log.info("%s", audit_text(audits, out))
        tables.append(audit_table(audits))
    if settings.figures:
        show_page(out, files, {**own, **theirs}, jobs, report, tables=tables)
    return report


def audit_text(audits: Sequence[Audit], out: Path) -> str:
    """The audit as a table and one line; audit.csv is written too."""
    from psftr.engine.audit import audit_table, guidance_line, text_guidance
    from psftr.evaluation.render import text, wrap, write_frame

    table = audit_table(audits)
    write_frame(out / "audit.csv", table.frame)
    return f"{text(table)}\n{wrap(guidance_line(text_guidance(audits)))}"


def compare_folders(
    folder: Path, other: Path, settings: EvaluateSettings, config: Mapping[str, Any], root: Path
) -> float:
    """Two methods or settings over the same splits and seeds: the difference, paired, with an interval."""
    from psftr.engine.runs import find_runs
    from psftr.engine.side_by_side import scores_of
    from psftr.evaluation.comparison import compare, comparison_text
    from psftr.files import write_json

    given = {key: _value(config, key) for key in given_keys()}
    ours, theirs = (scores_of(where, settings, given) for where in (folder, other))
    comparison = compare(ours, theirs)
    synthetic = bool(find_runs(folder)[0].read().get("synthetic"))
    log.info("%s", comparison_text(comparison, a=str(folder), b=str(other), synthetic=synthetic))
    log.info("written:\n  %s", write_json(root / "comparison.json", comparison.to_dict()))
    return comparison.difference


def show_page(
    out: Path,
    files: Mapping[str, Predictions],
    evaluations: Mapping[str, Evaluation],
    jobs: Sequence[Job],
    report: TenSplitReport,
    *,
    tables: Sequence[Table],
) -> None:
    """The HTML page over all predictions of a setting with their stage traces, and one test video's timeline."""
    from psftr.evaluation.report_page import write_report_page
    from psftr.evaluation.stage_trace import find_stage_trace, read_stage_trace

    last = jobs[-1]
    traces = {named(job): find_stage_trace(job.folder / "predictions.json") for job in jobs}
    page = write_report_page(
        out / "report.html",
        files,
        annotations=last.dataset.annotations,
        evaluations=evaluations,
        expected_splits=report.expected,
        stages={name: read_stage_trace(trace) for name, trace in traces.items() if trace},
        further_tables=tables,
        title=f"{last.name} on {last.dataset.name}",
    )
    picture = draw_example(out / "timeline.png", last)
    log.info("  %s\n  %s", page, picture)


def evaluate_method(settings: EvaluateSettings, own: Any) -> float:
    """A training-free method on one split."""
    from psftr.engine.evaluate import method_job

    def folder(dataset: Any) -> Path:
        split = dataset.split
        return Path(settings.out or f"outputs/{dataset.name}/{settings.method}-{split.ratio}-split{split.index}")

    job = method_job(settings, folder, own)
    return report_of("", [job], [job.dataset.split.index], settings, job.folder).average.mean


def dataset_settings(split: Mapping[str, Any], settings: EvaluateSettings) -> EvaluateSettings:
    """The settings with the paths of the data set that a predictions file names, where the user named none."""
    from psftr.engine.configuration import read_config

    name = str(split["dataset"])
    if "dataset" in given_keys() or name == settings.dataset.name:
        return settings
    if name not in config_groups()["dataset"]:
        raise PsftrError(f"the predictions are of the data set {name!r}: say where it is with dataset=FILE")
    return read_config(EvaluateSettings, compose_with(CONFIG, f"dataset={name}"))[0]


def say_what_is_missing(
    folder: Path, runs: Sequence[RunFolder], finished: Sequence[RunFolder], planned: Sequence[dict[str, str]]
) -> None:
    open_runs = [run for run in runs if run not in finished]
    absent = max(0, len(planned) - len(runs))
    if open_runs or absent:
        names = ", ".join(run_name(run) for run in open_runs)
        log.info(
            "INCOMPLETE: %d of %d runs finished%s%s; go on with: psftr train resume=%s",
            len(finished), max(len(planned), len(runs)),
            f"; started but not finished: {names}" if open_runs else "",
            f"; not started: {absent}" if absent else "",
            folder,
        )  # fmt: skip
    if not finished:
        raise PsftrError(f"no finished run in {folder} to evaluate: go on with `psftr train resume={folder}`")


def named(job: Job) -> str:
    """As tables and the page name the predictions of a job."""
    return f"{job.name}, split {job.dataset.split.index}"


def run_name(run: RunFolder) -> str:
    split = run.read()["config"]["split"]
    return f"{run.path.name} (split {split['ratio']}/{split['index']})"


def matches(job: Mapping[str, str], run: RunFolder) -> bool:
    """Whether a planned job is of the run's setting: every plain key but the split index agrees."""
    from psftr.engine.runs import lookup

    config = run.read()["config"]
    for key, value in job.items():
        actual = lookup(config, key)
        if key == "split.index" or actual is None or isinstance(actual, dict | list):
            continue
        if not _same(actual, value.strip("'\"")):
            return False
    return True


def _same(actual: Any, text: str) -> bool:
    """Whether a setting has the value that an override writes: 0 and 0.0 are one."""
    try:
        return float(actual) == float(text)
    except (TypeError, ValueError):
        return str(actual).lower() == text.lower()


def slug(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9.=_-]+", "_", label)


def _value(config: Mapping[str, Any], key: str) -> Any:
    from psftr.engine.runs import lookup

    return lookup(config, key)
