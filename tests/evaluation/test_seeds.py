"""Settings over seeds in one table."""

import math

from psftr.evaluation.comparison import TrainedOn
from psftr.evaluation.render import text
from psftr.evaluation.seeds import seeds_table


def runs(*scores):
    return {TrainedOn(100, 0, 0, seed): score for seed, score in enumerate(scores)}


def test_gains_are_paired_over_the_first_setting():
    table = seeds_table(
        {"vision only": runs(0.2, 0.4), "full": runs(0.3, 0.5), "one": runs(0.3)}, laps={}, synthetic=True
    )
    rows = table.frame.set_index("setting")
    assert [round(value, 6) for value in rows["mAP"]] == [0.3, 0.4, 0.3]
    assert math.isnan(rows.loc["vision only", "gain"])
    # both pairs differ by 0.1, whatever seeds are drawn
    assert [round(rows.loc["full", name], 6) for name in ("gain", "low", "high")] == [0.1, 0.1, 0.1]
    assert table.caption.startswith("[SYNTHETIC]")
    assert "vision only" in text(table)
    assert "LAP" not in table.headings


def test_lap_stands_beside_where_it_is_known():
    scores = {"vision only": runs(0.2, 0.4), "full": runs(0.3, 0.5)}
    table = seeds_table(scores, laps={"full": runs(0.25, 0.25)}, synthetic=True)
    assert table.headings[-3:] == ["LAP", "from", "to"]
    assert table.body[1][-3:] == ["25.00", "25.00", "25.00"]  # the same whatever seeds are drawn
    assert table.body[0][-3:] == ["-", "-", "-"]
    assert "LAP: relative drop of mAP" in table.caption
