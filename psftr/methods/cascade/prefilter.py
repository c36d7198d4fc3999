"""What CLIP features say before a model is asked: which classes a video may hold, and which frames are worth a look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psftr.features.store import FeatureStore
from psftr.features.text import TextEmbeddings
from psftr.methods.cascade.confidence import moving_average, unit
from psftr.methods.cascade.filtering import filter_by_similarity, presence

_SMOOTH_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Hints:
    """CLIP features of the videos and embeddings of the class names, of one encoder."""

    store: FeatureStore
    names: TextEmbeddings
    min_presence: float

    def similarity(self, video_id: str, names: Sequence[str]) -> tuple[NDArray[np.float64], float]:
        """([T, K] smoothed cosines to the class names, seconds a row)."""
        features = self.store.read(video_id)
        step_s = features.timeline.seconds(1.0)
        cosines = unit(features.features) @ unit(self.names.select(names).numpy()).T
        return moving_average(cosines, _SMOOTH_S / step_s), step_s

    def best_classes(self, video_id: str, names: Sequence[str], most: int) -> list[str]:
        """At most so many of `names`, those with the greatest `presence`, in their order."""
        present = presence(self.similarity(video_id, names)[0])
        kept = set(np.argsort(-present, kind="stable")[:most].tolist())
        return [name for k, name in enumerate(names) if k in kept]

    def passed(self, video_id: str, names: Sequence[str]) -> dict[str, float]:
        """Class -> confidence, of the classes that the features find: the filter of backend=clip."""
        similarity = self.similarity(video_id, names)[0]
        return dict(filter_by_similarity(similarity, names, min_presence=self.min_presence).confidence)

    def worth_a_look(
        self, video_id: str, label: str, names: Sequence[str], times_s: Sequence[float], share: float
    ) -> NDArray[np.bool_]:
        """For each time whether it is among the `share` nearest to the class."""
        similarity, step_s = self.similarity(video_id, names)
        column = similarity[:, list(names).index(label)]
        rows = np.minimum((np.asarray(times_s) / step_s).astype(int), len(column) - 1)
        return nearest_share(column[rows], share)


def nearest_share(evidence: NDArray, share: float) -> NDArray[np.bool_]:
    """True for the greatest ceil(share * T) values, at least one; the earlier of equal ones first."""
    count = max(1, int(np.ceil(share * len(evidence))))
    chosen = np.zeros(len(evidence), dtype=bool)
    chosen[np.argsort(-evidence, kind="stable")[:count]] = True
    return chosen
