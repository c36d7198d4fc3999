"""Ten splits: what is averaged, what is refused, what is missing."""

import math
from dataclasses import replace

import pytest
from evaluations import evaluation, three

from psftr.errors import PsftrError
from psftr.evaluation.aggregate import Spread, aggregate, group_reports
from psftr.evaluation.protocol import Evaluation
from psftr.evaluation.render import report_text


def test_mean_and_sample_standard_deviation():
    report = three()
    assert report.indices == (0, 1, 2)
    assert report.average.mean == pytest.approx(0.4)
    assert report.average.std == pytest.approx(0.1)  # of 0.3, 0.4, 0.5 with n - 1
    assert report.per_tiou[0.7].mean == pytest.approx(0.4)
    assert report.missing == ()
    assert report.coverage == "all splits 0..2: mean over 3"
    assert "n - 1" in report.to_dict()["std"]


def test_one_split_has_no_deviation():
    spread = Spread.of([0.25])
    assert (spread.mean, spread.count) == (0.25, 1)
    assert math.isnan(spread.std)
    assert spread.to_dict() == {"mean": 0.25, "std": None, "count": 1}


def test_missing_splits_are_named_never_silent():
    report = aggregate([evaluation(i) for i in (0, 1, 2, 4, 5, 6, 8, 9)])
    assert report.missing == (3, 7)
    assert report.coverage == "SPLITS 3, 7 MISSING of 0..9: mean over 8"
    text = report_text(report)
    assert " ".join(text.split()).count("SPLITS 3, 7 MISSING of 0..9: mean over 8") == 2
    assert "\n3            MISSING" in text
    assert report.to_dict()["splits"]["missing"] == [3, 7]


def test_classes_are_averaged_over_the_splits_they_are_unseen_in():
    report = aggregate([evaluation(0, 0.3), evaluation(1, 0.5, classes=("a", "c"))], expected=range(2))
    assert list(report.per_class) == ["a", "c", "b"]
    assert report.per_class["a"].mean == pytest.approx(0.5)  # 0.4 and 0.6
    assert report.per_class["a"].count == 2
    assert report.per_class["c"].mean == pytest.approx(0.4)


def test_double_labels_take_other_splits_as_they_are():
    straddling = evaluation(0, 0.3)
    straddling = replace(straddling, without_double_labels=replace(straddling.ap, ap=straddling.ap.ap + 0.2))
    report = aggregate([straddling, evaluation(1, 0.4)], expected=range(2))
    without = report.without_double_labels
    assert without is not None
    assert without.mean == pytest.approx((0.5 + 0.4) / 2)
    assert "w/o double" in report_text(report)
    assert three().without_double_labels is None
    assert "w/o double" not in report_text(three())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (evaluation(1, protocol="peer"), "name 'clean' and 'peer'"),
        (evaluation(1, ratio=50), "ratio 75 and 50"),
        (evaluation(1, checkpoint="best-seen-val"), "checkpoint rule 'last' and 'best-seen-val'"),
        (evaluation(1, method="clip_baseline (psftr 0.1.0)"), "method 'psftr' and 'clip_baseline'"),
        (evaluation(1, synthetic=True), "synthetic False and True"),
        (evaluation(1, held_out=("y",)), "number of held-out classes 0 and 1"),
        (evaluation(0), "split 0 evaluated more than once"),
    ],
)
def test_what_must_not_be_averaged_is_refused(other: Evaluation, message: str):
    with pytest.raises(PsftrError, match=message):
        aggregate([evaluation(0), other])
    with pytest.raises(PsftrError, match="no evaluation to aggregate"):
        aggregate([])


def test_evaluations_without_a_common_mean_are_reported_apart():
    one, two = group_reports([evaluation(0), evaluation(0, ratio=50), evaluation(1)])
    assert (one.ratio, one.indices, one.missing) == (75, (0, 1), (2, 3, 4, 5, 6, 7, 8, 9))
    assert (two.ratio, two.indices, two.missing) == (50, (0,), ())
    (one,) = group_reports([evaluation(4)], expected=(3, 4))
    assert one.missing == (3,)


def test_another_code_version_is_told_not_refused():
    report = aggregate([evaluation(0), evaluation(1, method="psftr (psftr 0.2.0)")], expected=range(2))
    assert report.differing_facts == {
        ("method", "psftr (psftr 0.1.0)"): (0,),
        ("method", "psftr (psftr 0.2.0)"): (1,),
    }
    assert "split 1  method: psftr (psftr 0.2.0)" in report_text(report)
