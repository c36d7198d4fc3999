"""The rules under which a number is made, and the facts that are printed beside it.

`clean` is this library's protocol: no test class touches training or model selection, no test video and no
test action is left out. `peer` reproduces habits of earlier zero-shot repositories so that their numbers
can be compared; whatever it produces is marked in every table and file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from psftr.data.datasets import dataset_spec
from psftr.errors import PsftrError
from psftr.predictions import canonical_id

CLEAN, PEER = "clean", "peer"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """tious rise; `printed_tious` are those a table has room for (the average is always over all `tious`).

    excluded_videos: ids left out of the test. min_action_s: test actions of this length or less are left out.
    penalises_ambiguous: a detection on an ignored instance counts as a false positive.
    double_labels: pairs of classes that annotate the same segments twice (section 9 of the method's notes).
    """

    dataset: str
    test_subset: str
    train_subset: str
    tious: tuple[float, ...]
    printed_tious: tuple[float, ...]
    name: str = CLEAN
    excluded_videos: tuple[str, ...] = ()
    min_action_s: float = 0.0
    penalises_ambiguous: bool = False
    double_labels: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.name not in (CLEAN, PEER):
            raise PsftrError(f"protocol {self.name!r} is unknown; give {CLEAN} or {PEER}")
        strangers = sorted(set(self.printed_tious) - set(self.tious))
        if strangers:
            raise PsftrError(f"printed tIoUs {strangers} are not among the evaluated {list(self.tious)}")

    @property
    def is_peer(self) -> bool:
        return self.name == PEER

    @property
    def synthetic(self) -> bool:
        return self.dataset == "synthetic"


_THUMOS14 = Protocol(
    dataset="thumos14",
    test_subset="test",
    train_subset="val",
    tious=(0.3, 0.4, 0.5, 0.6, 0.7),
    printed_tious=(0.3, 0.4, 0.5, 0.6, 0.7),
    double_labels=(("CliffDiving", "Diving"),),
)
_ACTIVITYNET13 = Protocol(
    dataset="activitynet13",
    test_subset="validation",
    train_subset="training",
    tious=tuple(round(0.5 + 0.05 * i, 2) for i in range(10)),
    printed_tious=(0.5, 0.75, 0.95),
)
_SYNTHETIC = replace(
    _THUMOS14, dataset="synthetic", train_subset="training", test_subset="validation", double_labels=()
)
PROTOCOLS: dict[tuple[str, str], Protocol] = {
    ("thumos14", CLEAN): _THUMOS14,
    ("thumos14", PEER): replace(
        _THUMOS14,
        name=PEER,
        excluded_videos=dataset_spec("thumos14").peer.excluded_videos,
        penalises_ambiguous=True,
    ),
    ("activitynet13", CLEAN): _ACTIVITYNET13,
    ("activitynet13", PEER): replace(_ACTIVITYNET13, name=PEER, min_action_s=1.0),
    ("synthetic", CLEAN): _SYNTHETIC,
    ("synthetic", PEER): replace(_SYNTHETIC, name=PEER, penalises_ambiguous=True),
}


def protocol_for(dataset: str, name: str = CLEAN, *, exclude: Iterable[str] = ()) -> Protocol:
    """The preset of a data set, with further test videos to leave out. Raises PsftrError for unknown
    names."""
    if (dataset, name) not in PROTOCOLS:
        known = ", ".join(f"{d}/{n}" for d, n in PROTOCOLS)
        raise PsftrError(f"no evaluation protocol {dataset}/{name}; presets are {known}, or build a Protocol")
    preset = PROTOCOLS[dataset, name]
    excluded = dict.fromkeys((*preset.excluded_videos, *map(canonical_id, exclude)))
    return replace(preset, excluded_videos=tuple(excluded))
