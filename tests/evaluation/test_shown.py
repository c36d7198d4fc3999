"""One threshold: page, subtitles, picture and printed table show the same detections."""

import json
import re

import pytest

from psftr.api.result import Result
from psftr.cli.predict import _print_table
from psftr.evaluation.shown import shown_from, threshold_text
from psftr.predictions import Detection, Predictions, Provenance


def predictions(scores: dict[str, list[float]], threshold=None) -> Predictions:
    """Detections of 1 s each, one after the other."""
    found = {v: tuple(Detection(v, "jump", k, k + 1, s) for k, s in enumerate(own)) for v, own in scores.items()}
    config = {"labels": ["jump", "run"], "threshold": threshold}
    return Predictions(found, Provenance(method="psftr", checkpoint_rule="last", config=config))


@pytest.mark.parametrize(
    ("scores", "threshold", "least"),
    [
        ({"a": [0.8, 0.5, 0.3], "b": [0.2]}, None, 0.4),  # half of the best of all videos
        ({"a": [0.8, 0.5, 0.3], "b": [0.2]}, 0.25, 0.25),  # as asked
        ({"a": [1 - k / 100 for k in range(40)]}, None, 0.91),  # the tenth: half would leave forty
        ({"a": [-0.5, -0.7]}, None, -0.7),  # half of a negative score is more than it
        ({"a": []}, None, 0.0),
    ],
)
def test_the_threshold(scores, threshold, least):
    assert shown_from(predictions(scores, threshold)) == pytest.approx(least)


def test_a_threshold_of_something_else_is_none():
    made = Provenance(method="other", checkpoint_rule="last", config={"threshold": 0.9})
    assert shown_from(Predictions({"a": (Detection("a", "x", 0, 1, 0.4),)}, made)) == 0.2


def test_it_is_said():
    file = predictions({"a": [0.8]})
    assert threshold_text(file) == (
        "shown: those with a score of 0.4 or more (half the best, or 10 per video if that is fewer)"
    )
    assert threshold_text(file, 0.1).endswith("0.1 or more (--threshold)")


@pytest.mark.parametrize("threshold", [None, 0.25])
def test_page_subtitles_picture_and_console_show_the_same(tmp_path, monkeypatch, capsys, threshold):
    # one score lies so close below the threshold that the page's rounded numbers cannot tell it from one on it
    file = predictions({"a": [0.8, 0.5, 0.4, 0.399999, 0.25], "b": [0.6, 0.1], "c": [0.2]}, threshold)
    if threshold:
        kept = {v: tuple(d for d in own if d.score >= threshold) for v, own in file.detections.items()}
        file = Predictions(kept, file.provenance)
    result = Result(file, ("jump", "run"), dict.fromkeys("abc", 10.0), threshold=threshold)
    numbers = [len(result.likely(v)) for v in "abc"]
    assert numbers == ([5, 1, 0] if threshold else [3, 1, 0])

    page = result.to_report(tmp_path / "p.html").read_text(encoding="utf-8")
    (data,) = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    assert [video["n"] for video in data["videos"]] == numbers
    assert data["least"] == result.shown_from

    drawn = []
    monkeypatch.setattr(
        "psftr.evaluation.timeline.draw_timeline", lambda *_, detections, **__: drawn.append(detections)
    )
    for v in "abc":
        assert result.to_srt(tmp_path / "v.srt", v).read_text(encoding="utf-8").count("-->") == len(result.likely(v))
        result.to_timeline(tmp_path / "v.png", v)
    assert [len(one) for one in drawn] == numbers

    _print_table(result)
    printed = capsys.readouterr().out
    assert printed.count("  jump") == sum(numbers)
    assert printed.count("nothing: run\n") == 2
    assert "nothing: jump, run\n" in printed
    assert f"a score of {result.shown_from:.3g} or more" in printed
