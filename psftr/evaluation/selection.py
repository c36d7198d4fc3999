"""Which videos, actions and detections are scored, and a sentence about everything given that is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from psftr.data.annotations import EMPTY, NON_FINITE, UNKNOWN_LABEL, Action, Annotations, Video
from psftr.data.splits import ClassSplit
from psftr.errors import PsftrError
from psftr.evaluation.rules import Protocol
from psftr.files import nearest_names, some
from psftr.predictions import Detection, Predictions, canonical_id


@dataclass(frozen=True, eq=False)
class Selection:
    """What is scored, by canonical video id: videos with an action of `classes`, rows labelled with those.

    num_candidates: test videos looked at. absent_classes: wanted classes that have no test action.
    notes: one sentence for everything that was given but does not count.
    """

    classes: tuple[str, ...]
    absent_classes: tuple[str, ...]
    ground_truth: Mapping[str, tuple[Action, ...]]
    ignored: Mapping[str, tuple[Action, ...]]
    detections: Mapping[str, tuple[Detection, ...]]
    num_candidates: int
    missing_videos: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def num_actions(self) -> int:
        return sum(map(len, self.ground_truth.values()))


def select_scored(
    predictions: Predictions, annotations: Annotations, *, protocol: Protocol, classes: Sequence[str]
) -> Selection:
    """Which videos, actions and detections count. Raises PsftrError when nothing of the file does."""
    videos = videos_under_test(annotations, protocol)
    excluded = set(protocol.excluded_videos)
    truth, num_short = {}, 0
    for video in videos:
        if video.video_id in excluded:
            continue
        found = [a for a in video.actions if a.label in set(classes)]
        kept = tuple(a for a in found if a.end_s - a.start_s > protocol.min_action_s)
        num_short += len(found) - len(kept)
        if kept:
            truth[video.video_id] = kept
    if not truth:
        raise PsftrError(
            f"no {protocol.test_subset!r} video has an action of {some(classes)}; "
            "the annotations and the split do not belong together"
        )
    present = {a.label for actions in truth.values() for a in actions}
    scored_classes = tuple(name for name in classes if name in present)
    by_id = _by_canonical_id(predictions)
    detections, notes = _detections_that_count(by_id, truth, annotations, scored_classes, classes)
    candidates = {v.video_id for v in videos}
    for kind in (EMPTY, NON_FINITE, UNKNOWN_LABEL):  # the toolkit would count them as actions, found by nothing
        number = sum(t.kind == kind and t.video_id in candidates for t in annotations.troubles)
        if number:
            notes.append(f"annotated test actions that mean nothing ({kind}), left out: {number}")
    if num_short:
        notes.append(f"test actions of {protocol.min_action_s:g} s or less, left out: {num_short}")
    left_out = sorted(excluded & candidates)
    if left_out:
        notes.append(f"test videos left out: {len(left_out)} ({some(left_out)})")
    missing = tuple(video_id for video_id in truth if video_id not in by_id)
    if len(missing) == len(truth):
        raise PsftrError(
            f"none of the {len(truth)} test videos (such as {next(iter(truth))}) is among the {len(by_id)} of the "
            f"predictions (such as {next(iter(by_id), 'none at all')}); they belong to different data"
        )
    if missing:
        notes.append(
            f"test videos missing from the predictions, counted as without detections: {len(missing)} of "
            f"{len(truth)} ({some(missing)})"
        )
    return Selection(
        classes=scored_classes,
        absent_classes=tuple(name for name in classes if name not in present),
        ground_truth=truth,
        ignored={} if protocol.penalises_ambiguous else {v: annotations.ignored.get(v, ()) for v in truth},
        detections=detections,
        num_candidates=len(videos),
        missing_videos=missing,
        notes=tuple(notes),
    )


def videos_under_test(annotations: Annotations, protocol: Protocol) -> list[Video]:
    if annotations.subsets == ("",):  # a CSV names no subsets: it is the test set
        return list(annotations.videos.values())
    return annotations.subset(protocol.test_subset)


def _by_canonical_id(predictions: Predictions) -> dict[str, tuple[Detection, ...]]:
    by_id: dict[str, tuple[Detection, ...]] = {}
    for video_id, rows in predictions.detections.items():
        if canonical_id(video_id) in by_id:
            raise PsftrError(f"the predictions list {canonical_id(video_id)} with and without 'v_'; merge the two")
        by_id[canonical_id(video_id)] = rows
    return by_id


def _detections_that_count(
    by_id: Mapping[str, tuple[Detection, ...]],
    truth: Mapping[str, tuple[Action, ...]],
    annotations: Annotations,
    scored_classes: Sequence[str],
    classes: Sequence[str],
) -> tuple[dict[str, tuple[Detection, ...]], list[str]]:
    notes = []
    outside = {video_id: rows for video_id, rows in by_id.items() if video_id not in truth}
    unknown = sum(video_id not in annotations.videos for video_id in outside)
    number = sum(map(len, outside.values()))
    if number:
        notes.append(
            f"detections in videos that do not count, ignored: {number} (videos: {len(outside)}"
            + (f", of them not annotated at all: {unknown})" if unknown else ")")
        )
    inside = {video_id: rows for video_id, rows in by_id.items() if video_id in truth}
    labels = [d.label for rows in inside.values() for d in rows]
    strangers = sorted(set(labels) - set(classes))
    if strangers and not set(labels) & set(classes):
        raise PsftrError(
            f"no detection has the label of a scored class; labels are {nearest_names(strangers[:3], classes)}, "
            f"classes are {some(classes)}"
        )
    if strangers:
        number = sum(label not in set(classes) for label in labels)
        notes.append(f"detections of other labels, ignored: {number} ({some(strangers)})")
    absent = set(classes) - set(scored_classes)
    number = sum(label in absent for label in labels)
    if number:
        notes.append(f"detections of classes without test actions, ignored: {number}")
    wanted = set(scored_classes)
    return {v: tuple(d for d in rows if d.label in wanted) for v, rows in inside.items()}, notes


def without_double_labels(
    selection: Selection, videos: Sequence[Video], protocol: Protocol, split: ClassSplit | None
) -> tuple[Selection | None, str]:
    """The selection without unseen-class actions whose very segment carries the seen class of a pair.

    Returns None where no pair straddles the split, and a sentence. What is taken out is ignored, not
    background; videos left without an action do not count.
    """
    if not protocol.double_labels:
        return None, ""
    straddling = []
    for one, other in protocol.double_labels:
        for unseen, seen in ((one, other), (other, one)):
            if split and unseen in split.unseen and seen in split.seen:
                straddling.append((unseen, seen))
    if not straddling:
        pairs = ", ".join("/".join(pair) for pair in protocol.double_labels)
        return None, f"{pairs}: not on opposite sides of this split"
    truth = dict(selection.ground_truth)
    ignored = {video_id: tuple(selection.ignored.get(video_id, ())) for video_id in truth}
    texts = []
    for unseen, seen in straddling:
        number = 0
        for video in videos:
            if video.video_id not in truth:
                continue
            seen_segments = {(a.start_s, a.end_s) for a in video.actions if a.label == seen}
            twice = [a for a in truth[video.video_id] if a.label == unseen and (a.start_s, a.end_s) in seen_segments]
            truth[video.video_id] = tuple(a for a in truth[video.video_id] if a not in twice)
            ignored[video.video_id] += tuple(twice)
            number += len(twice)
        texts.append(f"{unseen} (unseen) segments also labelled {seen} (seen): {number}")
    truth = {video_id: actions for video_id, actions in truth.items() if actions}
    left = {a.label for actions in truth.values() for a in actions}
    classes = tuple(name for name in selection.classes if name in left)
    kept = set(classes)
    single = replace(
        selection,
        classes=classes,
        absent_classes=tuple(name for name in selection.classes if name not in kept),
        ground_truth=truth,
        # An instance of a class that is gone must not excuse detections of the others.
        ignored={v: tuple(a for a in ignored[v] if a.label in kept or a.label not in selection.classes) for v in truth},
        detections={v: rows for v, rows in selection.detections.items() if v in truth},
    )
    if not classes:
        return None, f"{'; '.join(texts)}: no other action is left"
    text = f"{'; '.join(texts)}; videos without them: {len(truth)}, actions: {single.num_actions}"
    return single, text
