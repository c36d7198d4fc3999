"""Settings over seeds in one table."""

import math

from psftr.evaluation.comparison import TrainedOn
from psftr.evaluation.render import text
from psftr.evaluation.seeds import seeds_table


def runs(*scores):
    return {TrainedOn(100, 0, 0, seed): score for seed, score in enumerate(scores)}


def test_gains_are_paired_over_the_first_setting():
    table = seeds_table({"vision only": runs(0.2, 0.4), "full": runs(0.3, 0.5), "one": runs(0.3)}, synthetic=True)
    rows = table.frame.set_index("setting")
    assert [round(value, 6) for value in rows["mAP"]] == [0.3, 0.4, 0.3]
    assert math.isnan(rows.loc["vision only", "gain"])
    # both pairs differ by 0.1, whatever seeds are drawn
    assert [round(rows.loc["full", name], 6) for name in ("gain", "low", "high")] == [0.1, 0.1, 0.1]
    assert table.caption.startswith("[SYNTHETIC]")
    assert "vision only" in text(table)
