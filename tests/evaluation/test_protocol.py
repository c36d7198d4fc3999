import json
from dataclasses import replace
from pathlib import Path

import pytest

from psftr.data.annotations import Action, Annotations, Video, read_annotations
from psftr.data.splits import ClassSplit, read_published_split
from psftr.errors import PsftrError
from psftr.evaluation.protocol import evaluate_predictions, scorer, split_of
from psftr.evaluation.rules import Protocol, protocol_for
from psftr.predictions import Detection, Predictions, Provenance, canonical_id, group_by_video, read_predictions

SPLIT = ClassSplit(("CliffDiving", "run"), ("Diving", "jump"), "published", 50, 2)
# Ten seconds each, one action a video unless said otherwise. "t3" has no unseen class, "v1" is for training.
VIDEOS = {
    "t1": ("test", [("jump", 0, 10)]),
    "t2": ("test", [("jump", 0, 10), ("run", 20, 30)]),
    "t3": ("test", [("run", 0, 10)]),
    "t4": ("test", [("Diving", 0, 10), ("CliffDiving", 0, 10), ("Diving", 20, 30)]),
    "v1": ("val", [("run", 0, 10)]),
    "v2": ("val", [("run", 0, 10), ("jump", 20, 30)]),
    "v3": ("val", [("jump", 0, 10)]),
}


def annotations(*, ambiguous: dict[str, list[tuple[float, float]]] | None = None, **changes) -> Annotations:
    videos = {
        video_id: Video(video_id, subset, 40.0, 30.0, tuple(Action(s, e, label) for label, s, e in actions))
        for video_id, (subset, actions) in {**VIDEOS, **changes}.items()
    }
    stretches = {v: tuple(Action(s, e, "Ambiguous") for s, e in rows) for v, rows in (ambiguous or {}).items()}
    return Annotations(videos=videos, ignored=stretches)


def provenance(split: ClassSplit | None = SPLIT, **changes) -> Provenance:
    stated = split and {
        "dataset": "thumos14",
        "source": split.source,
        "ratio": split.ratio,
        "index": split.index,
        "seen": list(split.seen),
        "unseen": list(split.unseen),
    }
    features = {"encoder": "open_clip:ViT-B-16:openai", "dim": 512, "identity": "store-1", "synthetic": False}
    values = {"method": "psftr", "checkpoint_rule": "last", "split": stated, "features": features}
    return Provenance(**{**values, **changes})


def found(*rows: tuple[str, str, float, float, float], **changes) -> Predictions:
    """Perfect detections of every unseen test action, score 0.5, then `rows` (video, label, start, end,
    score)."""
    perfect = [
        Detection(video_id, label, s, e, 0.5)
        for video_id, (subset, actions) in VIDEOS.items()
        for label, s, e in actions
        if subset == "test" and label in SPLIT.unseen
    ]
    detections = group_by_video([*perfect, *(Detection(*row) for row in rows)])
    return Predictions({"t3": (), **detections}, **{"provenance": provenance(), **changes})


def facts_of(evaluation) -> dict[str, str]:
    return dict(evaluation.facts.rows())


CLEAN = protocol_for("thumos14")


def test_presets_are_those_of_the_field():
    assert protocol_for("thumos14").tious == (0.3, 0.4, 0.5, 0.6, 0.7)
    assert protocol_for("activitynet13").tious == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    assert protocol_for("activitynet13").printed_tious == (0.5, 0.75, 0.95)
    assert protocol_for("activitynet13").test_subset == "validation"
    assert protocol_for("synthetic").tious == CLEAN.tious
    assert protocol_for("thumos14", exclude=["v_abcdefghijk"]).excluded_videos == ("abcdefghijk",)
    with pytest.raises(PsftrError, match=r"no data set 'charades'; psftr knows .*thumos14"):
        protocol_for("charades")
    with pytest.raises(PsftrError, match="protocol 'lenient' is unknown"):
        replace(CLEAN, name="lenient")
    with pytest.raises(PsftrError, match=r"printed tIoUs \[0.1\] are not among"):
        replace(CLEAN, printed_tious=(0.1,))


def test_perfect_detections_are_perfect_and_videos_without_unseen_classes_do_not_count():
    evaluation = evaluate_predictions(found(("t3", "jump", 0, 10, 0.9)), annotations(), SPLIT, protocol=CLEAN)
    assert evaluation.ap.average == 1.0
    assert evaluation.num_videos == 3
    assert evaluation.training.videos is None  # the file does not say; annotated videos are no answer
    assert evaluation.ap.classes == ("Diving", "jump")
    assert facts_of(evaluation)["counts"] == "videos: 3 of 4, actions: 4"
    assert evaluation.facts.notes == ("detections in videos that do not count, ignored: 1 (videos: 1)",)


def test_every_fact_of_the_protocol_is_told():
    evaluation = evaluate_predictions(found(), annotations(ambiguous={"t1": [(20, 30)]}), SPLIT, protocol=CLEAN)
    told = facts_of(evaluation)
    assert told["protocol"].startswith("clean: no test class in training or model selection")
    assert told["checkpoint"] == "last"
    assert told["features"] == "open_clip:ViT-B-16:openai, 512-d, store store-1"
    assert told["split"] == "50/50, published"
    assert told["classes"] == "2 unseen classes, 2 seen"
    assert told["videos"] == "'test' videos with at least one unseen-class action"
    assert told["counts"].endswith("actions: 4, ambiguous instances: 1")
    assert told["tious"].startswith("0.30 0.40 0.50 0.60 0.70;")
    assert told["external classifier"] == "none"
    assert "shares time with one and matches no action does not count" in told["ambiguous"]
    assert "Diving (unseen) segments also labelled CliffDiving (seen): 1" in told["double labels"]
    assert not evaluation.facts.synthetic
    json.dumps(evaluation.to_dict(), allow_nan=False)


def test_a_missing_video_counts_as_without_detections_and_is_named():
    given = found()
    fewer = Predictions({v: rows for v, rows in given.detections.items() if v != "t1"}, given.provenance)
    evaluation = evaluate_predictions(fewer, annotations(), SPLIT, protocol=CLEAN)
    assert evaluation.ap.ap_per_class == {"Diving": 1.0, "jump": 0.5}
    assert evaluation.facts.notes == (
        "test videos missing from the predictions, counted as without detections: 1 of 3 (t1)",
    )


def test_other_labels_are_ignored_and_counted():
    evaluation = evaluate_predictions(found(("t1", "run", 0, 9, 0.9)), annotations(), SPLIT, protocol=CLEAN)
    assert evaluation.ap.average == 1.0
    assert evaluation.facts.notes == ("detections of other labels, ignored: 1 (run)",)


def test_a_class_without_test_actions_is_left_out_and_named():
    wider = replace(SPLIT, unseen=(*SPLIT.unseen, "swim"))
    given = found(("t1", "swim", 0, 9, 0.9), provenance=provenance(wider))
    evaluation = evaluate_predictions(given, annotations(), wider, protocol=CLEAN)
    assert evaluation.ap.average == 1.0
    assert facts_of(evaluation)["classes"] == "2 unseen classes, 2 seen; left out, having no test action: swim"
    assert evaluation.facts.notes == ("detections of classes without test actions, ignored: 1",)


def test_ids_meet_with_and_without_the_leading_v():
    videos = {"abcdefghijk": ("test", [("jump", 0, 10)])}
    given = Predictions({"v_abcdefghijk": (Detection("v_abcdefghijk", "jump", 0, 10, 0.5),)})
    evaluation = evaluate_predictions(given, annotations(**videos), SPLIT, protocol=CLEAN)
    assert evaluation.ap.ap_per_class["jump"] == pytest.approx(1 / 3)
    both = Predictions({"v_abcdefghijk": (), "abcdefghijk": ()})
    with pytest.raises(PsftrError, match="list abcdefghijk with and without 'v_'; merge the two"):
        evaluate_predictions(both, annotations(**videos), SPLIT, protocol=CLEAN)


def test_training_is_told_as_the_run_counted_it():
    training = {"videos": 82, "classes": 1, "names": ["run"], "actions": 900, "windows": 1200,
                "held_out_classes": ["CliffDiving"], "validation": "9 videos"}  # fmt: skip
    evaluation = evaluate_predictions(
        found(provenance=provenance(training=training)), annotations(), SPLIT, protocol=CLEAN
    )
    told = facts_of(evaluation)
    assert told["training"] == "videos: 82, classes: 1, actions: 900, windows: 1200; validation: 9 videos"
    assert told["classes"] == "2 unseen classes, 2 seen, of them 1 trained on (held out: CliffDiving)"
    assert evaluation.mark == "[TRAINED ON 1 OF 2 SEEN CLASSES] "
    assert evaluation.to_dict()["num_training_videos"] == 82
    unknown = evaluate_predictions(found(), annotations(), SPLIT, protocol=CLEAN)
    assert "training" not in facts_of(unknown)
    assert (unknown.mark, unknown.to_dict()["num_training_videos"]) == ("", None)


# ---- refusals


def test_training_on_an_unseen_class_is_refused():
    given = found(provenance=provenance(ClassSplit(("jump", "run"), ("Diving", "CliffDiving"), "published", 50, 7)))
    with pytest.raises(PsftrError, match=r"was trained on jump, unseen in split 50/50 #2 .* own split 50/50 #7"):
        evaluate_predictions(given, annotations(), SPLIT, protocol=CLEAN)


def test_predictions_for_another_vocabulary_are_refused():
    given = found(provenance=provenance(ClassSplit(("run",), ("Diving", "jump", "swim"), "random", 25, 1)))
    with pytest.raises(PsftrError, match=r"for split 25/75 #1 \(random\) with 1 seen and 3 unseen classes, not for"):
        evaluate_predictions(given, annotations(), SPLIT, protocol=CLEAN)


def test_a_training_free_method_has_no_seen_classes_to_compare():
    other = ClassSplit(("run",), SPLIT.unseen, "published", 50, 2)
    given = found(provenance=provenance(other, checkpoint_rule="none (training-free)"))
    assert evaluate_predictions(given, annotations(), SPLIT, protocol=CLEAN).ap.average == 1.0
    with pytest.raises(PsftrError, match="are for split"):
        evaluate_predictions(found(provenance=provenance(other)), annotations(), SPLIT, protocol=CLEAN)


def test_other_data_and_other_features_are_refused():
    with pytest.raises(PsftrError, match="predictions are of thumos14, but the evaluation is of synthetic"):
        evaluate_predictions(found(), annotations(), SPLIT, protocol=protocol_for("synthetic"))
    with pytest.raises(PsftrError, match="made from features store-1, but the store at hand is store-2"):
        evaluate_predictions(found(), annotations(), SPLIT, protocol=CLEAN, features_identity="store-2")
    evaluate_predictions(found(), annotations(), SPLIT, protocol=CLEAN, features_identity="store-1")


def test_predictions_of_other_videos_or_other_words_are_refused():
    strangers = Predictions({"x1": (), "x2": ()})
    with pytest.raises(PsftrError, match=r"none of the 3 test videos \(such as t1\) is among the 2 .*such as x1"):
        evaluate_predictions(strangers, annotations(), SPLIT, protocol=CLEAN)
    other_words = Predictions({"t1": (Detection("t1", "Jumping", 0, 10, 1.0),)})
    with pytest.raises(PsftrError, match=r"labels are 'Jumping' \(nearest known: 'jump'\)"):
        evaluate_predictions(other_words, annotations(), SPLIT, protocol=CLEAN)
    with pytest.raises(PsftrError, match="no 'test' video has an action of swim"):
        evaluate_predictions(
            Predictions({"t1": ()}), annotations(), ClassSplit(("run",), ("swim",), "random", 75, 0), protocol=CLEAN
        )


def test_a_checkpoint_chosen_on_the_test_classes_needs_the_peer_protocol():
    given = found(provenance=provenance(checkpoint_rule="peer: best on test classes"))
    with pytest.raises(PsftrError, match="chosen on the unseen test classes; evaluate them with protocol=peer"):
        evaluate_predictions(given, annotations(), SPLIT, protocol=CLEAN)
    evaluation = evaluate_predictions(given, annotations(), SPLIT, protocol=protocol_for("thumos14", "peer"))
    assert evaluation.to_dict()["protocol"] == "peer"
    assert facts_of(evaluation)["protocol"].startswith("PEER, not comparable with clean numbers")


# ---- files without provenance, files without a split


def test_a_foreign_file_is_scored_and_its_silence_told():
    given = replace(found(), provenance=None, external_data={"used": True, "details": "UntrimmedNet"})
    evaluation = evaluate_predictions(given, annotations(), SPLIT, protocol=CLEAN)
    told = facts_of(evaluation)
    assert evaluation.ap.average == 1.0
    for topic in ("method", "checkpoint", "features"):
        assert told[topic].startswith("not stated")
    assert "whether test classes touched training or model selection is not stated" in told["protocol"]
    assert told["external classifier"] == "the file states external data: UntrimmedNet"
    assert "does not say which classes its model has seen" in told["split"]


def test_without_a_split_the_one_in_the_file_is_taken():
    evaluation = evaluate_predictions(found(), annotations(), protocol=CLEAN)
    assert evaluation.split == SPLIT == split_of(provenance())
    assert facts_of(evaluation)["split"].endswith("(as the predictions file says)")


def test_without_any_split_every_class_counts():
    evaluation = evaluate_predictions(replace(found(), provenance=None), annotations(), protocol=CLEAN)
    assert evaluation.split is None
    assert evaluation.num_videos == 4
    assert evaluation.ap.ap_per_class == {"CliffDiving": 0.0, "Diving": 1.0, "jump": 1.0, "run": 0.0}
    assert facts_of(evaluation)["split"].startswith("none: every annotated class")


def test_synthetic_is_said_whoever_says_it():
    features = {"encoder": "synthetic:words", "synthetic": True}
    given = found(provenance=provenance(features=features))
    evaluation = evaluate_predictions(given, annotations(), SPLIT, protocol=CLEAN)
    assert evaluation.facts.synthetic
    assert evaluation.to_dict()["synthetic"] is True
    assert "SYNTHETIC: says nothing about real videos" in facts_of(evaluation)["features"]
    text = provenance(text={"encoder": "e", "synthetic": True})
    assert evaluate_predictions(found(provenance=text), annotations(), SPLIT, protocol=CLEAN).facts.synthetic


# ---- ambiguous stretches, peers' omissions, double labels


def test_ambiguous_stretches_are_excused_by_us_and_penalised_by_peers():
    miss = ("t1", "jump", 21, 29, 0.9)  # beats the two true detections: precision 0, 1/2, 2/3 -> AP 2/3
    world = annotations(ambiguous={"t1": [(25, 35)]})
    ours = evaluate_predictions(found(miss), world, SPLIT, protocol=CLEAN)
    peers = evaluate_predictions(found(miss), world, SPLIT, protocol=protocol_for("thumos14", "peer"))
    assert ours.ap.ap_per_class["jump"] == 1.0
    assert peers.ap.ap_per_class["jump"] == pytest.approx(2 / 3)
    assert facts_of(peers)["ambiguous"] == "no ground truth; detections on them are penalised"


def test_peers_leave_out_videos_and_short_actions():
    rules = replace(protocol_for("activitynet13", "peer"), test_subset="test", excluded_videos=("t4",))
    world = annotations(t1=("test", [("jump", 0, 1)]))
    evaluation = evaluate_predictions(replace(found(), provenance=None), world, SPLIT, protocol=rules)
    assert evaluation.num_videos == 1  # t2
    assert "test actions of 1 s or less, left out: 1" in evaluation.facts.notes
    assert "test videos left out: 1 (t4)" in evaluation.facts.notes
    assert "test actions of 1 s or less dropped" in facts_of(evaluation)["protocol"]


def test_double_labels_are_reported_with_and_without():
    # Only the detection of the doubly labelled Diving segment is given: AP 1/2 with it, 0 of 1 without it.
    given = Predictions({"t1": (), "t4": (Detection("t4", "Diving", 0, 10, 0.5),)}, provenance())
    evaluation = evaluate_predictions(given, annotations(), SPLIT, protocol=CLEAN)
    assert evaluation.ap.ap_per_class["Diving"] == 0.5
    without = evaluation.without_double_labels
    assert without is not None
    assert without.ap_per_class["Diving"] == 0.0
    assert without.num_ground_truth[without.classes.index("Diving")] == 1
    # The detection on the segment taken out is excused: one more, on the other Diving action, is still
    # perfect.
    both = Predictions({"t4": (*given.detections["t4"], Detection("t4", "Diving", 20, 30, 0.4))}, provenance())
    again = evaluate_predictions(both, annotations(), SPLIT, protocol=CLEAN).without_double_labels
    assert again is not None
    assert again.ap_per_class["Diving"] == 1.0


def test_a_class_whose_every_segment_is_double_goes_and_excuses_nothing():
    split = ClassSplit(("Diving", "run"), ("CliffDiving", "jump"), "published", 50, 4)
    world = annotations(t5=("test", [("CliffDiving", 0, 10), ("Diving", 0, 10), ("jump", 20, 30)]))
    rows = [("t5", "jump", 20, 30, 0.9), ("t1", "jump", 0, 10, 0.9), ("t2", "jump", 0, 10, 0.8)]
    miss = ("t5", "jump", 0, 10, 0.95)  # on the CliffDiving segment: still a false jump
    given = Predictions(group_by_video(Detection(*row) for row in [*rows, miss]), provenance(split))
    evaluation = evaluate_predictions(given, world, split, protocol=CLEAN)
    without = evaluation.without_double_labels
    assert without is not None
    assert without.classes == ("jump",)
    assert without.average == evaluation.ap.ap_per_class["jump"] == pytest.approx((0.75 + 0.75 + 0.75) / 3)
    assert "CliffDiving (unseen) segments also labelled Diving (seen): 2" in facts_of(evaluation)["double labels"]


def test_pairs_on_one_side_are_told_to_be_there():
    split = ClassSplit(("run",), ("CliffDiving", "Diving", "jump"), "published", 50, 0)
    given = found(provenance=provenance(split))
    evaluation = evaluate_predictions(given, annotations(), split, protocol=CLEAN)
    assert evaluation.without_double_labels is None
    assert facts_of(evaluation)["double labels"] == "CliffDiving/Diving: not on opposite sides of this split"


def test_scorer_is_the_same_ap_for_validation():
    score = scorer(annotations(), classes=("jump",), protocol=CLEAN)
    result = score({"t1": [Detection("t1", "jump", 0, 6, 0.5)], "t3": [Detection("t3", "jump", 0, 1, 0.9)]})
    # four videos have a jump; tIoU 0.6 is found at .3 to .6 and not at .7
    assert result["mAP@0.60"] == pytest.approx(1 / 4)
    assert result["mAP@0.70"] == 0.0
    assert result["mAP"] == pytest.approx(0.2)


# ---- real annotations and published figures, through the front door


def as_detections(videos: Annotations, split: ClassSplit, subset: str) -> Predictions:
    return Predictions(
        {
            v.video_id: tuple(
                Detection(v.video_id, a.label, a.start_s, a.end_s, 0.5) for a in v.actions if a.label in split.unseen
            )
            for v in videos.subset(subset)
        }
    )


@pytest.mark.parametrize(("ratio", "videos", "actions", "straddling"), [(75, 58.5, 761, 4), (50, 114, 1535, 6)])
def test_thumos14_counts_under_the_peers_rules(shared_data: Path, ratio, videos, actions, straddling):
    world = read_annotations(shared_data / "thumos14" / "Thumos14_annotations.json")
    rules = protocol_for("thumos14", "peer")
    evaluations = []
    for index in range(10):
        split = read_published_split(shared_data / "thumos14" / "splits", ratio=ratio, index=index)
        given = as_detections(world, split, "test")
        evaluations.append(evaluate_predictions(given, world, split, protocol=rules))
    assert [e.ap.average for e in evaluations] == [1.0] * 10
    assert sum(e.num_videos for e in evaluations) / 10 == pytest.approx(videos, abs=0.5)
    assert sum(int(e.ap.num_ground_truth.sum()) for e in evaluations) / 10 == pytest.approx(actions, abs=0.5)
    assert sum(e.without_double_labels is not None for e in evaluations) == straddling


def test_activitynet_validation_is_split_and_evaluated(shared_data: Path):
    world = read_annotations(shared_data / "activitynet13" / "activity_net.v1-3.subset.json")
    split = read_published_split(shared_data / "activitynet13" / "splits", ratio=50, index=0)
    evaluation = evaluate_predictions(
        as_detections(world, split, "validation"), world, split, protocol=protocol_for("activitynet13")
    )
    assert len(evaluation.ap.classes) == 100
    assert "of 4728," in facts_of(evaluation)["counts"]
    assert "annotated test actions that mean nothing (segment without length), left out: 3" in evaluation.facts.notes
    assert evaluation.ap.average == 1.0


def test_freezad_from_its_two_csv_files(shared_data: Path):
    oracle = shared_data / "oracle"
    split = read_published_split(shared_data / "thumos14" / "splits", ratio=75, index=0)
    evaluation = evaluate_predictions(
        read_predictions(oracle / "freezad_thumos14_75_25_split0_pred.csv"),
        read_annotations(oracle / "freezad_thumos14_75_25_split0_gt.csv"),
        split,
        protocol=CLEAN,
    )
    assert 100 * evaluation.ap.average == pytest.approx(13.98, abs=0.02)
    assert evaluation.num_videos == 104
    assert evaluation.training.videos is None


def test_mmaction2_through_a_protocol_of_ones_own(shared_data: Path, tmp_path: Path):
    oracle = shared_data / "oracle"
    database = tmp_path / "gt.json"
    database.write_text(json.dumps({"database": json.loads((oracle / "mmaction2_gt.json").read_text())}))
    rules = Protocol(
        dataset="mine",
        test_subset="validation",
        tious=protocol_for("activitynet13").tious,
        printed_tious=(0.5,),
    )
    given = read_predictions(oracle / "mmaction2_result.json")
    assert {canonical_id(v) for v in given.detections} == {"bYUmtLBL7W4", "hDPLy21Yyuk"}
    evaluation = evaluate_predictions(given, read_annotations(database), protocol=rules)
    assert evaluation.ap.average == pytest.approx(0.6177579365, abs=1e-9)
