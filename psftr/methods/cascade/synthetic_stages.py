"""Stage texts for synthetic features: what a language model and a text encoder would be, in the synthetic space.

A synthetic class is a motion, objects and a scene, and every synthetic action has a beginning, a course and an end that
the class *names* do not mention. Plans written here do: people begin, do and finish the motion, all of it distinctive
of the action (key), and the background is the same objects in the same scene without any of it. The pretended text
encoder understands a phase as badly as it understands a motion, and every sentence has a weight of the common part of
its own, drawn like those of the class sentences. Whether stages help is therefore left to the measurement.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from psftr.data.synthetic import CLASSES
from psftr.data.synthetic_space import Composition, Space, compose, seeded
from psftr.errors import PsftrError
from psftr.features.text import TextEmbeddings, spell_out
from psftr.methods.cascade.stages import Stage, StagePlan

_MOTION, _PHASE, _OBJECT, _SCENE = 0.62, 0.62, 0.60, 0.50  # shares of a sentence, as in `Space.text`
_COMPOSITIONS = {composition.name: composition for composition in CLASSES}


def compositions_of(names: Sequence[str]) -> dict[str, Composition]:
    """What the generator took each class to be made of: the synthetic world's own, or the words of a real name."""
    return {name: _COMPOSITIONS.get(name) or compose(name) for name in names}


def synthetic_plans(names: Sequence[str]) -> dict[str, StagePlan]:
    """A plan of three stages for every class name."""
    return {name: _plan(name) for name in names}


def _plan(name: str) -> StagePlan:
    words = spell_out(name)
    return StagePlan(
        name,
        (
            Stage(f"people begin {words}", True),
            Stage(f"people are {words}", True),
            Stage(f"people finish {words}", True),
        ),
        f"the same place, nobody is {words}",
    )


def space_of(encoder: str) -> Space:
    """The space behind a synthetic store's encoder name. Raises PsftrError for any other store."""
    found = re.fullmatch(r"synthetic:words-v\d+:seed(\d+):dim(\d+)", encoder)
    if found is None:
        raise PsftrError(f"the features are of {encoder!r}, not synthetic: give stages=FILE and its text embeddings")
    return Space(seed=int(found[1]), dim=int(found[2]))


def embed_synthetic(plans: Mapping[str, StagePlan], names: Sequence[str], *, encoder: str) -> TextEmbeddings:
    """Embeddings of every sentence of the plans, whoever wrote them, in the space of the store's `encoder`.

    What a sentence is about is told by its place: all bring objects and scene, the background nothing else; a key stage
    brings the motion, the first of several stages the beginning, the last the end.
    """
    space, made_of = space_of(encoder), compositions_of(names)
    sentences: dict[str, np.ndarray] = {}
    for name in names:
        plan = plans[name]
        for place, stage in enumerate(plan.stages):
            phase = None
            if len(plan.stages) > 1 and place in (0, len(plan.stages) - 1):
                phase = "beginning" if place == 0 else "end"
            sentences[stage.description] = _sentence(
                space, made_of[name], stage.description, motion=stage.is_key, phase=phase
            )
        sentences[plan.background] = _sentence(space, made_of[name], plan.background)
    rows = torch.from_numpy(np.stack(list(sentences.values())).astype(np.float32))
    return TextEmbeddings(tuple(sentences), rows, encoder, prompt="stages", synthetic=True)


def _sentence(
    space: Space, composition: Composition, sentence: str, *, motion: bool = False, phase: str | None = None
) -> np.ndarray:
    """[dim] of the length of a class sentence, made like `Space.text`, with or without the motion and a phase."""
    recipe, rng = space.recipe, seeded(space.seed, "sentence", sentence)
    of_motion, of_object, of_scene = recipe.agreement
    objects = np.sum([space.heard("object", word, of_object) for word in composition.objects], axis=0)
    words = _OBJECT * objects / np.linalg.norm(objects) + _SCENE * space.heard("scene", composition.scene, of_scene)
    if motion:
        words += _MOTION * space.heard("motion", composition.motion, of_motion)
    if phase is not None:
        words += _PHASE * _heard_phase(space, phase)
    return space.sentence(words, rng)


def _heard_phase(space: Space, phase: str) -> np.ndarray:
    """The beginning or end of actions as sentences know it: like a motion word, mostly by a direction of its own."""
    recipe, rng = space.recipe, seeded(space.seed, "text", "phase", phase)
    agreement = float(np.clip(recipe.agreement[0] + recipe.agreement_spread * rng.standard_normal(), 0.0, 0.95))
    own = rng.standard_normal(space.dim)
    direction = space.beginning if phase == "beginning" else space.end
    return agreement * direction + math.sqrt(1 - agreement**2) * own / np.linalg.norm(own)
