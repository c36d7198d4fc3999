"""A world of twins: classes that look alike but for the order of their two motions, and what is said of classes in it.

Both twins have the same motions, object and scene, so no frame tells them apart, and neither does the class sentence,
which is a bag of words. A description does: "first throwing, then kicking". Off by default (`World.twins`).
"""

from __future__ import annotations

from collections.abc import Sequence

from psftr.data.synthetic_space import THEN, Composition, seeded

_PAIRS = (
    ("throwing", "kicking", "ball", "grass"),
    ("lifting", "rolling", "barrel", "gym"),
    ("swinging", "pulling", "rope", "sand"),
    ("carrying", "lifting", "pole", "road"),
)
_NOISE = (
    "paper window seven cloud under green table letter slowly music between glass number winter before corner silver "
    "answer garden thirteen almost basket without yellow morning handle"
)
NOISE_WORDS = 8


def twin_classes() -> tuple[Composition, ...]:
    """Pairs of classes, each beside its twin."""
    return tuple(
        Composition(f"{one}{THEN}{other} a {thing} on {place}", f"{one}{THEN}{other}", (thing,), place)
        for first, second, thing, place in _PAIRS
        for one, other in ((first, second), (second, first))
    )


def order_descriptions(classes: Sequence[Composition]) -> dict[str, str]:
    """What happens first and what last, in words."""
    texts = {}
    for composition in classes:
        first, last = composition.motion.split(THEN)
        texts[composition.name] = f"It starts with {first} the {composition.objects[0]} and ends with {last} it."
    return texts


def noise_descriptions(classes: Sequence[Composition], *, seed: int) -> dict[str, str]:
    """Words that have nothing to do with anything, as many for each class."""
    rng = seeded(seed, "noise descriptions")
    return {composition.name: " ".join(rng.choice(_NOISE.split(), NOISE_WORDS).tolist()) for composition in classes}
