"""The data sets psftr knows, each in one `DatasetSpec`, and how a folder of one is opened.

A data set of one's own needs no entry here: its settings say what must be known (`spec_of`, docs/own-data.md).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psftr.data.annotations import IGNORED_LABELS, Annotations, Video, holding, known_ids, read_annotations
from psftr.data.sources import ACTIVITYNET13, THUMOS14, Source
from psftr.data.splits import ClassSplit, open_split
from psftr.errors import PsftrError
from psftr.files import nearest, some
from psftr.settings import PROTOCOLS, DatasetSettings, SplitSettings

if TYPE_CHECKING:
    from psftr.features.store import FeatureStore


@dataclass(frozen=True, kw_only=True)
class PeerRules:
    """What earlier zero-shot repositories do differently in the test on a data set; of protocol=peer only.

    excluded_videos: ids left out of the test. min_action_s: test actions of this length or less are left out.
    penalises_ambiguous: a detection on an ignored instance counts as a false positive.
    """

    excluded_videos: tuple[str, ...] = ()
    min_action_s: float = 0.0
    penalises_ambiguous: bool = False


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """What is known of a data set, whoever holds its files.

    ignore_labels: labels whose instances are neither ground truth nor background.
    tious: rising thresholds of the average mAP; printed_tious: those a table has room for.
    double_labels: pairs of classes that annotate the same segments twice.
    source: where `psftr prepare` gets the files; None where there is nothing to fetch.
    """

    name: str
    title: str
    train_subset: str
    test_subset: str
    tious: tuple[float, ...]
    printed_tious: tuple[float, ...]
    ignore_labels: tuple[str, ...] = ()
    double_labels: tuple[tuple[str, str], ...] = ()
    is_synthetic: bool = False
    peer: PeerRules = PeerRules()
    source: Source | None = None


_TIOUS_THUMOS14 = (0.3, 0.4, 0.5, 0.6, 0.7)
OWN_TIOUS = _TIOUS_THUMOS14  # of a data set of one's own, unless its settings name others
LEAST_SHARE = 0.9  # of a split's videos must have features, or a number says little about the split
NAME = re.compile(r"[A-Za-z0-9][\w.-]*")  # also that of a folder

_SPECS = (
    DatasetSpec(
        name="synthetic",
        title="Synthetic world",
        train_subset="training",
        test_subset="validation",
        tious=_TIOUS_THUMOS14,
        printed_tious=_TIOUS_THUMOS14,
        is_synthetic=True,
        peer=PeerRules(penalises_ambiguous=True),
    ),
    DatasetSpec(
        name="thumos14",
        title="THUMOS14",
        train_subset="val",
        test_subset="test",
        ignore_labels=IGNORED_LABELS,
        tious=_TIOUS_THUMOS14,
        printed_tious=_TIOUS_THUMOS14,
        double_labels=(("CliffDiving", "Diving"),),
        peer=PeerRules(
            # wrong annotations, wrong timing, or no published features
            excluded_videos=tuple(f"video_test_{number:07d}" for number in (270, 504, 814, 1292, 1496)),
            penalises_ambiguous=True,
        ),
        source=THUMOS14,
    ),
    DatasetSpec(
        name="activitynet13",
        title="ActivityNet-1.3",
        train_subset="training",
        test_subset="validation",
        tious=tuple(round(0.5 + 0.05 * i, 2) for i in range(10)),
        printed_tious=(0.5, 0.75, 0.95),
        peer=PeerRules(min_action_s=1.0),
        source=ACTIVITYNET13,
    ),
)
DATASETS: Mapping[str, DatasetSpec] = {spec.name: spec for spec in _SPECS}


def dataset_spec(name: str) -> DatasetSpec:
    """Raises PsftrError for a name without a spec, with the nearest that has one."""
    if name not in DATASETS:
        raise PsftrError(
            f"no data set {name!r}{nearest(name, DATASETS) or ';'} psftr knows {', '.join(DATASETS)}; "
            "one of your own: `psftr prepare custom`, then dataset=FILE"
        )
    return DATASETS[name]


def spec_of(settings: DatasetSettings) -> DatasetSpec:
    """A data set's rules, with what was asked for in place of its own; of an unknown name, what the settings say.

    Raises PsftrError for an unknown name whose settings do not say on what to train and to test.
    """
    asked = {name: getattr(settings, name) for name in ("train_subset", "test_subset", "ignore_labels", "tious")}
    asked = {name: value for name, value in asked.items() if value is not None}
    if tious := asked.get("tious"):
        if list(tious) != sorted(set(tious)):
            raise PsftrError(f"dataset.tious={list(tious)}: give each tIoU once, rising")
        asked["printed_tious"] = tious
    if settings.name in DATASETS or not {"train_subset", "test_subset"} <= asked.keys():
        return replace(dataset_spec(settings.name), **asked)
    if not NAME.fullmatch(settings.name):
        raise PsftrError(f"dataset.name={settings.name} cannot name a folder: use letters, digits, '_', '.' and '-'")
    own = {"tious": OWN_TIOUS, "printed_tious": OWN_TIOUS}
    return DatasetSpec(name=settings.name, title=settings.name, **{**own, **asked})


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """An opened data set: its files, read and checked, and one of its class splits.

    spec: with the subsets and ignored labels that were asked for in place of the data set's own.
    allow_missing: a side of a split may lack the features of more videos than `LEAST_SHARE` allows.
    """

    spec: DatasetSpec
    root: Path
    annotations: Annotations
    store: FeatureStore
    split: ClassSplit
    allow_missing: bool

    @property
    def name(self) -> str:
        return self.spec.name

    def provenance(self) -> dict[str, Any]:
        """The `split` and `features` entries of a predictions file."""
        split = self.split
        return {
            "split": {
                "dataset": self.name,
                "source": split.source,
                "ratio": split.ratio,
                "index": split.index,
                "seen": list(split.seen),
                "unseen": list(split.unseen),
            },
            "features": self.store.provenance(),
        }

    def usable(
        self, subset: str, classes: Iterable[str], excluded: Collection[str]
    ) -> tuple[tuple[Video, ...], tuple[str, ...]]:
        """Videos of a subset that hold an action of `classes`, without their other actions and without `excluded` ids.

        Returns those with features, and the ids of those without.
        """
        videos = [v for v in holding(self.annotations.subset(subset), classes) if v.video_id not in excluded]
        return (
            tuple(video for video in videos if video.video_id in self.store),
            tuple(video.video_id for video in videos if video.video_id not in self.store),
        )

    def check_enough(self, side: str, videos: Collection[Video], missing: Collection[str]) -> None:
        """`side`: training or test; videos, missing: what `usable` returned for it.

        Raises PsftrError where no video has features or, unless they may be missing, fewer than LEAST_SHARE.
        """
        count = len(videos) + len(missing)
        if self.allow_missing or (videos and len(videos) >= LEAST_SHARE * count):
            return
        if not count:
            raise PsftrError(f"split {self.split.name}: no {side} video of {self.name} holds one of its classes")
        raise PsftrError(
            f"only {len(videos)} of the {count} {side} videos of split {self.split.name} have features in "
            f"{self.store.path} (missing: {some(missing, 3)}); at least {LEAST_SHARE:.0%} are needed: extract the "
            "others, or go on with dataset.allow_missing=true"
        )

    def test_videos(self, protocol: str, exclude: Iterable[str]) -> tuple[str, ...]:
        """Ids of the test videos with an action of an unseen class and with features, in the annotations' order.

        `exclude`: ids to leave out; protocol=peer leaves out more, by the data set's `PeerRules`. Raises PsftrError
        for an unknown protocol, an id that the annotations do not know, where features of too many videos are missing
        (`check_enough`), and where no video is left.
        """
        rules = self.rules(protocol)
        excluded = known_ids(exclude, self.annotations) | set(rules.excluded_videos)
        found, missing = self.usable(self.spec.test_subset, self.split.unseen, excluded)
        self.check_enough("test", found, missing)
        ids = tuple(v.video_id for v in found if any(a.end_s - a.start_s > rules.min_action_s for a in v.actions))
        if not ids:
            raise PsftrError(
                f"no test video to look at: {len(found) + len(missing)} hold an action of an unseen class, "
                f"{len(missing)} of them have no features in {self.store.path}"
            )
        return ids

    def rules(self, protocol: str) -> PeerRules:
        """What a protocol leaves out of the test: of `clean`, nothing. Raises PsftrError for an unknown one."""
        if protocol not in PROTOCOLS:
            raise PsftrError(f"protocol={protocol} is unknown; choose {' or '.join(PROTOCOLS)}")
        return self.spec.peer if protocol == "peer" else PeerRules()


def open_dataset(settings: DatasetSettings, split: SplitSettings, *, data_root: str | Path) -> Dataset:
    """Read annotations, feature store and class split. The synthetic world is built where it is not there yet.

    Raises PsftrError for a file that is missing or damaged; the message says which `psftr` verb makes it.
    """
    # here, not above: evaluation reads specs without paying for h5py and torch
    from psftr.features.store import FeatureStore

    spec, root, annotations, classes = open_annotations(settings, split, data_root=data_root)
    path = features_path(settings, root)
    if not path.exists():
        raise PsftrError(
            f"no features at {path}: extract them with `psftr extract VIDEOS… --out FILE`, or import them with "
            "`psftr prepare`, or set dataset.features=FILE"
        )
    return Dataset(
        spec=spec,
        root=root,
        annotations=annotations,
        store=FeatureStore(path),
        split=classes,
        allow_missing=settings.allow_missing,
    )


def open_annotations(
    settings: DatasetSettings, split: SplitSettings, *, data_root: str | Path
) -> tuple[DatasetSpec, Path, Annotations, ClassSplit]:
    """A data set without its features: (spec as asked for, root, annotations, class split). Raises PsftrError."""
    spec = spec_of(settings)
    root = Path(settings.root) if settings.root else Path(data_root) / spec.name
    if spec.is_synthetic and (settings.annotations is None or settings.features is None):
        from psftr.data.synthetic import ensure_world

        ensure_world(root)
    path = Path(settings.annotations or root / "annotations.json")
    if not path.exists():
        verb = spec.name if spec.name in DATASETS else "custom"
        raise PsftrError(f"no annotations at {path}: run `psftr prepare {verb}`, or set dataset.annotations=FILE")
    annotations = read_annotations(path, ignore_labels=spec.ignore_labels)
    classes = open_split(split, splits_dir=settings.splits or root / "splits", classes=annotations.classes)
    return spec, root, annotations, classes


def features_path(settings: DatasetSettings, root: Path) -> Path:
    """Where the features of a data set are, or would be."""
    return Path(settings.features or root / "features.h5")
