"""Teaching a tiny language model to say which of the descriptions before it fits the frames it reads.

It stands in for what a real language model brings from its pre-training: words that mean something. What is learned is
matching in context: at [cls], [loc] and [adv] of every frame the answer is the number of the fitting class in the
prompt, or none. Frames and words are synthetic, and the words start near their directions among the features.

Matching does not come about by itself in a few minutes, so four more things are asked for: a frame says the motion it
shows, a word of a description says the number of its class, both say whether that motion comes first or last, and two
heads are shown where to look (at the motion's word in any description; at that of the right class).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psftr.data.synthetic_order import twin_classes
from psftr.data.synthetic_space import Space
from psftr.methods.actionvlm.alignment import Alignment
from psftr.methods.actionvlm.lessons import (
    MOTIONS,
    NUM_CLASSES,
    OBJECTS,
    SCENES,
    Lessons,
    draw_lessons,
)
from psftr.methods.actionvlm.prompt import ANSWER, NOTHING, prompt_text

WIDTH, LAYERS, HEADS = 64, 3, 4
HEAD = WIDTH // HEADS
TOKENS = 3  # [cls], [loc], [adv]
ROWS, STEP_S = 64, 8 / 30  # of a window: those of the world of twins
WINDOWS = 4  # of a cast
MOTION, NUMBER, PART, POINTING = 0.3, 0.3, 0.2, 0.2  # weights of what is asked for beside the answer
BACKGROUND = 0.5  # weight of rows without an action
BATCH = (8, 2)  # casts, windows of each
RATE, WARM_UP = 2e-3, 100
FULL_SHARE = 0.25  # of the steps, at the end: all three tokens; before it [cls] alone, at its place
HELD_OUT_CASTS = 40  # at most: of the lessons that are scored
_TEACHING, _HELD_OUT = 1, 2  # seeds of lessons


@dataclass(frozen=True, kw_only=True)
class Taught:
    """Share of rows of actions whose class, one of eight, is answered rightly: in other lessons, and own twins."""

    other_lessons: float
    own_twins: float


def teach(
    folder: str | Path, *, seed: int, dim: int, steps: int, casts: int, tell: Callable[[str], None] = print
) -> Taught:
    """Teach for `steps` steps, on lessons of `casts` casts, and write a folder for language.model.

    seed, dim: of the world whose features it is to read.
    """
    torch.manual_seed(seed)
    space = Space(seed=seed, dim=dim)
    tokenizer = word_tokenizer()
    pupil = Pupil(tokenizer, dim=dim)
    lessons = _draw(space, count=casts, seed=_TEACHING)
    pupil.place_words(space, lessons)
    _run(pupil, as_batch(pupil, lessons), steps=steps, tell=tell)
    held_out = as_batch(pupil, _draw(space, count=min(casts, HELD_OUT_CASTS), seed=_HELD_OUT))
    own = as_batch(pupil, _draw(space, count=min(casts, HELD_OUT_CASTS), seed=_HELD_OUT, own=True))
    pupil.save(folder)
    return Taught(other_lessons=pupil.score(held_out), own_twins=pupil.score(own))


def _draw(space: Space, *, count: int, seed: int, own: bool = False) -> Lessons:
    cast = twin_classes() if own else ()
    return draw_lessons(space, count=count, windows=WINDOWS, rows=ROWS, step_s=STEP_S, seed=seed, cast=cast)


def word_tokenizer() -> Any:
    """A tokenizer of transformers: a token a word, a digit or a sign, of those that prompts and answers are made of."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    split = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)])
    told = {"activity": "It starts with on and ends it."}
    spoken = f"{prompt_text(list(told), told)} {ANSWER} {NOTHING} from to ; the".lower()
    words = [word for word, _ in split.pre_tokenize_str(spoken)]
    known = dict.fromkeys(["<unk>", "<end>", *"0123456789", *words, *MOTIONS, *OBJECTS, *SCENES])
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(known)}, unk_token="<unk>"))
    core.normalizer, core.pre_tokenizer = normalizers.Lowercase(), split
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="<end>")


@dataclass(frozen=True, kw_only=True)
class LessonBatch:
    """Of Lessons, as tensors; prompts [G,P] token ids."""

    frames: Tensor
    answers: Tensor
    motions: Tensor
    parts: Tensor
    prompts: Tensor

    def some(self, casts: np.ndarray, windows: np.ndarray) -> LessonBatch:
        names = ("frames", "answers", "motions", "parts")
        return LessonBatch(
            **{name: getattr(self, name)[casts][:, windows] for name in names}, prompts=self.prompts[casts]
        )


class Pupil(nn.Module):
    """A small Qwen2, the projection of frames, and the tokens [cls], [loc], [adv]."""

    def __init__(self, tokenizer: Any, *, dim: int) -> None:
        from transformers import Qwen2Config, Qwen2ForCausalLM

        super().__init__()
        config = Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.eos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        self.model: Any = Qwen2ForCausalLM(config)
        self.model.set_attn_implementation("eager")  # it says where it looks
        self.project = nn.Linear(dim, WIDTH)
        self.tokens = nn.Parameter((0.3 * torch.randn(1, WIDTH)).repeat(TOKENS, 1))
        self.tokenizer = tokenizer
        self.motion_ids = self._ids(*MOTIONS)
        self.part_ids = self._ids("starts", "ends")
        self.answer_ids = self._ids(NOTHING, *map(str, range(1, NUM_CLASSES + 1)))

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _ids(self, *words: str) -> Tensor:
        return torch.tensor([self.encode(word)[0] for word in words])

    @torch.no_grad()
    def place_words(self, space: Space, lessons: Lessons) -> None:
        """Words near their directions among the features, seen through a random rotation; frames near their motions.

        Three heads of the first layer start as ones that look at the last number, the last "starts" or "ends", and at
        what came just before: a constant query and key under rotary positions prefer what is near.
        """
        dim = space.dim
        rotation = torch.linalg.qr(torch.randn(max(dim, WIDTH), max(dim, WIDTH)))[0][:dim, :WIDTH]
        words: Tensor = self.model.get_input_embeddings().weight
        words.copy_(F.normalize(torch.randn_like(words), dim=-1))
        for role, names in (("motion", MOTIONS), ("object", OBJECTS), ("scene", SCENES)):
            for name in names:
                direction = torch.from_numpy(space.word(role, name)).float()
                words[self.encode(name)[0]] = F.normalize(direction @ rotation, dim=0)
        numbers, parts = F.normalize(torch.randn(2, WIDTH), dim=-1)  # what numbers, and first and last, have in common
        for ids, shared in ((self.answer_ids[1:], numbers), (self.part_ids, parts)):
            apart = F.normalize(words[ids] - (words[ids] @ shared)[:, None] * shared, dim=-1)
            words[ids] = F.normalize(apart + shared, dim=-1)
        first = self.model.model.layers[0].self_attn
        for head, sought in enumerate((numbers, parts, torch.zeros(WIDTH))):  # the last number, part, any token
            own = slice(head * HEAD, (head + 1) * HEAD)
            first.q_proj.weight[own], first.k_proj.weight[own] = 0.0, 0.7 * sought.expand(HEAD, -1)
            first.q_proj.bias[own], first.k_proj.bias[own] = 1.0, 0.0 if sought.any() else 4.0
            first.v_proj.weight[own] = torch.linalg.qr(torch.randn(WIDTH, HEAD))[0].T
            first.o_proj.weight[:, own] = first.v_proj.weight[own].T
        for layer in self.model.model.layers[1:]:  # what is alike attends to each other
            for part in (layer.self_attn.q_proj, layer.self_attn.k_proj):
                part.weight.copy_(1.4 * torch.eye(WIDTH) + 0.02 * torch.randn(WIDTH, WIDTH))
        frames = torch.from_numpy(lessons.frames).view(-1, dim)[::5]
        motions = torch.from_numpy(lessons.motions).view(-1)[::5]
        wanted = torch.zeros(len(frames), WIDTH)
        wanted[motions >= 0] = words[self.motion_ids[motions[motions >= 0]]]
        given = torch.cat([frames, torch.ones(len(frames), 1)], dim=1)
        ridge = 1e-2 * len(frames) * torch.eye(dim + 1)
        fitted = torch.linalg.solve(given.T @ given + ridge, given.T @ wanted)
        fitted = fitted / (given @ fitted).norm(dim=-1).mean()
        plain = 0.3 * rotation / frames.norm(dim=-1).mean()
        self.project.weight.copy_((fitted[:dim] + plain).T)
        self.project.bias.copy_(fitted[dim] - frames.mean(0) @ plain)

    def losses(self, batch: LessonBatch, *, tokens: int) -> dict[str, Tensor]:
        """By name: the answer, and what is asked for beside it. tokens: how many special ones are read, 1 or TOKENS."""
        read = self.read(batch, tokens)
        answers, motions = batch.answers.flatten(0, 1), batch.motions.flatten(0, 1)
        weight = torch.where(answers > 0, 1.0, BACKGROUND)
        logits = self.model.lm_head(read.last)[..., self.answer_ids]  # [B,T,1+S,answers]
        wanted = answers[:, :, None].expand(logits.shape[:-1])
        each = F.cross_entropy(logits.flatten(0, 2), wanted.flatten(), reduction="none").view(logits.shape[:-1])
        shares = weight[:, :, None] / weight.sum()
        shows = motions >= 0
        of_frame = self.model.lm_head(self.model.model.norm(read.first[:, :, 0]))[shows]
        number_of, has_number = _last_of(batch.prompts, self.answer_ids[1:])
        part_of, has_part = _last_of(batch.prompts, self.part_ids)
        is_motion = has_part & torch.isin(batch.prompts, self.motion_ids)
        parts_said = (read.before_last[:, :, :2][shows], read.prompt_before_last[is_motion])
        parts_wanted = (self.part_ids[batch.parts.flatten(0, 1)[shows]][:, None].expand(-1, 2), part_of[is_motion])
        of_word = [self.model.lm_head(states)[has_number] for states in read.prompt]
        return {
            "answer": (each[:, :, 1:].mean(-1, keepdim=True) * shares).sum(),
            "frame answer": (each[:, :, :1] * shares).sum(),
            "motion": F.cross_entropy(of_frame, self.motion_ids[motions[shows]]),
            "number": torch.stack([F.cross_entropy(said, number_of[has_number]) for said in of_word]).mean(),
            "part": torch.stack(
                [
                    F.cross_entropy(self.model.lm_head(self.model.model.norm(said)).flatten(0, -2), wanted.flatten())
                    for said, wanted in zip(parts_said, parts_wanted)
                ]
            ).mean(),
            "pointing": self.pointing(read, batch, number_of, answers, motions),
        }

    def pointing(
        self, read: Reading, batch: LessonBatch, number_of: Tensor, answers: Tensor, motions: Tensor
    ) -> Tensor:
        """-log of the attention where it should be: before the last layer on any such motion, at last the class's."""
        windows = batch.frames.shape[1]
        prompts, numbers = (part.repeat_interleave(windows, 0)[:, None] for part in (batch.prompts, number_of))
        shows = motions >= 0
        is_word = prompts == self.motion_ids[motions.clamp(min=0)][..., None]  # [B,T,P]
        is_right = is_word & (numbers == self.answer_ids[answers][..., None])
        total = torch.zeros(())
        for weights, where, rows in ((read.looks[0], is_word, shows), (read.looks[1], is_right, shows & (answers > 0))):
            mass = (weights * where[:, :, None]).sum(-1).clamp(min=1e-6)  # [B,T,2]
            total = total - mass.log()[rows].mean()
        return total

    def read(self, batch: LessonBatch, tokens: int) -> Reading:
        casts, windows, rows, dim = batch.frames.shape
        frames = self.project(batch.frames.view(-1, rows, dim))[:, :, None]
        special = self.tokens[:tokens].expand(casts * windows, rows, -1, -1)
        embeddings = torch.cat([frames, special], dim=2)
        per_row, length = embeddings.shape[2], batch.prompts.shape[1]
        words = self.model.get_input_embeddings()(batch.prompts)
        said = self.model.model(inputs_embeds=words, use_cache=True, output_hidden_states=True)
        kept = said.past_key_values
        kept.batch_repeat_interleave(windows)
        # tokens that are left out leave their places free
        places = (torch.arange(rows)[:, None] * (1 + TOKENS) + torch.arange(per_row)).flatten() + length
        seen = self.model.model(
            inputs_embeds=embeddings.flatten(1, 2),
            attention_mask=torch.ones(casts * windows, length + rows * per_row, dtype=torch.long),
            position_ids=places.expand(casts * windows, -1),
            past_key_values=kept,
            use_cache=True,
            output_hidden_states=True,
            output_attentions=True,
        )
        shape = (casts * windows, rows, per_row, -1)
        return Reading(
            first=seen.hidden_states[1].view(shape),
            last=seen.last_hidden_state.view(shape),
            before_last=seen.hidden_states[-2].view(shape),
            prompt=(said.hidden_states[1], said.last_hidden_state),
            prompt_before_last=said.hidden_states[-2],
            looks=tuple(one[:, 0].reshape(shape)[:, :, :2, :length] for one in seen.attentions[-2:]),
        )

    @torch.no_grad()
    def score(self, batch: LessonBatch) -> float:
        """Share of rows of actions where the right class is the likeliest of the eight, at [cls]."""
        right = total = 0
        for number in range(len(batch.prompts)):
            part = batch.some(np.array([number]), np.arange(batch.frames.shape[1]))
            logits = self.model.lm_head(self.read(part, TOKENS).last[:, :, 1])[..., self.answer_ids[1:]]
            answers = part.answers.flatten(0, 1)
            right += int((logits.argmax(-1) + 1 == answers)[answers > 0].sum())
            total += int((answers > 0).sum())
        return right / max(total, 1)

    def save(self, folder: str | Path) -> None:
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        parts = (part.detach() for part in (self.project.weight, self.project.bias, self.tokens))
        Alignment(**dict(zip(("weight", "bias", "tokens"), parts)), where=str(folder)).write(folder)


@dataclass(frozen=True)
class Reading:
    """Hidden states after the first layer, before the last and after it: of rows [B,T,1+S,H], of words [G,P,H].

    looks [B,T,2,P]: how a head of each of the last two layers looks at words from a frame and its [cls].
    """

    first: Tensor
    before_last: Tensor
    last: Tensor
    prompt: tuple[Tensor, Tensor]
    prompt_before_last: Tensor
    looks: tuple[Tensor, ...]


def _last_of(prompts: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Of every token of a prompt the last one of `ids` up to it [G,P], and whether there is one."""
    last = torch.where(torch.isin(prompts, ids), torch.arange(prompts.shape[1]), -1).cummax(dim=1).values
    return prompts.gather(1, last.clamp(min=0)), last >= 0


def as_batch(pupil: Pupil, lessons: Lessons) -> LessonBatch:
    return LessonBatch(
        frames=torch.from_numpy(lessons.frames),
        answers=torch.from_numpy(lessons.answers),
        motions=torch.from_numpy(lessons.motions),
        parts=torch.from_numpy(lessons.parts),
        prompts=torch.tensor([pupil.encode(prompt) for prompt in lessons.prompts]),
    )


def _run(pupil: Pupil, lessons: LessonBatch, *, steps: int, tell: Callable[[str], None]) -> None:
    """Steps of AdamW: a short warm-up, and a cosine to zero."""
    parameters = list(pupil.parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.01},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
    )
    rng = np.random.default_rng(0)
    tokens = 1
    for step in range(steps):
        passed = step / steps
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + np.cos(np.pi * passed))
        some = lessons.some(rng.integers(len(lessons.prompts), size=BATCH[0]), rng.permutation(WINDOWS)[: BATCH[1]])
        if tokens == 1 and passed > 1 - FULL_SHARE:
            tokens = TOKENS
            with torch.no_grad():
                pupil.tokens[1:] = pupil.tokens[0]
        losses = pupil.losses(some, tokens=tokens)
        total = losses["answer"] + 0.5 * losses["frame answer"] + MOTION * losses["motion"]
        total = total + NUMBER * losses["number"] + PART * losses["part"] + POINTING * losses["pointing"]
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            told = ", ".join(f"{name} {value.detach():.3f}" for name, value in losses.items())
            tell(f"step {step + 1} of {steps}: {told}")
