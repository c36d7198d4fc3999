"""Windows of a data set as `Batch`es: training and validation on seen classes, prediction for the test.

Only `protocol="peer"` shows unseen classes to training: it validates on the test classes, as the peers do.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, SequentialSampler

from psftr.data.annotations import Action, Annotations, Video, holding, known_ids
from psftr.data.batches import Sample, inference_samples
from psftr.data.datasets import Dataset
from psftr.data.loading import EpochSampler, RowReader, SharedBatches, WindowDataset, as_it_is, seed_worker
from psftr.data.splits import hold_out_classes
from psftr.data.windows import Window, WindowPolicy
from psftr.errors import PsftrError
from psftr.files import some
from psftr.settings import DataSettings

log = logging.getLogger(__name__)

# Videos that are read before the training starts, for what is fitted to frames.
_MOST_VIDEOS = 1000

# The share kept for validation where it chooses the checkpoint and the user named none.
CHOOSING_VAL_FRACTION = 0.1


class ZstalDataModule(pl.LightningDataModule):
    """Loaders over one class split of one data set. `setup` cuts the windows; the loaders exist after it.

    protocol=clean: trains on videos of the training subset that hold a training class. Validation is on `val_fraction`
    of them, which are kept out of training; or, with `data.held_out_classes`, on all of them that hold one of that many
    seen classes, which are the validation's names then and gone from training (labels and videos); or on nothing.
    `data.held_out_seed` chooses what is held out, so that trainings of several seeds are validated on the same.
    Prediction covers every window of the test videos that hold an unseen class.
    protocol=peer: `WindowPolicy.as_peer`, the data set's `PeerRules` and validation on the unseen test.

    What `fit` may know is decided in the constructor: training and validation get videos from which every other label
    has been taken away. Raises PsftrError for a split, subset or excluded id that the annotations do not know, for
    videos without features (`Dataset.check_enough`) and for
    a loader without windows. Videos without features are named in `summary()` and in the log.

    With a trainer of several processes, each loads its part of every batch (`SharedBatches`): `data.batch_size` is the
    size of all parts together. Such a trainer needs `use_distributed_sampler=False`, as psftr's own has.
    """

    def __init__(
        self,
        *,
        dataset: Dataset,
        policy: WindowPolicy,
        data: DataSettings,
        val_fraction: float,
        seed: int,
        protocol: str,
        exclude: Iterable[str],
    ) -> None:
        super().__init__()
        split, spec = dataset.split, dataset.spec
        if spec.train_subset == spec.test_subset:
            raise PsftrError(
                f"train_subset and test_subset are both {spec.train_subset!r}; training would see the test videos"
            )
        if not 0 <= val_fraction < 1:
            raise PsftrError(f"val_fraction must be in [0, 1), got {val_fraction}")
        rules = dataset.rules(protocol)
        if protocol == "peer" and data.held_out_classes:
            raise PsftrError("held_out_classes tunes the clean protocol; protocol=peer validates on the test classes")
        split.check_against(dataset.annotations.classes)
        excluded = known_ids(exclude, dataset.annotations)
        self.split, self.store, self.seed, self.protocol = split, dataset.store, seed, protocol
        self.policy = policy.as_peer() if protocol == "peer" else policy
        self.batch_size, self.num_workers = data.batch_size, data.workers
        self._num_excluded = len(excluded)
        self._reader = RowReader(dataset.store, limit_mb=data.cache_mb / max(1, data.workers))

        self.train_classes = split.seen
        self.held_out_classes: tuple[str, ...] = ()
        if data.held_out_classes:
            tuning = hold_out_classes(split, count=data.held_out_classes, seed=data.held_out_seed)
            self.train_classes, self.held_out_classes = tuning.seen, tuning.unseen
        self.test_classes = split.unseen
        self.val_classes = self.test_classes if protocol == "peer" else self.held_out_classes or split.seen
        # From here on, training and validation work on `seen` only: no unseen label is left in it.
        seen, no_train_features = dataset.usable(spec.train_subset, split.seen, excluded)
        test, no_test_features = dataset.usable(spec.test_subset, split.unseen, excluded | set(rules.excluded_videos))
        dataset.check_enough("training", seen, no_train_features)
        dataset.check_enough("test", test, no_test_features)
        self._missing = {"train": no_train_features, "test": no_test_features}
        seen, test = self._long_enough(seen), self._long_enough(test)
        if protocol == "peer":
            held = frozenset[str]()
            validation = test
        elif self.held_out_classes:
            validation = holding(seen, self.held_out_classes)
            held = frozenset(video.video_id for video in validation)
        else:
            held = _validation_videos(seen, val_fraction, data.held_out_seed)
            validation = tuple(video for video in seen if video.video_id in held)
        training = holding([video for video in seen if video.video_id not in held], self.train_classes)
        # the peers train with ignored instances as background
        kept_ids = {video.video_id for video in seen} if protocol == "clean" else ()
        self._ignored = {k: v for k, v in dataset.annotations.ignored.items() if k in kept_ids}
        self.train_annotations, self.val_annotations, self.test_annotations = (
            dataset.annotations.with_videos(videos) for videos in (training, validation, test)
        )
        self._samples: dict[str, list[Sample]] = {}
        for side, missing in self._missing.items():
            if missing:
                log.warning("%s", self._missing_words(side))

    def setup(self, stage: str | None = None) -> None:
        """Cut windows: `fit` and `validate` those of training and validation, `predict` those of the test, None all."""
        if stage in ("fit", "validate", None) and "train" not in self._samples:
            labelled = self._labelled(self.train_annotations, training=True)
            self._samples["train"] = [sample for sample in labelled if sample.targets]
            self._samples["val"] = (
                self._unlabelled(self.val_annotations)
                if self.protocol == "peer"
                else self._labelled(self.val_annotations, training=False)
            )
        if stage in ("test", "predict", None) and "test" not in self._samples:
            self._samples["test"] = self._unlabelled(self.test_annotations)

    def train_dataloader(self) -> DataLoader:
        """Shuffled windows that hold at least one target; labels index `train_classes`."""
        samples = self._of("train")
        if not samples:
            raise PsftrError(
                f"nothing to train on: no window holds an action of a training class ({self._missing_words('train')})"
            )
        return self._loader(samples, self.train_classes, shuffle=True)

    def val_dataloader(self) -> DataLoader | list:
        """Every window of the validation videos; labels index `val_classes`. Empty where nothing was kept out."""
        samples = self._of("val")
        return self._loader(samples, self.val_classes) if samples else []

    def predict_dataloader(self) -> DataLoader:
        """Every window of the test videos, without targets."""
        samples = self._of("test")
        if not samples:
            raise PsftrError(f"nothing to predict: no test video holds an unseen class ({self._missing_words('test')})")
        return self._loader(samples, self.test_classes)

    def summary(self) -> dict[str, Any]:
        """Counts per side of what is set up, and the ids of videos without features."""
        counts: dict[str, Any] = {"protocol": self.protocol, "excluded": self._num_excluded}
        for side, samples in self._samples.items():
            videos = self._videos(side)
            counts[f"{side}_classes"] = len(getattr(self, f"{side}_classes"))
            counts[f"{side}_videos"] = len(videos)
            counts[f"{side}_actions"] = _num_actions(videos)
            counts[f"{side}_windows"] = len(samples)
        for side, missing in self._missing.items():
            counts[f"{side}_without_features"] = missing
        counts["incomplete_in_store"] = len(self.store.incomplete)
        if "train" in self._samples:
            counts["train_targets"] = sum(len(sample.targets) for sample in self._samples["train"])
        return counts

    def training_facts(self) -> dict[str, Any]:
        """What a predictions file says about the training (`Provenance.training`)."""
        videos = self.train_annotations.videos
        return {
            "videos": len(videos),
            "classes": len(self.train_classes),
            "names": list(self.train_classes),
            "actions": _num_actions(videos),
            "windows": len(self._of("train")),
            "held_out_classes": list(self.held_out_classes),
            "validation": self.validation_words(),
        }

    def training_frames(self) -> Iterator[np.ndarray]:
        """[n,D] float32 for each training video, all its frames; at most _MOST_VIDEOS of them, evenly chosen."""
        videos = tuple(self.train_annotations.videos)
        for video_id in videos[:: max(1, math.ceil(len(videos) / _MOST_VIDEOS))]:
            yield self.store.read_rows(video_id).astype(np.float32, copy=False)

    def validation_words(self) -> str:
        """What validation measures, in a phrase."""
        num = len(self.val_annotations.videos)
        if self.protocol == "peer":
            return "protocol=peer: measured on the TEST classes"
        if self.held_out_classes:
            return f"{num} training videos of {len(self.held_out_classes)} held-out seen classes"
        if not num:
            return "none, all training videos are trained on"
        return f"{num} videos of seen classes, kept out of training"

    def _videos(self, side: str) -> Mapping[str, Video]:
        return getattr(self, f"{side}_annotations").videos

    def _of(self, side: str) -> list[Sample]:
        if side not in self._samples:
            raise PsftrError(f"the data module has no {side} windows yet: call setup() before asking for a loader")
        return self._samples[side]

    def _long_enough(self, videos: Sequence[Video]) -> tuple[Video, ...]:
        """The videos with the actions that exist for the policy, which only leaves some out for protocol=peer."""
        if not self.policy.peer_filters_test:
            return tuple(videos)
        shortened = (
            replace(v, actions=self.policy.long_enough(v.actions, self.store.timeline(v.video_id), training=False))
            for v in videos
        )
        return tuple(video for video in shortened if video.actions)

    def _labelled(self, annotations: Annotations, *, training: bool) -> list[Sample]:
        return [
            Sample(
                window,
                self.policy.targets(touching := _touching(video.actions, window), window),
                touching,
                _touching(self._ignored.get(video.video_id, ()), window),
            )
            for video in annotations.videos.values()
            for window in self.policy.windows(video.video_id, self.store.timeline(video.video_id), training=training)
        ]

    def _unlabelled(self, annotations: Annotations) -> list[Sample]:
        return [
            sample
            for video_id in annotations.videos
            for sample in inference_samples(video_id, self.store.timeline(video_id), self.policy)
        ]

    def _loader(self, samples: list[Sample], class_names: tuple[str, ...], *, shuffle: bool = False) -> DataLoader:
        dataset = WindowDataset(samples, self._reader, class_names)
        sampler = EpochSampler(dataset, seed=self.seed) if shuffle else SequentialSampler(dataset)
        batches: dict[str, Any] = {"batch_size": self.batch_size, "sampler": sampler}
        if self.trainer is not None and self.trainer.world_size > 1:
            rank, num_ranks = self.trainer.global_rank, self.trainer.world_size
            shared = SharedBatches(sampler, batch_size=self.batch_size, rank=rank, num_ranks=num_ranks)
            batches = {"batch_sampler": shared}
        return DataLoader(
            dataset,
            **batches,
            num_workers=self.num_workers,
            collate_fn=as_it_is,
            worker_init_fn=seed_worker,
            generator=torch.Generator().manual_seed(self.seed),
            persistent_workers=self.num_workers > 0,  # a worker's cache dies with it
            pin_memory=torch.cuda.is_available(),
        )

    def _missing_words(self, side: str) -> str:
        missing = self._missing[side]
        told = f"{len(missing)} {side} videos have no features in {self.store.path}"
        return f"{told}: {some(missing)}" if missing else told


def val_share(data: DataSettings, *, chooses_checkpoint: bool) -> float:
    """The share of training videos to keep for validation: what was asked for, else none where it decides nothing.

    Raises PsftrError where validation is to choose the checkpoint and has nothing to look at.
    """
    if data.val_fraction is None:
        return CHOOSING_VAL_FRACTION if chooses_checkpoint else 0.0
    if chooses_checkpoint and data.val_fraction == 0 and not data.held_out_classes:
        raise PsftrError(
            "data.val_fraction=0 leaves no video for the validation that chooses the checkpoint: "
            "give a share above 0, or checkpoint.rule=last"
        )
    return data.val_fraction


def _touching(actions: Iterable[Action], window: Window) -> list[Action]:
    return [action for action in actions if action.end_s > window.start_s and action.start_s < window.end_s]


def _num_actions(videos: Mapping[str, Video]) -> int:
    return sum(len(video.actions) for video in videos.values())


def _validation_videos(videos: Sequence[Video], fraction: float, seed: int) -> frozenset[str]:
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
    return frozenset(chosen)
