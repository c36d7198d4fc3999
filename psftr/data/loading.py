"""What a DataLoader needs: samples with their rows read from a store, a shuffle that resumes, seeded workers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, RandomSampler

from psftr.data.batches import Batch, Collate, Labelled, Sample
from psftr.data.windows import Window, window_rows
from psftr.features.store import FeatureStore


class RowReader:
    """Rows of windows, from memory while the videos met so far fit in `limit_mb`, from the store beyond that.

    Full, it keeps what it has: under shuffling, evicting would only make the next miss. Every worker has its own.
    """

    def __init__(self, store: FeatureStore, *, limit_mb: float) -> None:
        self._store = store
        self._free_bytes = int(limit_mb * 2**20)
        self._kept: dict[str, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        """A spawned worker starts empty instead of receiving a copy."""
        held = sum(rows.nbytes for rows in self._kept.values())
        return {"_store": self._store, "_free_bytes": self._free_bytes + held, "_kept": {}}

    @property
    def dim(self) -> int:
        return self._store.dim

    def rows(self, window: Window, *, out: np.ndarray | None = None) -> np.ndarray:
        """`[size, D]` float32, written to `out` where it is given."""
        kept = self._kept.get(window.video_id)
        if kept is None:
            item_bytes = window.timeline.num_steps * self._store.dim * 4
            if item_bytes > self._free_bytes:
                start, stop = int(window.offset), int(np.ceil(window.offset + window.span))
                part = self._store.read_rows(window.video_id, start, stop)
                return window_rows(part, window, first_row=start, out=out)
            kept = self._kept[window.video_id] = self._store.read_rows(window.video_id)
            self._free_bytes -= kept.nbytes
        return window_rows(kept, window, out=out)


class WindowDataset(Dataset[Batch]):
    """Batches of samples; the store opens its file anew in each worker process.

    What the annotations say about a sample is worked out when it is first met and kept: an epoch only copies rows.
    """

    def __init__(self, samples: Sequence[Sample], reader: RowReader, class_names: tuple[str, ...]) -> None:
        self.samples = samples
        self.reader = reader
        self._collate = Collate(class_names)
        self._labelled: dict[int, Labelled] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Batch:
        """A batch of one."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Called by PyTorch's loader with the samples of a batch."""
        labelled = [self._label(index) for index in indices]
        size = labelled[0].sample.window.size
        features = np.empty((len(indices), size, self.reader.dim), dtype=np.float32)
        for rows, one in zip(features, labelled):
            self.reader.rows(one.sample.window, out=rows)
        return self._collate.join(labelled, features)

    def _label(self, index: int) -> Labelled:
        if index not in self._labelled:
            self._labelled[index] = self._collate.label(self.samples[index])
        return self._labelled[index]


def as_it_is(batch: Any) -> Any:
    """A loader's collate function where the data set makes whole batches."""
    return batch


class EpochSampler(RandomSampler):
    """Shuffles by (seed, epoch), so that a resumed run goes on in the order the killed one would have had.

    Lightning calls `set_epoch`; being a RandomSampler, it is replaced by a shuffling DistributedSampler under DDP.
    """

    def __init__(self, data_source: Dataset, *, seed: int) -> None:
        super().__init__(data_source, generator=torch.Generator())  # type: ignore[arg-type]
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self.generator.manual_seed(self.seed * 1_000_003 + epoch)


def seed_worker(_: int) -> None:
    """Worker processes draw from torch's per-worker seed, which follows the loader's generator."""
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (libraries that use numpy's global state)
