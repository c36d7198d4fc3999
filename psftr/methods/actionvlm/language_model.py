"""Causal language models through transformers, with LoRA through peft; only what was trained is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from psftr.errors import PsftrError
from psftr.language_models.weights import content_digest, find_weights
from psftr.methods.actionvlm.prompt import Tokenizer
from psftr.methods.actionvlm.settings import TINY, LanguageSettings
from psftr.methods.actionvlm.tiny import TinyTokenizer, tiny_model

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")


class LanguageModel(nn.Module):
    """A causal language model that is read at its last hidden states.

    Its state dict holds what is trained and nothing else: with LoRA the adapter, with frozen weights nothing.
    """

    def __init__(self, *, model: Any, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.register_state_dict_post_hook(_drop_what_is_not_trained)
        self.register_load_state_dict_post_hook(_excuse_what_is_not_trained)

    @property
    def width(self) -> int:
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def context(self) -> int | None:
        """The most tokens it reads; None where it does not say."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [...] -> [..., width]."""
        return self.model.get_input_embeddings()(ids)

    def forward(self, words: Tensor, embeddings: Tensor, is_padding: Tensor) -> Tensor:
        """words [P,width] that all rows begin with, then embeddings [B,N,width]; is_padding [B,N].

        Returns the last hidden states of the latter, [B,N,width] float32. The words go through the model once, and
        their keys and values serve all rows; gradient checkpointing keeps none, so then each row reads them itself.
        """
        batch, model = len(embeddings), self.model.base_model
        mask = torch.cat([is_padding.new_ones(batch, len(words)), ~is_padding], dim=1).long()
        if self.training and self.model.is_activation_checkpointing:
            whole = torch.cat([words.expand(batch, -1, -1), embeddings], dim=1).to(self.model.dtype)
            read = model(inputs_embeds=whole, attention_mask=mask, use_cache=False).last_hidden_state
            return read[:, len(words) :].float()
        kept = model(inputs_embeds=words[None].to(self.model.dtype), use_cache=True).past_key_values
        kept.batch_repeat_interleave(batch)
        embeddings = embeddings.to(self.model.dtype)
        read = model(inputs_embeds=embeddings, attention_mask=mask, past_key_values=kept, use_cache=True)
        return read.last_hidden_state.float()

    def logits(self, hidden: Tensor) -> Tensor:
        """Last hidden states [..., width] -> [..., vocabulary] float32."""
        return self.model.get_output_embeddings()(hidden.to(self.model.dtype)).float()

    def untrained(self) -> set[str]:
        """Names in the state dict of frozen weights, and of second names of a tensor (tied embeddings)."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return _all_names(self) - trained


def _all_names(module: nn.Module) -> set[str]:
    names = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    return names | {name for name, _ in module.named_buffers(remove_duplicate=False)}


def _drop_what_is_not_trained(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    assert isinstance(module, LanguageModel)
    for name in module.untrained():
        state.pop(prefix + name, None)


def _excuse_what_is_not_trained(module: nn.Module, incompatible: Any) -> None:
    assert isinstance(module, LanguageModel)
    names = module.untrained()
    absent = [key for key in incompatible.missing_keys if not any(key.endswith(name) for name in names)]
    incompatible.missing_keys[:] = absent


class _HubTokenizer:
    """A tokenizer of transformers, without the special tokens it would add."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @property
    def end_id(self) -> int:
        return int(self._tokenizer.eos_token_id or 0)

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))


def find_language_model(name: str) -> str | None:
    """The folder of a language model, fetched if need be; None for the tiny one, which is made here.

    Raises PsftrError where it is not available or has no tokenizer.
    """
    if name == TINY:
        return None
    folder = find_weights(name, key="language.model")
    if not (Path(folder) / "config.json").is_file():
        raise PsftrError(f"no language model in {name}: there is no config.json; give a folder of transformers")
    if not any((Path(folder) / file).is_file() for file in _TOKENIZER_FILES):
        raise PsftrError(
            f"the language model {name} has no tokenizer (none of {', '.join(_TOKENIZER_FILES)}): "
            "save the tokenizer into the same folder"
        )
    return folder


def identity(folder: str | None) -> str:
    """The weights by content: a trained adapter belongs to these and no others."""
    return TINY if folder is None else content_digest(folder)


def load_language_model(settings: LanguageSettings, folder: str | None) -> LanguageModel:
    """The model in `folder`, or the tiny one, made ready for what `settings.tuning` trains. Raises PsftrError."""
    if folder is None:
        model, tokenizer = tiny_model(), TinyTokenizer()
    else:
        model, tokenizer = _load(settings, folder)
    if settings.tuning == "lora":
        _attach_lora(model, settings)
    elif settings.tuning == "frozen":
        model.requires_grad_(False)
    if settings.saves_memory:
        model.activation_checkpointing_enable()
    return LanguageModel(model=model, tokenizer=tokenizer)


def _load(settings: LanguageSettings, folder: str) -> tuple[Any, Any]:
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
    except ImportError as error:
        raise PsftrError("actionvlm needs the package transformers: pip install 'psftr[vlm]'") from error
    # weights that are trained themselves need the full precision
    dtype = "float32" if settings.tuning == "full" else settings.weights
    try:
        # by the kind of model AutoTokenizer takes a class, and that class its own rules in place of the file's
        has_rules = (Path(folder) / "tokenizer.json").is_file()
        tokenizer = (PreTrainedTokenizerFast if has_rules else AutoTokenizer).from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    except (OSError, ValueError, ImportError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise PsftrError(
            f"cannot load the language model {settings.model} ({reason}): give a folder with weights, configuration "
            "and tokenizer"
        ) from None
    return model, _HubTokenizer(tokenizer)


def _attach_lora(model: nn.Module, settings: LanguageSettings) -> None:
    """Adapters on every linear layer of the blocks, in float32; the model's own weights are frozen."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise PsftrError("language.tuning=lora needs the package peft: pip install 'psftr[vlm]'") from error
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules="all-linear")
    inject_adapter_in_model(config, model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)
