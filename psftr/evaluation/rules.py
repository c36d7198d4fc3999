"""The rules under which a number is made.

`clean` is this library's protocol: no test class touches training or model selection, no test video and no
test action is left out. `peer` reproduces habits of earlier zero-shot repositories so that their numbers
can be compared; whatever it produces is marked in every table and file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psftr.data.datasets import DATASETS, OWN_TIOUS, DatasetSpec, PeerRules, dataset_spec
from psftr.errors import PsftrError
from psftr.predictions import CHECKPOINT_PEER, Predictions, canonical_id
from psftr.settings import PROTOCOLS

CLEAN, PEER = PROTOCOLS
CUSTOM = "custom"  # the name of a data set of one's own


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """tious rise; `printed_tious` are those a table has room for (the average is always over all `tious`).

    excluded_videos: ids left out of the test. min_action_s: test actions of this length or less are left out.
    penalises_ambiguous: a detection on an ignored instance counts as a false positive.
    double_labels: pairs of classes that annotate the same segments twice (section 9 of the method's notes).
    """

    dataset: str
    test_subset: str
    tious: tuple[float, ...]
    printed_tious: tuple[float, ...]
    name: str = CLEAN
    excluded_videos: tuple[str, ...] = ()
    min_action_s: float = 0.0
    penalises_ambiguous: bool = False
    double_labels: tuple[tuple[str, str], ...] = ()
    is_synthetic: bool = False

    def __post_init__(self) -> None:
        if self.name not in (CLEAN, PEER):
            raise PsftrError(f"protocol {self.name!r} is unknown; give {CLEAN} or {PEER}")
        if not self.tious:
            raise PsftrError("tious is empty; give at least one tIoU threshold, for example 0.5")
        strangers = sorted(set(self.printed_tious) - set(self.tious))
        if strangers:
            raise PsftrError(f"printed tIoUs {strangers} are not among the evaluated {list(self.tious)}")

    @property
    def is_peer(self) -> bool:
        return self.name == PEER


def protocol_for(dataset: str | DatasetSpec, name: str = CLEAN, *, exclude: Iterable[str] | None = None) -> Protocol:
    """The rules of a data set, with further test videos to leave out. Raises PsftrError for unknown names."""
    spec = dataset_spec(dataset) if isinstance(dataset, str) else dataset
    peer = spec.peer if name == PEER else PeerRules()
    return Protocol(
        dataset=spec.name,
        test_subset=spec.test_subset,
        tious=spec.tious,
        printed_tious=spec.printed_tious,
        name=name,
        excluded_videos=tuple(dict.fromkeys((*peer.excluded_videos, *map(canonical_id, exclude or ())))),
        min_action_s=peer.min_action_s,
        penalises_ambiguous=peer.penalises_ambiguous,
        double_labels=spec.double_labels,
        is_synthetic=spec.is_synthetic,
    )


def protocol_of(
    predictions: Predictions,
    *,
    dataset: str | DatasetSpec | None = None,
    subset: str | None = None,
    tious: Sequence[float] | None = None,
) -> Protocol:
    """The rules for a file: those of `dataset` or of the data set it names, or, for data of one's own, plain ones.

    A file whose checkpoint was chosen on the test classes gets the peer rules, which mark every number.
    """
    provenance = predictions.provenance
    stated = (provenance.split or {}).get("dataset") if provenance else None
    name = PEER if provenance and provenance.checkpoint_rule == CHECKPOINT_PEER else CLEAN
    if dataset is not None or stated in DATASETS:
        return protocol_for(str(stated) if dataset is None else dataset, name)
    tious = tuple(OWN_TIOUS if tious is None else tious)
    return Protocol(dataset=stated or CUSTOM, test_subset=subset or "test", tious=tious, printed_tious=tious, name=name)
