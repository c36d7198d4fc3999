"""The figures of language.py as tables: one row a file, and one row a level of difficulty."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from psftr.evaluation.language import TAUS, LanguageFigures
from psftr.evaluation.tables import Table


def language_table(figures: Mapping[str, LanguageFigures], worth: str) -> Table:
    """LAP, fixed and infinite outputs, ambiguity of files by name; columns that nobody has are left out."""
    frame = pd.DataFrame([{"file": name, **_row(one)} for name, one in figures.items()])
    heads = {"file": "file", "mAP": "mAP", "LAP": "LAP", "fixed": "fixed", "infinite": "infinite"}
    heads |= {"mConf": "mConf", "mLen": "mLen", **{_accuracy(tau): _accuracy(tau) for tau in TAUS}, "clips": "clips"}
    heads = {column: heading for column, heading in heads.items() if frame[column].notna().any()}
    told = "fixed, infinite: videos whose output does not depend on them, or repeats without end"
    if "LAP" in heads:
        told = f"LAP: relative drop of mAP with the descriptions of other classes; {told}"
    if "mConf" in heads:
        told += "; mConf, mLen, acc@: score, share of an ambiguous clip, and clips covered by less than so much"
    return Table(f"{worth}Language, in percent; {told}", frame, heads)


def levels_table(figures: LanguageFigures, worth: str) -> Table:
    """mAP, gain over the model without language and mean language advantage of easy, medium and hard classes."""
    frame = pd.DataFrame(
        [
            {
                "level": level.name,
                "classes": len(level.classes),
                "mAP": level.map,
                "vision_only": level.vision_only,
                "gain": level.gain,
                "mLA": level.mla,
                "names": ", ".join(level.classes),
            }
            for level in figures.levels or ()
        ]
    )
    heads = {"level": "level", "classes": "classes", "mAP": "mAP", "vision_only": "without language", "gain": "gain"}
    told = "Classes by the AP of the model without language, in percent: the best fifth is easy, the worst tenth hard"
    if frame["mLA"].notna().any():
        heads["mLA"] = "mLA"
        told += "; mLA: 100 times the mean language advantage"
    hard = figures.levels[-1].classes if figures.levels else ()
    return Table(f"{worth}{told}. Hard: {', '.join(hard)}", frame, heads)


def _row(figures: LanguageFigures) -> dict[str, float | int | None]:
    ambiguity = figures.ambiguity
    nothing = math.nan
    return {
        "mAP": figures.average,
        "LAP": nothing if figures.lap is None else figures.lap,
        "fixed": figures.fixed,
        "infinite": figures.infinite,
        "mConf": ambiguity.confidence if ambiguity else nothing,
        "mLen": ambiguity.length if ambiguity else nothing,
        **{_accuracy(tau): ambiguity.accuracy[i] if ambiguity else nothing for i, tau in enumerate(TAUS)},
        "clips": ambiguity.num_clips if ambiguity else None,
    }


def _accuracy(tau: float) -> str:
    return f"acc@{tau:.1f}"
