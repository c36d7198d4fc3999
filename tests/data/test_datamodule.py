"""Rows last half a second (stride 8 at 16 fps); feature row i of every video holds the number i."""

from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import RandomSampler
from windowing import policy

from psftr.data.annotations import Action, Annotations, Video, read_annotations
from psftr.data.batches import Batch, inference_batches
from psftr.data.datamodule import ZstalDataModule, val_share
from psftr.data.datasets import Dataset, DatasetSpec, PeerRules, dataset_spec
from psftr.data.splits import ClassSplit, read_published_split
from psftr.errors import PsftrError
from psftr.features.arrays import read_info
from psftr.features.store import FeatureStore, FeatureWriter
from psftr.predictions import canonical_id
from psftr.settings import DataSettings

SPLIT = ClassSplit(("run", "jump", "swim"), ("dive",), "random", 75, 0)
SPEC = DatasetSpec(
    name="world", title="World", train_subset="train", test_subset="test", tious=(0.5,), printed_tious=(0.5,),
)  # fmt: skip
POLICY = policy(size=8, train_overlap=0.5, test_overlap=0.25)


def action(start_s, end_s, label):
    return Action(float(start_s), float(end_s), label)


def world(extra=()):
    """Thirteen training videos of 8 s: four each of run, jump and swim, and `mixed`, run and the unseen dive."""
    videos = [
        Video(f"{label}{i}", "train", 8.0, None, (action(1, 3, label), action(5, 6 + i / 4, label)))
        for label in SPLIT.seen
        for i in range(4)
    ]
    videos.append(Video("mixed", "train", 8.0, None, (action(1, 3, "run"), action(5, 7, "dive"))))
    videos.append(Video("test0", "test", 12.0, None, (action(2, 4, "dive"), action(6, 7, "run"))))
    videos.append(Video("test1", "test", 12.0, None, (action(2, 4, "run"),)))
    return Annotations(videos={v.video_id: v for v in (*videos, *extra)})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return made_store(tmp_path_factory.mktemp("store") / "f.h5", world())


def made_store(path, annotations):
    with FeatureWriter(path, encoder="test", dim=2) as writer:
        for video in annotations.videos.values():
            num_steps = round(video.duration_s * 2)
            rows = np.repeat(np.arange(num_steps, dtype=np.float32)[:, None], 2, axis=1)
            writer.write(
                video.video_id, rows, stride=8, fps=16.0, num_frames=8 * num_steps, duration_s=video.duration_s
            )
    return FeatureStore(path)


def datamodule(store, annotations=None, *, split=SPLIT, spec=SPEC, policy=POLICY, val_fraction=0.25, **changes):
    """`changes`: subsets and other facts of the data set, fields of DataSettings, or arguments of the data module."""
    own = {"seed": 0, "protocol": "clean", "exclude": ()}
    module = {name: changes.pop(name, default) for name, default in own.items()}
    facts = {field.name for field in fields(DatasetSpec)}
    spec = replace(spec, **{name: changes.pop(name) for name in list(changes) if name in facts})
    annotations = annotations or world()
    dataset = Dataset(spec=spec, root=Path(), annotations=annotations, store=store, split=split, allow_missing=True)
    data = DataSettings(**{"batch_size": 4, **changes})
    made = ZstalDataModule(dataset=dataset, policy=policy, data=data, val_fraction=val_fraction, **module)
    made.setup()
    return made


def videos_of(loader):
    return {window.video_id for batch in loader for window in batch.windows}


def assert_same(ours, theirs):
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs):
        assert a.windows == b.windows
        for name in ("features", "is_padding", "is_action", "is_ignored"):
            assert torch.equal(getattr(a, name), getattr(b, name))
        for s, t in zip(a.targets, b.targets, strict=True):
            assert torch.equal(s.labels, t.labels)
            assert torch.equal(s.segments_cw, t.segments_cw)


def test_a_batch_says_what_is_where(store):
    data = datamodule(store, val_fraction=0)
    found = {w: (b, i) for b in data.train_dataloader() for i, w in enumerate(b.windows)}
    (window,) = (w for w in found if (w.video_id, w.offset) == ("jump2", 8.0))  # 4 to 8 s; jump from 5 to 6.5 s
    batch, i = found[window]
    assert batch.features.shape == (len(batch), 8, 2)
    assert batch.features.dtype == torch.float32
    assert batch.features[i, :, 0].tolist() == list(range(8, 16))
    assert not batch.is_padding.any()
    assert batch.is_action[i].tolist() == [0, 0, 1, 1, 1, 0, 0, 0]  # centres 5.25, 5.75, 6.25
    assert [data.train_classes[k] for k in batch.targets[i].labels] == ["jump"]
    assert batch.targets[i].segments_cw.tolist() == [[(5.75 - 4) / 4, 1.5 / 4]]
    with pytest.raises(FrozenInstanceError):
        batch.features = None
    moved = batch.to("cpu")
    assert [f.name for f in fields(Batch)] == [
        "features", "is_padding", "is_action", "is_ignored", "targets", "windows",
    ]  # fmt: skip
    assert_same([batch], [moved])


def test_a_fragment_too_small_to_be_a_target_still_marks_its_rows(store):
    train = world().videos["run0"]
    long = replace(train, actions=(action(1, 3, "run"), action(3.1, 7.9, "run")))
    annotations = Annotations(videos={**world().videos, "run0": long})
    batches = datamodule(store, annotations, val_fraction=0).train_dataloader()
    first = next((b, i) for b in batches for i, w in enumerate(b.windows) if (w.video_id, w.offset) == ("run0", 0.0))
    batch, i = first
    assert len(batch.targets[i].labels) == 1  # the second action has .9 of its 4.8 s in here
    assert batch.is_action[i].tolist() == [0, 0, 1, 1, 1, 1, 1, 1]


def test_rows_of_an_ignored_instance_are_neither_action_nor_background(store):
    unclear = {"run0": (action(2.5, 4, "Ambiguous"),), "test0": (action(0, 9, "Ambiguous"),)}
    annotations = replace(world(), ignored=unclear)
    data = datamodule(store, annotations, val_fraction=0)
    marks = {
        (w.video_id, w.offset): (b.is_action[i].tolist(), b.is_ignored[i].tolist())
        for b in data.train_dataloader()
        for i, w in enumerate(b.windows)
    }
    # run from 1 to 3 s: rows 2 to 5; unclear from 2.5 to 4 s: rows 5 to 7, of which row 5 is run
    assert marks["run0", 0.0] == ([0, 0, 1, 1, 1, 1, 0, 0], [False] * 6 + [True] * 2)
    assert not any(any(ignored) for (video_id, _), (_, ignored) in marks.items() if video_id != "run0")
    assert not any(b.is_ignored.any() for b in data.predict_dataloader())
    peer = datamodule(store, annotations, protocol="peer")  # the peers train with such rows as background
    assert not any(b.is_ignored.any() for b in peer.train_dataloader())


def test_fit_is_the_same_whatever_the_unseen_annotations_say(store):
    plain = world()
    mutated = {}
    for video in plain.videos.values():
        seen = tuple(a for a in video.actions if a.label in SPLIT.seen)
        moved = (action(0, 7.5, "dive"), action(2.25, 2.5, "dive"))
        mutated[video.video_id] = replace(video, actions=(*moved, *seen) if video.subset == "train" else video.actions)
    for how in ({}, {"held_out_classes": 1}):
        ours, theirs = (datamodule(store, a, **how) for a in (plain, Annotations(videos=mutated)))
        assert_same(ours.train_dataloader(), theirs.train_dataloader())
        assert_same(ours.val_dataloader(), theirs.val_dataloader())
        assert "dive" not in {*ours.train_classes, *ours.val_classes}
        assert "dive" not in {*ours.train_annotations.classes, *ours.val_annotations.classes}
        for dataset in (ours.train_dataloader().dataset, ours.val_dataloader().dataset):
            held = {a.label for sample in dataset.samples for a in (*sample.actions, *(a for a, _ in sample.targets))}
            assert held <= set(SPLIT.seen)


def test_the_dive_in_a_training_video_is_background(store):
    batches = list(datamodule(store, val_fraction=0).train_dataloader())
    marks = [b.is_action[i] for b in batches for i, w in enumerate(b.windows) if w.video_id == "mixed"]
    assert [m.tolist() for m in marks] == [[0, 0, 1, 1, 1, 1, 0, 0]]  # run; the window from 4 s has no target: left out


def test_validation_videos_are_seen_class_videos_kept_out_of_training(store):
    data = datamodule(store)
    val, train = videos_of(data.val_dataloader()), videos_of(data.train_dataloader())
    assert len(val) == 3  # a quarter of 13
    assert len({video[:-1] for video in val - {"mixed"}} | ({"run"} if "mixed" in val else set())) == 3
    assert val | train == {v.video_id for v in world().subset("train")}
    assert not val & train
    assert set(data.val_annotations.videos) == val
    assert data.val_classes == data.train_classes == SPLIT.seen
    assert videos_of(datamodule(store).val_dataloader()) == val
    assert all(videos_of(datamodule(store, seed=s).val_dataloader()) == val for s in (1, 2, 3))
    assert any(videos_of(datamodule(store, held_out_seed=s).val_dataloader()) != val for s in (1, 2, 3))
    assert datamodule(store, val_fraction=0).val_dataloader() == []


def test_without_a_share_every_training_video_is_trained_on(store):
    unsaid, said = DataSettings(), DataSettings(val_fraction=0.2)
    assert (val_share(unsaid, chooses_checkpoint=False), val_share(unsaid, chooses_checkpoint=True)) == (0.0, 0.1)
    assert (val_share(said, chooses_checkpoint=False), val_share(said, chooses_checkpoint=True)) == (0.2, 0.2)
    with pytest.raises(PsftrError, match=r"val_fraction=0 leaves no video .* checkpoint.rule=last"):
        val_share(DataSettings(val_fraction=0.0), chooses_checkpoint=True)
    data = datamodule(store, val_fraction=0.0)
    assert len(videos_of(data.train_dataloader())) == 13
    assert data.val_dataloader() == []
    assert data.training_facts()["validation"] == "none, all training videos are trained on"


def test_the_summary_says_what_was_trained_on(store):
    told = datamodule(store, val_fraction=0.0).training_facts()
    # four videos of two actions for each of three classes, and the run of `mixed`
    assert (told["videos"], told["classes"], told["actions"]) == (13, 3, 25)
    assert (told["names"], told["held_out_classes"]) == (["run", "jump", "swim"], [])
    held = datamodule(store, held_out_classes=1)
    told = held.training_facts()
    assert (told["classes"], told["held_out_classes"]) == (2, list(held.val_classes))
    assert set(told["names"]) == set(held.train_classes)
    assert told["validation"].endswith("training videos of 1 held-out seen classes")


def test_the_seed_of_training_does_not_choose_the_held_out_classes(store):
    def held(**how):
        return datamodule(store, held_out_classes=1, **how).val_classes

    assert {held(seed=seed) for seed in range(6)} == {held()}
    assert len({held(held_out_seed=seed) for seed in range(6)}) > 1


def test_windows_are_cut_by_setup_for_the_stage_asked_for(store):
    dataset = Dataset(spec=SPEC, root=Path(), annotations=world(), store=store, split=SPLIT, allow_missing=True)
    data = ZstalDataModule(
        dataset=dataset, policy=POLICY, data=DataSettings(), val_fraction=0.0, seed=0, protocol="clean", exclude=()
    )
    with pytest.raises(PsftrError, match=r"no train windows yet: call setup\(\)"):
        data.train_dataloader()
    data.setup("fit")
    assert len(videos_of(data.train_dataloader())) == 13
    with pytest.raises(PsftrError, match="no test windows yet"):
        data.predict_dataloader()
    data.setup("predict")
    assert videos_of(data.predict_dataloader()) == {"test0"}


def test_prediction_without_the_data_module_makes_the_same_batches(store):
    data = datamodule(store)
    videos = [store.read(video_id) for video_id in data.test_annotations.videos]
    batches = list(inference_batches(videos, policy=POLICY, batch_size=4))
    assert_same([batch for batch, _ in batches], data.predict_dataloader())
    two = [store.read(name) for name in ("run0", "run1")]  # 16 rows: windows at 0, 6 and 12
    pairs = list(inference_batches(two, policy=POLICY, batch_size=4))
    assert [[w.video_id for w in batch.windows] for batch, _ in pairs] == [["run0"] * 3 + ["run1"], ["run1"] * 2]
    assert [ends for _, ends in pairs] == [(False, False, True, False), (False, True)]
    with pytest.raises(PsftrError, match="batch_size must be at least 1 window, got 0"):
        list(inference_batches(two, policy=POLICY, batch_size=0))


def test_no_class_loses_its_last_training_video(store):
    data = datamodule(store, val_fraction=0.99)
    assert {a.label for v in data.train_annotations.videos.values() for a in v.actions} == set(SPLIT.seen)
    assert len(data.val_annotations.videos) == 13 - 3


def test_held_out_seen_classes_leave_no_trace_in_training(tmp_path):
    pairs = (("run", "jump"), ("jump", "swim"), ("swim", "run"))
    annotations = world([Video(a + b, "train", 8.0, None, (action(1, 3, a), action(4, 6, b))) for a, b in pairs])
    data = datamodule(made_store(tmp_path / "f.h5", annotations), annotations, held_out_classes=1)
    (held,) = data.val_classes
    assert {held, *data.train_classes} == set(SPLIT.seen)
    assert set(data.val_annotations.classes) == {held}
    val, train = videos_of(data.val_dataloader()), videos_of(data.train_dataloader())
    assert val == {v.video_id for v in annotations.subset("train") if held in {a.label for a in v.actions}}
    assert not val & train
    assert set(data.train_annotations.classes) == set(data.train_classes)
    assert {int(k) for b in data.val_dataloader() for t in b.targets for k in t.labels} == {0}
    assert {int(k) for b in data.train_dataloader() for t in b.targets for k in t.labels} == {0, 1}


def test_prediction_covers_every_window_of_videos_with_an_unseen_action_and_tells_nothing(store):
    data = datamodule(store)
    batches = list(data.predict_dataloader())
    assert [(w.video_id, w.offset, w.num_valid) for b in batches for w in b.windows] == [
        ("test0", 0.0, 8), ("test0", 6.0, 8), ("test0", 12.0, 8), ("test0", 18.0, 6),
    ]  # fmt: skip
    assert batches[0].is_padding.sum(dim=1).tolist() == [0, 0, 0, 2]
    assert batches[0].features[3, :, 0].tolist() == [18, 19, 20, 21, 22, 23, 0, 0]
    assert all(len(t.labels) == 0 and t.segments_cw.shape == (0, 2) for t in batches[0].targets)
    assert not batches[0].is_action.any()
    assert data.test_annotations.videos["test0"].actions == (action(2, 4, "dive"),)
    assert list(data.test_annotations.videos) == ["test0"]


def test_videos_without_features_are_named(store, caplog):
    extra = (
        Video("lost1", "train", 8.0, None, (action(1, 3, "run"),)),
        Video("lost2", "test", 8.0, None, (action(1, 3, "dive"),)),
    )
    counts = datamodule(store, world(extra)).summary()
    assert (counts["train_without_features"], counts["test_without_features"]) == (("lost1",), ("lost2",))
    assert "1 train videos have no features in" in caplog.text
    assert "lost2" in caplog.text
    assert (counts["train_videos"], counts["val_videos"], counts["test_videos"]) == (10, 3, 1)
    assert counts["train_windows"] == sum(len(b) for b in datamodule(store).train_dataloader())
    only_lost = Annotations(videos={**{v.video_id: v for v in extra}, **{
        k: replace(v, subset="other") for k, v in world().videos.items()
    }})  # fmt: skip
    lost = datamodule(store, only_lost)
    with pytest.raises(PsftrError, match=r"nothing to train on: .*1 train videos have no features in .*: lost1"):
        lost.train_dataloader()
    with pytest.raises(PsftrError, match=r"nothing to predict: .*1 test videos have no features in .*: lost2"):
        lost.predict_dataloader()


def test_a_store_of_test_videos_predicts_but_does_not_train(tmp_path):
    annotations = world()
    only_test = Annotations(videos={v.video_id: v for v in annotations.subset("test")})
    data = datamodule(made_store(tmp_path / "f.h5", only_test), annotations)
    assert videos_of(data.predict_dataloader()) == {"test0"}
    with pytest.raises(PsftrError, match=r"nothing to train on.*13 train videos have no features"):
        data.train_dataloader()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"exclude": ["rn0"]}, r"excluded videos unknown to the annotations: 'rn0' \(nearest known: 'run0'\)"),
        ({"train_subset": "val"}, "no video is in subset 'val'; there are 'test', 'train'"),
        ({"train_subset": "test"}, "both 'test'"),
        ({"protocol": "fair"}, "protocol=fair is unknown; choose clean or peer"),
        ({"protocol": "peer", "held_out_classes": 1}, "protocol=peer validates on the test classes"),
        ({"held_out_classes": 3}, "cannot hold 3 of 3 seen classes out"),
        ({"val_fraction": 1.0}, r"val_fraction must be in \[0, 1\), got 1.0"),
        ({"split": ClassSplit(("run",), ("dvie",), "random", 50, 0)}, r"'dvie' \(nearest known: 'dive'\)"),
    ],
)
def test_what_the_annotations_do_not_know_is_refused(store, wrong, message):
    with pytest.raises(PsftrError, match=message):
        datamodule(store, **wrong)


def test_excluded_videos_are_in_no_loader(store):
    data = datamodule(store, exclude=["run0", "jump1"])
    assert not {"run0", "jump1"} & (videos_of(data.train_dataloader()) | videos_of(data.val_dataloader()))
    assert data.summary()["excluded"] == 2


def test_workers_and_cache_change_nothing_and_the_epoch_shuffles(store):
    plain = datamodule(store).train_dataloader()
    epochs = []
    for epoch in (0, 1):
        plain.sampler.set_epoch(epoch)
        epochs.append(list(plain))
    assert [w for b in epochs[0] for w in b.windows] != [w for b in epochs[1] for w in b.windows]
    assert isinstance(plain.sampler, RandomSampler)  # what Lightning replaces by a shuffling DistributedSampler
    for how in ({"workers": 2}, {"cache_mb": 0}):
        loader = datamodule(store, **how).train_dataloader()
        loader.sampler.set_epoch(1)
        assert_same(loader, epochs[1])
        loader.sampler.set_epoch(0)
        assert_same(loader, epochs[0])


@pytest.mark.parametrize("cache_mb", [0, 512])
def test_rescaled_videos_are_one_window_each(store, cache_mb):
    rescale = policy(mode="rescale", size=6, min_action_s=1.0)
    data = datamodule(store, policy=rescale, val_fraction=0, cache_mb=cache_mb)
    batch = next(iter(data.predict_dataloader()))
    assert batch.features[0, :, 0].tolist() == [1.5, 5.5, 9.5, 13.5, 17.5, 21.5]  # 24 rows, four to one
    counts = data.summary()
    assert (counts["train_videos"], counts["train_windows"], counts["test_windows"]) == (13, 13, 1)
    assert counts["train_targets"] == 13 + 9  # second actions last 1, 1.25, 1.5 and 1.75 s: run0, jump0, swim0 drop out


class Probe(pl.LightningModule):
    """Counts what a fit hands over."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch, _):
        self.seen.append(batch.windows)
        return (batch.features.mean() * self.weight).sum()

    def validation_step(self, batch, _):
        assert isinstance(batch, Batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightning_fits_with_it(store, tmp_path):
    probe, data = Probe(), datamodule(store)
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(probe, datamodule=data)
    loader = data.train_dataloader()
    expected = []
    for epoch in (0, 1):  # Lightning tells the sampler the epoch: a resumed run shuffles like the killed one
        loader.sampler.set_epoch(epoch)
        expected += [b.windows for b in loader]
    assert probe.seen == expected


def test_windows_and_actions_are_counted_by_our_rules_and_by_the_peers(tmp_path):
    """What the counts of the published data sets rest on, in a world small enough to count by hand."""
    videos = [
        # 20 rows; windows from rows 0, 4, 8 and 12 (0, 2, 4 and 6 s). The first action lies in the first window; the
        # second, one row long, in the last, and half of it in the one before.
        Video("train0", "train", 10.0, None, (action(1, 3, "run"), action(7.75, 8.25, "run"))),
        # 16 rows: in the test, windows from rows 0, 6 and 12. The second action is shorter than a row.
        Video("test0", "test", 8.0, None, (action(2, 4, "dive"), action(5, 5.4, "dive"))),
        Video("test1", "test", 4.0, None, (action(1, 1.5, "dive"),)),  # 8 rows, one window; one row of action
        Video("test2", "test", 4.0, None, (action(1, 3, "dive"),)),
    ]
    annotations = Annotations(videos={video.video_id: video for video in videos})
    store = made_store(tmp_path / "f.h5", annotations)
    split = ClassSplit(("run",), ("dive",), "random", 50, 0)
    spec = replace(SPEC, peer=PeerRules(excluded_videos=("test2",)))

    def counts(protocol):
        told = datamodule(store, annotations, split=split, spec=spec, val_fraction=0, protocol=protocol).summary()
        return [told[k] for k in ("train_actions", "train_windows", "test_videos", "test_actions", "test_windows")]

    assert counts("clean") == [2, 2, 3, 4, 5]
    assert counts("peer") == [1, 1, 1, 1, 3]


class Timelines:
    """A store of real timelines without features: all that counting needs."""

    path, incomplete, dim = "timelines", (), 1

    def __init__(self, info_json, stride):
        self.timelines = {canonical_id(k): info.timeline(stride) for k, info in read_info(info_json).items()}

    def __contains__(self, video_id):
        return video_id in self.timelines

    def timeline(self, video_id):
        return self.timelines[video_id]


def mean_counts(root, annotations, store, ratio, **how):
    rows = []
    for index in range(10):
        split = read_published_split(root / "splits", ratio=ratio, index=index)
        data = datamodule(
            store, annotations, split=split, spec=dataset_spec("thumos14"), policy=policy(), val_fraction=0, **how
        )
        counts = data.summary()
        rows.append([counts[k] for k in ("train_videos", "train_windows", "test_videos", "test_actions")])
    return np.mean(rows, axis=0).round(1).tolist()


def test_thumos14_windows_count_as_the_peers_count_them(shared_data):
    root = shared_data / "thumos14"
    annotations = read_annotations(root / "Thumos14_annotations.json")
    store = Timelines(root / "Thumos14_info_8frame.json", 8)
    excluded = dataset_spec("thumos14").peer.excluded_videos
    assert mean_counts(root, annotations, store, 75, protocol="peer") == [155.7, 2609.7, 58.5, 760.9]
    assert mean_counts(root, annotations, store, 50, protocol="peer") == [107.6, 1899.5, 113.8, 1534.5]
    kept = [v.video_id for v in annotations.subset("test") if v.video_id not in excluded]
    windows = [w for v in kept for w in policy().as_peer().windows(v, store.timeline(v), training=False)]
    assert (len(kept), len(windows)) == (208, 1758)
    # ours: a window is as long as its rows, short actions count, nothing is excluded unless asked
    assert mean_counts(root, annotations, store, 75) == [155.7, 2614.1, 59.5, 776.7]


def test_peer_validation_is_the_unseen_test_and_only_peer(store):
    peer = datamodule(store, protocol="peer")
    assert peer.val_classes == SPLIT.unseen
    assert peer.val_annotations == peer.test_annotations
    assert videos_of(peer.val_dataloader()) == {"test0"}
    assert not any(len(t.labels) for b in peer.val_dataloader() for t in b.targets)
    assert len(videos_of(peer.train_dataloader())) == 13
    assert not set(datamodule(store).val_annotations.videos) & set(datamodule(store).test_annotations.videos)


def test_activitynet_validation_videos_are_windowed_and_split(shared_data):
    root = shared_data / "activitynet13"
    annotations = read_annotations(root / "activity_net.v1-3.subset.json")
    store = Timelines(root / "ActivityNet13_info.json", 16)
    how = {"policy": policy(mode="rescale", size=300, min_action_s=1.0), "val_fraction": 0.1}
    split = read_published_split(root / "splits", ratio=75, index=0)
    swapped = ClassSplit(split.unseen, split.seen, "random", 25, 0)
    counts, others = (
        datamodule(store, annotations, split=one, spec=dataset_spec("activitynet13"), **how).summary()
        for one in (split, swapped)
    )
    assert counts["test_without_features"] == others["test_without_features"] == ()
    both = [v for v in annotations.subset("validation") if len({a.label in split.seen for a in v.actions}) == 2]
    none = [v for v in annotations.subset("validation") if not v.actions]
    assert counts["test_videos"] + others["test_videos"] == 4728 + len(both) - len(none)
    assert counts["test_windows"] == counts["test_videos"]
    assert counts["val_videos"] == round(0.1 * (counts["train_videos"] + counts["val_videos"]))


def test_the_frames_of_a_training_are_those_of_its_videos_and_no_others(store, monkeypatch):
    annotations = world()
    lengths = {id_: round(video.duration_s * 2) for id_, video in annotations.videos.items()}
    made = datamodule(store, held_out_classes=1, val_fraction=0.0)
    (held_out,) = made.held_out_classes
    frames = list(made.training_frames())
    ids = list(made.train_annotations.videos)
    assert not [id_ for id_ in ids if id_.startswith((held_out, "test"))]
    assert [len(rows) for rows in frames] == [lengths[id_] for id_ in ids]
    assert all((rows[:, 0] == np.arange(len(rows))).all() for rows in frames)
    monkeypatch.setattr("psftr.data.datamodule._MOST_VIDEOS", 3)
    assert len(list(made.training_frames())) == 3


def test_the_frames_of_a_training_are_float32_whatever_the_store_keeps(tmp_path):
    annotations = world()
    with FeatureWriter(tmp_path / "half.h5", encoder="test", dim=2, dtype="float16") as writer:
        for video in annotations.videos.values():
            steps = round(video.duration_s * 2)
            rows = np.ones((steps, 2), dtype=np.float32)
            writer.write(video.video_id, rows, stride=8, fps=16.0, num_frames=8 * steps, duration_s=video.duration_s)
    made = datamodule(FeatureStore(tmp_path / "half.h5"), annotations)
    assert {rows.dtype for rows in made.training_frames()} == {np.dtype(np.float32)}


def test_a_training_without_videos_has_no_frames(store):
    made = datamodule(store)
    made.train_annotations = made.train_annotations.with_videos(())
    assert list(made.training_frames()) == []
