"""Labels in scripts that matplotlib's own font lacks."""

import warnings

import pytest
from matplotlib import font_manager

from psftr.evaluation import fonts
from psftr.evaluation.timeline import draw_timeline
from psftr.predictions import Detection

CJK = "跳高"


@pytest.fixture(autouse=True)
def fresh():
    for function in (fonts._fonts_with, fonts._warn_of):
        function.cache_clear()
    yield
    for function in (fonts._fonts_with, fonts._warn_of):
        function.cache_clear()


@pytest.fixture
def only_matplotlibs_font(monkeypatch):
    entries = [entry for entry in font_manager.fontManager.ttflist if entry.name.startswith("DejaVu")]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", entries)


def draw(path, label):
    draw_timeline(path, title=label, duration_s=5, detections=[Detection("v", label, 1, 2, 0.9)])


def test_one_warning_where_no_font_has_the_characters(tmp_path, caplog, only_matplotlibs_font):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("a.png", "b.png"):
            draw(tmp_path / name, CJK)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert f"no installed font has {''.join(sorted(CJK))}" in told[0]
    assert "install one, such as Noto Sans CJK" in told[0]


def test_latin_labels_say_nothing(tmp_path, caplog, only_matplotlibs_font):
    draw(tmp_path / "a.png", "high jump, Stabhochsprung, прыжок")
    assert caplog.records == []


def test_a_font_with_the_characters_is_taken(tmp_path, monkeypatch, caplog):
    """Two installed fonts have them; the preferred one is used, and no more than needed."""
    entries = [font_manager.FontEntry(fname=name, name=name) for name in ("Aaa", "WenQuanYi Zen Hei", "Yu Gothic")]
    has = {"Aaa": "a", "WenQuanYi Zen Hei": CJK, "Yu Gothic": CJK}
    monkeypatch.setattr(font_manager.fontManager, "ttflist", entries)
    monkeypatch.setattr(fonts, "_characters", lambda path: frozenset(map(ord, has[path])))
    assert fonts.fonts_for(f"high jump {CJK}") == (("Yu Gothic",), "")
    assert fonts.fonts_for(f"{CJK}\N{CUNEIFORM SIGN A}") == (("Yu Gothic",), "\N{CUNEIFORM SIGN A}")
