"""Models run here through transformers: Qwen2.5-VL, LLaVA-1.5 and others of their interface.

Choices between words (yes or no) share work: a clip is preprocessed once, its tokens go through the language model once
for all prompts, and each prompt adds only the words in which it differs (the keys and values of the common prefix are
kept). Slow twin: `choose_one_by_one`, a whole forward pass for each clip and prompt.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from psftr.errors import PsftrError
from psftr.language_models.protocol import Budget, Fail, Frames, Keep, Schema, Usage, spells
from psftr.language_models.settings import LocalSettings
from psftr.language_models.weights import content_digest, find_weights

log = logging.getLogger("psftr.language_models")
# 1.5's own words; checkpoints that carry a chat template use theirs
_PLAIN_TEMPLATE = "USER: {images}{prompt} ASSISTANT:"
_VERSION = 2  # raise it when the same weights and prompt would be asked in another way


def identity(settings: LocalSettings, *, weights: str, seed: int, literal: bool) -> str:
    """Everything that decides an answer. weights: their content, not the name of their folder."""
    details = [f"v{_VERSION}", settings.dtype, settings.quantize, f"{settings.frame_size}px", f"seed{seed}"]
    details += [name for name, is_on in (("square", settings.square), ("literal", literal)) if is_on]
    details += [f"{settings.max_tokens}tokens"] if settings.max_tokens else []
    return ":".join(["transformers", weights, *details])


class TransformersMLLM:
    """`MLLM` over a built model and its processor; `load` reads both from a folder or a hub name.

    weights: names the weights by content. literal: only the tokens `Yes` and `No` count, not their other spellings.
    seed: of answers that are sampled. Threads may share it; it answers one after the other.
    """

    def __init__(
        self,
        settings: LocalSettings,
        *,
        model: Any,
        processor: Any,
        weights: str,
        seed: int,
        literal: bool = False,
        budget: Budget | None = None,
    ) -> None:
        self.settings, self.frame_size, self.literal, self.seed = settings, settings.frame_size, literal, seed
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.processor.tokenizer.padding_side = "left"  # so that the last position is the answer's in every row
        self.identity = identity(settings, weights=weights, seed=seed, literal=literal)
        self.budget = budget or Budget(settings.budget)
        self.usage = Usage(settings.price_in, settings.price_out)
        self._batch_rows = settings.batch_rows
        self._lock = threading.Lock()
        self._ids: dict[tuple[str, ...], list[list[int]]] = {}

    @classmethod
    def load(
        cls, settings: LocalSettings, *, device: str | torch.device, seed: int, **options: Any
    ) -> TransformersMLLM:
        """Weights and processor from a local folder or, if the machine may fetch them, from the hub.

        Raises PsftrError in one line when they are not available.
        """
        try:
            from transformers import AutoModelForImageTextToText, AutoProcessor
        except ImportError as error:
            raise PsftrError("a transformers backend needs the package transformers; install psftr[mllm]") from error
        name = settings.model
        folder = find_weights(name)
        how: dict[str, Any] = {"dtype": settings.dtype}
        if settings.attention:
            how["attn_implementation"] = settings.attention
        if settings.device_map:
            how["device_map"] = settings.device_map
        if settings.quantize != "none":
            from transformers import BitsAndBytesConfig

            is_4_bit = settings.quantize == "int4"
            how["device_map"] = settings.device_map or {"": str(device)}
        try:
            if settings.quantize != "none":
                how["quantization_config"] = (
                    BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)
                    if is_4_bit
                    else BitsAndBytesConfig(load_in_8bit=True)
                )
            processor = AutoProcessor.from_pretrained(folder)
            model: Any = AutoModelForImageTextToText.from_pretrained(folder, **how)
        except ImportError as error:
            reason = " ".join(str(error).split())[:200]
            raise PsftrError(
                f"cannot load the model {name} ({reason}): install the package that is missing, or leave out "
                "backend.quantize, backend.device_map and backend.attention"
            ) from None
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise PsftrError(
                f"cannot load the model {name} ({reason}): give a folder with weights, configuration and processor"
            ) from None
        if "device_map" not in how:
            model = model.to(torch.device(device))
        return cls(settings, model=model, processor=processor, weights=content_digest(folder), seed=seed, **options)

    def generate(
        self, frames: Frames, prompt: str, *, schema: Schema | None = None, temperature: float = 0.0,
        answer_tokens: int,
    ) -> str:  # fmt: skip
        limit = min(answer_tokens, self.settings.max_tokens or answer_tokens)
        with self._lock:
            inputs = self._inputs([self._images(frames)], [prompt])
            length = inputs["input_ids"].shape[1]
            self._check_length(length + limit, len(frames))
            self.budget.spend()
            options = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
            with torch.inference_mode(), torch.random.fork_rng():
                torch.manual_seed(self.seed)
                tokens = self.model.generate(**inputs, max_new_tokens=limit, **options)
            new = tokens[0, length:]
            self.usage.add(length, len(new))
            return self.processor.tokenizer.decode(new, skip_special_tokens=True).strip()

    def choose(
        self, clips: Sequence[Frames], prompts: Sequence[str], options: Sequence[str], *, keep: Keep, fail: Fail
    ) -> None:
        first = 0
        while first < len(clips):
            with self._lock:
                chunk = clips[first : first + max(1, self._batch_rows // len(prompts))]
                images = [self._images(clip) for clip in chunk]
                sizes = [[image.size for image in shown] for shown in images]
                alike = next((n for n, size in enumerate(sizes) if size != sizes[0]), len(images))
                images = images[:alike]  # pictures of one size have equally many tokens, so no row needs padding
                self.budget.spend(len(images) * len(prompts))
                table = self._with_less_memory(images, prompts, options)
            for t, row in enumerate(table.tolist()):
                for s, found in enumerate(row):
                    keep(first + t, s, tuple(found))
            first += len(images)

    def _with_less_memory(self, images: list[list[Any]], prompts: Sequence[str], options: Sequence[str]) -> Tensor:
        """`_shared_prefix`, in smaller batches from then on each time that memory runs out."""
        while True:
            try:
                step = max(1, self._batch_rows // len(prompts))
                parts = [
                    self._shared_prefix(images[i : i + step], prompts, options) for i in range(0, len(images), step)
                ]
                return torch.cat(parts)
            except torch.OutOfMemoryError:
                if self._batch_rows == 1:
                    raise PsftrError(
                        "one frame and prompt at a time do not fit into the device's memory: set "
                        "backend.quantize=int4, backend.device_map=auto or a smaller backend.frame_size"
                    ) from None
                self._batch_rows = max(1, self._batch_rows // 2)
                log.warning("out of memory: going on with backend.batch_rows=%d", self._batch_rows)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()

    def _shared_prefix(self, images: list[list[Any]], prompts: Sequence[str], options: Sequence[str]) -> Tensor:
        """[F, S, K] shares of the options; images of F clips, alike in number and size.

        The prefix is all that the prompts have in common, images first of all; the suffixes are padded on the right,
        where causal attention keeps padding out of every real token.
        """
        texts = [self.processor.tokenizer(self._wrapped(prompt, len(images[0])))["input_ids"] for prompt in prompts]
        common = min(_common_length(texts), min(map(len, texts)) - 1)
        suffixes = [text[common:] for text in texts]
        inputs = dict(self._inputs(images, [prompts[0]] * len(images)))
        del inputs["attention_mask"]  # nothing is padded
        length = inputs["input_ids"].shape[1] - len(suffixes[0])
        self._check_length(length + max(map(len, suffixes)), len(images[0]))
        for key in ("input_ids", "mm_token_type_ids"):
            if key in inputs:
                inputs[key] = inputs[key][:, :length]
        ids, shares = self._option_ids(options), []
        with torch.inference_mode():
            kept = self.model.model(**inputs, use_cache=True).past_key_values
            self.usage.add(len(images) * length, 0, requests=0)
            step = max(1, self._batch_rows // len(images))
            for start in range(0, len(prompts), step):
                part = suffixes[start : start + step]
                longest = max(map(len, part))
                padded = torch.tensor([suffix + [suffix[-1]] * (longest - len(suffix)) for suffix in part])
                cache = copy.deepcopy(kept) if len(prompts) > step else kept
                cache.batch_repeat_interleave(len(part))
                hidden = self.model.model(
                    input_ids=padded.repeat(len(images), 1).to(self.model.device), past_key_values=cache, use_cache=True
                ).last_hidden_state  # [F * S, L, D]
                last = torch.tensor([len(suffix) - 1 for suffix in part]).repeat(len(images)).to(hidden.device)
                answers = hidden[torch.arange(len(hidden), device=hidden.device), last]
                shares.append(self._shares(self.model.lm_head(answers), ids).view(len(images), len(part), -1))
                self.usage.add(padded.numel() * len(images), 0, requests=len(images) * len(part))
        return torch.cat(shares, dim=1).double().cpu()

    def choose_one_by_one(self, clips: Sequence[Frames], prompts: Sequence[str], options: Sequence[str]) -> Tensor:
        """[T, S, K]: the slow twin of `choose`: each pair by itself, pixels and all."""
        ids = self._option_ids(options)
        rows = []
        for clip in clips:
            for prompt in prompts:
                with torch.inference_mode():
                    inputs = self._inputs([self._images(clip)], [prompt])
                    logits = self.model(**inputs, logits_to_keep=1).logits[:, -1]
                self.usage.add(inputs["input_ids"].numel(), 0)
                rows.append(self._shares(logits, ids)[0])
        return torch.stack(rows).view(len(clips), len(prompts), -1).double().cpu()

    @contextmanager
    def impatient(self) -> Iterator[None]:
        """A model that runs here answers or fails, but never hangs."""
        yield

    def close(self) -> None:
        """Nothing goes on behind a caller's back here."""

    def _option_ids(self, options: Sequence[str]) -> list[list[int]]:
        key = tuple(options)
        if key not in self._ids:
            self._ids[key] = answer_tokens(self.processor.tokenizer, key, literal=self.literal)
        return self._ids[key]

    def _shares(self, logits: Tensor, ids: list[list[int]]) -> Tensor:
        """[..., vocabulary] -> [..., K]: the mass of each option's tokens, as shares of their sum."""
        logits = logits.float()
        return torch.stack([logits[..., tokens].logsumexp(-1) for tokens in ids], dim=-1).softmax(-1)

    def _check_length(self, tokens: int, num_images: int) -> None:
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if context is not None and tokens > context:
            raise PsftrError(
                f"a question with {num_images} frames has {tokens} tokens, and {self.settings.model} reads {context}: "
                "show fewer frames (frames.filter_frames, frames.caption_frames, frames.clip_frames) or smaller ones "
                "(backend.frame_size), or let another model do this step (backend@filter=qwen)"
            )

    def _images(self, frames: Frames) -> list[Any]:
        from PIL import Image

        images = []
        for frame in frames.frames:
            image = frame.image()
            image.thumbnail((self.frame_size, self.frame_size))
            if self.settings.square and image.width != image.height:
                side = max(image.size)
                whole = Image.new("RGB", (side, side))
                whole.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
                image = whole
            images.append(image)
        return images

    def _inputs(self, images: list[list[Any]], prompts: Sequence[str]) -> Any:
        texts = [self._wrapped(prompt, len(shown)) for shown, prompt in zip(images, prompts)]
        flat = [image for shown in images for image in shown]
        inputs = self.processor(images=flat or None, text=texts, padding=True, return_tensors="pt")
        return inputs.to(self.model.device)

    def _wrapped(self, prompt: str, num_images: int) -> str:
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}] * num_images + [{"type": "text", "text": prompt}]
            messages = [{"role": "user", "content": content}]
            return self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return _PLAIN_TEMPLATE.format(images=f"{self.processor.image_token}\n" * num_images, prompt=prompt)


def _common_length(rows: Sequence[Sequence[int]]) -> int:
    """How many first items all rows share."""
    for place, items in enumerate(zip(*rows)):
        if len(set(items)) > 1:
            return place
    return min(map(len, rows))


def answer_tokens(tokenizer: Any, options: Sequence[str], *, literal: bool) -> list[list[int]]:
    """For each option the ids of every token that spells it: with or without a leading space, in any case.

    literal: the one token that each begins with. A tokenizer without such words answers in pieces; then the first
    pieces count, if they differ. Raises PsftrError if they do not.
    """
    if not literal:
        vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        found = [[index for token, index in vocabulary if spells(token, option)] for option in options]
        if all(found):
            return found
    first = [tokenizer.encode(word, add_special_tokens=False)[:1] for word in options]
    unknown = getattr(tokenizer, "unk_token_id", None)
    pieces = [tuple(ids) for ids in first]
    if not all(first) or len(set(pieces)) < len(pieces) or (unknown,) in pieces:
        raise PsftrError(f"this tokenizer has no tokens that tell {' from '.join(options)}: use another model")
    return first
