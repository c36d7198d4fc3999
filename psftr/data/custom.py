"""A data set of one's own: a folder with annotations, a class split and features, and one file that names them.

    <folder>/dataset.yaml      what `dataset=FILE` takes: the name, the subsets, where features are
    <folder>/annotations.json  ActivityNet's layout
    <folder>/split.yaml        seen and unseen classes, if they were given; else splits are drawn
    <folder>/features.h5       unless dataset.yaml names another store
    <folder>/troubles.json     everything odd about the annotations; prepared.json: where they came from

dataset.yaml holds settings of the group `dataset` and nothing else, so it is also an option of that group for Hydra.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from psftr import __version__
from psftr.data.annotations import Annotations, read_annotations, write_annotations
from psftr.data.checks import by_kind
from psftr.data.datasets import DATASETS, NAME, OWN_TIOUS
from psftr.data.record import read_record, write_record
from psftr.data.splits import ClassSplit, read_split_file
from psftr.errors import PsftrError
from psftr.features.arrays import import_npy_folder
from psftr.features.store import FeatureStore
from psftr.files import read_yaml, replacing, sha256_of, write_json, write_text
from psftr.settings import DatasetSettings, from_dict, to_dict

FILE, SPLIT = "dataset.yaml", "split.yaml"
TRAIN, TEST = "training", "test"  # names of the subsets that are drawn
PATHS = ("root", "annotations", "splits", "features")


@dataclass(frozen=True, kw_only=True)
class Features:
    """Where features come from: a store, or a folder of arrays with their info JSON, encoder and stride."""

    path: Path
    info: Path | None = None
    encoder: str | None = None
    stride: int | None = None


def prepare_custom(
    out: str | Path,
    *,
    name: str,
    annotations: str | Path,
    subsets: Sequence[str] = (),
    test_share: float | None = None,
    seed: int | None = None,
    ignore_labels: Sequence[str] | None = None,
    tious: Sequence[float] | None = None,
    split: str | Path | None = None,
    features: Features | None = None,
) -> list[str]:
    """Write the folder `out` of a data set; returns what was found, as lines.

    subsets: the names of those to train on and to test on; or test_share: the share of the videos that is drawn for the
    test, where the annotations name no subsets. Raises PsftrError for anything that cannot be a data set.
    """
    out = Path(out)
    if not NAME.fullmatch(name) or name in DATASETS or name == "custom":
        raise PsftrError(f"--name {name}: use letters, digits, '_', '.' and '-', and none of {', '.join(DATASETS)}")
    record = read_record(out)
    if record is not None and record.get("dataset") != name:
        raise PsftrError(f"{out} holds {record.get('dataset')}: give {name} a folder of its own with --out")
    given = read_annotations(annotations, ignore_labels=ignore_labels or ())
    train, test = subsets if subsets else _drawn(given, test_share, annotations)
    if not subsets:
        given = _draw_subsets(given, share=float(test_share or 0), seed=seed or 0)
    if train == test:
        raise PsftrError(f"--subset {train} {test}: training would see the test videos; name two subsets")
    for subset in (train, test):
        given.subset(subset)
    classes = read_split_file(split) if split is not None else None
    if classes is not None:
        classes.check_against(given.classes)
    elif len(given.classes) < 2:
        raise PsftrError(
            f"{annotations} has {len(given.classes)} class; zero-shot needs seen and unseen ones, two or more"
        )
    out.mkdir(parents=True, exist_ok=True)
    settings = {"name": name, "train_subset": train, "test_subset": test, "tious": list(tious or OWN_TIOUS)}
    if ignore_labels:
        settings["ignore_labels"] = list(ignore_labels)
    store = None
    if features is not None:
        path = _features_in_place(out, features)
        store = FeatureStore(path)
        given = _with_durations(given, store)
        if path != out / "features.h5":
            settings["features"] = os.path.relpath(path, out)
    checked = from_dict(DatasetSettings, settings)
    write_annotations(out / "annotations.json", given)
    if classes is not None:
        sides = {"seen": list(classes.seen), "unseen": list(classes.unseen)}
        write_text(out / SPLIT, yaml.safe_dump(sides, allow_unicode=True, sort_keys=False))
    troubles = by_kind(given.troubles)
    cases = {kind: [{"video_id": t.video_id, "detail": t.detail} for t in ts] for kind, ts in troubles.items()}
    write_json(out / "troubles.json", cases)
    body = yaml.safe_dump({key: to_dict(checked)[key] for key in settings}, allow_unicode=True, sort_keys=False)
    head = f"# {name} for psftr: psftr train dataset={out / FILE}\n# paths are relative to this file\n"
    write_text(out / FILE, head + body)
    facts = {
        "dataset": name,
        "synthetic": store is not None and store.synthetic,
        "created_by": f"psftr {__version__}",
        "origin": f"imported from {annotations}",
        "troubles": {kind: len(ts) for kind, ts in troubles.items()},
        "features": None if store is None else store.provenance(),
        "files": {file: sha256_of(out / file) for file in (FILE, "annotations.json")},
    }
    write_record(out, facts)
    return summary(out, given, (train, test), classes, store)


def read_dataset_file(path: str | Path) -> dict[str, Any]:
    """The settings of the group `dataset` that a file of `prepare_custom` holds, with paths as seen from here.

    Raises PsftrError for a file that is not one, and for a setting that does not exist or does not fit.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    content = read_yaml(path, missing="no such file; `psftr prepare custom` writes one")
    if not isinstance(content, dict) or not isinstance(content.get("name"), str):
        raise PsftrError(f"{path}: not a data set file: it must say at least name, train_subset and test_subset")
    try:
        settings = from_dict(DatasetSettings, content)
    except PsftrError as error:
        raise PsftrError(f"{path}: {error}") from None
    if settings.name in DATASETS:
        raise PsftrError(f"{path}: {settings.name} is a data set that psftr knows: write dataset={settings.name}")
    if settings.train_subset is None or settings.test_subset is None:
        raise PsftrError(f"{path}: must say train_subset and test_subset, the videos to train on and to test on")
    held = {key: to_dict(settings)[key] for key in content}
    held.setdefault("root", "")
    return {key: _seen_from_here(value, path.parent) if key in PATHS else value for key, value in held.items()}


def summary(
    out: Path, annotations: Annotations, subsets: Iterable[str], split: ClassSplit | None, store: FeatureStore | None
) -> list[str]:
    lines = [f"{out / FILE}"]
    for role, subset in zip(("training", "testing"), subsets):
        videos = annotations.subset(subset)
        with_features = "" if store is None else f", {sum(v.video_id in store for v in videos):,} with features"
        actions = sum(len(video.actions) for video in videos)
        lines.append(f"  {subset}, for {role}: {len(videos):,} videos, {actions:,} actions{with_features}")
    drawn = "ten splits 75/25 and 50/50 are drawn: split.ratio=75|50 split.index=0..9"
    named = "" if split is None else f"split: {len(split.seen)} seen and {len(split.unseen)} unseen classes"
    lines.append(f"  {len(annotations.classes)} classes; {named or drawn}")
    troubles = Counter(trouble.kind for trouble in annotations.troubles)
    lines.append(f"Troubles: {sum(troubles.values()) or 'none'}")
    lines += [f"  {count} x {kind}, see {out / 'troubles.json'}" for kind, count in troubles.most_common()]
    if store is None:
        lines.append(f"Features: none yet: psftr extract VIDEOS --out {out / 'features.h5'}")
    else:
        what = "SYNTHETIC features, no numbers about real videos" if store.synthetic else "features"
        lines.append(f"Features: {what}: {len(store):,} videos, {store.encoder}, {store.path}")
    lines.append(f"next: psftr train dataset={out}")
    return lines


def _drawn(annotations: Annotations, share: float | None, path: str | Path) -> tuple[str, str]:
    if share is None:
        there = ", ".join(f"{name!r} ({len(annotations.subset(name))} videos)" for name in annotations.subsets)
        if annotations.subsets == ("",):
            raise PsftrError(
                f"{path} names no subsets: draw test videos with --test-share 0.4, or add them to the file"
            )
        raise PsftrError(f"--subset TRAIN TEST is missing; {path} has {there}")
    if annotations.subsets != ("",):
        raise PsftrError(f"{path} has the subsets {', '.join(annotations.subsets)}: name two with --subset TRAIN TEST")
    return TRAIN, TEST


def _draw_subsets(annotations: Annotations, *, share: float, seed: int) -> Annotations:
    """A seeded draw of videos: at least one on either side."""
    ids = sorted(annotations.videos)
    if len(ids) < 2:
        raise PsftrError("one video cannot be trained on and tested on: give more")
    count = min(max(1, round(share * len(ids))), len(ids) - 1)
    test = {ids[i] for i in np.random.default_rng(seed).permutation(len(ids))[:count]}
    videos = annotations.videos.values()
    return annotations.with_videos(replace(v, subset=TEST if v.video_id in test else TRAIN) for v in videos)


def _features_in_place(out: Path, features: Features) -> Path:
    """The store: where it is, or made of a folder of arrays."""
    path = features.path
    if not path.is_dir() or not any(path.glob("*.npy")):
        return path
    if features.encoder is None or features.info is None or features.stride is None:
        raise PsftrError(f"--features {path} holds arrays: they need --encoder NAME, --stride N and --info FILE")
    with replacing(out / "features.h5") as store:
        import_npy_folder(path, features.info, store, encoder=features.encoder, stride=features.stride)
    return out / "features.h5"


def _with_durations(annotations: Annotations, store: FeatureStore) -> Annotations:
    """With the lengths that the features know, where the annotations do not say them."""
    return annotations.with_videos(
        replace(video, duration_s=store.timeline(video.video_id).duration_s)
        if math.isnan(video.duration_s) and video.video_id in store
        else video
        for video in annotations.videos.values()
    )


def _seen_from_here(value: str | None, folder: Path) -> str | None:
    return None if value is None else str(folder / value)
