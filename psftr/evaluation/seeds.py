"""Several settings, each trained with several seeds: one line a setting, and what it gains over the first of them."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean, stdev

import pandas as pd

from psftr.evaluation.comparison import TrainedOn, compare
from psftr.evaluation.tables import Table


def seeds_table(scores: Mapping[str, Mapping[TrainedOn, float]], *, synthetic: bool) -> Table:
    """scores: average mAP as a fraction, by setting and training. Differences are paired, with a 95 % interval.

    Trainings that one side lacks are left out of the difference. Raises PsftrError where nothing can be paired.
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
        rows.append(row)
    mark = "[SYNTHETIC] " if synthetic else ""
    heads = {
        "setting": "setting", "mAP": "mAP", "sd": "sd", "seeds": "runs", "gain": "gain", "low": "from", "high": "to"
    }  # fmt: skip
    return Table(
        caption=f"{mark}mean over runs, %; gain: over {first}, in pairs, with a 95 % interval (seeds drawn anew)",
        frame=pd.DataFrame(rows, columns=[*heads]),
        heads=heads,
    )
