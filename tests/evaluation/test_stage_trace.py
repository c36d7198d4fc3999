"""The stage trace on the report page: read by its format, drawn for the detections it is of."""

import copy
import json
import re

import pytest
from browser import browser, why_missing

from psftr.errors import PsftrError
from psftr.evaluation.report_page import write_report_page
from psftr.evaluation.stage_trace import find_stage_trace, read_stage_trace
from psftr.predictions import Detection, Predictions


def span(start, end, **value):
    return {"segment": [start, end], **value}


# "Baking": gather (not key), mix (key), bake (key). Two runs joined into [10, 40], one run dropped, one of its own.
BAKING = {
    "label": "Baking",
    "filter_confidence": 0.81,
    "caption": None,
    "is_fallback": False,
    "stages": [
        {"description": "people gather things", "is_key": False},
        {"description": "people mix </script>", "is_key": True},
        {"description": "people bake", "is_key": True},
    ],
    "curve_step_s": 1.0,
    "curves": [[0.5], [0.5], [0.5]],
    "runs": [span(10, 20, key=1), span(22, 40, key=2), span(60, 62, key=None), span(70, 80, key=2)],
}
TRACE = {
    "version": "psftr-stages-1",
    "method": "cascade",
    "threshold": 0.7,
    "counts": None,
    "videos": {
        "v_a": {
            "duration_s": 100.0,
            "step_s": 0.5,
            "classes": [BAKING],
            "detections": [
                {
                    "label": "Baking",
                    "segment": [10.0, 40.0],
                    "score": 0.9,
                    "key": 2,
                    "coverage": 1.0,
                    "runs": BAKING["runs"][:2],
                    "stages": [[], [span(10, 20, confidence=0.9)], [span(22, 25, confidence=0.8),
                                                                    span(30, 31, confidence=0.76)]],
                },
                {
                    "label": "Baking",
                    "segment": [70.0, 80.0],
                    "score": 0.4,
                    "key": 2,
                    "coverage": 0.5,
                    "runs": BAKING["runs"][3:],
                    "stages": [[], [], [span(70, 80, confidence=0.75)]],
                },
            ],
        }
    },
}  # fmt: skip
FOUND = Predictions(
    {
        "v_a": (
            Detection("v_a", "Baking", 70.001, 80.0, 0.4),
            Detection("v_a", "Baking", 10.0, 40.0, 0.9),
            Detection("v_a", "Baking", 11.0, 40.0, 0.2),
        )
    }
)


@pytest.fixture
def trace_file(tmp_path):
    path = tmp_path / "stages.json"
    path.write_text(json.dumps(TRACE))
    return path


def data_of(path):
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(), re.S)[1])


def test_the_page_has_the_trace_of_every_detection_that_has_one(trace_file, tmp_path):
    trace = read_stage_trace(trace_file)
    path = write_report_page(tmp_path / "p.html", {"mine": FOUND}, stages={"mine": trace})
    (video,) = data_of(path)[0]["videos"]
    first, second, third = video["s"]["d"]  # best score first
    assert first["runs"] == [1000, 2000, 1, 2200, 4000, 2]
    assert first["stages"] == [[], [1000, 2000, 900], [2200, 2500, 800, 3000, 3100, 760]]
    assert (second["coverage"], second["stages"][2]) == (0.5, [7000, 8000, 750])
    assert third is None  # not in the trace
    (plan,) = video["s"]["c"].values()
    assert plan["stages"][:2] == [["people gather things", 0], ["people mix </script>", 1]]
    assert plan["runs"][6:9] == [6000, 6200, -1]
    page = path.read_text()
    assert page.count("</script>") == 2
    assert "function stagePanel" in page


def test_without_a_trace_there_is_nothing_of_it(trace_file, tmp_path):
    other = Predictions({"v_b": (Detection("v_b", "Baking", 10.0, 40.0, 0.9),)})
    plain = write_report_page(tmp_path / "p.html", {"mine": other}).read_text()
    assert "stagePanel({" in plain  # called, if ever there is something to show
    assert "function stagePanel" not in plain
    assert "An underlined detection" not in plain
    traced = write_report_page(tmp_path / "p.html", {"mine": other}, stages={"mine": read_stage_trace(trace_file)})
    assert traced.read_text() == plain
    with pytest.raises(PsftrError, match="stage trace of yours, but no such predictions; there are mine"):
        write_report_page(tmp_path / "p.html", {"mine": other}, stages={"yours": read_stage_trace(trace_file)})


def test_only_a_trace_is_taken_for_one(trace_file, tmp_path):
    assert find_stage_trace(tmp_path / "predictions.json") == trace_file
    assert find_stage_trace(tmp_path / "elsewhere" / "predictions.json") is None
    trace_file.write_text(json.dumps({"Baking": {"stages": []}}))  # a plan may have this name
    assert find_stage_trace(tmp_path / "predictions.json") is None


def without_coverage(content):
    del content["videos"]["v_a"]["detections"][0]["coverage"]


def without_a_stage(content):
    content["videos"]["v_a"]["detections"][0]["stages"].pop()


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda content: content.update(version="psftr-stages-2"), "version 'psftr-stages-2', this psftr reads"),
        (without_coverage, r"damaged \('coverage' is missing\)"),
        (without_a_stage, r"damaged \(a detection in v_a has not the stages of Baking\)"),
    ],
)
def test_a_trace_of_another_form_is_refused(trace_file, spoil, complaint):
    content = copy.deepcopy(TRACE)
    spoil(content)
    trace_file.write_text(json.dumps(content))
    with pytest.raises(PsftrError, match=complaint) as told:
        read_stage_trace(trace_file)
    assert "\n" not in str(told.value)


def test_no_file_and_no_json(trace_file):
    with pytest.raises(PsftrError, match=r"none\.json: no such file; make it again with `psftr cascade`"):
        read_stage_trace("none.json")
    trace_file.write_text("{")
    with pytest.raises(PsftrError, match="not valid JSON"):
        read_stage_trace(trace_file)


PANEL = "const p = document.querySelector('.stages'); return p && p.textContent"


def test_browser_shows_stages_of_a_detection_by_keyboard_and_click(trace_file, tmp_path):
    if why_missing():
        pytest.skip(why_missing())
    trace = read_stage_trace(trace_file)
    path = write_report_page(tmp_path / "p.html", {"mine": FOUND}, stages={"mine": trace})
    with browser() as tab:
        tab.open(path, width=360, height=780)
        tab.run("const s = document.getElementById('least'); s.value = 0; s.dispatchEvent(new Event('input'));")
        tab.run("document.querySelector('.found[data-start=\"1000\"]').focus()")
        assert tab.run(PANEL) is None
        assert tab.run("return document.getElementById('told').textContent").endswith("; Enter shows its stages")
        tab.press("Enter")
        told = tab.run(PANEL)
        assert "2 runs merged, 2 of 2 key stages seen, filter confidence 0.81" in told
        assert "1. people gather thingsnot seen" in told
        assert "2. people mix </script>keyconfidence 0.90 over 10 s" in told
        assert "3. people bakekeyconfidence 0.79 over 4 s" in told  # (3 * 0.8 + 1 * 0.76) / 4
        assert "merged 10 to 20 s (key stage 2), 22 to 40 s (key stage 3); dropped 60 to 62 s (no key stage)" in told
        kinds = "return [...document.querySelectorAll('.stages .part')].map((e) => e.className.split(' ')[1])"
        assert tab.run(kinds) == ["of-key"] * 3 + ["merged", "merged", "dropped", "other"]
        # on the axis of the bars: the stage of 10 to 20 s begins where the detection does
        left = "return Math.round(document.querySelector('{}').getBoundingClientRect().left)"
        assert tab.run(left.format(".stages .part")) == tab.run(left.format('.found[data-start=\\"1000\\"]'))
        assert tab.run("return document.documentElement.scrollWidth") == 360
        tab.press("Tab", "Enter")  # closer
        wide = "return document.querySelector('.stages .part').getBoundingClientRect().width"
        assert tab.run(wide) > 60
        tab.run("document.getElementById('closer').click()")  # the bars are drawn anew, the stages stay open
        assert tab.run("return document.querySelector('.stages .of-key').getBoundingClientRect().width") > 50
        tab.run("document.getElementById('whole').click()")
        tab.run("document.querySelector('.found[data-start=\"7000\"]').click()")
        assert "one run, 1 of 2 key stages seen" in tab.run(PANEL)
        tab.run("document.querySelector('.found[data-start=\"7000\"]').click()")
        assert tab.run(PANEL) is None
        tab.run("document.querySelector('.found[data-start=\"1100\"]').click()")  # has no trace
        assert tab.run(PANEL) is None
        assert tab.console() == []
