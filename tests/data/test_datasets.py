"""What is known of a data set, and a folder of one opened from settings."""

import pytest

from psftr.data.datasets import DATASETS, DatasetSpec, dataset_spec, open_dataset
from psftr.data.synthetic import ensure_world
from psftr.errors import PsftrError
from psftr.settings import DatasetSettings, SplitSettings


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    ensure_world(root / "synthetic", num_train=20, num_test=20, dim=64)
    return root


def test_every_spec_is_whole():
    for name, spec in DATASETS.items():
        assert spec.name == name
        assert spec.train_subset != spec.test_subset
        assert set(spec.printed_tious) <= set(spec.tious)
        assert list(spec.tious) == sorted(spec.tious)
        assert (spec.source is None) == spec.is_synthetic
    assert dataset_spec("activitynet13").tious == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def test_an_unknown_name_gets_its_nearest():
    with pytest.raises(PsftrError, match=r"no data set 'thumos15', did you mean 'thumos14'\? .* then dataset=FILE"):
        dataset_spec("thumos15")
    with pytest.raises(PsftrError, match="no data set 'qqq'; psftr knows synthetic, thumos14, activitynet13"):
        dataset_spec("qqq")


def test_a_folder_is_found_below_the_data_root_and_opened(data_root):
    dataset = open_dataset(DatasetSettings(), SplitSettings(index=2), data_root=data_root)
    assert (dataset.name, dataset.root) == ("synthetic", data_root / "synthetic")
    assert len(dataset.store) == 40
    facts = dataset.provenance()
    assert (facts["split"]["dataset"], facts["split"]["index"], facts["split"]["ratio"]) == ("synthetic", 2, 75)
    assert facts["features"]["synthetic"] is True
    by_path = DatasetSettings(root=str(data_root / "synthetic"), test_subset="training", train_subset="validation")
    other = open_dataset(by_path, SplitSettings(index=2), data_root="nowhere")
    assert (other.spec.train_subset, other.spec.test_subset) == ("validation", "training")
    assert other.split == dataset.split


def test_test_videos_hold_an_unseen_action_and_are_not_excluded(data_root):
    dataset = open_dataset(DatasetSettings(), SplitSettings(), data_root=data_root)
    expected = [
        video.video_id
        for video in dataset.annotations.subset("validation")
        if {action.label for action in video.actions} & set(dataset.split.unseen)
    ]
    assert dataset.test_videos("clean", ()) == tuple(expected)
    assert dataset.test_videos("clean", expected[:1]) == tuple(expected[1:])
    with pytest.raises(PsftrError, match="excluded videos unknown to the annotations: 'video_x'"):
        dataset.test_videos("clean", ["video_x"])
    with pytest.raises(PsftrError, match="protocol=fair is unknown; choose clean or peer"):
        dataset.test_videos("fair", ())


def test_what_is_missing_is_named_with_the_verb_that_makes_it(tmp_path):
    settings = DatasetSettings(name="thumos14")
    with pytest.raises(
        PsftrError, match=r"no annotations at .*thumos14/annotations\.json: run `psftr prepare thumos14`"
    ):
        open_dataset(settings, SplitSettings(), data_root=tmp_path)


def test_a_new_data_set_is_one_spec(data_root, monkeypatch):
    kitchen = DatasetSpec(
        name="kitchen", title="Kitchen", train_subset="training", test_subset="validation", tious=(0.5,),
        printed_tious=(0.5,),
    )  # fmt: skip
    monkeypatch.setitem(DATASETS, "kitchen", kitchen)
    settings = DatasetSettings(name="kitchen", root=str(data_root / "synthetic"))
    dataset = open_dataset(settings, SplitSettings(kind="random"), data_root=data_root)
    assert (dataset.name, dataset.provenance()["split"]["dataset"]) == ("kitchen", "kitchen")
    assert dataset.test_videos("clean", ())
    assert dataset.test_videos("peer", ()) == dataset.test_videos("clean", ())  # it has no peers' rules


def test_splits_of_every_kind_are_opened(data_root, tmp_path):
    classes = open_dataset(DatasetSettings(), SplitSettings(), data_root=data_root).annotations.classes
    drawn = open_dataset(DatasetSettings(), SplitSettings(kind="random", ratio=50), data_root=data_root).split
    assert (drawn.source, len(drawn.seen), len(drawn.unseen)) == ("random", 10, 10)
    (tmp_path / "split.yaml").write_text(f"seen: {list(classes[:-1])}\nunseen: {list(classes[-1:])}\n")
    asked = SplitSettings(kind="file", file=str(tmp_path / "split.yaml"))
    assert open_dataset(DatasetSettings(), asked, data_root=data_root).split.unseen == classes[-1:]
    with pytest.raises(PsftrError, match=r"needs split\.file=FILE"):
        open_dataset(DatasetSettings(), SplitSettings(kind="file"), data_root=data_root)
