"""Numbers that the papers print (paper.csv, in percent), to stand beside numbers of ours on the same data.

They were made with the papers' own features, code and checkpoint rules, which are not stated; none of them is a
measurement of this library, and none belongs beside a synthetic number.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class PaperRow:
    """mAP in percent by tIoU, as printed. `ratio`: percent of classes seen."""

    source: str
    dataset: str
    ratio: int
    method: str
    per_tiou: dict[float, float]
    average: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "dataset": self.dataset,
            "ratio": self.ratio,
            "method": self.method,
            "unit": "percent",
            "mAP": {"average": self.average, **{f"{t:.2f}": v for t, v in self.per_tiou.items()}},
        }


def _read() -> tuple[PaperRow, ...]:
    with Path(__file__).with_name("paper.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    tious = [name for name in rows[0] if name[0].isdigit()]
    return tuple(
        PaperRow(
            source=row["source"],
            dataset=row["dataset"],
            ratio=int(row["ratio"]),
            method=row["method"],
            per_tiou={float(t): float(row[t]) for t in tious if row[t]},
            average=float(row["Avg"]),
        )
        for row in rows
    )


ROWS = _read()
# Table 2 prints averages only. Tables 2, 3, 4 and 6 are ablations on THUMOS14, table 8 is about encoders.
TABLES = {number: tuple(r for r in ROWS if r.source == f"paper, Table {number}") for number in "123468"}
PER_VIDEO_ROWS = tuple(row for row in ROWS if row.source == "CASCADE paper")  # not standard mAP, see per_video.py

# Lowest and highest split of PSFTR as the text of appendix F.3 gives them for Figures 7 and 8: (dataset, ratio).
SPLIT_RANGE = {
    ("thumos14", 75): (17.98, 35.07),
    ("thumos14", 50): (20.84, 34.46),
    ("activitynet13", 75): (27.01, 32.86),
    ("activitynet13", 50): (25.57, 28.06),
}


def comparable_rows(dataset: str, ratio: int) -> tuple[PaperRow, ...]:
    """Table 1's rows for a data set and ratio, worst first, PSFTR last; () where the paper has none."""
    return tuple(row for row in TABLES["1"] if (row.dataset, row.ratio) == (dataset, ratio))
