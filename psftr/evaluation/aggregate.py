"""Ten class splits -> mean and spread. A split that is missing is named, never averaged away."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from statistics import fmean, stdev
from typing import Any

from psftr.errors import PsftrError
from psftr.evaluation.facts import NOT_STATED, mark
from psftr.evaluation.paper import PaperRow, comparable_rows
from psftr.evaluation.protocol import Evaluation
from psftr.evaluation.rules import Protocol

STD_KIND = "sample standard deviation over splits (n - 1)"
PUBLISHED_SPLITS = range(10)


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

    @property
    def percent(self) -> str:
        """ "40.00 ± 10.00", or the mean alone."""
        return f"{100 * self.mean:.2f}" + ("" if math.isnan(self.std) else f" ± {100 * self.std:.2f}")

    def to_dict(self) -> dict[str, Any]:
        mean, std = (value if math.isfinite(value) else None for value in (self.mean, self.std))
        return {"mean": mean, "std": std, "count": self.count}


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
        """Without the code version."""
        return self.evaluations[0].method

    @property
    def synthetic(self) -> bool:
        return any(e.facts.synthetic for e in self.evaluations)

    @property
    def worth(self) -> tuple[str, ...]:
        """What holds of any of the evaluations."""
        return tuple(dict.fromkeys(word for e in self.evaluations for word in e.worth))

    @property
    def mark(self) -> str:
        return mark(self.worth)

    @property
    def ratio(self) -> int:
        return self.evaluations[0].ratio

    @property
    def ratio_text(self) -> str:
        return "all classes" if self.ratio == 100 else f"{self.ratio}/{100 - self.ratio}"

    @property
    def indices(self) -> tuple[int, ...]:
        return tuple(e.index for e in self.evaluations)

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
        """Average mAP with the doubly labelled classes taken out where they straddle; None if they never do."""
        if all(e.without_double_labels is None for e in self.evaluations):
            return None
        return Spread.of((e.without_double_labels or e.ap).average for e in self.evaluations)

    @property
    def per_class(self) -> dict[str, Spread]:
        """Each class over the splits in which it is unseen: AP averaged over tIoUs, best first."""
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
                if row not in shared and row[0] not in ("counts", "training"):
                    holds[row] = (*holds.get(row, ()), index)
        return holds

    @property
    def differing_rows(self) -> list[tuple[str, str]]:
        """(splits, topic and sentence) of the differing facts."""
        return [
            (f"split{'s' if len(indices) > 1 else ''} {' '.join(map(str, indices))}", f"{topic}: {sentence}")
            for (topic, sentence), indices in self.differing_facts.items()
        ]

    @property
    def paper_rows(self) -> tuple[PaperRow, ...]:
        """Published rows of the same data set and ratio; none beside synthetic numbers."""
        return () if self.synthetic else comparable_rows(self.protocol.dataset, self.ratio)

    @property
    def is_data_scale_known(self) -> bool:
        """Every run says how many videos it was trained on."""
        return all(e.training.videos for e in self.evaluations)

    def to_dict(self) -> dict[str, Any]:
        without = self.without_double_labels
        return {
            "dataset": self.protocol.dataset,
            "ratio": self.ratio,
            "protocol": self.protocol.name,
            "synthetic": self.synthetic,
            "method": self.evaluations[0].facts.method,
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


def aggregate(evaluations: Sequence[Evaluation], *, expected: Iterable[int] = PUBLISHED_SPLITS) -> TenSplitReport:
    """Put the splits of one ratio together. Raises PsftrError for evaluations that must not be averaged."""
    if not evaluations:
        raise PsftrError("no evaluation to aggregate; evaluate at least one split")
    first = _setting(evaluations[0])
    for other in map(_setting, evaluations[1:]):
        differing = [f"{what} {one!r} and {other[what]!r}" for what, one in first.items() if one != other[what]]
        if differing:
            raise PsftrError(
                f"these evaluations have no common mean, they differ in {'; '.join(differing)}: aggregate them apart"
            )
    indices = [e.index for e in evaluations]
    twice = sorted({i for i in indices if indices.count(i) > 1})
    if twice:
        raise PsftrError(f"split {', '.join(map(str, twice))} evaluated more than once; give one evaluation per split")
    return TenSplitReport(
        evaluations=tuple(sorted(evaluations, key=lambda e: e.index)),
        expected=tuple(sorted({*expected, *indices})),
    )


def group_reports(evaluations: Iterable[Evaluation], *, expected: Iterable[int] | None = None) -> list[TenSplitReport]:
    """One report for all evaluations that have a common mean, in order of first appearance.

    expected: default all ten where several published splits are given, else those that are there.
    """
    groups: dict[str, list[Evaluation]] = {}
    for evaluation in evaluations:
        groups.setdefault(repr(_setting(evaluation)), []).append(evaluation)
    wanted = None if expected is None else list(expected)
    reports = []
    for group in groups.values():
        published = len(group) > 1 and group[0].split is not None and group[0].split.source == "published"
        default = PUBLISHED_SPLITS if published else [e.index for e in group]
        reports.append(aggregate(group, expected=default if wanted is None else wanted))
    return reports


def tell_apart(evaluations: Mapping[str, Evaluation]) -> dict[str, Evaluation]:
    """The evaluations by file name, with a method's name of their own where the files do not give them one.

    A file that does not state its method is called by its name. So are files of one method that are all of one split:
    they are not parts of a mean, but stand beside each other.
    """
    alike: dict[str, list[int]] = {}
    for evaluation in evaluations.values():
        alike.setdefault(repr(_setting(evaluation)), []).append(evaluation.index)
    named = {}
    for name, evaluation in evaluations.items():
        indices = alike[repr(_setting(evaluation))]
        if evaluation.facts.method == NOT_STATED or (len(indices) > 1 and len(set(indices)) == 1):
            method = f"{name} ({evaluation.facts.method})"
            evaluation = replace(evaluation, facts=replace(evaluation.facts, method=method))
        named[name] = evaluation
    return named


def _setting(evaluation: Evaluation) -> dict[str, Any]:
    """What evaluations with a common mean must agree in; the code version may differ, it is printed."""
    return {
        **{f.name: getattr(evaluation.protocol, f.name) for f in fields(Protocol)},
        "ratio": evaluation.ratio,
        "split source": evaluation.split and evaluation.split.source,
        "method": evaluation.method,
        "checkpoint rule": evaluation.facts.checkpoint,
        "synthetic": evaluation.facts.synthetic,
        "number of held-out classes": len(evaluation.training.held_out),
    }


def _span(indices: Sequence[int]) -> str:
    rises_by_one = list(indices) == list(range(indices[0], indices[-1] + 1))
    return f"{indices[0]}..{indices[-1]}" if rises_by_one and len(indices) > 1 else ", ".join(map(str, indices))
