"""Descriptions of classes: those that come with psftr are whole, and a bad file is told in one line."""

import json

import pytest

from psftr.data.descriptions import (
    describe_classes,
    description_file,
    mismatched,
    read_descriptions,
    shipped_names,
    write_descriptions,
)
from psftr.data.synthetic import CLASSES
from psftr.errors import PsftrError

SYNTHETIC = tuple(composition.name for composition in CLASSES)


def test_every_class_of_the_synthetic_world_and_of_thumos14_is_described():
    assert shipped_names() == ("synthetic", "thumos14")
    synthetic = describe_classes(None, SYNTHETIC, dataset="synthetic", known=SYNTHETIC)
    assert tuple(synthetic) == SYNTHETIC
    for composition in CLASSES:  # the words a class is made of are in its text
        words = synthetic[composition.name].lower()
        assert composition.objects[0] in words
        assert composition.scene in words
    thumos14 = read_descriptions(description_file("thumos14", dataset="synthetic"))
    assert len(thumos14) == 20
    assert {"CleanAndJerk", "CliffDiving", "Diving", "ThrowDiscus"} <= set(thumos14)
    for texts in (synthetic, thumos14):
        assert len(set(texts.values())) == 20  # no two alike
        assert all("end" in text for text in texts.values())  # from a start to an end


def test_mismatched_gives_every_class_the_text_of_another():
    texts = {"run": "1", "jump": "2", "swim": "3", "dive": "4"}
    for seed in range(20):
        moved = mismatched(texts, seed=seed)
        assert list(moved) == list(texts)
        assert sorted(moved.values()) == ["1", "2", "3", "4"]
        assert all(moved[name] != texts[name] for name in texts)
    assert mismatched(texts, seed=3) == mismatched(texts, seed=3)
    assert mismatched({"run": "1", "jump": "2"}, seed=0) == {"run": "2", "jump": "1"}
    with pytest.raises(PsftrError, match="descriptions of run cannot be mismatched: two classes are needed"):
        mismatched({"run": "1"}, seed=0)


@pytest.mark.parametrize("name", ["own.json", "own.yaml"])
def test_a_file_of_ones_own(tmp_path, name):
    path = write_descriptions(tmp_path / name, {"LongJump": "A run: then a leap", "high jump": "Über die Latte"})
    found = describe_classes(path, ["high jump"], dataset="thumos14", known=["high jump", "LongJump"])
    assert found == {"high jump": "Über die Latte"}
    assert list(read_descriptions(path)) == ["LongJump", "high jump"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"HighJmp": "a"}, r"has no description of 'HighJump' \(nearest known: 'HighJmp'\); add one line for each"),
        ({"HighJump": "a", "Chess": "b"}, "describes 'Chess', no class of thumos14; remove it"),
        ({"HighJump": ["a"]}, "the description of 'HighJump' is list, not text"),
        ({"HighJump": " "}, "the description of 'HighJump' is empty"),
        ({"HighJump": "a", "high jump": "b"}, "'HighJump' and 'high jump' are the same in words"),
        ({}, "holds no descriptions; write `class name: text`"),
        ([1], "holds no descriptions; write `class name: text`"),
    ],
)
def test_a_bad_file_is_told_in_one_line(tmp_path, content, message):
    path = tmp_path / "own.json"
    path.write_text(json.dumps(content))
    with pytest.raises(PsftrError, match=message) as caught:
        describe_classes(path, ["HighJump"], dataset="thumos14", known=["HighJump", "LongJump"])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_description_files(tmp_path):
    with pytest.raises(PsftrError, match=r"no descriptions of activitynet13 come with psftr; let `psftr describe`"):
        description_file(None, dataset="activitynet13")
    with pytest.raises(PsftrError, match=r"no description file thumos4, did you mean 'thumos14'\?"):
        description_file("thumos4", dataset="synthetic")
    twice = tmp_path / "twice.yaml"
    twice.write_text("HighJump: a\nHighJump: b\n")
    with pytest.raises(PsftrError, match="'HighJump' is there twice; keep one"):
        read_descriptions(twice)
    number = tmp_path / "number.yaml"
    number.write_text("3: a\n")
    with pytest.raises(PsftrError, match="the class name 3 is not text; put it in quotes"):
        read_descriptions(number)
    with pytest.raises(PsftrError, match="no such file; write `class name: text`"):
        read_descriptions(tmp_path / "none.yaml")
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(PsftrError, match="not valid JSON"):
        read_descriptions(broken)
