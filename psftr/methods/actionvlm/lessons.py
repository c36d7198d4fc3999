"""What a tiny language model is taught from: windows of synthetic frames, and descriptions one of which may fit.

Every lesson has a cast of its own: eight classes in twin pairs, of motions, objects and scenes drawn at random, with
their numbers and their order in the prompt drawn too. So only who reads the descriptions knows which number is asked
for. The pairs of motions of the world of twins never occur. Numbers of lessons and of worlds come from other seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psftr.data.synthetic import SHORTEST_TWIN_S, plan_actions
from psftr.data.synthetic_distractors import Repertoire
from psftr.data.synthetic_order import TWIN_PAIRS, named_twins, order_descriptions
from psftr.data.synthetic_space import THEN, Composition, Space, background_motions, hard_negatives, render, seeded
from psftr.methods.actionvlm.prompt import prompt_text

MOTIONS = tuple(dict.fromkeys(motion for pair in TWIN_PAIRS for motion in pair[:2]))
OBJECTS = ("ball", "barrel", "rope", "pole", "disc", "bag")
SCENES = ("grass", "ice", "sand", "road", "floor")
PAIRS = len(MOTIONS) // 2
NUM_CLASSES = 2 * PAIRS
NUM_CLUTTER = 3
_FIRST_PART, _LAST_PART = 0.4, 0.6  # of an action: until where its first motion lasts, and from where its last one


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """G casts with V windows of T rows each.

    frames [G,V,T,D] float32; answers [G,V,T]: the number of the class that acts, 0 for none; motions [G,V,T]: which of
    MOTIONS is seen in a row of an action or distractor, -1 for none; parts [G,V,T]: 0 where that is its first motion, 1
    where it is its last; prompts: G texts.
    """

    frames: np.ndarray
    answers: np.ndarray
    motions: np.ndarray
    parts: np.ndarray
    prompts: tuple[str, ...]


def draw_cast(rng: np.random.Generator) -> tuple[Composition, ...]:
    """Eight classes in twin pairs; every motion occurs in one pair, and no pair is one of the world of twins."""
    known = {frozenset(pair[:2]) for pair in TWIN_PAIRS}
    while True:
        words = rng.permutation(MOTIONS).tolist()
        chosen = list(zip(words[::2], words[1::2]))
        if not any(frozenset(pair) in known for pair in chosen):
            break
    things, places = rng.permutation(OBJECTS)[:PAIRS].tolist(), rng.permutation(SCENES)[:PAIRS].tolist()
    pairs = [(*pair, thing, place) for pair, thing, place in zip(chosen, things, places)]
    return named_twins(pairs, (rng.permutation(NUM_CLASSES) + 1).tolist())


def draw_lessons(
    space: Space, *, count: int, windows: int, rows: int, step_s: float, seed: int, cast: tuple[Composition, ...] = ()
) -> Lessons:
    """`count` casts of `windows` windows each; the same for the same seed. cast: this one in place of drawn ones."""
    made: tuple[list[np.ndarray], ...] = ([], [], [], [])
    prompts = []
    for number in range(count):
        rng = seeded(seed, "lesson", number)
        classes = cast or draw_cast(rng)
        for _ in range(windows):
            for kept, part in zip(made, _window(space, classes, rng, rows=rows, step_s=step_s)):
                kept.append(part)
        told = order_descriptions(classes)
        order = rng.permutation(list(told)).tolist()
        prompts.append(prompt_text(order, told))
    frames, answers, motions, parts = (np.stack(kept).reshape(count, windows, *kept[0].shape) for kept in made)
    return Lessons(frames=frames, answers=answers, motions=motions, parts=parts, prompts=tuple(prompts))


def _window(
    space: Space, classes: tuple[Composition, ...], rng: np.random.Generator, *, rows: int, step_s: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """frames [T,D], answers, motions and parts [T] of a window made as the videos of a world are."""
    repertoire, length_s = Repertoire(classes, scenes_named=True), rows * step_s
    main = classes[rng.integers(len(classes))]
    events = plan_actions(main, length_s, repertoire, rng, shortest_s=SHORTEST_TWIN_S)
    rest = hard_negatives([(event.start_s, event.end_s) for event in events], length_s, main, rng)
    rest += background_motions(length_s, repertoire.motions, rng)
    frames = render(
        space,
        [*events, *rest],
        main=main,
        clutter=[space.objects(classes[i]) for i in rng.integers(len(classes), size=NUM_CLUTTER)],
        steps=rows,
        step_s=step_s,
        rng=rng,
    )
    answers, motions, parts = (np.full(rows, value, dtype=np.int64) for value in (0, -1, 0))
    at_s = (np.arange(rows) + 0.5) * step_s
    for event in events:
        place = (at_s - event.start_s) / (event.end_s - event.start_s)
        first, last = (MOTIONS.index(motion) for motion in event.composition.motion.split(THEN))
        motions[(place >= 0) & (place < _FIRST_PART)] = first
        motions[(place >= _LAST_PART) & (place < 1)] = last
        parts[(place >= _LAST_PART) & (place < 1)] = 1
        if event.kind == "action":
            answers[(place >= 0) & (place < 1)] = int(event.composition.name.split()[-1])
    return frames, answers, motions, parts
