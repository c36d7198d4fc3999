"""Plans, stage files, and the answers of models: what is valid, what is repaired, what falls back."""

import json

import numpy as np
import pytest
import torch

from psftr.errors import PsftrError
from psftr.features.text import TextEmbeddings
from psftr.language_models import AnswerError, Frames, MllmError, Session, Usage
from psftr.methods.cascade.confidence import (
    StageQuestions,
    calibrated,
    over_time,
    similarity_confidence,
    stage_similarity,
)
from psftr.methods.cascade.decomposition import caption_action, parse_stages, plan_stages
from psftr.methods.cascade.filtering import (
    filter_by_answer,
    filter_by_similarity,
    filter_compat,
    nearest_by_embedding,
    parse_actions,
    resolve,
)
from psftr.methods.cascade.prefilter import nearest_share
from psftr.methods.cascade.settings import QuestionSettings
from psftr.methods.cascade.stages import (
    Stage,
    StagePlan,
    check_stage_text,
    one_stage_plan,
    read_stage_file,
    stage_sentences,
    write_stage_file,
)

GOOD_PLAN = json.dumps(
    {
        "action": "baking cookies",
        "stages": [
            {"index": 2, "description": "people mix ingredients", "is_key": True},
            {"index": 1, "description": "people prepare ingredients", "is_key": False},
        ],
    }
)


class Scripted:
    """A model that gives prepared answers, or raises prepared errors, and remembers what it was asked."""

    identity, frame_size = "scripted", 448

    def __init__(self, *answers):
        self.answers, self.prompts, self.shown, self.usage = list(answers), [], [], Usage()

    def generate(self, frames, prompt, **options):
        self.prompts.append(prompt)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def choose(self, clips, prompts, options, *, keep, fail):
        self.prompts += prompts
        self.shown += [clip.times_s for clip in clips]
        for t, clip in enumerate(clips):
            for s in range(len(prompts)):
                yes = 0.1 * (clip.times_s[0] / 0.5 + 1) + 0.01 * s
                keep(t, s, (yes, *[(1 - yes) / (len(options) - 1)] * (len(options) - 1)))


def some_frames(count: int = 2) -> Frames:
    pictures = tuple(np.full((4, 4, 3), value, np.uint8) for value in range(count))
    return Frames.of(pictures, [0.5 * i for i in range(count)], size=448)


# --- plans and stage files


def test_a_plan_without_key_stages_has_only_key_stages():
    plan = StagePlan("Diving", (Stage("people jump", False), Stage("people fall", False)))
    assert plan.is_key == (True, True)
    assert StagePlan("Diving", (Stage("people jump", False), Stage("people fall", True))).is_key == (False, True)


def test_plans_have_one_to_five_described_stages():
    with pytest.raises(PsftrError, match="Diving: 6 stages; a plan has 1 to 5"):
        StagePlan("Diving", (Stage("people jump", True),) * 6)
    with pytest.raises(PsftrError, match="Diving: a stage without description"):
        StagePlan("Diving", (Stage(" ", True),))


@pytest.mark.parametrize("name", ["plans.yaml", "plans.json"])
def test_a_stage_file_comes_back_as_it_was_written(tmp_path, name):
    plans = {
        "Diving": StagePlan("Diving", (Stage("people jump", False), Stage("people: fall, äh", True)), "a pool"),
        "High jump": one_stage_plan("High jump"),
    }
    assert read_stage_file(write_stage_file(tmp_path / name, plans)) == plans


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("Diving: {stages: [{description: people jump}]}", "Diving needs stages, each with description"),
        ("Diving: {stages: [{description: people jump, is_key: 'yes'}]}", "Diving needs stages"),
        ("Diving: {stages: []}", "Diving: 0 stages; a plan has 1 to 5"),
        ("- Diving", "holds no plans"),
        ("Diving: {stages: []}\nDiving: {stages: []}", "'Diving' is there twice; keep one"),
        ("Diving: {stages: [], stages: []}", "'stages' is there twice; keep one"),
        (
            "HighJump: {stages: [{description: a, is_key: true}]}\n"
            "high jump: {stages: [{description: b, is_key: true}]}",
            "'HighJump' and 'high jump' are the same in words; keep one plan",
        ),
        ("Diving: [", "is neither YAML nor JSON"),
    ],
)
def test_a_wrong_stage_file_is_named_with_the_class(tmp_path, content, complaint):
    (tmp_path / "plans.yaml").write_text(content)
    with pytest.raises(PsftrError, match=complaint) as error:
        read_stage_file(tmp_path / "plans.yaml")
    assert "plans.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_plans_that_come_with_psftr_cover_thumos14(shared_data):
    from psftr.cli.hydra_app import conf_dir
    from psftr.data.annotations import read_annotations

    plans = read_stage_file(conf_dir() / "plans" / "thumos14.yaml")
    classes = read_annotations(shared_data / "thumos14" / "Thumos14_annotations.json").classes
    assert set(plans) == set(classes)
    assert len(stage_sentences(plans, classes)) == sum(len(plan.stages) + 1 for plan in plans.values())  # none twice


def test_sentences_of_a_stage_file_and_what_is_missing():
    plans = {"A": StagePlan("A", (Stage("people do a", True),), "room"), "B": one_stage_plan("B")}
    assert stage_sentences(plans, ["A"]) == ("people do a", "room")
    with pytest.raises(PsftrError, match="no stage plan for C; add"):
        stage_sentences(plans, ["A", "C"])
    text = TextEmbeddings(("people do a",), torch.ones(1, 4), "e", "stages")
    with pytest.raises(PsftrError, match="no text embedding for 'room'"):
        check_stage_text(text, plans, ["A"])


# --- answers


def test_stages_are_put_in_order_of_their_index():
    assert parse_stages(f"```json\n{GOOD_PLAN}\n```") == (
        Stage("people prepare ingredients", False),
        Stage("people mix ingredients", True),
    )


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ("Certainly!", "no JSON object"),
        ('{"stages": [}', "not valid JSON"),
        ('{"steps": []}', "lacks stages"),
        ('{"stages": "two"}', "not a list of objects"),
        ('{"stages": [{"index": 1, "description": "people bake", "is_key": true}]}', "1 stages, not 2 to 5"),
        (GOOD_PLAN.replace("2", "1"), 'same "index"'),
        (GOOD_PLAN.replace("prepare", "mix"), "same description"),
        (GOOD_PLAN.replace("true", '"yes"'), '"is_key" is neither true nor false'),
        (GOOD_PLAN.replace('"people mix ingredients"', "7"), '"description" is not text'),
        (GOOD_PLAN.replace('"index": 2', '"index": "two"'), '"index" is not a whole number'),
    ],
)
def test_an_answer_that_is_no_plan_is_refused_with_a_reason(answer, complaint):
    with pytest.raises(AnswerError, match=complaint):
        parse_stages(answer)


def test_one_repair_request_tells_the_model_what_was_wrong():
    model = Scripted('{"stages": []}', GOOD_PLAN)
    session = Session(model)
    plan, is_fallback = plan_stages(session, "Baking cookies", "a caption")
    assert not is_fallback
    assert plan.descriptions == ("people prepare ingredients", "people mix ingredients")
    assert session.counts.repaired == {"stages": 1}
    assert not session.counts.failed
    assert "It cannot be used: it has 0 stages, not 2 to 5" in model.prompts[1]
    # the repaired answer is the answer: asked again, it costs nothing
    assert plan_stages(session, "Baking cookies", "a caption") == (plan, False)
    assert len(model.prompts) == session.counts.asked["stages"] == 2


def test_a_second_bad_answer_is_a_counted_one_stage_plan_and_is_not_kept():
    session = Session(Scripted("not JSON", "nor this", GOOD_PLAN))
    plan, is_fallback = plan_stages(session, "HighJump", "a caption")
    assert is_fallback
    assert plan == one_stage_plan("HighJump")
    assert plan.descriptions == ("people are high jump",)
    assert session.counts.unusable == {"stages": 1}
    assert not session.counts.failed
    assert len(session.cache) == 0
    assert plan_stages(session, "HighJump", "a caption")[1] is False  # asked again, since failures are not kept


def test_no_answer_at_all_is_a_failure_and_has_no_fallback():
    session = Session(Scripted("not JSON", MllmError("gone"), GOOD_PLAN))
    with pytest.raises(MllmError, match="gone"):
        plan_stages(session, "HighJump", "a caption")
    assert session.counts.failed == {"stages": 1}
    assert len(session.cache) == 0
    assert plan_stages(session, "HighJump", "a caption")[1] is False


def test_a_caption_falls_back_to_the_name():
    assert caption_action(Session(Scripted('{"caption": "they\\n run"}')), some_frames(), "HighJump") == "they run"
    session = Session(Scripted("?", '{"caption": ""}'))
    assert caption_action(session, some_frames(), "HighJump") == "people are high jump"
    assert session.counts.unusable == {"caption": 1}


# --- filtering


def test_names_are_found_by_spelling_then_nearest_then_dropped():
    names = ("HighJump", "PoleVault", "Diving")
    answer = [("high jump", 0.4), ("HighJump", 0.9), ("vaulting", 0.5), ("chess", 0.7), ("Diving", 0.0)]
    embeddings = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]])
    vectors = {"vaulting": np.array([0.1, 2.0, 0.0]), "chess": np.array([1.0, 1.0, 1.0])}
    nearest = nearest_by_embedding(names, embeddings, vectors.__getitem__, min_cosine=0.8)
    found = resolve(answer, names, min_confidence=0.0, nearest=nearest)
    assert found.confidence == {"HighJump": 0.9, "PoleVault": 0.5}  # chess is at cosine 0.58 from all three
    assert found.unknown == ("vaulting", "chess")
    assert resolve(answer, names, min_confidence=0.0).confidence == {"HighJump": 0.9}
    assert resolve(answer, names, min_confidence=0.95).confidence == {}


def test_the_filter_asks_for_candidates_in_words_and_without_an_answer_nothing_is_known():
    model = Scripted('{"actions": [{"name": "high jump", "confidence": 0.7}]}', MllmError("gone"), "?", "??")
    session = Session(model)
    assert filter_by_answer(session, some_frames(), ("HighJump", "Diving"), min_confidence=0.0).confidence == {
        "HighJump": 0.7
    }
    assert "- high jump\n- diving" in model.prompts[0]
    with pytest.raises(MllmError, match="gone"):
        filter_by_answer(session, some_frames(3), ("HighJump", "Diving"), min_confidence=0.0)
    with pytest.raises(MllmError, match="the answer cannot be used: there is no JSON object in it"):
        filter_by_answer(session, some_frames(3), ("HighJump", "Diving"), min_confidence=0.0)
    assert session.counts.failed == {"filter": 2}


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ('{"actions": [{"name": "", "confidence": 1}]}', '"name"'),
        ('{"actions": [{"name": "a", "confidence": 7}]}', "not between 0 and 1"),
        ('{"actions": [{"name": "a", "confidence": true}]}', "not a number"),
    ],
)
def test_a_filter_answer_is_checked(answer, complaint):
    with pytest.raises(AnswerError, match=complaint):
        parse_actions(answer)
    assert parse_actions('Sure: {"actions": []}') == []


def test_observed_filter_takes_an_answer_of_two_classes_for_one_action():
    found = filter_compat(Session(Scripted(" HighJump, Diving \n")), some_frames(), ("HighJump", "Diving"))
    assert found.confidence == {"HighJump, Diving": 1.0}


def test_presence_by_hand_and_the_best_class_always_stays():
    similarity = np.full((16, 2), 0.2)
    similarity[3:5, 1] += np.log(3) / 100  # two of sixteen rows: 3 : 1 for the second class
    found = filter_by_similarity(similarity, ("a", "b"), min_presence=0.6).confidence
    assert found == pytest.approx({"b": 0.75})
    assert filter_by_similarity(similarity, ("a", "b"), min_presence=0.99).confidence == pytest.approx({"b": 0.75})
    assert list(filter_by_similarity(similarity, ("a", "b"), min_presence=0.5).confidence) == ["a", "b"]


# --- confidence


def test_similarity_confidence_by_hand():
    frames = np.array([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    difference = stage_similarity(frames, np.array([[5.0, 0.0]]), np.array([0.0, 7.0]))
    assert difference[:, 0] == pytest.approx([1.0, -1.0, 0.0])  # cos to the stage minus cos to the background
    p = similarity_confidence(difference, slope=np.log(3), smooth_rows=0, centre="none")
    assert p[:, 0] == pytest.approx([0.75, 0.25, 0.5])
    shifted = similarity_confidence(difference + 0.3, slope=np.log(3), smooth_rows=0, centre="median")
    assert shifted[:, 0] == pytest.approx([0.75, 0.25, 0.5])
    smooth = similarity_confidence(np.array([[0.0], [3.0], [0.0]]), slope=1.0, smooth_rows=3, centre="none")
    assert smooth[:, 0] == pytest.approx(1 / (1 + np.exp(-np.array([1.5, 1.0, 1.5]))))


PLAN = StagePlan("Diving", (Stage("people jump.", True), Stage("people fall", True)), "a quiet pool")


def questions(model, frames, *, clip_frames=1, **settings):
    return StageQuestions(
        session=Session(model),
        frames=frames,
        settings=QuestionSettings(**settings),
        clip_frames=clip_frames,
        step_s=0.5,
    )


def test_stages_are_asked_as_yes_no_questions_in_one_batch():
    model = Scripted()
    found = questions(model, some_frames()).confidence([PLAN, one_stage_plan("Chess")], {})
    assert found["Diving"] == pytest.approx(np.array([[0.1, 0.11], [0.2, 0.21]]))
    assert found["Chess"] == pytest.approx(np.array([[0.12], [0.22]]))
    assert model.prompts == [  # one call for all stages of all classes: a frame is read once
        "Answer Yes or No. Does this frame show that people jump?",
        "Answer Yes or No. Does this frame show that people fall?",
        "Answer Yes or No. Does this frame show that people are chess?",
    ]


def test_a_clip_shows_the_frames_around_its_own_and_stays_inside_the_video():
    model = Scripted()
    questions(model, some_frames(5), clip_frames=3).confidence([one_stage_plan("Chess")], {})
    assert model.shown == [(0.0, 0.5, 1.0), (0.0, 0.5, 1.0), (0.5, 1.0, 1.5), (1.0, 1.5, 2.0), (1.0, 1.5, 2.0)]
    assert model.prompts == ["Answer Yes or No. Do these frames, in order of time, show that people are chess?"]


def test_all_stages_in_one_question_are_numbered_and_0_is_none_of_them():
    model = Scripted()
    found = questions(model, some_frames(), stages="together").confidence([PLAN], {})["Diving"]
    assert found == pytest.approx(np.array([[0.45, 0.45], [0.4, 0.4]]))  # the first option, 0, has 0.1 and 0.2
    assert model.prompts == [
        'These are the stages of the action "diving":\n1. people jump.\n2. people fall\n'
        "Which of them does this frame show? Answer with its number, or with 0 for none of them."
    ]


def test_a_background_question_is_asked_once_a_frame_and_taken_off():
    model = Scripted()
    found = questions(model, some_frames(1), calibrate="background").confidence([PLAN], {})["Diving"]
    assert model.prompts[-1] == "Answer Yes or No. Does this frame show that a quiet pool?"
    odds = [p / (1 - p) for p in (0.1, 0.11, 0.12)]
    wanted = [odds[s] / odds[2] for s in (0, 1)]
    assert found[0] == pytest.approx([r / (1 + r) for r in wanted])


def test_calibration_by_the_median_makes_a_half_of_what_is_always_said():
    p = np.array([[0.8, 0.1], [0.8, 0.1], [0.8, 0.1], [0.9, 0.5], [0.2, 0.1]])
    found = calibrated(p, "median")
    assert found[:3] == pytest.approx(np.full((3, 2), 0.5))
    assert found[3] == pytest.approx([(9 / 4) / (1 + 9 / 4), 9 / 10])  # odds 9 against 4, and 1 against 1/9
    assert calibrated(p, "none") is p


def test_coarse_to_fine_asks_around_what_it_found_and_interpolates_the_rest():
    p, asked = np.full((21, 1), 0.1), []
    p[9:12] = 0.9

    def ask(rows):
        asked.append(list(rows))
        return p[list(rows)]

    settings = QuestionSettings(coarse_s=2.0, coarse_threshold=0.5)
    found = over_time(ask, 21, step_s=0.5, settings=settings)
    assert asked == [[0, 4, 8, 12, 16, 20]]  # the action lies between two looks
    assert found == pytest.approx(np.full((21, 1), 0.1))
    asked.clear()
    p[8] = 0.7
    assert over_time(ask, 21, step_s=0.5, settings=settings) == pytest.approx(p)
    assert asked == [[0, 4, 8, 12, 16, 20], [5, 6, 7, 9, 10, 11]]
    asked.clear()
    only = np.zeros(21, dtype=bool)
    only[9:11] = True
    assert over_time(ask, 21, step_s=0.5, settings=QuestionSettings(), allowed=only)[:, 0] == pytest.approx(
        np.where(only, 0.9, 0.0)
    )
    assert asked == [[9, 10]]


def test_the_nearest_share_of_frames_is_the_best_and_at_least_one():
    assert nearest_share(np.array([0.1, 0.9, 0.5, 0.9]), 0.5).tolist() == [False, True, False, True]
    assert nearest_share(np.array([0.1, 0.2]), 0.01).tolist() == [False, True]
