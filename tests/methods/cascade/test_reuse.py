"""Stage texts for other methods, and evidence for other methods' proposals."""

import numpy as np
import pytest
import torch

from psftr.errors import PsftrError
from psftr.features.text import TextEmbeddings
from psftr.methods.cascade.reuse import class_text_with_stages, rescore
from psftr.methods.cascade.stages import Stage, StagePlan
from psftr.predictions import Detection

NAMES = TextEmbeddings(("Diving",), torch.tensor([[4.0, 0.0, 0.0]]), "e", "prompt")
PLANS = {"Diving": StagePlan("Diving", (Stage("people jump", True), Stage("people fall", True)))}
SENTENCES = TextEmbeddings(("people jump", "people fall"), torch.tensor([[0.0, 2.0, 0], [0, 0, 9.0]]), "e", "stages")


def test_name_and_stages_are_mixed_as_unit_vectors_at_the_names_length():
    mixed = class_text_with_stages(NAMES, PLANS, SENTENCES, name_weight=0.5)
    wanted = torch.tensor([0.5, 0.25, 0.25])
    assert torch.allclose(mixed.embeddings[0], 4 * wanted / wanted.norm())
    assert mixed.prompt == "prompt x 0.5 + stages x 0.5"
    alone = class_text_with_stages(NAMES, PLANS, SENTENCES, name_weight=1.0)
    assert torch.allclose(alone.embeddings, NAMES.embeddings)
    frame = torch.tensor([0.3, 0.5, -0.2])  # the cosine with the mix is the weighted sum of cosines, up to its length
    cosines = [frame @ torch.nn.functional.normalize(v, dim=0) for v in (NAMES.embeddings[0], *SENTENCES.embeddings)]
    assert frame @ mixed.embeddings[0] / 4 * wanted.norm() == pytest.approx(float(sum(wanted * torch.stack(cosines))))


def test_class_texts_refuse_what_does_not_fit():
    with pytest.raises(PsftrError, match=r"name_weight 2 must lie in \[0, 1\]"):
        class_text_with_stages(NAMES, PLANS, SENTENCES, name_weight=2)
    with pytest.raises(PsftrError, match="no stage plan for Diving"):
        class_text_with_stages(NAMES, {}, SENTENCES, name_weight=0.5)
    other = TextEmbeddings(SENTENCES.names, SENTENCES.embeddings, "f", "stages")
    with pytest.raises(PsftrError, match="class names are embedded by e, stages by f"):
        class_text_with_stages(NAMES, PLANS, other, name_weight=0.5)


def test_proposals_are_weighed_by_the_evidence_inside_them():
    peaks = {"a": np.array([0.1, 0.9, 0.5, 0.1]), "b": np.full(4, 0.25)}
    given = [
        Detection("v", "a", 0.5, 1.0, 0.8),  # rows of half a second: row 1
        Detection("v", "b", 0.0, 2.0, 0.9),
        Detection("v", "a", 0.5, 1.5, 0.9),  # rows 1 and 2
        Detection("v", "a", 1.9, 2.5, 1.0),  # reaches beyond the rows: the last one
    ]
    found = rescore(given, peaks.__getitem__, step_s=0.5, blend=1.0)
    assert [d.score for d in found] == pytest.approx([0.72, 0.63, 0.225, 0.1])
    assert [(d.start_s, d.end_s) for d in found] == [(0.5, 1.0), (0.5, 1.5), (0.0, 2.0), (1.9, 2.5)]
    same = rescore(given, peaks.__getitem__, step_s=0.5, blend=0.0)
    assert sorted(d.score for d in same) == sorted(d.score for d in given)
    with pytest.raises(PsftrError, match="blend -1 must not be negative"):
        rescore(given, peaks.__getitem__, step_s=0.5, blend=-1)
