"""Ten class splits -> mean and spread. A split that is missing is named, never averaged away."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from psftr.errors import PsftrError
from psftr.evaluation.average_precision import ApResult
from psftr.evaluation.facts import Facts
from psftr.evaluation.paper import PaperRow, comparable_rows
from psftr.evaluation.protocol import Evaluation, Protocol

STD_KIND = "sample standard deviation over splits (n - 1)"


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (NaN for a single value) of `count` values."""

    mean: float
    std: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        values = list(values)
        return cls(fmean(values) if values else math.nan, stdev(values) if len(values) > 1 else math.nan, len(values))

    def to_dict(self) -> dict[str, Any]:
        return {
            "mean": _or_null(self.mean),
            "std": _or_null(self.std),
            "count": self.count,
        }


@dataclass(frozen=True, eq=False)
class TenSplitReport:
    """Evaluations of one method on the splits of one ratio, by split index, rising."""

    evaluations: tuple[Evaluation, ...]
    expected: tuple[int, ...]

    @property
    def protocol(self) -> Protocol:
        return self.evaluations[0].protocol

    @property
    def method(self) -> str:
        return self.evaluations[0].facts.method

    @property
    def synthetic(self) -> bool:
        return any(e.facts.synthetic for e in self.evaluations)

    @property
    def ratio(self) -> int:
        return _ratio(self.evaluations[0])

    @property
    def indices(self) -> tuple[int, ...]:
        return tuple(_index(e) for e in self.evaluations)

    @property
    def missing(self) -> tuple[int, ...]:
        return tuple(i for i in self.expected if i not in self.indices)

    @property
    def coverage(self) -> str:
        """The sentence that says which splits the mean is over."""
        number = len(self.evaluations)
        if not self.missing:
            return f"all splits {_span(self.expected)}: mean over {number}"
        told = ", ".join(map(str, self.missing))
        return f"SPLITS {told} MISSING of {_span(self.expected)}: mean over {number}"

    @property
    def average(self) -> Spread:
        return Spread.of(e.ap.average for e in self.evaluations)

    @property
    def per_tiou(self) -> dict[float, Spread]:
        rows = [e.ap.map_per_tiou for e in self.evaluations]
        return {t: Spread.of(float(row[i]) for row in rows) for i, t in enumerate(self.protocol.tious)}

    @property
    def without_double_labels(self) -> Spread | None:
        """Average mAP with the doubly labelled classes taken out where they straddle; None if they never
        do."""
        if all(e.without_double_labels is None for e in self.evaluations):
            return None
        return Spread.of((e.without_double_labels or e.ap).average for e in self.evaluations)

    @property
    def per_class(self) -> dict[str, Spread]:
        """Each class over the splits in which it is to be found: AP averaged over tIoUs, best first."""
        values: dict[str, list[float]] = {}
        for evaluation in self.evaluations:
            for name, value in evaluation.ap.ap_per_class.items():
                values.setdefault(name, []).append(value)
        spreads = {name: Spread.of(v) for name, v in values.items()}
        return dict(sorted(spreads.items(), key=lambda item: (-item[1].mean, item[0])))

    @property
    def shared_facts(self) -> list[tuple[str, str]]:
        """Facts that are the same for every split."""
        first, *others = (e.facts.rows() for e in self.evaluations)
        return [row for row in first if all(row in rows for rows in others)]

    @property
    def differing_facts(self) -> dict[tuple[str, str], tuple[int, ...]]:
        """Every other fact -> the splits it holds for; counts, which tables show by split, are left out."""
        shared = set(self.shared_facts)
        holds: dict[tuple[str, str], tuple[int, ...]] = {}
        for index, evaluation in zip(self.indices, self.evaluations):
            for row in evaluation.facts.rows():
                if row not in shared and row[0] != "counts":
                    holds[row] = (*holds.get(row, ()), index)
        return holds

    @property
    def paper_rows(self) -> tuple[PaperRow, ...]:
        """Published rows of the same data set and ratio; none beside synthetic numbers."""
        return () if self.synthetic else comparable_rows(self.protocol.dataset, self.ratio)

    def to_dict(self) -> dict[str, Any]:
        without = self.without_double_labels
        return {
            "dataset": self.protocol.dataset,
            "ratio": self.ratio,
            "protocol": self.protocol.name,
            "synthetic": self.synthetic,
            "method": self.method,
            "unit": "fraction of 1",
            "std": STD_KIND,
            "splits": {"evaluated": list(self.indices), "missing": list(self.missing), "text": self.coverage},
            "mAP": {
                "average": self.average.to_dict(),
                **{f"{t:.2f}": spread.to_dict() for t, spread in self.per_tiou.items()},
            },
            "without_double_labels": without and without.to_dict(),
            "per_class": {name: spread.to_dict() for name, spread in self.per_class.items()},
            "per_split": [e.to_dict() for e in self.evaluations],
            "paper": [row.to_dict() for row in self.paper_rows],
        }


def aggregate(evaluations: Sequence[Evaluation], *, expected: Iterable[int] = range(10)) -> TenSplitReport:
    """Put the splits of one ratio together. Raises PsftrError for evaluations that must not be averaged."""
    if not evaluations:
        raise PsftrError("no evaluation to aggregate; evaluate at least one split")
    first = evaluations[0]
    for other in evaluations[1:]:
        differing = [
            f"{f.name} {getattr(first.protocol, f.name)!r} and {getattr(other.protocol, f.name)!r}"
            for f in fields(Protocol)
            if getattr(first.protocol, f.name) != getattr(other.protocol, f.name)
        ]
        for what, one, two in (
            ("ratio", _ratio(first), _ratio(other)),
            ("split source", first.split and first.split.source, other.split and other.split.source),
            ("method", _method(first.facts), _method(other.facts)),
            ("checkpoint rule", first.facts.checkpoint, other.facts.checkpoint),
            ("synthetic", first.facts.synthetic, other.facts.synthetic),
        ):
            if one != two:
                differing.append(f"{what} {one!r} and {two!r}")
        if differing:
            raise PsftrError(
                f"these evaluations have no common mean, they differ in {'; '.join(differing)}: aggregate them apart"
            )
    indices = [_index(e) for e in evaluations]
    twice = sorted({i for i in indices if indices.count(i) > 1})
    if twice:
        raise PsftrError(f"split {', '.join(map(str, twice))} evaluated more than once; give one evaluation per split")
    return TenSplitReport(
        evaluations=tuple(sorted(evaluations, key=_index)),
        expected=tuple(sorted({*expected, *indices})),
    )


def write_report(folder: str | os.PathLike[str], report: TenSplitReport) -> list[Path]:
    """evaluation.json (everything), per_split.csv and per_class.csv under `folder`; returns their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    everything = folder / "evaluation.json"
    everything.write_text(json.dumps(report.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    tious = [f"mAP@{t:.2f}" for t in report.protocol.tious]
    per_split = _write_csv(
        folder / "per_split.csv",
        ["split", "synthetic", "protocol", "mAP", *tious, "videos", "actions", "training_videos"],
        [
            [
                _index(e),
                e.facts.synthetic,
                e.protocol.name,
                e.ap.average,
                *e.ap.map_per_tiou.tolist(),
                e.num_videos,
                int(e.ap.num_ground_truth.sum()),
                "" if e.num_training_videos is None else e.num_training_videos,
            ]
            for e in report.evaluations
        ],
    )
    per_class = _write_csv(
        folder / "per_class.csv",
        [
            "split",
            "class",
            "synthetic",
            "protocol",
            "AP",
            *(t.replace("mAP", "AP") for t in tious),
            "actions",
            "detections",
        ],
        [
            [_index(e), name, e.facts.synthetic, e.protocol.name, *row]
            for e in report.evaluations
            for name, row in _class_rows(e.ap)
        ],
    )
    return [everything, per_split, per_class]


def _class_rows(ap: ApResult) -> list[tuple[str, list[Any]]]:
    return [
        (name, [means, *ap.ap[c].tolist(), int(ap.num_ground_truth[c]), int(ap.num_detections[c])])
        for c, (name, means) in enumerate(zip(ap.classes, ap.ap.mean(axis=1).tolist()))
    ]


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def _index(evaluation: Evaluation) -> int:
    return evaluation.split.index if evaluation.split else 0


def _ratio(evaluation: Evaluation) -> int:
    return evaluation.split.ratio if evaluation.split else 100


def _method(facts: Facts) -> str:
    return facts.method.partition(" (")[0]  # the code version may differ between runs; it is printed


def _span(indices: Sequence[int]) -> str:
    rises_by_one = list(indices) == list(range(indices[0], indices[-1] + 1))
    return f"{indices[0]}..{indices[-1]}" if rises_by_one and len(indices) > 1 else ", ".join(map(str, indices))


def _or_null(value: float) -> float | None:
    return value if math.isfinite(value) else None
