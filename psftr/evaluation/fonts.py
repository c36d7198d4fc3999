"""Fonts for labels in any script: matplotlib's own font has no Chinese, Japanese or Korean characters."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

log = logging.getLogger("psftr")

PREFERRED = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans SC", "Source Han Sans SC", "PingFang SC",
    "Hiragino Sans", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Apple SD Gothic Neo", "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei", "Droid Sans Fallback", "Arial Unicode MS",
)  # fmt: skip


@contextmanager
def fitting_fonts(figure: Figure) -> Iterator[None]:
    """Inside the block every text of the figure has fonts with its characters, as far as any is installed.

    What no font has is drawn as boxes; a warning says so once, in place of matplotlib's own, one for each character.
    """
    for axes in figure.axes:  # tick labels have no words before they are asked for
        axes.get_xticklabels()
        axes.get_yticklabels()
    before = {}
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        more, _ = fonts_for(text.get_text())
        if more:
            before[text] = text.get_fontfamily()
            text.set_fontfamily([*matplotlib.rcParams["font.family"], *more])
    _warn("".join(text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield
    for text, families in before.items():
        text.set_fontfamily(families)


def fonts_for(text: str) -> tuple[tuple[str, ...], str]:
    """(installed fonts for the characters that the usual font lacks, the characters that none of them has)."""
    lacking = {letter for letter in text if not letter.isspace() and ord(letter) not in _own_characters()}
    return _fonts_with(frozenset(lacking)) if lacking else ((), "")


def _warn(text: str) -> None:
    _, missing = fonts_for(text)
    if missing:
        _warn_of(missing)


@cache
def _warn_of(missing: str) -> None:
    log.warning(
        "no installed font has %s: pictures show boxes in their place (the page is right where the reader has a font); "
        "install one, such as Noto Sans CJK",
        missing[:20],
    )


@cache
def _own_characters() -> frozenset[int]:
    return _characters(font_manager.findfont(font_manager.FontProperties(family=matplotlib.rcParams["font.family"])))


@cache
def _characters(path: str) -> frozenset[int]:
    try:
        return frozenset(font_manager.get_font(path).get_charmap())
    except (OSError, RuntimeError):  # a damaged font
        return frozenset()


@cache
def _fonts_with(letters: frozenset[str]) -> tuple[tuple[str, ...], str]:
    rank = {name: place for place, name in enumerate(PREFERRED)}
    fonts = [entry for entry in font_manager.fontManager.ttflist if "lastresort" not in entry.fname.lower()]  # boxes
    paths = {entry.name: entry.fname for entry in reversed(fonts)}
    chosen, missing = [], set(letters)
    for name in sorted(paths, key=lambda name: (rank.get(name, len(rank)), name)):
        has = {letter for letter in missing if ord(letter) in _characters(paths[name])}
        if has:
            chosen.append(name)
            missing -= has
        if not missing:
            break
    return tuple(chosen), "".join(sorted(missing))
