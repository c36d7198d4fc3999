"""Activities that nobody asks for: actions like any other, of the words of the classes, but of no class.

A detector that finds actions and does not read the names finds these too, so that names matter. Some differ from a
class in one word only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from psftr.data.synthetic_space import Composition, Event

_TRIES = 40  # a handful of names may leave no room for other activities


class Repertoire:
    """Compositions of the words of `classes`, none of them a class.

    scenes_named: the names say where (embedded world); else a class in another scene is still that class.
    """

    def __init__(self, classes: Iterable[Composition], *, scenes_named: bool) -> None:
        self.classes = tuple(classes)
        self.scenes_named = scenes_named
        self.motions = sorted({c.motion for c in self.classes})
        self._objects = sorted({c.objects for c in self.classes})
        self._scenes = sorted({c.scene for c in self.classes})
        self._known = {self._identity(c) for c in self.classes}

    def _identity(self, composition: Composition) -> tuple[object, ...]:
        words = composition.motion, composition.objects
        return (*words, composition.scene) if self.scenes_named else words

    def near(self, of: Composition, rng: np.random.Generator) -> Composition | None:
        """An activity that differs from `of` in one word: motion, object or (if named) scene; None if there is none."""
        for _ in range(_TRIES):
            motion, objects, scene = of.motion, of.objects, of.scene
            which = rng.integers(3 if self.scenes_named else 2)
            if which == 0:
                motion = self.motions[rng.integers(len(self.motions))]
            elif which == 1:
                objects = self._objects[rng.integers(len(self._objects))]
            else:
                scene = self._scenes[rng.integers(len(self._scenes))]
            made = _named(motion, objects, scene)
            if self._identity(made) not in self._known:
                return made
        return None

    def far(self, rng: np.random.Generator) -> Composition | None:
        """Any activity that is no class; None if there is none."""
        for _ in range(_TRIES):
            motion = self.motions[rng.integers(len(self.motions))]
            objects = self._objects[rng.integers(len(self._objects))]
            made = _named(motion, objects, self._scenes[rng.integers(len(self._scenes))])
            if self._identity(made) not in self._known:
                return made
        return None

    def near_class(self, of: Composition, rng: np.random.Generator) -> Composition | None:
        """A class that differs from `of` in one word; None if there is none."""
        neighbours = [c for c in self.classes if _differing_words(c, of) == 1]
        return neighbours[rng.integers(len(neighbours))] if neighbours else None


def distractors_in_gaps(
    actions: Sequence[Event],
    taken: Iterable[tuple[float, float]],
    duration_s: float,
    main: Composition,
    repertoire: Repertoire,
    rng: np.random.Generator,
) -> list[Event]:
    """Distractors where a timeline leaves room, as long as its `actions`, at most as many, half a second from anything.

    Half of them are of an activity near `main`. `taken`: spans in seconds that they keep clear of.
    """
    cast = [c for c in (repertoire.near(main, rng), repertoire.far(rng)) if c is not None]
    spans = list(taken)
    events: list[Event] = []
    for action in actions if cast else ():
        length_s = (action.end_s - action.start_s) * rng.uniform(0.7, 1.4)
        composition = cast[rng.integers(len(cast))]
        for _ in range(10):
            start_s = rng.uniform(0, duration_s)
            end_s = start_s + length_s
            if end_s <= duration_s and all(end_s + 0.5 <= s or start_s - 0.5 >= e for s, e in spans):
                spans.append((start_s, end_s))
                events.append(Event(start_s, end_s, "distractor", composition))
                break
    return events


def _named(motion: str, objects: tuple[str, ...], scene: str) -> Composition:
    return Composition(f"no class: {motion} {' '.join(objects)}, {scene}", motion, objects, scene)


def _differing_words(one: Composition, other: Composition) -> int:
    return (one.motion != other.motion) + (one.objects != other.objects) + (one.scene != other.scene)
