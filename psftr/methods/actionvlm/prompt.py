"""What the language model reads and writes in words: instruction, descriptions, and the list of true segments.

The instruction follows appendix B.2 of the paper; the template of the list (equation 8) is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from psftr.data.batches import Target
from psftr.features.text import spell_out
from psftr.segments import centre_width_to_start_end

INSTRUCTION = (
    "This is a video reasoning task for action localization. Identify the start and end frames of each action in the "
    "given video and output the list of action proposals."
)
CANDIDATES = "The candidate actions include:"
ANSWER = "Actions:"
NOTHING = "none"


class Tokenizer(Protocol):
    """Words to token ids."""

    def encode(self, text: str) -> list[int]: ...

    @property
    def end_id(self) -> int: ...


def candidates_text(class_names: Sequence[str], descriptions: Mapping[str, str] | None) -> str:
    """T_desc: every class by name, with its description where there is one."""
    if descriptions is None:
        return f"{CANDIDATES} {', '.join(map(spell_out, class_names))}."
    return " ".join([CANDIDATES, *(f"{spell_out(name)}: {descriptions[name]}" for name in class_names)])


def prompt_text(class_names: Sequence[str], descriptions: Mapping[str, str] | None) -> str:
    """T_ins and T_desc: what is read before the frames."""
    return f"{INSTRUCTION} {candidates_text(class_names, descriptions)}"


def segments_text(target: Target, class_names: Sequence[str], *, size: int) -> str:
    """Equation 8's template: `high jump from 12 to 40; …` in rows of the window, in order of time; or `none`."""
    rows = (centre_width_to_start_end(target.segments_cw) * size).round().int().tolist()
    listed = sorted((start, end, label) for (start, end), label in zip(rows, target.labels.tolist()))
    words = [f"{spell_out(class_names[label])} from {start} to {end}" for start, end, label in listed]
    return "; ".join(words) or NOTHING
