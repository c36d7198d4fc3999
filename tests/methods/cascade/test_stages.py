"""Plans, stage files, and the answers of models: what is valid, what is repaired, what falls back."""

import json

import numpy as np
import pytest
import torch

from psftr.errors import PsftrError
from psftr.features.text import TextEmbeddings
from psftr.language_models import AnswerError, Frames, MllmError, Session
from psftr.methods.cascade.confidence import ask_stages, similarity_confidence, stage_similarity
from psftr.methods.cascade.decomposition import caption_action, parse_stages, plan_stages
from psftr.methods.cascade.filtering import (
    filter_by_answer,
    filter_by_similarity,
    filter_compat,
    nearest_by_embedding,
    parse_actions,
    resolve,
)
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

    identity = "scripted"

    def __init__(self, *answers):
        self.answers, self.prompts = list(answers), []

    def generate(self, frames, prompt, **options):
        self.prompts.append(prompt)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def yes_no(self, frames, prompts, *, keep=None):
        self.prompts += prompts
        table = np.array([[0.1 * (t + 1) + 0.01 * s for s in range(len(prompts))] for t in range(len(frames))])
        if keep:
            for t, s in np.ndindex(table.shape):
                keep(t, s, table[t, s])
        return table


def some_frames(count: int = 2) -> Frames:
    pictures = tuple(np.full((4, 4, 3), value, np.uint8) for value in range(count))
    return Frames(pictures, tuple(0.5 * i for i in range(count)))


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
    assert len(model.prompts) == session.counts.asked == 2


@pytest.mark.parametrize("second", ["nor this", MllmError("gone")])
def test_a_second_bad_answer_is_a_counted_one_stage_plan_and_is_not_kept(second):
    session = Session(Scripted("not JSON", second, GOOD_PLAN))
    plan, is_fallback = plan_stages(session, "HighJump", "a caption")
    assert is_fallback
    assert plan == one_stage_plan("HighJump")
    assert plan.descriptions == ("people are high jump",)
    assert session.counts.failed == {"stages": 1}
    assert len(session.cache) == 0
    assert plan_stages(session, "HighJump", "a caption")[1] is False  # asked again, since failures are not kept


def test_a_caption_falls_back_to_the_name():
    assert caption_action(Session(Scripted('{"caption": "they\\n run"}')), some_frames(), "HighJump") == "they run"
    session = Session(Scripted("?", '{"caption": ""}'))
    assert caption_action(session, some_frames(), "HighJump") == "people are high jump"
    assert session.counts.failed == {"caption": 1}


# --- filtering


def test_names_are_found_by_spelling_then_nearest_then_dropped():
    names = ("HighJump", "PoleVault", "Diving")
    answer = [("high jump", 0.4), ("HighJump", 0.9), ("vaulting", 0.5), ("chess", 0.7), ("Diving", 0.0)]
    embeddings = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]])
    vectors = {"vaulting": np.array([0.1, 2.0, 0.0]), "chess": np.array([1.0, 1.0, 1.0])}
    nearest = nearest_by_embedding(names, embeddings, vectors.__getitem__, min_cosine=0.8)
    found = resolve(answer, names, nearest=nearest)
    assert found.confidence == {"HighJump": 0.9, "PoleVault": 0.5}  # chess is at cosine 0.58 from all three
    assert found.unknown == ("vaulting", "chess")
    assert resolve(answer, names).confidence == {"HighJump": 0.9}
    assert resolve(answer, names, min_confidence=0.95).confidence == {}


def test_the_filter_asks_for_candidates_in_words_and_keeps_all_when_it_gets_no_answer():
    model = Scripted('{"actions": [{"name": "high jump", "confidence": 0.7}]}', MllmError("gone"))
    session = Session(model)
    assert filter_by_answer(session, some_frames(), ("HighJump", "Diving")).confidence == {"HighJump": 0.7}
    assert "- high jump\n- diving" in model.prompts[0]
    failed = filter_by_answer(session, some_frames(3), ("HighJump", "Diving"))
    assert failed.failed
    assert failed.confidence == {"HighJump": 0.5, "Diving": 0.5}
    assert session.counts.failed == {"filter": 1}


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
    p = similarity_confidence(difference, slope=np.log(3))
    assert p[:, 0] == pytest.approx([0.75, 0.25, 0.5])
    shifted = similarity_confidence(difference + 0.3, slope=np.log(3), centre="median")
    assert shifted[:, 0] == pytest.approx([0.75, 0.25, 0.5])
    smooth = similarity_confidence(np.array([[0.0], [3.0], [0.0]]), slope=1.0, smooth_rows=3)
    assert smooth[:, 0] == pytest.approx(1 / (1 + np.exp(-np.array([1.5, 1.0, 1.5]))))


def test_stages_are_asked_as_yes_no_questions_in_one_batch():
    model = Scripted()
    plan = StagePlan("Diving", (Stage("people jump.", True), Stage("people fall", True)))
    assert ask_stages(Session(model), some_frames(), plan) == pytest.approx(np.array([[0.1, 0.11], [0.2, 0.21]]))
    assert model.prompts == [
        "Does this frame show that people jump? Answer Yes or No.",
        "Does this frame show that people fall? Answer Yes or No.",
    ]
