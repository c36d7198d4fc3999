"""Windows over a video's feature rows, and the one way between rows, normalised positions and seconds.

Row i of a store covers frames [i*stride, (i+1)*stride), seconds [i, i+1)*stride/fps; its centre lies at i + 0.5.
A window is `size` rows cut (slide) or resampled (rescale) from the store; normalised position x in [0, 1] runs over all
`size` rows, padding included, so one network output means the same in every window of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from psftr.data.annotations import Action
from psftr.errors import PsftrError
from psftr.segments import Numbers, Timeline

MODES = ("slide", "rescale")
PEER_TEST_OVERLAP = 0.25


@dataclass(frozen=True, slots=True)
class Window:
    """Rows [0, num_valid) cover store positions [offset, offset + span); rows [num_valid, size) are padding."""

    video_id: str
    timeline: Timeline
    offset: float
    span: float
    num_valid: int
    size: int

    @property
    def start_s(self) -> float:
        return self.timeline.seconds(self.offset)

    @property
    def end_s(self) -> float:
        """End of the last valid row."""
        return self.timeline.seconds(self.offset + self.span)

    @property
    def size_s(self) -> float:
        """Seconds that normalised 0 to 1 spans, padding included."""
        return self.timeline.seconds(self.size * self.span / self.num_valid)

    def to_seconds(self, segments_se: Numbers) -> Numbers:
        """Normalised (start, end) `[..., 2]`, or any positions, to seconds of the video."""
        return segments_se * self.size_s + self.start_s  # type: ignore[operator, return-value]

    def to_normalised(self, segments_s: Numbers) -> Numbers:
        """Seconds to normalised positions: the inverse of `to_seconds`."""
        return (segments_s - self.start_s) / self.size_s  # type: ignore[operator, return-value]


def sliding_windows(timeline: Timeline, video_id: str, *, size: int, hop: int, complete_last: bool) -> list[Window]:
    """Windows of `size` rows every `hop`; the rest at the end makes one more.

    `complete_last` moves that last window left until it is complete; otherwise it starts at its hop and is shorter.
    A video of at most `size` rows is one window.
    """
    length = timeline.num_steps
    starts = list(range(0, max(length - size, 0) + 1, hop))
    if starts[-1] + size < length:
        starts.append(length - size if complete_last else starts[-1] + hop)
    counts = [min(size, length - start) for start in starts]
    return [Window(video_id, timeline, float(s), float(n), n, size) for s, n in zip(starts, counts)]


def rescaled_window(timeline: Timeline, video_id: str, *, size: int) -> Window:
    """The whole video resampled to `size` rows."""
    return Window(video_id, timeline, 0.0, float(timeline.num_steps), size, size)


def window_targets(
    actions: Iterable[Action], window: Window, *, min_inside: float, rows_short: int = 0
) -> list[tuple[Action, tuple[float, float]]]:
    """Actions of which at least `min_inside` lies in the window, each with its normalised (start, end), cropped to it.

    `rows_short` measures the window that many rows short when it asks how much lies inside (see `as_peer`).
    """
    end_s = window.end_s - rows_short * window.timeline.step_s
    kept = []
    for action in actions:
        inside_s = min(action.end_s, end_s) - max(action.start_s, window.start_s)
        # the slack keeps an exact 75 % in, whatever way its seconds were rounded
        if inside_s > 0 and inside_s >= (min_inside - 1e-9) * (action.end_s - action.start_s):
            cropped_s = np.array([max(action.start_s, window.start_s), min(action.end_s, window.end_s)])
            start, end = window.to_normalised(cropped_s).tolist()
            kept.append((action, (start, end)))
    return kept


def action_rows(actions: Iterable[Action], window: Window) -> NDArray[np.bool_]:
    """`[size]` True where a valid row's centre lies in [start, end) of any action, however little of it is inside."""
    centres_s = window.to_seconds((np.arange(window.size) + 0.5) / window.size)
    inside = np.zeros(window.size, dtype=np.bool_)
    for action in actions:
        inside |= (centres_s >= action.start_s) & (centres_s < action.end_s)
    inside[window.num_valid :] = False
    return inside


def window_rows(
    features: NDArray[np.floating], window: Window, *, first_row: int = 0, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """The window's rows `[size, D]` of a video's `features`, whose row 0 is store row `first_row`; padding is zero.
    Written to `out` where it is given.

    Resampling interpolates linearly between row centres: row i of the window lies at store position
    offset + (i + 0.5)*span/num_valid, store row j at j + 0.5, and beyond the outermost centres the outermost row holds.
    """
    rows = np.empty((window.size, features.shape[1]), dtype=np.float32) if out is None else out
    rows[window.num_valid :] = 0
    if window.span == window.num_valid:
        start = int(window.offset) - first_row
        rows[: window.num_valid] = features[start : start + window.num_valid]
        return rows
    at = window.offset + (np.arange(window.num_valid) + 0.5) * (window.span / window.num_valid) - 0.5 - first_row
    at = np.clip(at, 0, len(features) - 1)
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, len(features) - 1)
    weight = (at - low).astype(np.float32)[:, None]
    rows[: window.num_valid] = (1 - weight) * features[low] + weight * features[high]
    return rows


@dataclass(frozen=True, kw_only=True)
class WindowPolicy:
    """How videos become windows (PSFTR, section on windows; THUMOS14 slides, ActivityNet rescales).

    `min_action_s`: an action of this length or less is no training target. The three `peer_` fields are set by
    `as_peer` only.
    """

    mode: str
    size: int
    train_overlap: float
    test_overlap: float
    min_inside: float
    min_action_s: float
    peer_rows_short: int = 0
    peer_min_action_rows: int = 0
    peer_filters_test: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise PsftrError(f"window mode must be one of {', '.join(MODES)}, got {self.mode!r}")
        if self.size < 1:
            raise PsftrError(f"window size must be at least 1 row, got {self.size}")
        for name in ("train_overlap", "test_overlap"):
            overlap = getattr(self, name)
            if not 0 <= overlap < 1 or self._hop(overlap) < 1:
                raise PsftrError(f"window {name} must be in [0, 1) and leave a hop of one row or more, got {overlap}")
        if not 0 <= self.min_inside <= 1 or not (math.isfinite(self.min_action_s) and self.min_action_s >= 0):
            raise PsftrError(
                f"min_inside must be in [0, 1] and min_action_s >= 0, got {self.min_inside} and {self.min_action_s}"
            )

    def as_peer(self) -> WindowPolicy:
        """The peers' rules, all that differ from ours, for `protocol=peer` only.

        Sliding: a window is measured one stride short when asking how much of an action is inside, an action of one
        stride or less does not exist, in the test either, and windows of the test overlap by a quarter. Rescaling: the
        minimum length holds for the test too, and an action counts however little of it the features cover. Segments
        keep our coordinates in both.
        """
        if self.mode == "rescale":
            return replace(self, min_inside=0.0, peer_filters_test=True)
        return replace(
            self, test_overlap=PEER_TEST_OVERLAP, peer_rows_short=1, peer_min_action_rows=1, peer_filters_test=True
        )

    def windows(self, video_id: str, timeline: Timeline, *, training: bool) -> list[Window]:
        """All windows of a video, in time order."""
        if self.mode == "rescale":
            return [rescaled_window(timeline, video_id, size=self.size)]
        overlap = self.train_overlap if training else self.test_overlap
        return sliding_windows(timeline, video_id, size=self.size, hop=self._hop(overlap), complete_last=training)

    def long_enough(self, actions: Sequence[Action], timeline: Timeline, *, training: bool) -> tuple[Action, ...]:
        """The actions that exist for training, or for the test."""
        if not (training or self.peer_filters_test):
            return tuple(actions)
        shortest_s = max(self.min_action_s, self.peer_min_action_rows * timeline.step_s)
        return tuple(action for action in actions if action.end_s - action.start_s > shortest_s)

    def targets(self, actions: Sequence[Action], window: Window) -> list[tuple[Action, tuple[float, float]]]:
        """Training targets of one window: `window_targets` over the actions that are long enough."""
        actions = self.long_enough(actions, window.timeline, training=True)
        return window_targets(actions, window, min_inside=self.min_inside, rows_short=self.peer_rows_short)

    def _hop(self, overlap: float) -> int:
        return round(self.size * (1 - overlap))
