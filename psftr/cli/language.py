"""What `psftr evaluate` and `psftr report` say about language: figures of predictions files, their tables and CSV."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from psftr.errors import PsftrError

if TYPE_CHECKING:
    from psftr.engine.evaluate import Job
    from psftr.engine.runs import RunFolder
    from psftr.evaluation.protocol import Evaluation
    from psftr.evaluation.tables import Table
    from psftr.predictions import Predictions
    from psftr.settings import EvaluateSettings

log = logging.getLogger("psftr")


@dataclass(frozen=True, kw_only=True)
class LanguageFiles:
    """Files that the user gave for comparison; None: not given."""

    mismatched: str | None = None
    vision_only: str | None = None
    ambiguous: str | None = None

    @property
    def is_any(self) -> bool:
        return any((self.mismatched, self.vision_only, self.ambiguous))


def language_tables(
    evaluations: Mapping[str, Evaluation],
    *,
    score: Callable[[Predictions], Evaluation],
    files: LanguageFiles,
    mismatched: Mapping[str, Evaluation] | None = None,
) -> list[Table]:
    """The table of all files and, with a model without language beside, that of the levels of difficulty.

    score: scores further predictions as the evaluation was. mismatched: by name, what is compared for LAP where every
    file has its own. Raises PsftrError where several files are given together with one to compare with, and for files
    that do not belong to the evaluation.
    """
    from psftr.cli.ground_truth import read_ground_truth
    from psftr.evaluation.facts import mark
    from psftr.evaluation.language import language_figures
    from psftr.evaluation.language_tables import language_table, levels_table
    from psftr.predictions import read_predictions

    if len(evaluations) > 1 and (files.mismatched or files.vision_only):
        raise PsftrError(
            f"mismatched and vision_only are compared with one file, but {len(evaluations)} are given: "
            "give the predictions of one split"
        )
    others = {
        name: score(read_predictions(path))
        for name, path in (("mismatched", files.mismatched), ("vision_only", files.vision_only))
        if path
    }
    clips = None
    if files.ambiguous:
        marked = read_ground_truth(files.ambiguous, ignore_labels=())
        clips = {video_id: video.actions for video_id, video in marked.videos.items()}
    figures = {}
    for name, one in evaluations.items():
        own = {"mismatched": mismatched[name]} if mismatched and name in mismatched else {}
        figures[name] = language_figures(one, clips=clips, **others, **own)
    worth = mark(word for evaluation in evaluations.values() for word in evaluation.worth)
    tables = [language_table(figures, worth)]
    return tables + [levels_table(one, worth) for one in figures.values() if one.levels]


def lies_in_runs(mismatched: str | None, runs: Sequence[RunFolder]) -> bool:
    """Whether a name without a folder is given and a run has such a file; then every run is compared with its own."""
    if mismatched is None or Path(mismatched).name != mismatched:
        return False
    return any((run.path / mismatched).is_file() for run in runs)


def mismatched_of(jobs: Mapping[str, Job], name: str) -> dict[str, Evaluation]:
    """Scores of the predictions called `name` in the runs' folders, by job; a run without such a file has none.

    Raises PsftrError for predictions that are older than the weights.
    """
    from psftr.predictions import read_predictions

    found = {}
    for key, job in jobs.items():
        file, weights = job.folder / name, job.folder / "model.safetensors"
        if not file.is_file():
            continue
        if file.stat().st_mtime < weights.stat().st_mtime:
            raise PsftrError(
                f"{file} is older than the weights beside it: make it again with mismatch.descriptions=true"
            )
        found[key] = job.evaluate(read_predictions(file))
    return found


def write_language(folder: Path, tables: list[Table]) -> list[Path]:
    """language.csv and, where there are levels, levels.csv; returns their paths."""
    from psftr.evaluation.render import write_frame

    return [write_frame(folder / name, table.frame) for name, table in zip(("language.csv", "levels.csv"), tables)]


def show_language(
    evaluations: Mapping[str, Evaluation],
    score: Callable[[Predictions], Evaluation],
    settings: EvaluateSettings,
    out: Path | None,
    *,
    mismatched: Mapping[str, Evaluation] | None = None,
) -> list[Table]:
    """How much the files lean on language: written always, printed where the user gave a file to compare with.

    mismatched: None: the one file that settings.mismatched names.
    """
    from psftr.evaluation.render import text

    given = LanguageFiles(
        mismatched=settings.mismatched if mismatched is None else None,
        vision_only=settings.vision_only,
        ambiguous=settings.ambiguous,
    )
    tables = language_tables(evaluations, score=score, files=given, mismatched=mismatched)
    if given.is_any or mismatched:
        log.info("%s", "\n\n".join(text(table) for table in tables))
    if out is not None:
        log.info("  %s", "\n  ".join(str(path) for path in write_language(out, tables)))
    return tables
