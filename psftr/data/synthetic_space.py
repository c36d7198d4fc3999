"""The geometry of synthetic features: words as directions, class sentences, frames as sums of directions.

Pure arrays and seeds, no files (those are in synthetic.py). What a frame is made of, in unit lengths of `Recipe`:

- what does not change in a video: CLIP's common direction, the common topic of all classes (people doing something),
  the video's own style, and clutter (objects and scenes of other classes);
- scene and object, visible to a varying degree *inside and outside* the actions, so that similarity to the class
  sentence is high everywhere;
- only while an action runs: its motion, an oscillation in a subspace all motions share, and what all actions share, a
  direction each for beginning, course and end, and livelier changes from frame to frame. A localizer can learn these
  from seen classes and find them in unseen ones; no sentence describes them;
- distractors (synthetic_distractors.py): actions with all of the above, of an activity that is no class. Whoever acts,
  asked for or not, brings its own object and scene into the picture, and those of the video step back;
- hard negatives between the actions: the object close up at rest, motions that no class names, and the action's own
  motion tried out; these have the course of an action but neither beginning nor end. Background motion, of the motions
  that classes name, at any time, has none of the three;
- nuisance: Ornstein-Uhlenbeck processes of several time constants, much of it in the directions that carry the signal,
  and white noise.

A sentence knows the words through a noisy copy of their directions (imperfect image-text agreement, weakest for
motions), and every class has its own weight of the common part, hence its own bias: some sentences are closer to all
frames than others.

What of this is measured on real CLIP features and what is assumed:

- measured: the lengths and cosines of frames, along time and inside against outside the actions; the cosines of names
  with each other; and `NAME_COSINES`, how close the 200 ActivityNet names are to their own mean (ViT-L/14: mean .829,
  standard deviation .035, with a tail of far ones). A class's weight of the common part follows that table;
- follows from it: a sentence's mean cosine over frames is the common part's, `unrelated` (real image-text pairs: 15 to
  16 of 100) times its own weight, which spreads by .006; and that of the rest of the sentence, with nothing known about
  it but its length, which spreads as random directions do, by its length over the square root of `dim`: .025 at 512;
- assumed: that rest. No matched image and text encoder was at hand, so how much closer real frames are to one name than
  to another was not measured. Assumed as well are words as directions, how well images and text agree on them, and what
  all actions share.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from psftr.features.text import spell_out

FRAME_NORM = 10.6  # the real files say 10.3 to 10.9
TEXT_NORM = 10.0
_NUM_PHASES, _NUM_JITTER, _NUM_MOTIONS, _NUM_BROAD = 3, 8, 12, 32
_ACTIONS = ("action", "distractor")  # alike but for who asks for them
_STRENGTH = {"action": 1.0, "distractor": 1.0, "idle": 0.8, "background": 0.6}
_FILLER = frozenset(
    ["a", "an", "and", "at", "by", "for", "from", "in", "into", "of", "on", "or", "the", "to", "up", "with"]
)
_NUM_SCENES = 4  # a real class name says nothing about the scene: one of so many
# quantiles of the cosine of each of the 200 real ActivityNet names with their mean, measured on CLIP ViT-L/14
NAME_QUANTILES = (0.0, 0.02, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 1.0)
NAME_COSINES = (0.662, 0.756, 0.761, 0.777, 0.812, 0.834, 0.852, 0.870, 0.891)
_MEAN_SQUARED_COSINE = 0.688  # of the same names
THEN = " then "  # between the motions of a class that has two, one after the other
_PAUSE = 0.2  # share of such an action between them
_IDLE_MOTIONS = ("walking", "waiting", "turning", "pointing", "bending", "waving")


def seeded(seed: int, *keys: object) -> np.random.Generator:
    """Random numbers that depend on the seed and the keys alone, not on the order of calls."""
    digest = hashlib.sha256("/".join(map(str, (seed, *keys))).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@dataclass(frozen=True, slots=True)
class Composition:
    """The words a class is made of."""

    name: str
    motion: str
    objects: tuple[str, ...]
    scene: str


def compose(name: str) -> Composition:
    """The composition of a real class name: the first word in -ing, else the last, is its motion; the rest are objects.

    The scene is one of a few, drawn by the name's hash. So `HammerThrow` and `JavelinThrow` share a motion,
    `CricketShot` and `CricketBowling` an object, `Diving` and `CliffDiving` a motion.
    """
    words = [word for word in spell_out(name).lower().replace("-", " ").split() if word not in _FILLER]
    words = words or [name.lower()]
    motion = next((word for word in words if word.endswith("ing")), words[-1])
    objects = tuple(word for word in words if word != motion) or (motion,)
    return Composition(name, motion, objects, f"scene {seeded(0, 'scene', name).integers(_NUM_SCENES)}")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Strengths of the parts, as lengths beside a frame of about one.

    The defaults were set so that the statistics of real CLIP features hold (tests/data/test_synthetic.py) and so that
    similarity to the sentence alone localizes little, while what all actions share can be learned.
    """

    common: float = 0.80
    topic: float = 0.50
    style: float = 0.48
    scene: float = 0.30
    object: float = 0.28
    clutter: float = 0.20  # of each of three
    visibility: float = 0.38  # standard deviation of how visible scene and object are
    close_up: float = 0.3  # how often the object is fully visible during an action
    hidden: float = 0.6  # share of the video's own object or scene that other actions take out of the picture
    motion: float = 0.27
    course: float = 0.20
    boundary: float = 0.26
    jitter: float = 0.10
    fade_s: float = 0.35
    nuisance: tuple[tuple[float, float], ...] = ((0.15, 0.07), (0.10, 0.5), (0.09, 3.0), (0.05, 12.0))  # strength, s
    nuisance_phases: float = 3.0  # weight of the shared directions among those the nuisance moves in
    nuisance_motions: float = 2.0
    white: float = 0.11
    agreement: tuple[float, float, float] = (0.20, 0.56, 0.56)  # image-text, for motion, object and scene words
    agreement_spread: float = 0.06
    text_topic: float = 0.25
    text_shared: float = 0.090  # what topic and shared words add to the squared cosine of names, of 0.687 in the mean
    unrelated: float = 0.20  # cosine of any frame and a sentence about something else altogether


class Space:
    """Directions of length one for words and for what all actions share; the same for the same seed and dim."""

    def __init__(self, *, seed: int, dim: int = 512, recipe: Recipe | None = None) -> None:
        if dim < 64:
            raise ValueError(f"synthetic features need at least 64 dimensions, got dim={dim}")
        self.seed, self.dim, self.recipe = seed, dim, recipe or Recipe()
        rng = seeded(seed, "space", dim)
        frame = np.linalg.qr(rng.standard_normal((dim, 3 + _NUM_PHASES + _NUM_JITTER + _NUM_MOTIONS)))[0].T
        self._frame = frame
        self.common, self.topic, self.text_common = frame[:3]
        self.beginning, self.course, self.end = phases = frame[3:6]
        self.jitter, self.motions = frame[6 : 6 + _NUM_JITTER], frame[6 + _NUM_JITTER :]
        moved = np.concatenate([phases, self.motions, _unit(rng.standard_normal((_NUM_BROAD, dim)))])
        weights = np.concatenate(
            [
                np.full(_NUM_PHASES, self.recipe.nuisance_phases),
                np.full(_NUM_MOTIONS, self.recipe.nuisance_motions),
                0.93 ** np.arange(_NUM_BROAD),
            ]
        )
        self.nuisance = (moved * (weights / np.linalg.norm(weights))[:, None]).astype(np.float32)
        self._words: dict[tuple[str, str], np.ndarray] = {}

    def word(self, role: str, word: str) -> np.ndarray:
        """[dim] the direction of a word as "motion", "object" or "scene"; motions share a subspace."""
        if (role, word) not in self._words:
            rng = seeded(self.seed, "word", role, word)
            if role.startswith("motion"):
                direction = rng.standard_normal(len(self.motions)) @ self.motions
            else:  # clear of what is shared, or every object would bring some of it along
                direction = rng.standard_normal(self.dim)
                direction -= self._frame.T @ (self._frame @ direction)
            self._words[role, word] = _unit(direction)
        return self._words[role, word]

    def objects(self, composition: Composition) -> np.ndarray:
        return _unit(np.sum([self.word("object", word) for word in composition.objects], axis=0))

    def scene(self, composition: Composition) -> np.ndarray:
        return self.word("scene", composition.scene)

    def heard(self, role: str, word: str, agreement: float) -> np.ndarray:
        """A word in the text encoder's ear: partly its direction among images, partly one of its own."""
        rng = seeded(self.seed, "text", role, word)
        agreement = float(np.clip(agreement + self.recipe.agreement_spread * rng.standard_normal(), 0.0, 0.95))
        own = _unit(rng.standard_normal(self.dim))
        return agreement * self.word(role, word) + math.sqrt(1 - agreement**2) * own

    def text(self, composition: Composition, *, on_topic: bool = True) -> np.ndarray:
        """[dim] of length TEXT_NORM: the class sentence; `on_topic=False` makes it one about something else."""
        recipe, rng = self.recipe, seeded(self.seed, "class", composition.name)
        of_motion, of_object, of_scene = recipe.agreement
        motions = composition.motion.split(THEN)  # a bag of words: their order is not heard
        heard = [self.heard("motion", motion, of_motion) for motion in sorted(motions)]
        words = 0.62 * (heard[0] if len(heard) == 1 else _unit(np.sum(heard, axis=0)))
        words += 0.60 * _unit(np.sum([self.heard("object", word, of_object) for word in composition.objects], axis=0))
        words += 0.50 * self.heard("scene", composition.scene, of_scene)
        return self.sentence(words, rng, on_topic=on_topic)

    def sentence(self, words: np.ndarray, rng: np.random.Generator, *, on_topic: bool = True) -> np.ndarray:
        """[dim] of length TEXT_NORM: what is said in `words` [dim], with as much of the common part as `rng` gives."""
        recipe = self.recipe
        share = float(np.interp(rng.uniform(), NAME_QUANTILES, NAME_COSINES)) ** 2 - recipe.text_shared
        topic = recipe.text_topic if on_topic else 0.0
        gap = recipe.unrelated / (recipe.common * math.sqrt(_MEAN_SQUARED_COSINE - recipe.text_shared))
        common = gap * self.common + math.sqrt(1 - gap**2) * self.text_common  # the modality gap is between the two
        content = topic * self.topic + math.sqrt(1 - share - topic**2) * _unit(words)
        return TEXT_NORM * _unit(math.sqrt(share) * common + content)


@dataclass(frozen=True, slots=True)
class Event:
    """On a timeline: an "action", asked for, or what is not.

    "distractor": an action of an activity that is no class; "still": the object at rest; "idle": a motion that is no
    action; "background": somebody else's motion, without an object, beside whatever happens.
    """

    start_s: float
    end_s: float
    kind: str
    composition: Composition


def hard_negatives(
    taken: Iterable[tuple[float, float]], duration_s: float, main: Composition, rng: np.random.Generator
) -> list[Event]:
    """Events in the gaps between the spans `taken` (seconds), at least half a second from either neighbour."""
    events, cursor_s = [], 0.0
    for start_s, end_s in [*sorted(taken), (duration_s, duration_s)]:
        while start_s - cursor_s > 2.5 and rng.random() < 0.75:
            length_s = min(start_s - cursor_s - 1.0, float(np.clip(rng.lognormal(1.1, 0.6), 1.0, 10.0)))
            begin_s = cursor_s + 0.5 + rng.uniform(0, min(start_s - cursor_s - 1.0 - length_s, 4.0))
            motion = main.motion if rng.random() < 0.4 else str(rng.choice(_IDLE_MOTIONS))
            composition = Composition(main.name, motion, main.objects, main.scene)
            events.append(Event(begin_s, begin_s + length_s, rng.choice(["still", "idle"]), composition))
            cursor_s = begin_s + length_s
        cursor_s = max(cursor_s, end_s)
    return events


def background_motions(duration_s: float, motions: Sequence[str], rng: np.random.Generator) -> list[Event]:
    """Somebody moves in the background, about three times a minute, whatever else happens; `motions`: words to draw."""
    events = []
    for begin_s in rng.uniform(0, duration_s, rng.poisson(duration_s / 20)):
        end_s = min(duration_s, begin_s + float(np.clip(rng.lognormal(1.2, 0.7), 1.0, 10.0)))
        motion = str(rng.choice(motions))
        events.append(Event(begin_s, end_s, "background", Composition("", motion, (), "")))
    return events


def _amount(times_s: np.ndarray, event: Event, fade_s: float) -> np.ndarray:
    """[T] in [0, 1]: how much of the event is in the frame; it fades in and out across its boundaries."""
    fade_s = min(fade_s, (event.end_s - event.start_s) / 2)
    rise = np.clip((times_s - event.start_s) / fade_s + 0.5, 0, 1)
    return rise * np.clip((event.end_s - times_s) / fade_s + 0.5, 0, 1)


def _in_turn(motion: str, amount: np.ndarray, place: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """(motion, how much of it [T]): one after the other with a pause between; `place` [T] is 0 to 1 in the event."""
    motions = motion.split(THEN)
    if len(motions) == 1:
        return [(motion, amount)]
    return [(motions[0], amount * (place < 0.5 - _PAUSE / 2)), (motions[1], amount * (place >= 0.5 + _PAUSE / 2))]


def _wander(rng: np.random.Generator, steps: int, width: int, step_s: float, time_constant_s: float) -> np.ndarray:
    """[steps, width] stationary Ornstein-Uhlenbeck processes of variance one, sampled every `step_s`."""
    from scipy.signal import lfilter  # takes half as long to import as torch, and a world that is there needs none

    keep = math.exp(-step_s / time_constant_s)
    noise = rng.standard_normal((steps, width), dtype=np.float32)
    noise[1:] *= math.sqrt(1 - keep**2)
    return lfilter(np.ones(1, np.float32), np.array([1.0, -keep], np.float32), noise, axis=0)


def render(
    space: Space,
    events: Sequence[Event],
    *,
    main: Composition,
    clutter: Sequence[np.ndarray],
    steps: int,
    step_s: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """[steps, dim] float32 frame features, one per `step_s` seconds, taken at the middle of each step."""
    recipe = space.recipe
    times_s = (np.arange(steps) + 0.5) * step_s
    mixture: dict[object, tuple[np.ndarray, np.ndarray]] = {}  # key: (direction [dim], strength [T])

    def add(key: object, direction: np.ndarray, strength: np.ndarray | float) -> None:
        before = mixture[key][1] if key in mixture else np.zeros(steps)
        mixture[key] = direction, before + strength

    def add_instance(key: object, direction: np.ndarray, strength: np.ndarray | float) -> None:
        own = _unit(direction + 0.6 * _unit(rng.standard_normal(space.dim)))  # no two barrels look the same
        add(key, own, strength)

    def add_motion(event: Event, amount: np.ndarray) -> None:
        since_s, length_s = times_s - event.start_s, event.end_s - event.start_s
        beat = 2 * math.pi * (rng.uniform(0.4, 1.4) * since_s + rng.uniform())
        for motion, now in _in_turn(event.composition.motion, amount, since_s / length_s):
            add(("motion", motion), space.word("motion", motion), recipe.motion * now * (0.8 + 0.3 * np.sin(beat)))
            add(("turn", motion), space.word("motion turned", motion), recipe.motion * 0.5 * now * np.cos(beat))
        if event.kind != "background":
            add("course", space.course, recipe.course * amount)
        if event.kind in _ACTIONS:
            width_s, peak = min(max(0.4, 0.15 * length_s), 1.5), recipe.boundary * amount.max()
            add("beginning", space.beginning, peak * np.exp(-0.5 * (since_s / width_s) ** 2))
            add("end", space.end, peak * np.exp(-0.5 * ((since_s - length_s) / width_s) ** 2))

    visible = np.clip((0.85, 0.70) + recipe.visibility * _wander(rng, steps, 2, step_s, 2.5), 0.1, 1.3)
    lively = np.zeros(steps)
    hidden = np.zeros((steps, 2))  # of the video's own scene and object, while others act
    others: dict[tuple[int, object], tuple[np.ndarray, np.ndarray]] = {}  # their scenes and objects
    for event in events:
        amount = _amount(times_s, event, recipe.fade_s * rng.uniform(0.6, 1.6))
        if event.kind != "still":
            strength = rng.uniform(0.75, 1.25) * _STRENGTH[event.kind]
            add_motion(event, strength * amount)
            lively = np.maximum(lively, strength * amount)
        if event.kind == "background":
            continue
        for part, own in enumerate((main.scene, main.objects)):
            theirs = (event.composition.scene, event.composition.objects)[part]
            if theirs != own:
                direction = (space.scene, space.objects)[part](event.composition)
                before = others[part, theirs][1] if (part, theirs) in others else 0.0
                others[part, theirs] = direction, np.maximum(before, amount)
                hidden[:, part] = np.maximum(hidden[:, part], recipe.hidden * amount)
            elif part and (event.kind == "still" or rng.random() < recipe.close_up):
                visible[:, 1] = np.maximum(visible[:, 1], amount)
    visible *= 1 - hidden
    add("common", space.common, recipe.common)
    add("topic", space.topic, recipe.topic)
    add("style", _unit(rng.standard_normal(space.dim)), recipe.style)
    add_instance("scene", space.scene(main), recipe.scene * visible[:, 0])
    add_instance("object", space.objects(main), recipe.object * visible[:, 1])
    for (part, words), (theirs_direction, amount) in others.items():
        add_instance(("other", part, words), theirs_direction, (recipe.scene, recipe.object)[part] * amount)
    clutter_visible = np.clip(1 + 0.4 * _wander(rng, steps, len(clutter), step_s, 4.0), 0, 2)
    for number, direction in enumerate(clutter):
        add_instance(("clutter", number), direction, recipe.clutter * clutter_visible[:, number])
    shaking = recipe.jitter / math.sqrt(_NUM_JITTER) * _wander(rng, steps, _NUM_JITTER, step_s, 0.1)
    for number, direction in enumerate(space.jitter):
        add(("jitter", number), direction, lively * shaking[:, number])
    directions, strengths = (np.stack(part).astype(np.float32) for part in zip(*mixture.values(), strict=True))
    frames = strengths.T @ directions
    for strength, time_constant_s in recipe.nuisance:
        wandering = _wander(rng, steps, len(space.nuisance), step_s, time_constant_s)
        frames += np.float32(strength) * (wandering @ space.nuisance)
    frames += np.float32(recipe.white / math.sqrt(space.dim)) * rng.standard_normal(frames.shape, dtype=np.float32)
    return _unit(frames) * (FRAME_NORM * (1 + 0.02 * rng.standard_normal((steps, 1), dtype=np.float32)))
