"""What `psftr prepare` checks, and how it says what it found."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psftr.data.annotations import EMPTY, NON_FINITE, UNKNOWN_LABEL, Annotations, Trouble
from psftr.data.datasets import DatasetSpec
from psftr.data.sources import Source
from psftr.data.splits import ClassSplit, read_published_split
from psftr.errors import PsftrError
from psftr.features.arrays import VideoInfo
from psftr.features.store import FeatureStore

RATIOS = (75, 50)
NUM_SPLITS = 10
LENGTH_TOLERANCE_S = 2.0

NO_INFO = "video without a row in the info file"
OTHER_LENGTH = f"length in annotations and info more than {LENGTH_TOLERANCE_S:g} s apart"
NO_ACTION = "video without an action"
PEERS_EXCLUDE = "test video that several published methods leave out"
NO_FEATURES = "annotated video without features"
FEATURE_ROWS = "features and info disagree about the number of rows"


@dataclass(frozen=True)
class Report:
    """What `prepare` found. `notes`: sentences; `troubles`: kind -> every case; `features`: facts, or None."""

    spec: DatasetSpec
    root: Path
    origin: str
    annotations: Annotations
    notes: tuple[str, ...]
    troubles: Mapping[str, tuple[Trouble, ...]]
    features: Mapping[str, Any] | None


def published(spec: DatasetSpec) -> Source:
    """Raises PsftrError for a data set that nothing is published of."""
    if spec.source is None:
        raise PsftrError(f"{spec.title} has no published files that psftr knows; give its DatasetSpec a source")
    return spec.source


def by_kind(troubles: Iterable[Trouble]) -> dict[str, tuple[Trouble, ...]]:
    kinds = Counter(trouble.kind for trouble in troubles)
    return {kind: tuple(t for t in troubles if t.kind == kind) for kind, _ in kinds.most_common()}


def num_annotated(annotations: Annotations) -> Counter[str]:
    """Subset -> annotated actions, those included that can mean nothing and are left out; not the ignored ones."""
    counts: Counter[str] = Counter()
    for video in annotations.videos.values():
        counts[video.subset] += len(video.actions)
    for trouble in annotations.troubles:
        is_action = not trouble.detail.startswith("fps ")
        if is_action and trouble.kind in (EMPTY, NON_FINITE, UNKNOWN_LABEL):
            counts[annotations.videos[trouble.video_id].subset] += 1
    return counts


def count_notes(spec: DatasetSpec, annotations: Annotations) -> list[str]:
    """Where the published numbers are not met."""
    videos, actions = Counter(video.subset for video in annotations.videos.values()), num_annotated(annotations)
    source = published(spec)
    expected = [(f"{name} videos", number, videos[name]) for name, number in source.num_videos.items()]
    expected += [(f"{name} actions", number, actions[name]) for name, number in source.num_actions.items()]
    expected.append(("classes", source.num_classes, len(annotations.classes)))
    return [f"expected {number:,} {what}, found {found:,}" for what, number, found in expected if number != found]


def read_splits(splits_dir: Path, annotations: Annotations) -> dict[int, list[ClassSplit]]:
    """All published splits, each checked against the annotated classes."""
    splits = {}
    for ratio in RATIOS:
        splits[ratio] = [read_published_split(splits_dir, ratio=ratio, index=index) for index in range(NUM_SPLITS)]
        for split in splits[ratio]:
            split.check_against(annotations.classes)
            absent = sorted(set(annotations.classes) - {*split.seen, *split.unseen})
            if absent:
                raise PsftrError(f"split {split.name}: {', '.join(map(repr, absent[:5]))} on neither side")
    return splits


def split_notes(annotations: Annotations, splits: Mapping[int, list[ClassSplit]]) -> list[str]:
    """Which splits there are, and how often two names of the same segments fall on opposite sides."""
    notes = []
    for ratio, drawn in splits.items():
        sizes = sorted({(len(split.seen), len(split.unseen)) for split in drawn})
        told = " or ".join(f"{seen} seen and {unseen} unseen classes" for seen, unseen in sizes)
        notes.append(f"{len(drawn)} splits {ratio}/{100 - ratio}: {told}; disjoint, complete, all names known")
    pairs: Counter[tuple[str, ...]] = Counter()
    for video in annotations.videos.values():
        labels = defaultdict(set)
        for action in video.actions:
            labels[action.start_s, action.end_s].add(action.label)
        pairs.update(tuple(sorted(names)) for names in labels.values() if len(names) > 1)
    for names, count in pairs.most_common(3):
        apart = []
        for ratio, drawn in splits.items():
            num = sum(not set(names) <= set(split.seen) and not set(names) <= set(split.unseen) for split in drawn)
            apart.append(f"{num} of {len(drawn)} splits {ratio}/{100 - ratio}")
        notes.append(f"{count} segments are labelled {' and '.join(names)}: on opposite sides in {', '.join(apart)}")
    return notes


def more_troubles(spec: DatasetSpec, annotations: Annotations, infos: Mapping[str, VideoInfo]) -> list[Trouble]:
    """What shows only when files are compared with each other."""
    troubles = []
    with_actions = {video.subset for video in annotations.videos.values() if video.actions}
    for video in annotations.videos.values():
        info = infos.get(video.video_id)
        if video.subset not in with_actions:
            continue  # ActivityNet's testing videos: published without labels
        if info is None:
            troubles.append(Trouble(NO_INFO, video.video_id, f"subset {video.subset}, {len(video.actions)} actions"))
        elif abs(info.duration_s - video.duration_s) > LENGTH_TOLERANCE_S:
            told = f"annotations say {video.duration_s:.2f} s, info {info.duration_s:.2f} s"
            troubles.append(Trouble(OTHER_LENGTH, video.video_id, told))
        if not video.actions:
            troubles.append(Trouble(NO_ACTION, video.video_id, f"subset {video.subset}"))
    for video_id in spec.peer.excluded_videos:
        if video_id in annotations.videos:
            told = f"{len(annotations.videos[video_id].actions)} actions; to leave it out: dataset.exclude=[{video_id}]"
            troubles.append(Trouble(PEERS_EXCLUDE, video_id, told))
    return troubles


def feature_troubles(annotations: Annotations, infos: Mapping[str, VideoInfo], store: FeatureStore) -> list[Trouble]:
    """Where features are missing, or are other than the info file announces."""
    troubles = []
    for video in annotations.videos.values():
        info = infos.get(video.video_id)
        if video.video_id not in store:
            if video.actions:
                troubles.append(Trouble(NO_FEATURES, video.video_id, f"subset {video.subset}"))
        elif info is not None:
            rows = store.timeline(video.video_id).num_steps
            if rows != info.num_steps:
                told = f"{rows} rows, info says {info.num_steps}; the rows count"
                troubles.append(Trouble(FEATURE_ROWS, video.video_id, told))
    return troubles


def summary(report: Report, *, examples: int = 3) -> list[str]:
    """The report as lines of plain text."""
    spec, annotations = report.spec, report.annotations
    annotated = num_annotated(annotations)
    lines = [f"{spec.title}, {report.origin}, into {report.root}"]
    for name in annotations.subsets:
        videos = annotations.subset(name)
        role = {spec.train_subset: ", for training", spec.test_subset: ", for testing"}.get(name, "")
        num_actions, num_kept = annotated[name], sum(len(video.actions) for video in videos)
        left_out = f" ({num_actions - num_kept} left out)" if num_kept < num_actions else ""
        lines.append(f"  {name}: {len(videos):,} videos, {num_actions:,} actions{left_out}{role}")
    ignored = Counter(a.label for actions in annotations.ignored.values() for a in actions)
    told = "".join(f", besides {count} {label!r} (neither truth nor background)" for label, count in ignored.items())
    lines.append(f"  {len(annotations.classes)} classes{told}")
    lines += [f"  {note}" for note in report.notes]
    total = sum(map(len, report.troubles.values()))
    lines.append(
        f"Troubles: {total or 'none'}"
        + (f", all in {report.root / 'troubles.json'}; none was repaired" if total else "")
    )
    for kind, cases in report.troubles.items():
        lines.append(f"  {len(cases)} x {kind}")
        lines += [f"      {case.video_id}: {case.detail}" for case in cases[:examples]]
        if len(cases) > examples:
            lines.append(f"      … and {len(cases) - examples} more")
    if report.features is None:
        lines.append("Features: none yet; import or extract them, or try the pipeline with --simulate-features")
    else:
        facts = report.features
        what = "SYNTHETIC features, no numbers about real videos" if facts["synthetic"] else "features"
        lines.append(
            f"Features: {what}: {facts['videos']:,} videos, {facts['rows']:,} rows of {facts['dim']}, "
            f"{facts['bytes'] / 1e6:,.0f} MB, {facts['encoder']}"
        )
    return lines
