"""A world of twins: classes that look alike but for the order of their two motions, and what is said of classes in it.

Both twins have the same motions, object and scene, so no frame tells them apart, and neither does the class sentence,
which is a bag of words, nor the name, which is a number. A description does. Off by default (`World.twins`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from psftr.data.synthetic_space import THEN, Composition, seeded

ORDER_VERSION = 2  # raise it whenever the same World with twins would give other classes or descriptions
TWIN_PAIRS = (
    ("throwing", "kicking", "ball", "grass"),
    ("lifting", "rolling", "barrel", "ice"),
    ("swinging", "pulling", "rope", "sand"),
    ("carrying", "pushing", "pole", "road"),
)
_NOISE = (
    "paper window seven cloud under green table letter slowly music between glass number winter before corner silver "
    "answer garden thirteen almost basket without yellow morning handle"
)
NOISE_WORDS = 8


def twin_classes() -> tuple[Composition, ...]:
    """Pairs of classes, each beside its twin: activity 1 and activity 2, and so on."""
    return named_twins(TWIN_PAIRS, range(1, 2 * len(TWIN_PAIRS) + 1))


def named_twins(pairs: Sequence[tuple[str, str, str, str]], numbers: Iterable[int]) -> tuple[Composition, ...]:
    """Two classes of each (motion, motion, object, scene), one for either order, named by the numbers in turn."""
    left = iter(numbers)
    return tuple(
        Composition(f"activity {next(left)}", f"{one}{THEN}{other}", (thing,), place)
        for first, second, thing, place in pairs
        for one, other in ((first, second), (second, first))
    )


def order_descriptions(classes: Sequence[Composition]) -> dict[str, str]:
    """What happens first and what last, in words."""
    texts = {}
    for composition in classes:
        first, last = composition.motion.split(THEN)
        texts[composition.name] = (
            f"It starts with {first} the {composition.objects[0]} on {composition.scene} and ends with {last} it."
        )
    return texts


def noise_descriptions(classes: Sequence[Composition], *, seed: int) -> dict[str, str]:
    """Words that have nothing to do with anything, as many for each class."""
    rng = seeded(seed, "noise descriptions")
    return {composition.name: " ".join(rng.choice(_NOISE.split(), NOISE_WORDS).tolist()) for composition in classes}
