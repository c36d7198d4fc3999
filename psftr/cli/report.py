"""One self-contained HTML page for predictions files: tables, curves, error analysis, and a timeline browser.

Files of one method on several class splits are averaged and shown split by split; other files stand beside them. The
page needs no network and no server: open it, send it, keep it. Where stages.json of `psftr cascade` lies beside a file,
a click on a detection shows its stages.

examples:
  psftr report predictions.json --annotations data/thumos14/annotations.json
  psftr report full.json --annotations gt.json --mismatched mismatched.json --vision-only plain.json --csv tables/
  psftr report run*/predictions.json --annotations data/thumos14/annotations.json --out ten_splits.html
  psftr report other.json --annotations gt.json --dataset thumos14 --splits-dir data/thumos14/splits --index 0
  psftr report predictions.json --annotations mine.json --subset test --tious 0.3 0.5 0.7 --videos-dir videos/
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from psftr.cli.flags import add_settings, number
from psftr.cli.folders import writable_folder
from psftr.settings import SplitSettings

if TYPE_CHECKING:
    from psftr.data.annotations import Annotations
    from psftr.data.splits import ClassSplit
    from psftr.evaluation.aggregate import TenSplitReport
    from psftr.evaluation.protocol import Evaluation
    from psftr.evaluation.rules import Protocol
    from psftr.evaluation.stage_trace import StageTrace
    from psftr.predictions import Predictions

TIMELINES_AT_MOST = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("predictions", nargs="+", metavar="PREDICTIONS", help="psftr's or any ActivityNet results JSON, or CSV")
    add("--annotations", required=True, metavar="FILE", help="ground truth of the whole data set, JSON or CSV")
    add("--out", default="report.html", metavar="FILE", help="default %(default)s")
    add("--dataset", help="whose rules hold, such as thumos14 (default: what the files say)")
    add("--subset", help="test subset of a data set of your own (default: its only one, or test)")
    add("--tious", type=number(float, above=0, most=1), nargs="+", help="of a data set of your own")
    add("--split", metavar="FILE", help="YAML with seen and unseen, for files that do not name their split")
    published = "published splits, for files that do not name theirs; with --ratio and --index"
    add("--splits-dir", metavar="DIR", help=published)
    add_settings(parser, SplitSettings, leave_out=("kind", "index", "seed", "file"))
    add("--index", type=number(int, least=0), nargs="+", metavar="N", help="split of each file, in order")
    add("--stages", nargs="+", metavar="FILE", help="stage traces, one for each file (default: stages.json beside it)")
    add("--mismatched", metavar="FILE", help="predictions of the same model with other classes' descriptions: LAP")
    add("--vision-only", metavar="FILE", help="predictions of a model without language: easy, medium, hard classes")
    add("--ambiguous", metavar="FILE", help="clips that only look like an action, JSON or CSV (default: ignored ones)")
    add("--csv", metavar="DIR", help="also the language figures as language.csv and levels.csv")
    add("--videos-dir", metavar="DIR", help="where the videos are, to play them (default: beside the page)")
    add("--figures", metavar="DIR", help="also PNG figures, and timelines of the first videos")
    add("--title", default="psftr report", help="default %(default)s")


def run(args: argparse.Namespace) -> int:
    from psftr.cli.ground_truth import read_ground_truth
    from psftr.cli.language import LanguageFiles, language_tables, write_language
    from psftr.errors import PsftrError
    from psftr.evaluation.aggregate import group_reports
    from psftr.evaluation.labels import told
    from psftr.evaluation.protocol import score_files
    from psftr.evaluation.report_page import write_report_page
    from psftr.predictions import read_predictions

    _check(args)
    paths_by_name = _named(args.predictions)
    files = {name: read_predictions(path) for name, path in paths_by_name.items()}
    stages = _stages(args, paths_by_name, files)
    annotations = read_ground_truth(args.annotations)
    files, renamed = _spelled_alike(files, annotations)
    splits = _splits(args, list(files))
    rules = {name: _rules(args, file, annotations) for name, file in files.items()}
    if len(set(rules.values())) > 1:
        named = ", ".join(sorted({f"{r.dataset} ({r.name})" for r in rules.values()}))
        raise PsftrError(f"these files are of different data sets or rules ({named}); make a page for each")
    protocol = next(iter(rules.values()))
    evaluations = score_files(files, annotations, protocol=protocol, splits=splits)
    given = LanguageFiles(mismatched=args.mismatched, vision_only=args.vision_only, ambiguous=args.ambiguous)

    def score(other: Predictions) -> Evaluation:
        alike, _ = _spelled_alike({"other": other}, annotations)
        return score_files(alike, annotations, protocol=protocol, splits=dict(zip(alike, splits.values())))["other"]

    language = language_tables(evaluations, score=score, files=given)
    path = write_report_page(
        args.out,
        files,
        annotations=annotations,
        evaluations=evaluations,
        videos_dir=args.videos_dir,
        stages=stages,
        further_tables=language,
        title=args.title,
    )
    if renamed:
        print(told(renamed))
    reports = group_reports(evaluations.values())
    _print_means(reports, files)
    paths = [path, *(write_language(Path(args.csv), language) if args.csv else ())]
    if args.figures:
        paths += _figures(Path(args.figures), reports, files, annotations)
    print("written:\n" + "\n".join(f"  {path} ({path.stat().st_size / 1e6:.2f} MB)" for path in paths))
    return 0


def _check(args: argparse.Namespace) -> None:
    """What can be seen to be wrong before anything is read."""
    from psftr.errors import PsftrError

    if args.dataset and (args.subset or args.tious):
        raise PsftrError("--dataset sets subset and tIoUs; leave out --subset and --tious, or the data set")
    out = Path(args.out)
    if out.is_dir():
        raise PsftrError(f"--out {args.out} is a folder; name the page's file, such as {out / 'report.html'}")
    writable_folder("--out", str(out.parent))
    for flag, folder in (("--figures", args.figures), ("--csv", args.csv)):
        if folder is not None:
            writable_folder(flag, folder)
    if args.videos_dir is not None and not Path(args.videos_dir).is_dir():
        raise PsftrError(f"--videos-dir {args.videos_dir}: no such folder")


def _spelled_alike(
    files: dict[str, Predictions], annotations: Annotations
) -> tuple[dict[str, Predictions], dict[str, str]]:
    """The files with the ground truth's spelling of labels, and what was spelled otherwise."""
    from psftr.evaluation.labels import with_class_names

    made: dict[str, Predictions] = {}
    renamed: dict[str, str] = {}
    for name, file in files.items():
        made[name], of_file = with_class_names(file, annotations.classes)
        renamed |= of_file
    return made, renamed


def _rules(args: argparse.Namespace, file: Predictions, annotations: Annotations) -> Protocol:
    """The given or stated data set's rules; for data of one's own, the annotations' only subset is the test."""
    from psftr.evaluation.rules import protocol_of

    only = annotations.subsets[0] if len(annotations.subsets) == 1 and annotations.subsets[0] else None
    return protocol_of(file, dataset=args.dataset, subset=args.subset or only, tious=args.tious)


def _named(paths: Sequence[str]) -> dict[str, str]:
    """Files by name; by path where names repeat."""
    from psftr.errors import PsftrError

    if len(set(paths)) < len(paths):
        raise PsftrError("a predictions file is given twice; give each once")
    names = [Path(path).name for path in paths]
    return dict(zip(paths if len(set(names)) < len(names) else names, paths))


def _stages(args: argparse.Namespace, paths: dict[str, str], files: dict[str, Predictions]) -> dict[str, StageTrace]:
    """Given traces must be of their files; one that only happens to lie beside a file may be of another."""
    from psftr.errors import PsftrError
    from psftr.evaluation.stage_trace import find_stage_trace, read_stage_trace

    if not args.stages:
        found = {name: find_stage_trace(path) for name, path in paths.items()}
        return {name: read_stage_trace(file) for name, file in found.items() if file}
    if len(args.stages) != len(files):
        raise PsftrError(f"--stages needs one file for each of the {len(files)} predictions files, in order")
    traces = {name: read_stage_trace(file) for name, file in zip(files, args.stages)}
    for (name, trace), file in zip(traces.items(), args.stages):
        if not any(trace.of(d) for found in files[name].detections.values() for d in found):
            raise PsftrError(f"{file} traces no detection of {name}: give the stages.json written with it")
    return traces


def _splits(args: argparse.Namespace, names: Sequence[str]) -> dict[str, ClassSplit]:
    from psftr.data.splits import read_published_split, read_split_file
    from psftr.errors import PsftrError

    if args.split and args.splits_dir:
        raise PsftrError("give --split FILE or --splits-dir DIR, not both")
    if args.split:
        return dict.fromkeys(names, read_split_file(args.split))
    if not args.splits_dir:
        if args.index:
            raise PsftrError("--index needs --splits-dir DIR, the folder of the published splits")
        return {}
    if not args.index or len(args.index) != len(names):
        raise PsftrError(f"--splits-dir needs --index with one split for each of the {len(names)} files")
    return {
        name: read_published_split(args.splits_dir, ratio=args.ratio or SplitSettings.ratio, index=index)
        for name, index in zip(names, args.index)
    }


def _print_means(reports: Sequence[TenSplitReport], files: dict[str, Predictions]) -> None:
    from psftr.evaluation.render import means_text
    from psftr.predictions import MARKS

    for mark in _marks(files):
        print(f"{mark}: {MARKS[mark]}")
    for report in reports:
        print(means_text(report), end="\n\n")


def _figures(
    folder: Path, reports: Sequence[TenSplitReport], files: dict[str, Predictions], annotations: Annotations
) -> list[Path]:
    from psftr.evaluation.charts import save_charts
    from psftr.evaluation.timeline import draw_timeline
    from psftr.predictions import canonical_id

    paths = []
    for place, report in enumerate(reports):
        mark = f"-{place}" if len(reports) > 1 else ""
        paths += save_charts(folder, report, mark=mark)
    predictions = next(iter(files.values()))
    marks = "".join(f", {mark}" for mark in _marks(files))
    for video_id in list(predictions.detections)[:TIMELINES_AT_MOST]:
        found = sorted(predictions.detections[video_id], key=lambda d: -d.score)
        video = annotations.videos.get(canonical_id(video_id))
        path = draw_timeline(
            folder / f"timeline-{video_id}.png",
            title=f"{video_id}: the best {min(20, len(found))} of {len(found)} detections{marks}",
            duration_s=video.duration_s if video and video.duration_s == video.duration_s else 0.0,
            detections=found[:20],
            ground_truth=video.actions if video else (),
        )
        paths.append(path)
    return paths


def _marks(files: dict[str, Predictions]) -> tuple[str, ...]:
    """What no number of these files may be shown without."""
    marks = (mark for file in files.values() if file.provenance for mark in file.provenance.marks)
    return tuple(dict.fromkeys(marks))
