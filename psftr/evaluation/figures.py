"""Matplotlib figures, written as PNG files and as inline SVG for the report page.

Drawn through `Figure` alone, so nothing here touches pyplot's global state or needs a display. In the page, text stays
text and colours become the style sheet's variables, so a chart follows light and dark mode.
"""

from __future__ import annotations

import io
import os
import re
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from psftr.evaluation.fonts import fitting_fonts
from psftr.files import replacing

# Okabe and Ito's palette: told apart with every kind of colour vision, and in grey.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
GREY, INK, SOFT, RULE, PAPER = "#8a8a8a", "#000000", "#59636e", "#d4d9de", "#ffffff"
_VARIABLES = {
    **{colour: f"var(--c{number})" for number, colour in enumerate(COLOURS)},
    **{GREY: "var(--c6)", INK: "var(--ink)", SOFT: "var(--soft)", RULE: "var(--rule)", PAPER: "var(--paper)"},
}
PAGE_SIZE_IN = (4.6, 3.0)  # narrow on purpose: shrunk to the width of a phone its text is still readable
_MARGINS = {"left": 0.13, "right": 0.985, "bottom": 0.16, "top": 0.98}  # of the page's charts
_HINT = "hint:"


@dataclass(frozen=True, eq=False)
class Chart:
    """Axes, and the words around them: part of the picture in a file, text in the page.

    keys: (colour, text) of the legend. alternative: what is drawn, for those who do not see it.
    """

    axes: Axes
    title: str
    alternative: str
    keys: Sequence[tuple[str, str]] = ()
    note: str = ""

    @property
    def variables(self) -> list[tuple[str, str]]:
        """The legend in the style sheet's colours."""
        return [(_VARIABLES[colour], text) for colour, text in self.keys]


def canvas(*, x_label: str = "", y_label: str = "", grid: str = "y") -> Axes:
    """Axes in the one style of all charts."""
    axes = Figure(figsize=PAGE_SIZE_IN).subplots(gridspec_kw=_MARGINS)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SOFT)
    axes.grid(axis=grid, linewidth=0.6, color=RULE)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, length=0)
    axes.set_xlabel(x_label, fontsize=9)
    axes.set_ylabel(y_label, fontsize=9)
    return axes


def hint(artist: Artist, text: str) -> None:
    """A tooltip in the page."""
    artist.set_gid(_HINT + text)


def save_chart(path: str | os.PathLike[str], chart: Chart, *, size_in: tuple[float, float]) -> Path:
    """Write a PNG with title and legend; returns its path."""
    figure = chart.axes.get_figure()
    assert isinstance(figure, Figure)
    figure.set_size_inches(size_in)
    figure.set_layout_engine("constrained")
    chart.axes.set_title(textwrap.fill(chart.title, round(12 * size_in[0])), fontsize=10, loc="left")
    if chart.keys:
        handles = [Patch(color=colour, label=text) for colour, text in chart.keys]
        columns = max(1, round(size_in[0] / 5))
        figure.legend(handles=handles, loc="outside lower left", ncols=columns, fontsize=8, frameon=False)
    return save_png(path, figure)


def save_png(path: str | os.PathLike[str], figure: Figure, *, dpi: int = 130) -> Path:
    FigureCanvasAgg(figure)
    with replacing(path) as temporary, fitting_fonts(figure):
        figure.savefig(temporary, format="png", dpi=dpi, metadata={"Software": None})
    return Path(path)


def inline_svg(chart: Chart) -> str:
    """The axes as an SVG element for an HTML page: no ids, no links, no fonts of its own."""
    written = io.StringIO()
    figure = chart.axes.get_figure()
    assert isinstance(figure, Figure)
    with matplotlib.rc_context({"svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the reader's browser has its own fonts
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(written, format="svg", transparent=True, metadata=metadata)
    root = ElementTree.fromstring(written.getvalue())
    shapes = {f"#{one.get('id')}": one for defined in root.iter(_svg("defs")) for one in defined}
    page = ElementTree.Element("svg", viewBox=root.attrib["viewBox"], role="img")
    page.set("aria-label", chart.alternative)
    for child in root:
        page.extend(_plain(child, shapes))
    return ElementTree.tostring(page, encoding="unicode")


def _plain(element: ElementTree.Element, shapes: dict[str, ElementTree.Element]) -> list[ElementTree.Element]:
    """The element as HTML has it, with its tooltip; a group without a meaning gives its children."""
    kind = element.tag.removeprefix(_svg(""))
    if kind in ("defs", "metadata"):
        return []
    given = {name: value for name, value in element.attrib.items() if name in ("d", "x", "y", "style", "transform")}
    if kind == "use":  # a marker
        shape = shapes[element.attrib["{http://www.w3.org/1999/xlink}href"]]
        kind, given = "path", {"d": shape.attrib["d"], "style": given["style"],
                               "transform": f"translate({given['x']} {given['y']})"}  # fmt: skip
    attributes = {name: _shortened(name, value) for name, value in given.items()}
    made = ElementTree.Element(kind, {name: value for name, value in attributes.items() if value})
    made.text = (element.text or "").strip()
    name = element.get("id", "")
    if name.startswith(_HINT):
        ElementTree.SubElement(made, "title").text = name.removeprefix(_HINT)
    for child in element:
        made.extend(_plain(child, shapes))
    is_group = kind == "g" and not made.attrib and not name.startswith(_HINT)
    is_nothing = made.attrib.get("style") == "fill:none"  # the backgrounds
    return [*made] if is_group else [] if is_nothing else [made]


def _shortened(name: str, value: str) -> str:
    if name == "style":
        kept = [part for part in re.split(r";\s*", value) if not part.startswith("font-family")]
        value = ";".join(part.replace(": ", ":", 1) for part in kept)
        return re.sub("#[0-9a-f]{6}", lambda found: _VARIABLES.get(found[0], found[0]), value)
    if name == "transform" and value.startswith("rotate(-0 "):
        return ""
    return re.sub(r"\s+", " ", re.sub(r"-?\d+\.\d+", lambda found: f"{float(found[0]):.1f}", value)).strip()


def _svg(name: str) -> str:
    return f"{{http://www.w3.org/2000/svg}}{name}"
