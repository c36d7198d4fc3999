"""A picture of one video's detections: frames along the top, a score curve per label, segments, ground truth.

Every part but the segments is optional: without a video file there are no frames, without features no curves.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from psftr.data.annotations import Action
from psftr.evaluation.figures import COLOURS, SOFT, save_png
from psftr.predictions import Detection

Curve = tuple[NDArray[np.floating], NDArray[np.floating]]  # seconds, values
TRUTH_COLOUR = "#444444"
_WIDTH_IN = 11.0
_LANE_IN = 0.2
_MOST_LANES = 6
_DPI = 110
LEAST_PX = 2  # of a bar
LONG_S, HOUR_S = 120.0, 3600.0  # from here on ticks are m:ss, and h:mm:ss
_SHORT_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
_LONG_STEPS_S = (10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)


def draw_timeline(
    path: str | os.PathLike[str],
    *,
    title: str,
    duration_s: float,
    detections: Sequence[Detection],
    searched: Sequence[str] = (),
    ground_truth: Sequence[Action] = (),
    curves: Mapping[str, Curve] | None = None,
    curve_title: str = "score",
    frames: Sequence[NDArray[np.uint8]] = (),
    note: str = "",
    most_labels: int = 10,
) -> Path:
    """Write the picture; returns its path.

    searched: labels that were looked for; each has a row, found or not. frames: `[H, W, 3]` each, shown
    at even steps over the video. Labels beyond `most_labels` (those with the best scores come first, those with ground
    truth always) are left out and counted in the title.
    """
    duration_s = max([duration_s, *(d.end_s for d in detections), *(a.end_s for a in ground_truth), 1e-3])
    names = _labels(detections, ground_truth, [*(curves or {}), *searched])
    left_out = len(names) - most_labels
    names = names[: max(most_labels, len({a.label for a in ground_truth}))]
    colours = {label: COLOURS[number % len(COLOURS)] for number, label in enumerate(names)}
    rows = [(label, *_bars(label, detections, ground_truth)) for label in names]
    shown_curves = {label: curve for label, curve in (curves or {}).items() if label in colours}

    heights = [
        *([_frame_height(frames)] if len(frames) else []),
        *([1.5] if shown_curves else []),
        *(_LANE_IN * _num_lanes(truth, lanes) + 0.12 for _, truth, _, lanes in rows),
    ] or [0.5]
    figure = Figure(figsize=(_WIDTH_IN, sum(heights) + 1.0), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.03, hspace=0.0)  # type: ignore[union-attr, call-arg]
    grid = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0].tolist()
    if len(frames):
        _draw_frames(grid.pop(0), frames, duration_s)
    if shown_curves:
        _draw_curves(grid.pop(0), shown_curves, colours, curve_title)
    best = max((d.score for d in detections), default=1.0)
    least_s = LEAST_PX * duration_s / ((_WIDTH_IN - 2.0) * _DPI)
    axes = grid[-1] if grid else figure.axes[-1]
    for part, (label, truth, found, lanes) in zip(grid, rows):
        _draw_row(part, label, truth, found, lanes, colours[label], best, least_s, duration_s)
    if not rows:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "nothing found", ha="center", va="center", transform=axes.transAxes, color=SOFT)
    axes.set_xlim(0, duration_s)
    step_s = round_step(duration_s, most=14)
    axes.set_xticks(np.arange(0, duration_s + 1e-9, step_s))
    axes.xaxis.set_major_formatter(lambda at_s, _: clock(at_s, duration_s))
    unit = "seconds" if duration_s < LONG_S else "min:s" if duration_s < HOUR_S else "h:min:s"
    axes.set_xlabel(unit + (f"   ({note})" if note else ""), fontsize=9)
    axes.tick_params(axis="x", labelsize=8, bottom=True, labelbottom=True)
    told = title + (f" ({left_out} more labels not drawn)" if left_out > 0 else "")
    figure.suptitle(textwrap.fill(told, 110), fontsize=10, x=0.01, ha="left")
    return save_png(path, figure, dpi=_DPI)


def round_step(duration_s: float, *, most: int) -> float:
    """Seconds between ticks: the smallest round step that makes no more than `most` of them."""
    steps = _SHORT_STEPS_S if duration_s < LONG_S else _LONG_STEPS_S
    return next((step for step in steps if duration_s / step <= most), steps[-1])


def clock(at_s: float, duration_s: float) -> str:
    """A time as the axis of a video of this length has it: 12.5, 2:30 or 1:02:30."""
    if duration_s < LONG_S:
        return f"{at_s:g}"
    whole = round(at_s)
    minutes, seconds = divmod(whole, 60)
    if duration_s < HOUR_S:
        return f"{minutes}:{seconds:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def _labels(detections: Sequence[Detection], ground_truth: Sequence[Action], others: Sequence[str]) -> list[str]:
    """Labels with ground truth first, then by their best score, then the others."""
    by_score = sorted(detections, key=lambda d: -d.score)
    return list(dict.fromkeys([*(a.label for a in ground_truth), *(d.label for d in by_score), *others]))


def _bars(
    label: str, detections: Sequence[Detection], ground_truth: Sequence[Action]
) -> tuple[list[Action], list[Detection], list[int]]:
    """A label's ground truth, its detections best first, and the lane of each (the last lane takes what is left)."""
    found = sorted((d for d in detections if d.label == label), key=lambda d: -d.score)
    lanes: list[list[Detection]] = []
    places = []
    for d in found:
        free = (n for n, taken in enumerate(lanes) if all(d.start_s >= o.end_s or d.end_s <= o.start_s for o in taken))
        place = next(free, min(len(lanes), _MOST_LANES - 1))
        if place == len(lanes):
            lanes.append([])
        lanes[place].append(d)
        places.append(place)
    return [a for a in ground_truth if a.label == label], found, places


def _num_lanes(truth: Sequence[Action], lanes: Sequence[int]) -> int:
    return bool(truth) + max(lanes, default=-1) + 1 or 1


def _frame_height(frames: Sequence[NDArray[np.uint8]]) -> float:
    high, wide = frames[0].shape[:2]
    return min(1.4, max(0.6, (_WIDTH_IN - 1.8) / len(frames) * high / wide))


def _draw_frames(axes: Axes, frames: Sequence[NDArray[np.uint8]], duration_s: float) -> None:
    """Frame i fills [i, i + 1) of as many equal parts of the video; its edges are cropped to fit."""
    step = duration_s / len(frames)
    aspect = (_WIDTH_IN - 1.8) / len(frames) / _frame_height(frames)
    for number, frame in enumerate(frames):
        axes.imshow(
            _cropped(frame, aspect), extent=(number * step, (number + 0.98) * step, 0, 1), aspect="auto", zorder=2
        )
    axes.set_ylim(0, 1)
    axes.set_axis_off()


def _cropped(frame: NDArray[np.uint8], aspect: float) -> NDArray[np.uint8]:
    high, wide = frame.shape[:2]
    new_wide, new_high = min(wide, round(high * aspect)), min(high, round(wide / aspect))
    top, left = (high - new_high) // 2, (wide - new_wide) // 2
    return frame[top : top + max(1, new_high), left : left + max(1, new_wide)]


def _draw_curves(axes: Axes, curves: Mapping[str, Curve], colours: Mapping[str, str], title: str) -> None:
    for label, (seconds, values) in curves.items():
        axes.plot(seconds, values, color=colours[label], linewidth=1.2)
    axes.set_ylim(bottom=min(0.0, *(float(v.min()) for _, v in curves.values())))
    axes.set_ylabel(textwrap.fill(title, 24), fontsize=8)
    axes.tick_params(labelsize=7, bottom=False, labelbottom=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(linewidth=0.3, alpha=0.6)


def _extent(one: Action | Detection, least_s: float, duration_s: float) -> tuple[float, float]:
    """(left end, length) of a bar that is long enough to be seen, and not beyond the end of the video."""
    long_s = max(least_s, one.end_s - one.start_s)
    return min(one.start_s, max(0.0, duration_s - long_s)), long_s


def _draw_row(
    axes: Axes,
    label: str,
    truth: Sequence[Action],
    found: Sequence[Detection],
    lanes: Sequence[int],
    colour: str,
    best: float,
    least_s: float,
    duration_s: float,
) -> None:
    """least_s: no bar is drawn shorter."""
    lanes_above = bool(truth)
    if not truth and not found:
        axes.annotate("nothing found", (0, 0), xytext=(2, 0), textcoords="offset points", va="center", fontsize=6.5,
                      color=SOFT)  # fmt: skip
    for action in truth:
        left, long_s = _extent(action, least_s, duration_s)
        axes.barh(0, long_s, left=left, height=0.8, color=TRUTH_COLOUR)
    for d, lane in zip(found, lanes):
        surely = 0.3 + 0.7 * max(0.0, d.score / best) if best > 0 else 0.6
        place = lane + lanes_above
        left, long_s = _extent(d, least_s, duration_s)
        axes.barh(place, long_s, left=left, height=0.8, color=colour, alpha=surely)
        if lane == 0:
            axes.annotate(
                f"{d.score:.2g}", (max(0.0, d.start_s), place), xytext=(2, 0), textcoords="offset points",
                va="center", fontsize=6.5, annotation_clip=True,
            )  # fmt: skip
    axes.set_ylim(_num_lanes(truth, lanes) - 0.4, -0.6)
    axes.set_yticks([(_num_lanes(truth, lanes) - 1) / 2], [textwrap.fill(label, 20)], fontsize=8)
    axes.tick_params(axis="x", bottom=False, labelbottom=False)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(colour)
    axes.spines["left"].set_linewidth(3)
    axes.grid(axis="x", linewidth=0.3, alpha=0.6)
    if truth:
        axes.annotate("ground truth", (1, 0), xycoords=("axes fraction", "data"), fontsize=6, color=TRUTH_COLOUR,
                      xytext=(3, 0), textcoords="offset points", va="center", annotation_clip=False)  # fmt: skip
