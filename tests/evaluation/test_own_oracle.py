"""Detections and ground truth in files, with every AP worked out by hand: runs wherever psftr does.

Class jump, three instances. By falling score: [0, 10] is exact; [20, 28] on [20, 30] has tIoU 8/10; [5, 15] on [0, 10]
has 5/15; [0, 6] on [0, 10] has 6/10.
    tIoU .50   right right wrong right   precision 1, 1, 3/4 at recall 1/3, 2/3, 1   AP (1 + 1 + 3/4) / 3 = 11/12
    tIoU .75   right right wrong wrong                                               AP 2/3
    tIoU .95   right wrong wrong wrong                                               AP 1/3
Class run, two instances. The surest detection misses, the next one is exact: precision 1/2 at recall 1/2, AP 1/4.
"""

import json

import pytest

from psftr.data.annotations import read_annotations
from psftr.evaluation.protocol import evaluate_predictions
from psftr.evaluation.rules import Protocol
from psftr.predictions import read_predictions

ONE, TWO = "abcdefghijk", "lmnopqrstuv"  # as long as the ids of YouTube, whose files come with and without "v_"
TIOUS = (0.5, 0.75, 0.95)
AP = {"jump": (11 / 12, 2 / 3, 1 / 3), "run": (1 / 4, 1 / 4, 1 / 4)}
TRUTH = (
    (ONE, 0, 10, "jump"), (ONE, 20, 30, "jump"), (ONE, 40, 50, "run"),
    (TWO, 0, 10, "jump"), (TWO, 30, 40, "run"), (TWO, 60, 80, "Ambiguous"),
)  # fmt: skip
FOUND = (
    (ONE, 0, 10, 0.9, "jump"), (ONE, 20, 28, 0.8, "jump"), (TWO, 5, 15, 0.7, "jump"), (TWO, 0, 6, 0.6, "jump"),
    (TWO, 50, 59, 0.9, "run"), (ONE, 40, 50, 0.5, "run"),
    (TWO, 61, 70, 0.99, "jump"),  # on an ambiguous stretch: neither right nor wrong
)  # fmt: skip


def as_csv(folder):
    lines = ["video-id,t-start,t-end,label,subset", *(",".join(map(str, (*row, "test"))) for row in TRUTH)]
    (folder / "truth.csv").write_text("\n".join(lines) + "\n")
    lines = ["video-id,t-start,t-end,score,label", *(",".join(map(str, row)) for row in FOUND)]
    (folder / "found.csv").write_text("\n".join(lines) + "\n")
    return folder / "truth.csv", folder / "found.csv"


def as_json(folder):
    database = {f"v_{video}": {"subset": "test", "duration": 90.0, "annotations": []} for video in (ONE, TWO)}
    for video, start_s, end_s, label in TRUTH:
        database[f"v_{video}"]["annotations"].append({"segment": [start_s, end_s], "label": label})
    (folder / "truth.json").write_text(json.dumps({"database": database}))
    results = {ONE: [], TWO: []}
    for video, start_s, end_s, score, label in FOUND:
        results[video].append({"segment": [start_s, end_s], "score": score, "label": label})
    (folder / "found.json").write_text(json.dumps({"results": results}))
    return folder / "truth.json", folder / "found.json"


@pytest.mark.parametrize("write", [as_csv, as_json])
def test_every_average_precision_is_the_one_worked_out_by_hand(write, tmp_path):
    truth, found = write(tmp_path)
    rules = Protocol(dataset="mine", test_subset="test", tious=TIOUS, printed_tious=(0.5,))
    result = evaluate_predictions(read_predictions(found), read_annotations(truth), protocol=rules).ap
    assert result.classes == ("jump", "run")
    assert result.ap.tolist() == [pytest.approx(AP[name]) for name in result.classes]
    assert result.map_per_tiou.tolist() == pytest.approx([7 / 12, 11 / 24, 7 / 24])
    assert result.average == pytest.approx(4 / 9)
