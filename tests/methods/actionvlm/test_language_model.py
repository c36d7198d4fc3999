"""Language models of transformers: a tiny Qwen2.5 on disk, LoRA, what is saved, and what is refused."""

import json
import shutil

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from psftr.errors import PsftrError
from psftr.methods.actionvlm.language_model import find_language_model, identity, load_language_model
from psftr.methods.actionvlm.settings import LanguageSettings

WORDS = ["<unk>", "<end>", "run", "jump", "from", "to", *"0123456789:.,;"]


def save_qwen(folder, *, with_tokenizer=True, seed=0, tied=True):
    """Qwen2.5 with a few thousand random weights, as transformers writes it."""
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=tied, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    if with_tokenizer:
        core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
        core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(True)])
        PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="<end>").save_pretrained(folder)
    return folder


def settings(folder, **changes):
    return LanguageSettings(**{"model": str(folder), "rank": 4, "alpha": 8} | changes)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return save_qwen(tmp_path_factory.mktemp("qwen"))


def test_lora_is_attached_to_every_block_and_only_the_adapter_is_trained_and_saved(qwen):
    model = load_language_model(settings(qwen), find_language_model(str(qwen)))
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 2 * 7  # A and B of 7 linear layers in 2 blocks
    assert all("lora_" in name for name in trained)
    assert set(model.state_dict()) == set(trained)
    assert model.state_dict()[trained[0]].dtype == torch.float32
    assert model.tokenizer.encode("12") == [WORDS.index("1"), WORDS.index("2")]  # and no special tokens


def test_words_are_read_by_the_rules_of_the_folder(qwen):
    """By the kind of model, AutoTokenizer takes other rules: of this Qwen2 folder it would read ": 1" alone."""
    tokenizer = load_language_model(settings(qwen), str(qwen)).tokenizer
    assert tokenizer.encode("run jump: 1") == [WORDS.index(word) for word in ("run", "jump", ":", "1")]
    assert tokenizer.end_id == WORDS.index("<end>")


def test_the_tokenizer_of_qwen_is_read_as_transformers_reads_it(qwen, tmp_path):
    from transformers import AutoTokenizer, Qwen2Tokenizer

    shutil.copytree(qwen, tmp_path / "own", ignore=shutil.ignore_patterns("tokenizer*"))
    signs = [chr(code) for code in range(33, 127)]
    vocabulary = {sign: i for i, sign in enumerate(["<|endoftext|>", *signs, "\u0120", "\u010a", "ab", "\u0120ab"])}
    Qwen2Tokenizer(vocab=vocabulary, merges=[("a", "b"), ("\u0120", "ab")]).save_pretrained(tmp_path / "own")
    text = "High jump: ab it's 12 ab\nab"
    read = load_language_model(settings(tmp_path / "own"), str(tmp_path / "own")).tokenizer.encode(text)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "own")
    assert type(theirs) is Qwen2Tokenizer
    assert read == theirs.encode(text, add_special_tokens=False)


def test_an_adapter_is_loaded_into_the_model_it_was_trained_on(qwen):
    one = load_language_model(settings(qwen), str(qwen))
    for parameter in one.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    other = load_language_model(settings(qwen), str(qwen))
    words, rows, padding = torch.randn(3, 16), torch.randn(2, 5, 16), torch.zeros(2, 5, dtype=torch.bool)
    assert not torch.equal(one.eval()(words, rows, padding), other.eval()(words, rows, padding))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(words, rows, padding), other(words, rows, padding))
    with pytest.raises(RuntimeError, match=r"Missing key.*lora_A"):
        other.load_state_dict({})


def test_frozen_weights_save_nothing_and_full_training_saves_tied_weights_once(qwen):
    frozen = load_language_model(settings(qwen, tuning="frozen"), str(qwen))
    assert not frozen.state_dict()
    assert not any(p.requires_grad for p in frozen.parameters())
    whole = load_language_model(settings(qwen, tuning="full"), str(qwen))
    saved = whole.state_dict()
    assert len({value.data_ptr() for value in saved.values()}) == len(saved) == len(list(whole.parameters()))
    whole.load_state_dict(saved)


def test_bfloat16_weights_keep_a_float32_adapter(qwen):
    model = load_language_model(settings(qwen, weights="bfloat16"), str(qwen))
    kinds = {p.requires_grad: p.dtype for p in model.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    hidden = model(torch.randn(2, 16), torch.randn(1, 3, 16), torch.zeros(1, 3, dtype=torch.bool))
    assert hidden.dtype == torch.float32
    hidden.sum().backward()


def test_the_identity_is_that_of_the_weights(qwen, tmp_path):
    assert identity(str(qwen)) == identity(str(qwen)) != identity(str(save_qwen(tmp_path / "other", seed=1)))
    assert identity(None) == "tiny"


def test_what_is_no_language_model_is_told_in_one_line(tmp_path):
    with pytest.raises(PsftrError, match=r"no model at .*absent: no such folder, and not a hub name"):
        find_language_model(str(tmp_path / "absent"))
    with pytest.raises(PsftrError, match=r"no language model in .*: there is no config.json"):
        find_language_model(str(tmp_path))
    folder = save_qwen(tmp_path / "mute", with_tokenizer=False)
    with pytest.raises(PsftrError, match=r"mute has no tokenizer .*save the tokenizer into the same folder"):
        find_language_model(str(folder))
    damaged = save_qwen(tmp_path / "damaged")
    (damaged / "config.json").write_text(json.dumps({"model_type": "nonsense"}))
    with pytest.raises(PsftrError, match=r"cannot load the language model .*damaged"):
        load_language_model(settings(damaged), str(damaged))


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(PsftrError, match="weights of model=tiny are random"):
        LanguageSettings(model="tiny")
    with pytest.raises(PsftrError, match="measured against epochs of vision only"):
        LanguageSettings(alternates=False)
    with pytest.raises(PsftrError, match="joins=alone leaves epochs of vision only nothing to train"):
        LanguageSettings(joins="alone")
