"""Several settings, each trained with several seeds: one line a setting, and what it gains over the first of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean, stdev

import pandas as pd

from psftr.evaluation.comparison import TrainedOn, compare
from psftr.evaluation.tables import Table

Scores = Mapping[str, Mapping[TrainedOn, float]]


def seeds_table(scores: Scores, *, laps: Scores, synthetic: bool) -> Table:
    """scores: average mAP as a fraction, by setting and training. Differences are paired, with a 95 % interval.

    laps: LAP of those trainings of which it is known; their mean has an interval too. Trainings that one side lacks are
    left out of the difference. Raises PsftrError where nothing can be paired.
    """
    (first, base), *_ = scores.items()
    rows = []
    for setting, own in scores.items():
        row = {"setting": setting, "mAP": fmean(own.values()), "seeds": len(own)}
        row["sd"] = stdev(own.values()) if len(own) > 1 else float("nan")
        if setting != first:
            comparison = compare(own, base)
            row["gain"] = comparison.difference
            if (interval := comparison.of_these_splits) is not None:
                row |= {"low": interval.low, "high": interval.high}
        if own_laps := {key: value for key, value in laps.get(setting, {}).items() if math.isfinite(value)}:
            lap = compare(own_laps, dict.fromkeys(own_laps, 0.0))
            row["LAP"] = lap.mean_a
            if (interval := lap.of_these_splits) is not None:
                row |= {"LAP low": interval.low, "LAP high": interval.high}
        rows.append(row)
    mark = "[SYNTHETIC] " if synthetic else ""
    heads = {
        "setting": "setting", "mAP": "mAP", "sd": "sd", "seeds": "runs", "gain": "gain", "low": "from", "high": "to"
    }  # fmt: skip
    caption = f"{mark}mean over runs, %; gain: over {first}, in pairs, with a 95 % interval (seeds drawn anew)"
    if any("LAP" in row for row in rows):
        heads |= {"LAP": "LAP", "LAP low": "from", "LAP high": "to"}
        caption += "; LAP: relative drop of mAP with the descriptions of other classes, with such an interval"
    return Table(
        caption=caption,
        frame=pd.DataFrame(rows, columns=[*heads]),
        heads=heads,
    )
