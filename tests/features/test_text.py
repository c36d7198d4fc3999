"""Prompts, the text-embedding file and its cache."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch

from psftr.errors import PsftrError
from psftr.features.text import (
    PROMPTS,
    TextEmbeddings,
    cache_path,
    check_compatible,
    class_prompts,
    embed_names,
    load_text,
    spell_out,
)


class LetterEncoder:
    """Counts letters a, b, c of a prompt: embeddings a reader can check by eye."""

    identity = "letters:abc"
    dim = 3

    def __init__(self):
        self.calls = 0

    def encode(self, prompts):
        self.calls += 1
        return torch.tensor([[float(p.count(letter)) for letter in "abc"] for p in prompts])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("CleanAndJerk", "clean and jerk"),
        ("Billiards", "billiards"),
        ("Shotput", "shotput"),
        ("Clean and jerk", "clean and jerk"),
        ("Decorating the Christmas tree", "decorating the Christmas tree"),
        ("BMX", "BMX"),
        ("BMXRacing", "BMX racing"),
        ("UFC_fight", "UFC fight"),
        ("high  jump ", "high jump"),
        ("Rock-paper-scissors", "rock-paper-scissors"),
        ("Run100m", "run 100m"),
        ("4x100Relay", "4x100 relay"),
        ("3DPrinting", "3D printing"),
        ("Hurdles110MeterRace", "hurdles 110 meter race"),
        ("playTV", "play TV"),
    ],
)
def test_spell_out(name, words):
    assert spell_out(name) == words


def test_a_name_without_words_is_refused():
    with pytest.raises(PsftrError, match="class name ' _ ' has no words"):
        spell_out(" _ ")


def test_presets_are_table_4():
    assert list(PROMPTS) == ["none", "prompt1", "prompt2", "prompt3"]
    assert [class_prompts(["HighJump"], preset)[0] for preset in PROMPTS] == [
        "high jump",
        "a video of high jump",
        "a video of action high jump",
        "a video of a person doing high jump",
    ]


def test_own_template():
    assert class_prompts(["PoleVault"], "footage of {} outdoors") == ["footage of pole vault outdoors"]
    for bad in ("prompt4", "two {} of {}", "a {name}"):
        with pytest.raises(PsftrError, match=r"neither a preset .* nor a template with exactly one \{\}"):
            class_prompts(["PoleVault"], bad)


def test_save_load_round_trip_keeps_labels_and_numbers(tmp_path):
    embeddings = torch.tensor([[3.0, 4.0], [0.5, -1]])
    text = TextEmbeddings(("CleanAndJerk", "Déjà vu"), embeddings, "e:1", "{}", synthetic=True)
    text.save(tmp_path / "sub" / "text.h5")
    back = load_text(tmp_path / "sub" / "text.h5")
    assert back.names == ("CleanAndJerk", "Déjà vu")
    assert torch.equal(back.embeddings, text.embeddings)  # norm 5 stays 5: nothing re-normalises
    assert (back.encoder, back.prompt, back.synthetic) == ("e:1", "{}", True)
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["text.h5"]


def test_file_is_the_published_format(tmp_path):
    TextEmbeddings(("a", "b"), torch.eye(2), "e:1", "a {}").save(tmp_path / "t.h5")
    with h5py.File(tmp_path / "t.h5") as file:
        attributes = dict(file.attrs)
        assert attributes == {"format": "psftr-text", "version": 1, "encoder": "e:1", "prompt": "a {}"}
        assert [name.decode() for name in file["names"][:]] == ["a", "b"]
        assert np.array_equal(file["embeddings"][:], np.eye(2))


def test_select_orders_and_names_what_is_absent():
    text = TextEmbeddings(("HighJump", "LongJump", "Diving"), torch.eye(3), "e:1", "{}")
    assert torch.equal(text.select(["Diving", "HighJump"]), torch.tensor([[0.0, 0, 1], [1, 0, 0]]))
    with pytest.raises(PsftrError, match=r"no text embedding for 'high jump' \(nearest known: 'HighJump'\)"):
        text.select(["high jump"])


@pytest.mark.parametrize(
    ("names", "embeddings", "message"),
    [
        (("a",), torch.zeros(2, 3), "one row per name"),
        ((), torch.zeros(0, 3), "at least one name"),
        (("a", "a"), torch.zeros(2, 3), "appear twice .*: a"),
        (("a",), torch.tensor([[float("nan")]]), "not finite"),
    ],
)
def test_bad_embeddings_are_refused(names, embeddings, message):
    with pytest.raises(PsftrError, match=message):
        TextEmbeddings(names, embeddings, "e:1", "{}")


def test_cache_is_used_and_keyed_on_encoder_prompt_and_names(tmp_path):
    encoder = LetterEncoder()
    first = embed_names(["cab", "BigBad"], encoder=encoder, template="none", cache_dir=tmp_path)
    assert first.names == ("cab", "BigBad")
    assert first.embeddings.tolist() == [[1, 1, 1], [1, 2, 0]]  # "big bad": one a, two b
    again = embed_names(["cab", "BigBad"], encoder=encoder, template="none", cache_dir=tmp_path)
    assert encoder.calls == 1
    assert torch.equal(again.embeddings, first.embeddings)
    embed_names(["BigBad", "cab"], encoder=encoder, template="none", cache_dir=tmp_path)
    embed_names(["cab", "BigBad"], encoder=encoder, template="prompt1", cache_dir=tmp_path)
    assert encoder.calls == 3
    encoder.identity = "letters:other"
    embed_names(["cab", "BigBad"], encoder=encoder, template="none", cache_dir=tmp_path)
    assert encoder.calls == 4
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("damage", ["truncate", "garbage", "other content"])
def test_a_corrupted_cache_entry_is_rebuilt(tmp_path, damage):
    encoder = LetterEncoder()
    right = embed_names(["cab"], encoder=encoder, template="none", cache_dir=tmp_path)
    path = cache_path(tmp_path, encoder.identity, "{}", ["cab"])
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "garbage":
        path.write_bytes(b"not hdf5")
    else:
        TextEmbeddings(("cab",), torch.zeros(1, 3), "another", "{}").save(path)
    rebuilt = embed_names(["cab"], encoder=encoder, template="none", cache_dir=tmp_path)
    assert encoder.calls == 2
    assert torch.equal(rebuilt.embeddings, right.embeddings)
    assert torch.equal(load_text(path).embeddings, right.embeddings)


def test_reading_what_is_not_a_text_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="not found"):
        load_text(tmp_path / "absent.h5")
    (tmp_path / "noise.h5").write_bytes(b"x" * 64)
    with pytest.raises(PsftrError, match=r"noise\.h5 cannot be read as HDF5"):
        load_text(tmp_path / "noise.h5")
    with h5py.File(tmp_path / "features.h5", "w") as file:
        file.attrs["format"] = "psftr-features"
    with pytest.raises(PsftrError, match=r"not a psftr-text file .*'psftr-features'"):
        load_text(tmp_path / "features.h5")
    TextEmbeddings(("a",), torch.zeros(1, 3), "e", "{}").save(tmp_path / "new.h5")
    with h5py.File(tmp_path / "new.h5", "a") as file:
        file.attrs["version"] = 2
    with pytest.raises(PsftrError, match="version 2; this psftr reads version 1"):
        load_text(tmp_path / "new.h5")


def test_compatibility_with_a_feature_store():
    text = TextEmbeddings(("a",), torch.zeros(1, 512), "open_clip:ViT-B-16:openai", "{}")
    check_compatible(text, "open_clip:ViT-B-16:openai", 512)
    with pytest.raises(PsftrError, match=r"B-16:openai, the feature store of open_clip:ViT-L-14") as raised:
        check_compatible(text, "open_clip:ViT-L-14:openai", 768)
    assert "\n" not in str(raised.value)
    with pytest.raises(PsftrError, match="512 dimensions, the feature store 768, though both say"):
        check_compatible(text, "open_clip:ViT-B-16:openai", 768)
