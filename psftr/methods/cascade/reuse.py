"""Stages for other methods: class texts that know their stages, and proposals re-scored by evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from psftr.errors import PsftrError
from psftr.features.text import TextEmbeddings
from psftr.methods.cascade.stages import StagePlan
from psftr.predictions import Detection


def class_text_with_stages(
    names: TextEmbeddings, plans: Mapping[str, StagePlan], sentences: TextEmbeddings, *, name_weight: float
) -> TextEmbeddings:
    """Each class as weight * (its name) + (1 - weight) * (mean of its stages), of unit vectors, at the name's length.

    A cosine with the sum is, up to the sum's length, the weighted sum of the cosines with the name and every stage; as
    one vector per class it serves any network that takes class texts.
    """
    if not 0 <= name_weight <= 1:
        raise PsftrError(f"name_weight {name_weight} must lie in [0, 1]; 1 is the name alone")
    if names.encoder != sentences.encoder:
        raise PsftrError(
            f"class names are embedded by {names.encoder}, stages by {sentences.encoder}: one must do both"
        )
    rows = []
    for name, row in zip(names.names, names.embeddings):
        if name not in plans:
            raise PsftrError(f"no stage plan for {name}; add it to the stage file")
        stages = F.normalize(sentences.select(plans[name].descriptions), dim=1).mean(0)
        mixed = name_weight * F.normalize(row, dim=0) + (1 - name_weight) * stages
        rows.append(row.norm() * F.normalize(mixed, dim=0))
    prompt = f"{names.prompt} x {name_weight:g} + stages x {1 - name_weight:g}"
    return replace(names, embeddings=torch.stack(rows), prompt=prompt, synthetic=names.synthetic or sentences.synthetic)


def rescore(
    detections: Sequence[Detection], evidence: Callable[[str], NDArray], *, step_s: float, blend: float
) -> tuple[Detection, ...]:
    """score * (mean P inside)^blend, best first. evidence: label -> P [T], the best stage confidence of each row."""
    if blend < 0:
        raise PsftrError(f"blend {blend} must not be negative; 0 leaves scores as they are")
    peaks: dict[str, NDArray] = {}
    rescored = []
    for detection in detections:
        if detection.label not in peaks:
            peaks[detection.label] = evidence(detection.label)
        peak = peaks[detection.label]
        first = min(int(detection.start_s / step_s), len(peak) - 1)
        last = max(first + 1, int(np.ceil(detection.end_s / step_s)))
        rescored.append(replace(detection, score=detection.score * float(peak[first:last].mean()) ** blend))
    return tuple(sorted(rescored, key=lambda detection: -detection.score))
