"""Language features of frames: one pass of the language model over words, frames and special tokens (section 3.2).

Legend: B windows, T rows, D width of the detector, H width of the language model, S tokens of a frame (1 to 4).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psftr.errors import PsftrError
from psftr.methods.actionvlm.language_model import LanguageModel
from psftr.methods.actionvlm.prompt import ANSWER


@dataclass(frozen=True)
class LanguageFeatures:
    """F_lang,cls, F_lang,loc and F_adv, each [B,T,D]. text_loss: L_tg of equation 8, None where no text was given."""

    for_classes: Tensor
    for_locations: Tensor
    for_advantage: Tensor
    text_loss: Tensor | None


class LanguageStream(nn.Module):
    """Each frame is its projected feature and the tokens [cls], [loc], [adv], between words that all windows share.

    before, after: what is read before and after the frames. special: which token each feature is read from, as places
    behind the frame's own (0: the frame itself); (1, 2, 3) is the paper's. frame_dim: width of the given frames.
    keeps_states: hidden states of training windows are kept, as nothing that makes them is trained.
    """

    def __init__(
        self,
        *,
        language_model: LanguageModel,
        frame_dim: int,
        dim: int,
        before: str,
        after: str,
        special: tuple[int, int, int],
        keeps_states: bool,
    ) -> None:
        super().__init__()
        self.language_model, self.special, self.keeps_states = language_model, special, keeps_states
        self._kept: dict[bytes, Tensor] = {}
        width = language_model.width
        self.project = nn.Linear(frame_dim, width)
        self.tokens = nn.Parameter(0.02 * torch.randn(max(special), width))
        self.out = nn.Linear(width, dim)
        self.register_buffer("before", self._ids(before), persistent=False)
        self.register_buffer("after", self._ids(f"{after} {ANSWER}" if after else ANSWER), persistent=False)
        self.before: Tensor
        self.after: Tensor

    def forward(self, given: Tensor, is_padding: Tensor, sentences: Sequence[str] | None = None) -> LanguageFeatures:
        """given [B,T,frame_dim], is_padding [B,T]; sentences: the text to generate (equation 7), teacher forced."""
        if self.keeps_states and self.training:
            read, text_loss = self._read_once(given, is_padding), None
        else:
            read, text_loss = self.read(given, is_padding, sentences)
        of_token = {place: self.out(read[:, :, place]) for place in dict.fromkeys(self.special)}
        for_classes, for_locations, for_advantage = (of_token[place] for place in self.special)
        return LanguageFeatures(for_classes, for_locations, for_advantage, text_loss)

    def _read_once(self, given: Tensor, is_padding: Tensor) -> Tensor:
        """As read without sentences; a window that was read before, told by its numbers, is not read again."""
        keys = [
            hashlib.sha256(rows.numpy().tobytes() + padding.numpy().tobytes()).digest()
            for rows, padding in zip(given.cpu(), is_padding.cpu())
        ]
        if new := [number for number, key in enumerate(keys) if key not in self._kept]:
            with torch.no_grad():
                read, _ = self.read(given[new], is_padding[new], None)
            self._kept.update((keys[number], one.cpu()) for number, one in zip(new, read))
        return torch.stack([self._kept[key] for key in keys]).to(given.device)

    def read(self, given: Tensor, is_padding: Tensor, sentences: Sequence[str] | None) -> tuple[Tensor, Tensor | None]:
        """Last hidden states of the tokens of every frame [B,T,S,H], and L_tg."""
        batch, size, _ = given.shape
        frames = self._frames(given)  # [B, T*S, H]
        answer, scored = self._answer(sentences, batch)  # [B,A] ids and whether they count
        self._check_length(len(self.before) + frames.shape[1] + len(self.after) + answer.shape[1], size)
        embed = self.language_model.embed
        after = embed(self.after).expand(batch, -1, -1)
        frame_padding = is_padding.repeat_interleave(self.per_frame, dim=1)
        hidden = self.language_model(
            embed(self.before),
            torch.cat([frames.to(after.dtype), after, embed(answer)], dim=1),
            torch.cat([frame_padding, is_padding.new_zeros(batch, after.shape[1]), ~scored], dim=1),
        )
        read = hidden[:, : frames.shape[1]].view(batch, size, self.per_frame, -1)
        text_loss = None
        if sentences is not None:
            # the state before a token says what the token is
            says = hidden[:, -answer.shape[1] - 1 : -1][scored]
            text_loss = F.cross_entropy(self.language_model.logits(says), answer[scored])
        return read, text_loss

    @property
    def per_frame(self) -> int:
        """Tokens of a frame: itself and the special ones."""
        return 1 + len(self.tokens)

    def _frames(self, given: Tensor) -> Tensor:
        batch, size, _ = given.shape
        own = self.project(given)[:, :, None]
        special = self.tokens.expand(batch, size, -1, -1)
        return torch.cat([own, special.to(own.dtype)], dim=2).flatten(1, 2)

    def _answer(self, sentences: Sequence[str] | None, batch: int) -> tuple[Tensor, Tensor]:
        if sentences is None:
            empty = self.before.new_zeros(batch, 0)
            return empty, empty.bool()
        end = self.language_model.tokenizer.end_id
        texts = [[*self.language_model.tokenizer.encode(text), end] for text in sentences]
        longest = max(map(len, texts))
        answer = torch.tensor([text + [end] * (longest - len(text)) for text in texts], device=self.before.device)
        lengths = torch.tensor([len(text) for text in texts], device=self.before.device)
        return answer, torch.arange(longest, device=self.before.device) < lengths[:, None]

    def _ids(self, text: str) -> Tensor:
        return torch.tensor(self.language_model.tokenizer.encode(text), dtype=torch.long)

    def _check_length(self, tokens: int, size: int) -> None:
        context = self.language_model.context
        if context is not None and tokens > context:
            raise PsftrError(
                f"a window of {size} rows makes {tokens} tokens, and the language model reads {context}: "
                "choose a smaller window.size, or a language model with a longer context"
            )
