"""Labels that differ only in spelling: "baseball pitch" and "BaseballPitch" are one class."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from psftr.predictions import Predictions


def same_labels(labels: Iterable[str], classes: Iterable[str]) -> dict[str, str]:
    """{label: class} for each label that is no class, but one class's name but for case, spaces and signs.

    Where several labels, or several classes, are spelled alike, none of them is matched.
    """
    known = set(classes)
    by_key: dict[str, set[str]] = {}
    for name in known:
        by_key.setdefault(_key(name), set()).add(name)
    asked: dict[str, set[str]] = {}
    for label in set(labels):
        asked.setdefault(_key(label), set()).add(label)
    return {
        label: next(iter(by_key[key]))
        for key, (label, *others) in sorted((key, tuple(same)) for key, same in asked.items())
        if key and not others and label not in known and len(by_key.get(key, ())) == 1
    }


def with_class_names(predictions: Predictions, classes: Iterable[str]) -> tuple[Predictions, dict[str, str]]:
    """(the predictions with every such label replaced by the class's own name, what was replaced)."""
    labels = {d.label for found in predictions.detections.values() for d in found}
    renamed = same_labels(labels, classes)
    if not renamed:
        return predictions, {}
    detections = {
        video_id: tuple(replace(d, label=renamed.get(d.label, d.label)) for d in found)
        for video_id, found in predictions.detections.items()
    }
    return replace(predictions, detections=detections), renamed


def searched_labels(predictions: Predictions, classes: Iterable[str]) -> tuple[str, ...]:
    """What the file says it was searched for, in the spelling of `classes`; empty where it does not say it."""
    made = predictions.provenance
    stated = made.config.get("labels") if made else None
    if not isinstance(stated, list | tuple):
        return ()
    names = same_labels(map(str, stated), classes)
    return tuple(names.get(str(label), str(label)) for label in stated)


def told(renamed: dict[str, str], *, most: int = 3) -> str:
    """One line that says it: `labels matched by spelling: 'baseball pitch' is 'BaseballPitch', and 4 more`."""
    words = [f"{label!r} is {name!r}" for label, name in list(renamed.items())[:most]]
    rest = f", and {len(renamed) - most} more" if len(renamed) > most else ""
    return f"labels matched by spelling: {', '.join(words)}{rest}"


def _key(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())
