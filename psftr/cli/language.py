"""What `psftr evaluate` and `psftr report` say about language: figures of predictions files, their tables and CSV."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from psftr.errors import PsftrError

if TYPE_CHECKING:
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
    evaluations: Mapping[str, Evaluation], *, score: Callable[[Predictions], Evaluation], files: LanguageFiles
) -> list[Table]:
    """The table of all files and, with a model without language beside, that of the levels of difficulty.

    score: scores further predictions as the evaluation was. Raises PsftrError where several files are given together
    with one to compare with, and for files that do not belong to the evaluation.
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
    figures = {name: language_figures(one, clips=clips, **others) for name, one in evaluations.items()}
    worth = mark(word for evaluation in evaluations.values() for word in evaluation.worth)
    tables = [language_table(figures, worth)]
    return tables + [levels_table(one, worth) for one in figures.values() if one.levels]


def write_language(folder: Path, tables: list[Table]) -> list[Path]:
    """language.csv and, where there are levels, levels.csv; returns their paths."""
    from psftr.evaluation.render import write_frame

    return [write_frame(folder / name, table.frame) for name, table in zip(("language.csv", "levels.csv"), tables)]


def show_language(
    evaluations: Mapping[str, Evaluation],
    score: Callable[[Predictions], Evaluation],
    settings: EvaluateSettings,
    out: Path | None,
) -> list[Table]:
    """How much the files lean on language: written always, printed where the user gave a file to compare with."""
    from psftr.evaluation.render import text

    given = LanguageFiles(
        mismatched=settings.mismatched, vision_only=settings.vision_only, ambiguous=settings.ambiguous
    )
    tables = language_tables(evaluations, score=score, files=given)
    if given.is_any:
        log.info("%s", "\n\n".join(text(table) for table in tables))
    if out is not None:
        log.info("  %s", "\n  ".join(str(path) for path in write_language(out, tables)))
    return tables
