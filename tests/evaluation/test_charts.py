"""Charts as PNG and as SVG of the page."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from evaluations import evaluation, three

from psftr.errors import PsftrError
from psftr.evaluation.aggregate import TenSplitReport, aggregate
from psftr.evaluation.charts import ablation_chart, classes_chart, data_scale_chart, save_charts, splits_chart
from psftr.evaluation.facts import Training
from psftr.evaluation.figures import Chart, inline_svg, save_chart


def is_png(path: Path) -> bool:
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 5000


def test_every_figure_is_drawn(tmp_path: Path):
    report, half = three(), three(ratio=50)
    baseline = three(method="clip_baseline")
    half = TenSplitReport(half.evaluations, (0, 1, 2, 3))
    for number, chart in enumerate(
        (
            splits_chart([report, half], baselines=[baseline]),
            data_scale_chart([report, half]),
            classes_chart(report, baseline=baseline),
            classes_chart(report, most=1),
            ablation_chart({"w/o SPDE": report, "Res.": baseline}, name="Table 3", paper={}),
        )
    ):
        path = save_chart(tmp_path / "a" / f"{number}.png", chart, size_in=(6, 4))
        assert is_png(path), path
    names = [path.name for path in save_charts(tmp_path / "b", report, baseline=baseline, mark="-1")]
    assert names == ["classes-1.png", "splits-1.png", "data_scale-1.png"]


def test_a_chart_in_the_page_has_text_tooltips_and_the_pages_colours():
    svg = inline_svg(splits_chart([three()]))
    assert svg.startswith('<svg viewBox="0 0 ')
    assert "psftr, 75/25, split 1: 40.00</title>" in svg
    assert ">40.0</text>" in svg
    assert "fill:var(--c0)" in svg
    assert not re.search(r"#[0-9a-f]{6}|url\(|http|\bid=|href|font-family", svg)


def test_titles_say_what_numbers_are_worth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    titles = []
    monkeypatch.setattr("matplotlib.axes.Axes.set_title", lambda self, text, **rest: titles.append(text))
    synthetic = three(dataset="synthetic")
    charts: list[Chart] = [
        splits_chart([synthetic]),
        data_scale_chart([synthetic]),
        classes_chart(synthetic),
        ablation_chart({"a": synthetic}, name="Table 3"),
    ]
    for number, chart in enumerate(charts):
        save_chart(tmp_path / f"{number}.png", chart, size_in=(6, 4))
    assert [" ".join(title.split()) for title in titles] == [chart.title for chart in charts]
    assert all(title.startswith("[SYNTHETIC] synthetic") for title in titles)


def test_printed_numbers_are_not_drawn_beside_synthetic_ones(monkeypatch: pytest.MonkeyPatch):
    drawn = []
    monkeypatch.setattr("matplotlib.axes.Axes.scatter", lambda self, x, y, **rest: drawn.append(list(y)))
    ablation_chart({"a": three(dataset="synthetic")}, name="Table 3", paper={"a": 27.97})
    assert drawn == []
    ablation_chart({"a": three()}, name="Table 3", paper={"a": 27.97, "b": 1.0})
    assert drawn == [[27.97]]


def test_numbers_made_by_different_rules_share_no_figure():
    with pytest.raises(PsftrError, match=r"cannot hold thumos14 \(clean\) and thumos14 \(peer\)"):
        splits_chart([three(), three(protocol="peer")])
    with pytest.raises(PsftrError, match="nothing to draw"):
        splits_chart([])
    uncounted = aggregate([replace(evaluation(0), training=Training())])
    with pytest.raises(
        PsftrError, match="psftr on thumos14: its predictions do not say how many videos it was trained"
    ):
        data_scale_chart([uncounted])
