"""Models run here through transformers: Qwen2.5-VL, LLaVA-1.5 and others of their interface.

Yes/no: a frame goes through the vision tower once, and all prompts about a chunk of frames form one batch of the
language model. Slow twin: `yes_no_one_by_one`, a whole forward pass per frame and prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from psftr.errors import PsftrError
from psftr.language_models.protocol import Budget, Frames, Keep, Schema, is_no, is_yes

# 1.5's own words; checkpoints that carry a chat template use theirs
_PLAIN_TEMPLATE = "USER: {images}{prompt} ASSISTANT:"


class TransformersMLLM:
    """`MLLM` over a built model and its processor; `load` reads both from a folder or a hub name.

    identity names the weights. batch_rows: (frame, prompt) pairs per forward pass. frame_size: longer side in pixels
    before the processor's own resizing. literal: only the tokens `Yes` and `No` count, not their other spellings.
    max_tokens: no answer is longer, whatever is asked for.
    """

    def __init__(
        self,
        *,
        model: Any,
        processor: Any,
        identity: str,
        batch_rows: int = 16,
        frame_size: int = 448,
        literal: bool = False,
        max_tokens: int | None = None,
        budget: Budget | None = None,
    ) -> None:
        if batch_rows < 1:
            raise PsftrError(f"batch_rows must be at least 1, got {batch_rows}")
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.processor.tokenizer.padding_side = "left"  # so that the last position is the answer's in every row
        limit = f":{max_tokens}tokens" if max_tokens else ""
        self.identity = f"{identity}:{frame_size}px{limit}{':literal' if literal else ''}"
        self.max_tokens = max_tokens
        self.batch_rows, self.frame_size = batch_rows, frame_size
        self.budget = budget or Budget()
        self.yes_ids, self.no_ids = answer_tokens(processor.tokenizer, literal=literal)

    @classmethod
    def load(cls, name: str, *, device: str = "cpu", dtype: str = "auto", **options: Any) -> TransformersMLLM:
        """Weights and processor from a local folder or, if the machine may fetch them, from the hub.

        Raises PsftrError in one line when they cannot be had.
        """
        try:
            from transformers import AutoModelForImageTextToText, AutoProcessor
        except ImportError as error:
            raise PsftrError("a transformers backend needs the package transformers; install psftr[mllm]") from error
        try:
            processor = AutoProcessor.from_pretrained(name)
            model: Any = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype)
        except (OSError, ValueError, ImportError) as error:
            reason = " ".join(str(error).split())[:160]
            raise PsftrError(f"cannot load the model {name} ({reason}): give a folder with weights and all") from None
        identity = f"transformers:{Path(name).name if Path(name).exists() else name}"
        return cls(model=model.to(torch.device(device)), processor=processor, identity=identity, **options)

    def generate(
        self, frames: Frames, prompt: str, *, schema: Schema | None = None, temperature: float = 0.0,
        max_tokens: int = 512,
    ) -> str:  # fmt: skip
        self.budget.spend()
        inputs = self._inputs([self._images(frames)], [prompt])
        options = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
        limit = min(max_tokens, self.max_tokens or max_tokens)
        with torch.inference_mode():
            tokens = self.model.generate(**inputs, max_new_tokens=limit, **options)
        new = tokens[0, inputs["input_ids"].shape[1] :]
        return self.processor.tokenizer.decode(new, skip_special_tokens=True).strip()

    def yes_no(self, frames: Frames, prompts: Sequence[str], *, keep: Keep | None = None) -> NDArray[np.float64]:
        table = np.full((len(frames), len(prompts)), np.nan)
        images = self._images(frames)
        step = max(1, self.batch_rows // max(1, len(prompts)))
        for first in range(0, len(frames), step):
            chunk = images[first : first + step]
            self.budget.spend(len(chunk) * len(prompts))
            logits = self._batched_logits(chunk, prompts)
            shares = self._yes_share(logits).view(len(chunk), len(prompts)).double().cpu().numpy()
            table[first : first + len(chunk)] = shares
            if keep is not None:
                for t, s in np.ndindex(shares.shape):
                    keep(first + t, s, float(shares[t, s]))
        return table

    def yes_no_one_by_one(self, frames: Frames, prompts: Sequence[str]) -> NDArray[np.float64]:
        """The slow twin of `yes_no`: each pair by itself, pixels and all."""
        table = np.full((len(frames), len(prompts)), np.nan)
        images = self._images(frames)
        for t, s in np.ndindex(table.shape):
            with torch.inference_mode():
                logits = self.model(**self._inputs([[images[t]]], [prompts[s]]), logits_to_keep=1).logits[:, -1]
            table[t, s] = float(self._yes_share(logits))
        return table

    def _batched_logits(self, images: list[Any], prompts: Sequence[str]) -> Tensor:
        """[F * S, vocabulary] at the answer position, frame by frame; every image is encoded once."""
        alone = self._inputs([[image] for image in images], [prompts[0]] * len(images))
        rows = self._inputs([[image] for image in images for _ in prompts], list(prompts) * len(images))
        pixels = {key: alone[key] for key in ("pixel_values", "image_grid_thw", "image_sizes") if key in alone}
        with torch.inference_mode():
            encoded = self.model.get_image_features(**pixels, return_dict=True)
            encoded.pooler_output = [feature for feature in encoded.pooler_output for _ in prompts]
            rest = {key: value for key, value in rows.items() if key != "pixel_values"}
            return self.model(**rest, mm_encoder_outputs={"image": encoded}, logits_to_keep=1).logits[:, -1]

    def _yes_share(self, logits: Tensor) -> Tensor:
        """[..., vocabulary] -> [...]: mass of the yes tokens / mass of the yes and no tokens."""
        logits = logits.float()
        return torch.sigmoid(logits[..., self.yes_ids].logsumexp(-1) - logits[..., self.no_ids].logsumexp(-1))

    def _images(self, frames: Frames) -> list[Any]:
        from PIL import Image

        images = []
        for frame in frames.rgb:
            image = Image.fromarray(frame)
            image.thumbnail((self.frame_size, self.frame_size))
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


def answer_tokens(tokenizer: Any, *, literal: bool = False) -> tuple[list[int], list[int]]:
    """Ids of every token that spells yes, and no: with or without a leading space, in any case.

    literal: the one token each that `Yes` and `No` begin with. A tokenizer without such words answers in pieces; then
    the first pieces count, if they differ. Raises PsftrError if they do not.
    """
    first = [tokenizer.encode(word, add_special_tokens=False)[:1] for word in ("Yes", "No")]
    if not literal:
        vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        yes = [index for token, index in vocabulary if is_yes(token)]
        no = [index for token, index in vocabulary if is_no(token)]
        if yes and no:
            return yes, no
    unknown = getattr(tokenizer, "unk_token_id", None)
    if not first[0] or not first[1] or first[0] == first[1] or unknown in (first[0][0], first[1][0]):
        raise PsftrError("this tokenizer has no tokens that tell Yes from No: use another model")
    return first[0], first[1]
