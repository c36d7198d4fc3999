"""Charts as inline SVG: text, no script, coloured by the page's style sheet (s0 to s7), so they follow dark mode.

A chart is drawn in data coordinates; `Chart.svg` wraps what was drawn. The canvas is narrow on purpose: shrunk to the
width of a phone its text is still readable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 420, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 42


class Chart:
    """Axes from `x` to `y` ranges (low, high); marks are added in drawing order."""

    def __init__(
        self,
        *,
        label: str,
        x: tuple[float, float],
        y: tuple[float, float],
        x_title: str = "",
        y_title: str = "",
        x_ticks: Sequence[tuple[float, str]] | None = None,
        y_ticks: Sequence[tuple[float, str]] | None = None,
        x_ticks_stacked: bool = False,
    ) -> None:
        self.label = label
        self.x, self.y = _with_extent(x), _with_extent(y)
        self.bottom = _BOTTOM + (0 if x_title else -14) + (14 if x_ticks_stacked else 0)
        self.parts: list[str] = []
        for at, text in nice_ticks(*self.y) if y_ticks is None else y_ticks:
            place = self.to_y(at)
            self.parts.append(f'<path class="grid" d="M{_LEFT} {place:.1f}H{WIDTH - _RIGHT}"/>')
            self.parts.append(f'<text class="end" x="{_LEFT - 5}" y="{place + 4:.1f}">{escape(text)}</text>')
        base = HEIGHT - self.bottom
        for at, text in nice_ticks(*self.x) if x_ticks is None else x_ticks:
            place = self.to_x(at)
            for number, word in enumerate(text.split() if x_ticks_stacked else [text]):
                self.parts.append(f'<text x="{place:.1f}" y="{base + 15 + 14 * number}">{escape(word)}</text>')
        self.parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{base}H{WIDTH - _RIGHT}"/>')
        if x_title:
            self.parts.append(f'<text x="{(_LEFT + WIDTH) / 2:.0f}" y="{HEIGHT - 6}">{escape(x_title)}</text>')
        if y_title:
            middle = (_TOP + base) / 2
            self.parts.append(f'<text transform="translate(12 {middle:.0f}) rotate(-90)">{escape(y_title)}</text>')

    def to_x(self, value: float) -> float:
        return _LEFT + (value - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - _LEFT - _RIGHT)

    def to_y(self, value: float) -> float:
        base = HEIGHT - self.bottom
        return base - (value - self.y[0]) / (self.y[1] - self.y[0]) * (base - _TOP)

    def bar(
        self, left: float, right: float, low: float, high: float, *, series: int, hint: str, text: str = ""
    ) -> None:
        """A filled rectangle; `hint` is its tooltip, `text` is written above it."""
        x, top = self.to_x(left), self.to_y(high)
        size = f'width="{self.to_x(right) - x:.1f}" height="{max(0.0, self.to_y(low) - top):.1f}"'
        self.parts.append(
            f'<rect class="s{series}" x="{x:.1f}" y="{top:.1f}" {size}><title>{escape(hint)}</title></rect>'
        )
        if text:
            middle = (x + self.to_x(right)) / 2
            self.parts.append(f'<text class="small" x="{middle:.1f}" y="{top - 3:.1f}">{escape(text)}</text>')

    def line(self, points: Sequence[tuple[float, float]], *, series: int, hint: str = "", kind: str = "") -> None:
        """kind: "thin", "bold" or "dashed" lines, or plain."""
        path = "".join(
            f"{'L' if number else 'M'}{self.to_x(x):.1f} {self.to_y(y):.1f}" for number, (x, y) in enumerate(points)
        )
        title = f"<title>{escape(hint)}</title>" if hint else ""
        self.parts.append(f'<path class="line l{series} {kind}" d="{path}">{title}</path>')

    def point(self, x: float, y: float, *, series: int, hint: str, text: str = "") -> None:
        place = f'cx="{self.to_x(x):.1f}" cy="{self.to_y(y):.1f}"'
        self.parts.append(f'<circle class="s{series}" r="4" {place}><title>{escape(hint)}</title></circle>')
        if text:
            self.note(x, y, text, dx=6, dy=-4)

    def note(self, x: float, y: float, text: str, *, dx: float = 0, dy: float = 0, upright: bool = False) -> None:
        at = f"{self.to_x(x) + dx:.1f} {self.to_y(y) + dy:.1f}"
        turn = " rotate(-90)" if upright else ""
        self.parts.append(f'<text class="small start" transform="translate({at}){turn}">{escape(text)}</text>')

    def svg(self) -> str:
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self.label)}">'
            f"{''.join(self.parts)}</svg>"
        )


def legend(entries: Sequence[tuple[int, str]]) -> str:
    """Coloured keys under a chart: (series, text)."""
    items = "".join(f'<li><span class="key b{series}"></span>{escape(text)}</li>' for series, text in entries)
    return f'<ul class="legend">{items}</ul>'


def nice_ticks(low: float, high: float, *, about: int = 5) -> list[tuple[float, str]]:
    """Round values within [low, high] and their text."""
    raw = (high - low) / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    ticks = []
    while first * step <= high + step * 1e-9:
        value = first * step
        ticks.append((value, f"{value:.10g}"))
        first += 1
    return ticks


def _with_extent(pair: tuple[float, float]) -> tuple[float, float]:
    low, high = pair
    return (low, high) if high > low else (low, low + 1)
