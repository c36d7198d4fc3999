"""The tiny language model that is taught on synthetic frames: its lessons, its folder, and how the method reads it."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from psftr.data.synthetic_order import TWIN_PAIRS, order_descriptions, twin_classes
from psftr.data.synthetic_space import THEN, Space, seeded
from psftr.detection.settings import DetectorSettings
from psftr.methods.actionvlm.build import NetworkFacts, build_network
from psftr.methods.actionvlm.lessons import MOTIONS, NUM_CLASSES, draw_cast, draw_lessons
from psftr.methods.actionvlm.prompt import prompt_text
from psftr.methods.actionvlm.settings import LanguageSettings, MismatchSettings
from psftr.methods.actionvlm.teaching import ROWS, STEP_S, TOKENS, LessonBatch, Pupil, as_batch, teach, word_tokenizer

LESSONS = {"count": 3, "windows": 2, "rows": ROWS, "step_s": STEP_S, "seed": 5}


def test_a_cast_is_made_of_twins_that_the_world_of_twins_does_not_have():
    known = {frozenset(pair[:2]) for pair in TWIN_PAIRS}
    for number in range(30):
        cast = draw_cast(seeded(0, "cast", number))
        assert {c.name for c in cast} == {f"activity {n}" for n in range(1, NUM_CLASSES + 1)}
        pairs = [c.motion.split(THEN) for c in cast]
        assert not {frozenset(pair) for pair in pairs} & known
        assert all(one == other[::-1] for one, other in zip(pairs[::2], pairs[1::2]))
        assert {motion for pair in pairs for motion in pair} == set(MOTIONS)
    assert {motion for pair in TWIN_PAIRS for motion in pair[:2]} == set(MOTIONS)


def test_answers_are_the_numbers_of_the_classes_as_the_prompt_has_them():
    lessons = draw_lessons(Space(seed=0, dim=64), **LESSONS)
    assert lessons.frames.shape == (3, 2, ROWS, 64)
    found = 0
    for number, prompt in enumerate(lessons.prompts):
        told = {int(n): text for n, text in re.findall(r"activity (\d): (It starts[^.]*)\.", prompt)}
        assert set(told) == set(range(1, NUM_CLASSES + 1))
        for answer, motion, part in zip(
            lessons.answers[number].flat, lessons.motions[number].flat, lessons.parts[number].flat
        ):
            if answer and motion >= 0:
                assert f"{('starts', 'ends')[part]} with {MOTIONS[motion]}" in told[answer]
                found += 1
    assert found > 20
    orders = {tuple(re.findall(r"activity (\d)", prompt)) for prompt in lessons.prompts}
    assert len(orders) == 3
    again = draw_lessons(Space(seed=0, dim=64), **LESSONS)
    assert np.array_equal(again.frames, lessons.frames)
    assert again.prompts == lessons.prompts


def test_every_word_of_a_prompt_is_known_and_every_prompt_is_as_long():
    tokenizer = word_tokenizer()
    lessons = draw_lessons(Space(seed=0, dim=64), **LESSONS)
    ids = [tokenizer.encode(prompt, add_special_tokens=False) for prompt in lessons.prompts]
    assert len({len(one) for one in ids}) == 1
    assert not any(tokenizer.unk_token_id in one for one in ids)
    assert tokenizer.encode("ABSENT 12", add_special_tokens=False)[1:] == tokenizer.convert_tokens_to_ids(["1", "2"])


def test_looking_where_one_should_costs_nothing():
    """Two windows of a cast, all attention on the right words: -log 1 = 0; on nothing at all: -log 1e-6, twice."""
    pupil = Pupil(word_tokenizer(), dim=64)
    batch = as_batch(pupil, draw_lessons(Space(seed=0, dim=64), **LESSONS))
    with torch.no_grad():
        read = pupil.read(batch, TOKENS)
        losses = pupil.losses(batch, tokens=TOKENS)
    assert read.last.shape == (6, ROWS, 1 + TOKENS, 64)
    assert losses["answer"].item() == pytest.approx(np.log(NUM_CLASSES + 1), rel=0.5)
    number_of = torch.zeros_like(batch.prompts)
    answers, motions = batch.answers.flatten(0, 1), batch.motions.flatten(0, 1)
    everywhere = replace(read, looks=tuple(map(torch.ones_like, read.looks)))
    nowhere = replace(read, looks=tuple(map(torch.zeros_like, read.looks)))
    number_of[:] = pupil.answer_ids[1]
    assert pupil.pointing(nowhere, batch, number_of, answers, motions).item() == pytest.approx(-2 * np.log(1e-6))
    assert pupil.pointing(everywhere, batch, number_of, answers, motions) < 2 * -np.log(1e-6)


def test_what_was_taught_is_read_by_the_method_as_it_was_by_the_pupil(tmp_path):
    """The folder goes through the ordinary path; its last hidden states are those that were taught."""
    taught = teach(tmp_path / "taught", seed=0, dim=64, steps=4, casts=4, tell=lambda line: None)
    assert 0 <= taught.own_twins <= 1
    classes = twin_classes()
    facts = NetworkFacts(
        feature_dim=64,
        class_names=tuple(c.name for c in classes),
        detector=DetectorSettings(dim=8, attention_heads=2, attention_span=3, pyramid_levels=1),
        language=LanguageSettings(
            model=str(tmp_path / "taught"), tuning="frozen", sees="stored", saves_memory=False, text_weight=0.0
        ),
        position="before",
        descriptions=order_descriptions(classes),
        weights=None,
    )
    stream = build_network(facts, MismatchSettings()).language.eval()
    told = order_descriptions(classes)
    prompt = word_tokenizer().encode(prompt_text(list(told), told), add_special_tokens=False)
    assert stream.before.tolist() == prompt
    pupil = Pupil(word_tokenizer(), dim=64)
    pupil.model.load_state_dict(stream.language_model.model.state_dict())
    with torch.no_grad():
        pupil.project.load_state_dict(stream.project.state_dict())
        pupil.tokens.copy_(stream.tokens)
        frames = torch.randn(2, ROWS, 64)
        read, _ = stream.read(frames, torch.zeros(2, ROWS, dtype=torch.bool), None)
        some = torch.zeros(1, 2, ROWS, dtype=torch.long)
        batch = LessonBatch(frames=frames[None], answers=some, motions=some, parts=some, prompts=stream.before[None])
        torch.testing.assert_close(read, pupil.read(batch, TOKENS).last, atol=1e-4, rtol=1e-3)
