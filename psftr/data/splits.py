"""Class splits of zero-shot localization: published lists, seeded random draws, YAML files, held-out seen classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from psftr.errors import PsftrError
from psftr.files import nearest_names, read_yaml, write_text
from psftr.settings import SplitSettings

HELD_OUT = "held-out seen classes"  # the source of a split inside the seen classes
CLOSED = "closed"  # the source of the split with every class on both sides


@dataclass(frozen=True)
class ClassSplit:
    """Seen classes may be trained on, unseen ones are only ever tested. `ratio` is the percentage seen.

    With source CLOSED both sides are all classes: those of the training are looked for. Raises PsftrError if a side is
    empty, a name is repeated or, but for CLOSED, stands on both sides.
    """

    seen: tuple[str, ...]
    unseen: tuple[str, ...]
    source: str
    ratio: int
    index: int

    def __post_init__(self) -> None:
        for side, names in (("seen", self.seen), ("unseen", self.unseen)):
            if not names:
                raise PsftrError(f"split {self.name}: no {side} class; a split needs at least one on each side")
            repeated = [name for name, count in Counter(names).items() if count > 1]
            if repeated:
                raise PsftrError(f"split {self.name}: {side} lists {_quoted(repeated)} more than once")
        if self.source == CLOSED:
            return
        both = sorted(set(self.seen) & set(self.unseen))
        if both:
            raise PsftrError(f"split {self.name}: {_quoted(both)} on both sides; a class must be on one only")

    @property
    def name(self) -> str:
        return f"{self.ratio}/{100 - self.ratio} #{self.index} ({self.source})"

    def check_against(self, classes: Iterable[str]) -> None:
        """Raises PsftrError naming the split's classes that are not among `classes`, with the nearest known."""
        known = set(classes)
        strangers = [name for name in (*self.seen, *self.unseen) if name not in known]
        if strangers:
            raise PsftrError(
                f"split {self.name}: not among the {len(known)} annotated classes: {nearest_names(strangers, known)}"
            )


def open_split(settings: SplitSettings, *, splits_dir: str | Path, classes: Iterable[str]) -> ClassSplit:
    """The split that was asked for, checked against the annotated `classes`; published ones lie in `splits_dir`."""
    classes = tuple(classes)
    if settings.kind == CLOSED:
        split = closed_split(classes)
    elif settings.kind == "published":
        split = read_published_split(splits_dir, ratio=settings.ratio, index=settings.index)
    elif settings.kind == "random":
        split = random_split(classes, ratio=settings.ratio, index=settings.index, seed=settings.seed)
    elif settings.file is None:
        raise PsftrError("split.kind=file needs split.file=FILE, YAML with `seen` and `unseen`")
    else:
        split = read_split_file(settings.file)
    split.check_against(classes)
    return split


def closed_split(classes: Iterable[str]) -> ClassSplit:
    """Every class is trained on, and every class is looked for."""
    names = tuple(sorted(classes))
    return ClassSplit(names, names, CLOSED, ratio=100, index=0)


def read_published_split(splits_dir: str | Path, *, ratio: int, index: int) -> ClassSplit:
    """Read `train_75_test_25/{train,test}/split_{index}.list` (one name per line) under `splits_dir`."""
    folder = _published_folder(Path(splits_dir), ratio)
    if not folder.is_dir():
        there = sorted(p.name for p in Path(splits_dir).glob("train_*_test_*"))
        raise PsftrError(f"no published splits at {folder}; there are {', '.join(there) or 'none'} beside it")
    names = {}
    for side in ("train", "test"):
        path = folder / side / f"split_{index}.list"
        if not path.is_file():
            indices = sorted(int(p.stem.split("_")[1]) for p in (folder / side).glob("split_*.list"))
            raise PsftrError(f"no published split {index} at {path}; indices there: {indices}")
        names[side] = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return ClassSplit(names["train"], names["test"], "published", ratio, index)


def splits_that_test(names: Collection[str], splits_dir: str | Path) -> list[ClassSplit]:
    """The published splits below `splits_dir`, if any, whose unseen classes are exactly these."""
    found = []
    for file in sorted(Path(splits_dir).glob("train_*_test_*/test/split_*.list")):
        ratio, index = file.parts[-3].split("_")[1], file.stem.split("_")[1]
        if ratio.isdigit() and index.isdigit():
            split = read_published_split(splits_dir, ratio=int(ratio), index=int(index))
            found += [split] if set(split.unseen) == set(names) else []
    return sorted(found, key=lambda split: (-split.ratio, split.index))


def write_published_splits(splits_dir: str | Path, splits: Iterable[ClassSplit]) -> None:
    """Write each split in the published layout under its own ratio and index."""
    for split in splits:
        for side, names in (("train", split.seen), ("test", split.unseen)):
            path = _published_folder(Path(splits_dir), split.ratio) / side / f"split_{split.index}.list"
            write_text(path, "".join(f"{name}\n" for name in names))


def random_split(classes: Iterable[str], *, ratio: int, index: int, seed: int) -> ClassSplit:
    """Draw split `index` of the endless series that `seed` names; independent of the order of `classes`."""
    names = sorted(set(classes))
    if len(names) < 2 or not 0 < ratio < 100:
        raise PsftrError(f"a random split needs two classes and a ratio in 1..99, got {len(names)} and {ratio}")
    num_seen = min(max(round(len(names) * ratio / 100), 1), len(names) - 1)
    order = np.random.default_rng([seed, ratio, index]).permutation(len(names))
    seen = {names[i] for i in order[:num_seen]}
    return ClassSplit(
        tuple(n for n in names if n in seen), tuple(n for n in names if n not in seen), "random", ratio, index
    )


def read_split_file(path: str | Path) -> ClassSplit:
    """Read YAML with lists `seen` and `unseen` and, optionally, numbers `ratio` and `index`."""
    path = Path(path)
    document = read_yaml(path, missing="no such split file")
    if not isinstance(document, dict):
        raise PsftrError(f"{path}: expected two lists, seen and unseen, got {type(document).__name__}")
    unknown = sorted(set(map(str, document)) - {"seen", "unseen", "ratio", "index"})
    if unknown:
        raise PsftrError(f"{path}: unknown key {_quoted(unknown)}; a split file has seen, unseen, ratio and index")
    sides: dict[str, tuple[str, ...]] = {}
    for side in ("seen", "unseen"):
        names: Any = document.get(side)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise PsftrError(f"{path}: {side} must be a list of class names (quote names that look like numbers)")
        sides[side] = tuple(names)
    total = len(sides["seen"]) + len(sides["unseen"])
    ratio = document.get("ratio", round(100 * len(sides["seen"]) / max(total, 1)))
    index = document.get("index", 0)
    if not isinstance(ratio, int) or not isinstance(index, int):
        raise PsftrError(f"{path}: ratio and index must be whole numbers, got {ratio!r} and {index!r}")
    return ClassSplit(sides["seen"], sides["unseen"], f"file:{path.name}", ratio, index)


def hold_out_classes(split: ClassSplit, *, count: int, seed: int) -> ClassSplit:
    """A split inside `split.seen` for tuning without a look at the unseen: `unseen` are the seen classes held out."""
    if not 0 < count < len(split.seen):
        raise PsftrError(f"cannot hold {count} of {len(split.seen)} seen classes out: keep one on each side")
    chosen = set(np.random.default_rng([seed, split.index]).permutation(len(split.seen))[:count].tolist())
    return ClassSplit(
        seen=tuple(name for i, name in enumerate(split.seen) if i not in chosen),
        unseen=tuple(name for i, name in enumerate(split.seen) if i in chosen),
        source=HELD_OUT,
        ratio=split.ratio,
        index=split.index,
    )


def _published_folder(splits_dir: Path, ratio: int) -> Path:
    return splits_dir / f"train_{ratio}_test_{100 - ratio}"


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
