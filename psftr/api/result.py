"""What `predict` returns: a sequence of detections that knows how to write itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from psftr.api import formats
from psftr.api.curves import ScoreCurves
from psftr.data.annotations import Action, Annotations
from psftr.errors import PsftrError
from psftr.predictions import MARKS, Detection, Predictions, canonical_id, write_predictions

if TYPE_CHECKING:
    import pandas as pd

NUM_FRAMES = 14  # of a timeline picture
_SUBSET = "given"


@dataclass(frozen=True, eq=False)
class Result(Sequence[Detection]):
    """All detections, by video, best first; a sequence of `Detection`.

    files: the video files, by id, where there were any. failed, shortfalls: (video id, reason) of videos that could not
    be read, or gave less than they declare. threshold: None where the user chose none.
    """

    predictions: Predictions
    labels: tuple[str, ...]
    durations_s: Mapping[str, float]
    files: Mapping[str, Path] = field(default_factory=dict)
    failed: tuple[tuple[str, str], ...] = ()
    shortfalls: tuple[tuple[str, str], ...] = ()
    threshold: float | None = None
    is_complete: bool = True
    curves: Callable[[str], ScoreCurves] | None = None

    def __len__(self) -> int:
        return self.predictions.num_detections

    def __iter__(self) -> Iterator[Detection]:
        for detections in self.predictions.detections.values():
            yield from detections

    @overload
    def __getitem__(self, index: int) -> Detection: ...
    @overload
    def __getitem__(self, index: slice) -> list[Detection]: ...
    def __getitem__(self, index: int | slice) -> Detection | list[Detection]:
        return list(self)[index]

    def __repr__(self) -> str:
        return (
            f"<{formats.marked(self.marks)}{len(self)} detections of {len(self.labels)} labels in "
            f"{len(self.predictions.detections)} videos>"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: the likely detections as a table, with what they must not be shown without."""
        likely = self._frame(d for video_id in self.videos for d in self.likely(video_id))
        told = [escape(text) for text in (*self.warnings, f"{len(likely)} likely of {len(self)} detections")]
        return "".join(f"<p>{text}</p>" for text in told) + likely.to_html(index=False, float_format="{:.2f}".format)

    @property
    def marks(self) -> tuple[str, ...]:
        """What every output begins with where it must: SYNTHETIC, UNTRAINED ENCODER."""
        return self.predictions.provenance.marks if self.predictions.provenance else ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """The marks as sentences."""
        return tuple(f"{mark}: {MARKS[mark]}" for mark in self.marks)

    @property
    def videos(self) -> tuple[str, ...]:
        return tuple(self.predictions.detections)

    def of(self, video_id: str | None = None) -> tuple[Detection, ...]:
        """A video's detections, best first; the only video's if there is just one. Raises PsftrError."""
        return self.predictions.detections[self._only(video_id)]

    def likely(self, video_id: str | None = None) -> tuple[Detection, ...]:
        """The ones worth looking at: those with a score of `shown_from` or more."""
        return tuple(d for d in self.of(video_id) if d.score >= self.shown_from)

    @cached_property
    def shown_from(self) -> float:
        """The least score in subtitles, pictures, the printed table and at first on the page.

        The user's threshold, or else the rule of `psftr.evaluation.shown`, over all videos together.
        """
        from psftr.evaluation.shown import shown_from

        return shown_from(self.predictions) if self.threshold is None else self.threshold

    def to_dataframe(self) -> pd.DataFrame:
        """Columns video, label, start_s, end_s and score; its `attrs["marks"]` are the marks."""
        frame = self._frame(self)
        frame.attrs["marks"] = list(self.marks)
        return frame

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        return write_predictions(path, self.predictions)

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        return formats.write_csv(path, self, marks=self.marks)

    def to_activitynet(self, path: str | os.PathLike[str]) -> Path:
        return formats.write_activitynet(path, self.predictions)

    def to_srt(self, path: str | os.PathLike[str], video_id: str | None = None) -> Path:
        """Subtitles of the likely detections."""
        return formats.write_srt(path, self.likely(video_id), marks=self.marks)

    def to_vtt(self, path: str | os.PathLike[str], video_id: str | None = None) -> Path:
        """Subtitles of the likely detections."""
        return formats.write_vtt(path, self.likely(video_id), marks=self.marks)

    def to_fiftyone_labels(self, path: str | os.PathLike[str]) -> Path:
        """labels.json of a FiftyOne temporal detection dataset; needs no FiftyOne."""
        return formats.write_fiftyone_labels(path, self.predictions)

    def to_fiftyone(self, name: str | None = None) -> Any:
        """A FiftyOne dataset (needs the extra 'fiftyone')."""
        return formats.fiftyone_dataset(self.predictions, self.files, name=name)

    def to_timeline(
        self, path: str | os.PathLike[str], video_id: str | None = None, *, annotations: Annotations | None = None
    ) -> Path:
        """A picture: frames where there is a video file, score curves, the likely detections, ground truth."""
        from psftr.evaluation.labels import same_labels
        from psftr.evaluation.timeline import draw_timeline
        from psftr.features.video.filmstrip import frames_at

        video_id = self._only(video_id)
        duration_s = self.durations_s[video_id]
        curves = self.curves(video_id) if self.curves else None
        frames, note = [], ""
        if video_id in self.files:
            times_s = [(k + 0.5) * duration_s / NUM_FRAMES for k in range(NUM_FRAMES)]
            try:
                frames = frames_at(self.files[video_id], times_s)
            except (PsftrError, OSError) as error:
                note = f"no frames: {error}"
        truth: Sequence[Action] = ()
        if annotations and (video := annotations.videos.get(canonical_id(video_id))):
            own_words = {name: label for label, name in same_labels(self.labels, annotations.classes).items()}
            truth = [replace(action, label=own_words.get(action.label, action.label)) for action in video.actions]
        likely, found = self.likely(video_id), self.of(video_id)
        provenance = self.predictions.provenance
        about = f"{formats.marked(self.marks)}{video_id}: {len(likely)} of {len(found)} detections"
        about += f", scores from {self.shown_from:.3g}"
        if provenance:
            about += f", {provenance.method}, {provenance.features.get('encoder')}"
        return draw_timeline(
            path,
            title=about,
            duration_s=duration_s,
            detections=likely,
            searched=self.labels,
            ground_truth=truth,
            curves={label: (curves.seconds, values) for label, values in curves.values.items()} if curves else None,
            curve_title=curves.title if curves else "",
            frames=frames,
            note=note,
        )

    def to_report(
        self,
        path: str | os.PathLike[str],
        *,
        annotations: Annotations | None = None,
        videos_dir: str | os.PathLike[str] | None = None,
        copy_videos: bool = False,
        title: str = "psftr predict",
    ) -> Path:
        """The HTML page. Where the annotations know the labels, it scores the videos that were looked at.

        copy_videos: put the videos in a folder `videos` beside the page, so that both can be moved together.
        """
        from psftr.evaluation.labels import same_labels, with_class_names
        from psftr.evaluation.report_page import write_report_page
        from psftr.evaluation.rules import protocol_of

        own, predictions, is_scored = None, self.predictions, False
        if annotations is not None:
            ids = {canonical_id(video_id) for video_id in self.videos}
            # Whatever subsets a data set has, here these very videos are the test.
            videos = (v for v in annotations.videos.values() if v.video_id in ids)
            own = annotations.with_videos(replace(video, subset=_SUBSET) for video in videos)
            predictions, _ = with_class_names(self.predictions, own.classes)
            found = {d.label for detections in predictions.detections.values() for d in detections}
            is_scored = bool(found & set(own.classes))
            names = same_labels(self.labels, own.classes)
            own = own.only_classes(names.get(label, label) for label in self.labels) if is_scored else own
        protocol = replace(protocol_of(self.predictions, subset=_SUBSET), test_subset=_SUBSET)
        return write_report_page(
            path,
            {"predictions": predictions},
            annotations=own,
            protocol=protocol,
            is_scored=is_scored,
            videos_dir=videos_dir,
            sources=self.files,
            copy_videos=copy_videos,
            thresholds={"predictions": self.shown_from},
            durations_s=self.durations_s,
            title=title,
        )

    @staticmethod
    def _frame(detections: Iterable[Detection]) -> pd.DataFrame:
        import pandas as pd

        rows = [(d.video_id, d.label, d.start_s, d.end_s, d.score) for d in detections]
        return pd.DataFrame(rows, columns=["video", "label", "start_s", "end_s", "score"])

    def _only(self, video_id: str | None) -> str:
        if video_id is None:
            if len(self.videos) != 1:
                raise PsftrError(f"there are {len(self.videos)} videos; say which: {', '.join(self.videos[:5])}")
            return self.videos[0]
        for known in (video_id, canonical_id(video_id)):
            if known in self.predictions.detections:
                return known
        raise PsftrError(f"no video {video_id!r} here; there are {', '.join(self.videos[:5])}")
