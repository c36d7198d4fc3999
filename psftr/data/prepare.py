"""Real datasets into the folder that `psftr train` reads: annotations, published splits, features if there are any.

    <out>/annotations.json   as published (ActivityNet: BSN's files re-written into ActivityNet's own layout)
    <out>/splits/            the ten published class splits of either ratio
    <out>/info.json          frame rate and length of every video, as published with CLIP features
    <out>/features.h5        only if imported or simulated; <out>/text.h5 beside simulated ones
    <out>/troubles.json      everything odd about the annotations, by kind
    <out>/prepared.json      where it all came from
    <out>/source/            what was downloaded (not with `--from`)

Nothing is repaired: troubles are listed, and what to leave out is configuration.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from psftr import __version__
from psftr.data.annotations import read_annotations
from psftr.data.checks import (
    Report,
    by_kind,
    count_notes,
    feature_troubles,
    more_troubles,
    published,
    read_splits,
    split_notes,
)
from psftr.data.datasets import DatasetSpec, dataset_spec
from psftr.data.download import base_url, fetch
from psftr.data.record import read_record, write_record
from psftr.data.synthetic import generator_facts, simulate_features
from psftr.errors import PsftrError
from psftr.features.arrays import VideoInfo, import_npy_folder, read_info
from psftr.features.store import FeatureStore
from psftr.files import csv_rows, read_json, replacing, sha256_of, some, write_json
from psftr.predictions import canonical_id
from psftr.segments import Timeline

Progress = Callable[[int, int], None]
BSN_ANNOTATIONS = "anet_anno_action.json"  # not in ActivityNet's own layout


def prepare(
    name: str,
    out: str | Path,
    *,
    source: str | Path | None = None,
    base: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Write the dataset folder `out` from `source`, or from what is downloaded into `out`/source; check all of it.

    Raises PsftrError if anything is missing, damaged or contradicts itself; then `out` is as it was, downloads aside.
    """
    spec, out = dataset_spec(name), Path(out)
    published_files = published(spec).files
    record = read_record(out)
    if record is not None and record.get("dataset") != name:
        raise PsftrError(f"{out} holds {record.get('dataset')}: give {name} a folder of its own with --out")
    if source is None:
        folder = out / "source"
        fetch(published_files, folder, base=base_url(base), progress=progress)
        origin = "downloaded from " + " and ".join(sorted({f.repository for f in published_files}))
    else:
        folder = Path(source)
        if not folder.is_dir():
            raise PsftrError(f"--from {folder}: no such folder")
        origin = f"imported from {folder}"
    staging = out / f".preparing-{uuid.uuid4().hex}"
    try:
        notes = _stage(spec, folder, staging)
        annotations = read_annotations(staging / "annotations.json")
        infos = read_known_infos(staging / "info.json")
        notes += count_notes(spec, annotations)
        notes += split_notes(annotations, read_splits(staging / "splits", annotations))
        for file in sorted(path.relative_to(staging) for path in staging.rglob("*") if path.is_file()):
            (out / file).parent.mkdir(parents=True, exist_ok=True)
            os.replace(staging / file, out / file)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    troubles = by_kind([*annotations.troubles, *more_troubles(spec, annotations, infos)])
    report = Report(spec, out, origin, annotations, tuple(notes), troubles, None)
    before = (record or {}).get("features") or {}
    return _with_features(report, generator=before.get("generator"), identity=before.get("identity"))


def simulate(
    report: Report,
    *,
    seed: int = 0,
    dim: int = 512,
    subset: str | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Write features.h5 and text.h5, synthetic and saying so, over the real timelines; kept if the same are there.

    `subset`: only its videos; `limit`: only the first so many of each subset. A subset without any action is left out.
    """
    out = report.root
    generator = {**generator_facts(), "seed": seed, "dim": dim, "subset": subset, "limit": limit}
    _refuse_real_features(report)
    same = report.features is not None and report.features.get("generator") == generator
    if same and (out / "text.h5").is_file():
        return report
    timelines = timelines_of(report, subset=subset, limit=limit)
    needed = 2 * dim * sum(timeline.num_steps for timeline in timelines.values())
    free = shutil.disk_usage(out).free
    if needed > 0.95 * free:
        raise PsftrError(
            f"the features need {needed / 1e9:.1f} GB, {out} has {free / 1e9:.1f} GB left: "
            "write fewer with --subset or --limit"
        )
    # the text takes its place first: a store without its text is never there
    with replacing(out / "features.h5") as store, replacing(out / "text.h5") as text:
        simulate_features(report.annotations, timelines, store, text, seed=seed, dim=dim, progress=progress)
    return _with_features(report, generator=generator)


def import_features(
    report: Report, arrays: str | Path, *, encoder: str, stride: int | None = None, info: str | Path | None = None
) -> Report:
    """Make features.h5 of a folder of `<video id>.npy` arrays; `info`: their info JSON, by default the published one.

    Replaces simulated features and their text; real ones are left alone (PsftrError).
    """
    out, own_stride = report.root, published(report.spec).stride
    stride = own_stride if stride is None else stride
    _refuse_real_features(report)
    if not Path(arrays).is_dir():
        raise PsftrError(f"--features {arrays}: no such folder; it should hold one <video id>.npy per video")
    if info is None and stride != own_stride:
        raise PsftrError(f"the published info is for stride {own_stride}: give that of stride {stride} with --info")
    with replacing(out / "features.h5") as store:
        import_npy_folder(arrays, info or out / "info.json", store, encoder=encoder, stride=stride)
    if report.features is not None:  # the text of the simulated features fits no others
        (out / "text.h5").unlink(missing_ok=True)
    return _with_features(report)


def timelines_of(report: Report, *, subset: str | None = None, limit: int | None = None) -> dict[str, Timeline]:
    """Feature timelines of the videos: from the published info, else from the annotation's own rate and length."""
    own_stride, annotations = published(report.spec).stride, report.annotations
    if limit is not None and limit < 1:
        raise PsftrError(f"--limit must be at least 1, got {limit}")
    infos = read_known_infos(report.root / "info.json")
    names = [subset] if subset is not None else list(annotations.subsets)
    timelines: dict[str, Timeline] = {}
    for name in names:
        videos = annotations.subset(name)
        if subset is None and not any(video.actions for video in videos):
            continue
        for video in videos[:limit]:
            info = infos.get(video.video_id)
            if info is not None:
                timelines[video.video_id] = info.timeline(own_stride)
            elif video.fps is not None and video.duration_s * video.fps >= own_stride:
                num_steps = int(video.duration_s * video.fps) // own_stride
                timelines[video.video_id] = Timeline(own_stride, video.fps, num_steps, video.duration_s)
    if not timelines:
        raise PsftrError(
            f"no video of {report.spec.title} has a known frame rate: info.json and annotations disagree on all ids"
        )
    return timelines


def read_known_infos(path: Path) -> dict[str, VideoInfo]:
    return {canonical_id(video_id): info for video_id, info in read_info(path).items()}


def _stage(spec: DatasetSpec, folder: Path, staging: Path) -> list[str]:
    """Copy what is needed from `folder` into `staging`; returns notes."""
    source = published(spec)
    first_list = "splits/train_75_test_25/train/split_0.list"
    for wanted in (source.annotation_files, (source.info_file,), (first_list,)):
        if not any((folder / name).is_file() for name in wanted):
            raise PsftrError(f"{folder} lacks {' or '.join(wanted)}: see data/README.md for the files of {spec.title}")
    found = next(name for name in source.annotation_files if (folder / name).is_file())
    staging.mkdir(parents=True)
    if found == BSN_ANNOTATIONS:
        _rewrite_bsn(folder, staging / "annotations.json")
    else:
        shutil.copyfile(folder / found, staging / "annotations.json")
    shutil.copyfile(folder / source.info_file, staging / "info.json")
    lists = sorted((folder / "splits").glob("train_*_test_*/t*/split_*.list"))
    for path in lists:
        (staging / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, staging / path.relative_to(folder))
    pinned = {file.name: file.sha256 for file in source.files}
    other = [] if sha256_of(staging / "annotations.json") == source.annotation_sha256 else [found]
    copies = {source.info_file: "info.json"} | {
        name: name for name in (p.relative_to(folder).as_posix() for p in lists)
    }
    other += [name for name, copy in copies.items() if pinned.get(name) != sha256_of(staging / copy)]
    if not other:
        return ["all files are the published ones (SHA-256)"]
    return [f"other than the published files (SHA-256): {some(other)}"]


def _rewrite_bsn(folder: Path, path: Path) -> None:
    """BSN's `{v_id: {duration_second, annotations}}` and its CSV of subsets, as ActivityNet's own layout."""
    entries = read_json(folder / BSN_ANNOTATIONS, remedy="give BSN's annotations")
    subsets = {row["video"]: row["subset"] for _, row in csv_rows(folder / "video_info_new.csv", ("video", "subset"))}
    try:
        database = {
            canonical_id(key): {
                "duration": entry["duration_second"],
                "subset": subsets[key],
                "annotations": entry["annotations"],
            }
            for key, entry in entries.items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise PsftrError(f"{folder}: {BSN_ANNOTATIONS} and video_info_new.csv are not BSN's: {error!r}") from None
    write_json(path, {"version": "VERSION 1.3", "database": database}, indent=None)


def _refuse_real_features(report: Report) -> None:
    if report.features is not None and not report.features["synthetic"]:
        path, encoder = report.root / "features.h5", report.features["encoder"]
        raise PsftrError(f"{path} holds features of {encoder}: move them away first, they are not overwritten")


def _with_features(
    report: Report, *, generator: Mapping[str, Any] | None = None, identity: str | None = None
) -> Report:
    """The report with what is in features.h5, written down; `generator` made it if it is `identity` (None: it did)."""
    path = report.root / "features.h5"
    if not path.exists():
        return _save(report)
    store = FeatureStore(path)
    facts = {
        **store.provenance(),
        "videos": len(store),
        "rows": sum(store.timeline(video_id).num_steps for video_id in store.video_ids),
        "bytes": sum(p.stat().st_size for p in ([path] if path.is_file() else path.iterdir())),
    }
    if generator is not None and identity in (None, store.identity):
        facts["generator"] = dict(generator)
    troubles = [trouble for cases in report.troubles.values() for trouble in cases]
    if not store.synthetic:
        troubles += feature_troubles(report.annotations, read_known_infos(report.root / "info.json"), store)
    return _save(replace(report, features=facts, troubles=by_kind(troubles)))


def _save(report: Report) -> Report:
    """Write troubles.json and the record."""
    root = report.root
    cases = {kind: [{"video_id": t.video_id, "detail": t.detail} for t in ts] for kind, ts in report.troubles.items()}
    write_json(root / "troubles.json", cases)
    files = [root / "annotations.json", root / "info.json", *sorted((root / "splits").rglob("*.list"))]
    sources = sorted({f"{file.repository}@{file.commit}" for file in published(report.spec).files})
    write_record(
        root,
        {
            "dataset": report.spec.name,
            "synthetic": report.features is not None and report.features["synthetic"],
            "created_by": f"psftr {__version__}",
            "origin": report.origin,
            "published_in": sources,
            "notes": list(report.notes),
            "troubles": {kind: len(ts) for kind, ts in report.troubles.items()},
            "features": report.features,
            "files": {path.relative_to(root).as_posix(): sha256_of(path) for path in files},
        },
    )
    return report
