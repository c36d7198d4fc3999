"""Windows of a feature store as `Batch`es: training and validation on seen classes, prediction for the test.

What `fit` may know is decided once, in the constructor: training and validation get annotations from which every other
label has been taken away, and nothing here keeps the ones they came from. `protocol="peer"` is the exception it says it
is: it validates on the unseen test classes, as the peers do.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler

from psftr.data.annotations import Annotations, Video, canonical_id, nearest_names
from psftr.data.batches import Collate, Sample
from psftr.data.features import FeatureStore
from psftr.data.splits import ClassSplit, hold_out_classes
from psftr.data.windows import Window, WindowPolicy, window_rows
from psftr.errors import PsftrError

log = logging.getLogger(__name__)

PROTOCOLS = ("clean", "peer")


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

    def rows(self, window: Window) -> np.ndarray:
        """`[size, D]` float32."""
        kept = self._kept.get(window.video_id)
        if kept is None:
            item_bytes = window.timeline.num_steps * self._store.dim * 4
            if item_bytes > self._free_bytes:
                start, stop = int(window.offset), int(np.ceil(window.offset + window.span))
                return window_rows(self._store.read_rows(window.video_id, start, stop), window, first_row=start)
            kept = self._kept[window.video_id] = self._store.read_rows(window.video_id)
            self._free_bytes -= kept.nbytes
        return window_rows(kept, window)


class WindowDataset(Dataset[tuple[Sample, np.ndarray]]):
    """Samples with their rows; reads the store lazily in whatever process it finds itself in."""

    def __init__(self, samples: Sequence[Sample], reader: RowReader) -> None:
        self.samples = samples
        self.reader = reader

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Sample, np.ndarray]:
        sample = self.samples[index]
        return sample, self.reader.rows(sample.window)


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


class ZstalDataModule(pl.LightningDataModule):
    """One class split over one feature store.

    Clean protocol: trains on `train_subset` videos that hold a training class. Validation is on `val_fraction` of them,
    kept out of training; or, with `held_out_classes` > 0, on all of them that hold one of that many seen classes, which
    are then the validation vocabulary and gone from training (labels and videos). Prediction covers every window of the
    `test_subset` videos that hold an unseen class. `held_out_seed` chooses what is held out, `seed` only the order of
    training windows, so that trainings of several seeds are validated on the same.
    Peer protocol: `WindowPolicy.as_peer`, no validation videos, validation on the unseen test.

    Raises PsftrError for a split, subset or excluded id the annotations do not know, and for a side left without videos
    when its loader is asked for. Videos without features are named in `summary()` and in the log.
    """

    def __init__(
        self,
        *,
        annotations: Annotations,
        store: FeatureStore,
        split: ClassSplit,
        policy: WindowPolicy,
        train_subset: str,
        test_subset: str,
        batch_size: int,
        num_workers: int = 0,
        val_fraction: float = 0.1,
        seed: int = 0,
        held_out_classes: int = 0,
        held_out_seed: int = 0,
        exclude: Iterable[str] = (),
        protocol: str = "clean",
        cache_mb: float = 512,
    ) -> None:
        super().__init__()
        if protocol not in PROTOCOLS:
            raise PsftrError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
        if train_subset == test_subset:
            raise PsftrError(
                f"train_subset and test_subset are both {train_subset!r}; training would see the test videos"
            )
        if not 0 <= val_fraction < 1:
            raise PsftrError(f"val_fraction must be in [0, 1), got {val_fraction}")
        if protocol == "peer" and held_out_classes:
            raise PsftrError("held_out_classes tunes the clean protocol; protocol=peer validates on the test classes")
        split.check_against(annotations.classes)
        excluded = _known_ids(exclude, annotations)
        self.split, self.store, self.seed, self.protocol = split, store, seed, protocol
        self.policy = policy.as_peer() if protocol == "peer" else policy
        self.batch_size, self.num_workers = batch_size, num_workers
        self._reader = RowReader(store, limit_mb=cache_mb / max(1, num_workers))
        self._counts: dict[str, Any] = {"protocol": protocol, "excluded": len(excluded)}

        tuning = hold_out_classes(split, count=held_out_classes, seed=held_out_seed) if held_out_classes else None
        self.train_classes = tuning.seen if tuning else split.seen
        self.test_classes = split.unseen
        # From here on, training and validation work on `seen` only: no unseen label is left in it.
        seen = self._usable("train", annotations.only_classes(split.seen), train_subset, excluded)
        test = self._usable("test", annotations.only_classes(split.unseen), test_subset, excluded)

        if protocol == "peer":
            self.val_classes, validation = self.test_classes, test
            training = list(seen.videos.values())
        elif tuning:
            self.val_classes = tuning.unseen
            validation = _with_actions(seen.only_classes(tuning.unseen))
            training = [v for v in seen.videos.values() if v.video_id not in validation.videos]
        else:
            self.val_classes = split.seen
            held = _validation_videos(list(seen.videos.values()), val_fraction, held_out_seed)
            validation = seen.with_videos(v for v in seen.videos.values() if v.video_id in held)
            training = [v for v in seen.videos.values() if v.video_id not in held]
        self.train_annotations = _with_actions(seen.with_videos(training).only_classes(self.train_classes))
        self.val_annotations = validation
        self.test_annotations = test
        self._train = [s for s in self._samples(self.train_annotations, training=True) if s.targets]
        self._val = self._samples(validation, training=False, labelled=protocol != "peer")
        self._test = self._samples(test, training=False, labelled=False)
        self._report()

    def train_dataloader(self) -> DataLoader:
        """Shuffled windows that hold at least one target; labels index `train_classes`."""
        if not self._train:
            raise PsftrError(
                f"nothing to train on: no window holds an action of a training class ({self._missing('train')})"
            )
        return self._loader(self._train, self.train_classes, shuffle=True)

    def val_dataloader(self) -> DataLoader | list:
        """Every window of the validation videos; labels index `val_classes`. Empty where nothing was held out."""
        return self._loader(self._val, self.val_classes) if self._val else []

    def predict_dataloader(self) -> DataLoader:
        """Every window of the test videos, without targets."""
        if not self._test:
            raise PsftrError(f"nothing to predict: no test video holds an unseen class ({self._missing('test')})")
        return self._loader(self._test, self.test_classes)

    def summary(self) -> dict[str, Any]:
        """Counts of classes, videos, windows and actions per side, and the ids of videos without features."""
        return dict(self._counts)

    def _usable(self, side: str, annotations: Annotations, subset: str, excluded: frozenset[str]) -> Annotations:
        """Videos of a subset with an action and features, not excluded; actions as the policy knows them."""
        videos, missing = [], []
        for video in annotations.subset(subset):
            if video.video_id in excluded or not video.actions:
                continue
            if video.video_id not in self.store:
                missing.append(video.video_id)
                continue
            if self.policy.peer_filters_test:
                timeline = self.store.timeline(video.video_id)
                video = replace(video, actions=self.policy.long_enough(video.actions, timeline, training=False))
            videos.append(video)
        self._counts[f"{side}_without_features"] = tuple(missing)
        return _with_actions(annotations.with_videos(videos))

    def _samples(self, annotations: Annotations, *, training: bool, labelled: bool = True) -> list[Sample]:
        samples = []
        for video in annotations.videos.values():
            for window in self.policy.windows(video.video_id, self.store.timeline(video.video_id), training=training):
                if not labelled:
                    samples.append(Sample(window))
                    continue
                touching = [a for a in video.actions if a.end_s > window.start_s and a.start_s < window.end_s]
                samples.append(Sample(window, self.policy.targets(touching, window), touching))
        return samples

    def _loader(self, samples: list[Sample], class_names: tuple[str, ...], *, shuffle: bool = False) -> DataLoader:
        dataset = WindowDataset(samples, self._reader)
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=EpochSampler(dataset, seed=self.seed) if shuffle else None,
            num_workers=self.num_workers,
            collate_fn=Collate(class_names),
            worker_init_fn=seed_worker,
            generator=torch.Generator().manual_seed(self.seed),
            persistent_workers=self.num_workers > 0,  # a worker's cache dies with it
            pin_memory=torch.cuda.is_available(),
        )

    def _report(self) -> None:
        for side, samples, scored, classes in (
            ("train", self._train, self.train_annotations, self.train_classes),
            ("val", self._val, self.val_annotations, self.val_classes),
            ("test", self._test, self.test_annotations, self.test_classes),
        ):
            self._counts[f"{side}_classes"] = len(classes)
            self._counts[f"{side}_videos"] = len(scored.videos)
            self._counts[f"{side}_actions"] = sum(len(v.actions) for v in scored.videos.values())
            self._counts[f"{side}_windows"] = len(samples)
        self._counts["train_targets"] = sum(len(sample.targets) for sample in self._train)
        self._counts["incomplete_in_store"] = len(self.store.incomplete)
        if not self._train and not self._test:
            raise PsftrError(f"no video to work on: {self._missing('train')}; {self._missing('test')}")
        for side in ("train", "test"):
            if self._counts[f"{side}_without_features"]:
                log.warning("%s", self._missing(side))

    def _missing(self, side: str) -> str:
        missing = self._counts[f"{side}_without_features"]
        shown = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        return f"{len(missing)} {side} videos have no features in {self.store.path}" + (f": {shown}" if missing else "")


def _known_ids(video_ids: Iterable[str], annotations: Annotations) -> frozenset[str]:
    known = frozenset(canonical_id(video_id) for video_id in video_ids)
    strangers = sorted(known - annotations.videos.keys())
    if strangers:
        raise PsftrError(f"excluded videos unknown to the annotations: {nearest_names(strangers, annotations.videos)}")
    return known


def _with_actions(annotations: Annotations) -> Annotations:
    return annotations.with_videos(video for video in annotations.videos.values() if video.actions)


def _validation_videos(videos: Sequence[Video], fraction: float, seed: int) -> set[str]:
    """A seeded choice of `fraction` of the videos, new classes first, never the last video of a class.

    So every class stays in training, and as many as possible are validated on.
    """
    wanted = max(1, round(len(videos) * fraction)) if fraction else 0
    left: dict[str, int] = {}
    classes = {video.video_id: {action.label for action in video.actions} for video in videos}
    for labels in classes.values():
        for label in labels:
            left[label] = left.get(label, 0) + 1
    order = [videos[i].video_id for i in np.random.default_rng(seed).permutation(len(videos))]
    chosen: set[str] = set()
    covered: set[str] = set()
    for only_new in (True, False):
        for video_id in order:
            labels = classes[video_id]
            if len(chosen) < wanted and video_id not in chosen and min(left[label] for label in labels) > 1:
                if only_new and labels <= covered:
                    continue
                chosen.add(video_id)
                covered |= labels
                for label in labels:
                    left[label] -= 1
    return chosen
