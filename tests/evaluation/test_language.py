"""LAP, fixed and infinite outputs, levels of difficulty and ambiguity, each by hand."""

import math
from dataclasses import replace

import pytest

from psftr.data.annotations import Action, Annotations, Video
from psftr.errors import PsftrError
from psftr.evaluation.language import (
    Ambiguity,
    ambiguity,
    by_difficulty,
    difficulty,
    fixed_outputs,
    infinite_outputs,
    language_figures,
    lap,
    lap_of,
    mean_advantage,
)
from psftr.evaluation.language_tables import language_table, levels_table
from psftr.evaluation.protocol import evaluate_predictions
from psftr.evaluation.rules import protocol_for
from psftr.predictions import Detection, Predictions, Provenance, group_by_video, read_predictions, write_predictions

CLEAN = protocol_for("thumos14")
VIDEOS = {
    "t1": [("jump", 0, 10)],
    "t2": [("jump", 0, 10), ("run", 20, 30)],
    "t3": [("run", 0, 10)],
    "t4": [("Diving", 0, 10), ("Diving", 20, 30)],
}


def scored(*rows, ambiguous=(), **more):
    """Detections (video, label, start, end, score[, advantage]) in these videos of 40 s and `more`, scored."""
    videos = {
        video_id: Video(video_id, "test", 40.0, 30.0, tuple(Action(s, e, label) for label, s, e in actions))
        for video_id, actions in {**VIDEOS, **more}.items()
    }
    stretches = {video_id: tuple(Action(s, e, "Ambiguous") for s, e in spans) for video_id, spans in ambiguous}
    split = {"dataset": "thumos14", "source": "published", "ratio": 50, "index": 0}
    split |= {"seen": ["CliffDiving"], "unseen": ["Diving", "jump", "run"]}
    made = Predictions(
        group_by_video([Detection(*row) for row in rows]),
        Provenance(method="psftr", checkpoint_rule="last", split=split, features={"encoder": "clip"}),
    )
    return evaluate_predictions(made, Annotations(videos=videos, ignored=stretches), protocol=CLEAN)


PERFECT = [
    ("t1", "jump", 0, 10, 0.9), ("t2", "jump", 0, 10, 0.8), ("t2", "run", 20, 30, 0.7), ("t3", "run", 0, 10, 0.6),
    ("t4", "Diving", 0, 10, 0.5), ("t4", "Diving", 20, 30, 0.4),
]  # fmt: skip


def test_lap_is_the_relative_drop():
    assert lap(0.5, 0.4) == pytest.approx(0.2)
    assert lap(0.4, 0.5) == pytest.approx(-0.25)  # better with the texts of others
    assert math.isnan(lap(0.0, 0.0))
    aligned, mismatched = scored(*PERFECT), scored(*[row for row in PERFECT if row[1] != "run"])
    assert aligned.ap.average == 1.0
    assert lap_of(aligned, mismatched) == pytest.approx(1 / 3)  # one of three classes is lost
    other = scored(*PERFECT, t9=[("run", 0, 5)])
    with pytest.raises(PsftrError, match="mismatched descriptions are scored on 3 classes in 5 videos, these on 3 cl"):
        lap_of(aligned, other)


def rows(*spans, video="v", label="run"):
    return tuple(Detection(video, label, start, end, 0.5) for start, end in spans)


def test_fixed_outputs_are_the_same_in_another_video():
    outputs = {
        "a": rows((1.0, 2.0), (5.0, 9.0)),
        "b": rows((5.0, 9.0), (1.0, 2.02), label="jump"),  # the same set, to a tenth of a second, whatever the label
        "c": rows((1.0, 2.0)),
        "d": (),
        "e": (),
    }
    assert fixed_outputs(outputs) == 2 / 5
    assert math.isnan(fixed_outputs({}))


def test_infinite_outputs_repeat_or_list():
    twice, thrice = rows((1, 2), (1, 2)), rows((1, 2), (1, 2), (1, 2))
    ladder = rows(*[(5 * i, 5 * i + 5) for i in range(10)])
    uneven = rows(*[(5 * i, 5 * i + 5 + (i == 3)) for i in range(10)])
    outputs = {"twice": twice, "thrice": thrice, "ladder": ladder, "short": ladder[:9], "uneven": uneven, "none": ()}
    assert infinite_outputs(outputs) == 2 / 6
    assert infinite_outputs({"two labels": (*twice, *rows((1, 2), label="jump"))}) == 0


def test_difficulty_has_the_sizes_of_the_paper():
    levels = difficulty({f"c{n:02}": n / 20 for n in range(20)})
    assert [name for name, level in levels.items() if level == "easy"] == ["c19", "c18", "c17", "c16"]
    assert [name for name, level in levels.items() if level == "hard"] == ["c01", "c00"]
    assert difficulty({"a": 0.5, "b": 0.5, "c": 0.1}) == {"a": "easy", "b": "medium", "c": "hard"}
    with pytest.raises(PsftrError, match="2 classes cannot be divided into easy, medium and hard"):
        difficulty({"a": 0.5, "b": 0.5})


def test_levels_are_ranked_by_the_model_without_language():
    vision = scored(*PERFECT[:4], ("t4", "Diving", 0, 10, 0.5), ("t2", "run", 33, 35, 0.9))
    # jump is found whole, one of two Divings, and run stands behind a false detection: AP 2/3
    own = vision.ap.ap_per_class
    assert own == pytest.approx({"Diving": 0.5, "jump": 1.0, "run": 2 / 3})
    levels = by_difficulty(scored(*PERFECT[1:]), vision)
    assert [(one.name, one.classes) for one in levels] == [
        ("easy", ("jump",)), ("medium", ("run",)), ("hard", ("Diving",)),
    ]  # fmt: skip
    assert [one.map for one in levels] == pytest.approx([0.5, 1.0, 1.0])  # this one misses the first jump
    assert [one.gain for one in levels] == pytest.approx([-0.5, 1 / 3, 0.5])
    assert all(math.isnan(one.mla) for one in levels)


def test_mean_advantage_is_over_frames_of_detections_that_fit():
    evaluation = scored(
        ("t1", "jump", 0, 10, 0.9, 0.4),  # 10 s
        ("t2", "jump", 0, 5, 0.8, 0.1),  # 5 s, tIoU 0.5
        ("t2", "jump", 20, 30, 0.7, 9.0),  # on a run
        ("t3", "run", 0, 10, 0.6),  # says nothing
    )
    assert mean_advantage(evaluation, ["jump"]) == pytest.approx((10 * 0.4 + 5 * 0.1) / 15)
    assert math.isnan(mean_advantage(evaluation, ["run"]))


def test_ambiguity_by_hand():
    detections = {
        "a": (Detection("a", "run", 2, 12, 0.2), Detection("a", "jump", 0, 9, 0.6), Detection("a", "run", 20, 30, 0.9)),
        "b": (),
    }
    clips = {
        "a": (Action(0, 10, "Ambiguous"), Action(0, 10, "run")),
        "b": (Action(0, 4, "run"),),
        "z": (Action(0, 1, "run"),),
    }
    found = ambiguity(detections, clips, classes=["run", "jump"])
    # any label: the jump, 0.6 and 9 of 10 s; run: 0.2 and 8 of 10 s; nothing in b; z was not looked at
    assert found == Ambiguity(pytest.approx(0.8 / 3), pytest.approx(1.7 / 3), (1 / 3, 1 / 3, 1 / 3), 3)
    assert ambiguity(detections, {"z": clips["z"]}, classes=["run"]) is None


def test_advantage_survives_the_file_and_is_left_out_where_unknown(tmp_path):
    path = write_predictions(tmp_path / "p.json", Predictions({"t1": (Detection("t1", "jump", 0, 10, 0.9, 0.25),
                                                                     Detection("t1", "jump", 3, 4, 0.8))}))  # fmt: skip
    assert path.read_text().count("language_advantage") == 1
    assert [d.language_advantage for d in read_predictions(path).detections["t1"]] == [0.25, None]
    path.write_text(path.read_text().replace("0.25", "NaN"))
    with pytest.raises(PsftrError, match="t1, detection 1: language_advantage nan is not finite"):
        read_predictions(path)
    path.write_text(path.read_text().replace("NaN", '"much"'))
    with pytest.raises(PsftrError, match=r"t1, detection 1: .* is not"):
        read_predictions(path)


def test_all_figures_of_a_file_and_their_tables():
    evaluation = scored(*PERFECT, ("t1", "jump", 20, 25, 0.3, 0.5), ambiguous=[("t1", [(20, 30)])])
    mismatched = scored(*[row for row in PERFECT if row[1] != "run"])
    figures = language_figures(evaluation, mismatched=mismatched, vision_only=scored(*PERFECT))
    assert figures.lap == pytest.approx(1 / 3)
    # t1 and t3 differ, t2 and t4 find the same: 0 to 10 and 20 to 30
    assert (figures.fixed, figures.infinite) == (0.5, 0.0)
    assert figures.ambiguity == Ambiguity(0.3, 0.5, (0.0, 0.0, 1.0), 1)
    table = language_table({"ours": figures}, "[SYNTHETIC] ")
    assert table.caption.startswith("[SYNTHETIC] Language, in percent; LAP: relative drop")
    assert table.body == [["ours", "100.00", "33.33", "50.00", "0.00", "30.00", "50.00", "0.00", "0.00", "100.00", "1"]]
    levels = levels_table(figures, "")
    assert levels.headings == ["level", "classes", "mAP", "without language", "gain"]
    assert levels.body[0] == ["easy", "1", "100.00", "100.00", "0.00"]
    assert levels.caption.endswith("Hard: run")
    plain = language_table({"ours": language_figures(mismatched)}, "")
    assert plain.headings == ["file", "mAP", "fixed", "infinite"]
    with pytest.raises(PsftrError, match="does not say what it scored"):
        language_figures(replace(evaluation, selection=None))
