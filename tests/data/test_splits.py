import pytest

from psftr.data.annotations import read_annotations
from psftr.data.splits import (
    ClassSplit,
    hold_out_classes,
    open_split,
    random_split,
    read_published_split,
    read_split_file,
    write_published_splits,
)
from psftr.errors import PsftrError
from psftr.settings import SplitSettings

NAMES = [f"class {i:02}" for i in range(20)]


def split(seen, unseen):
    return ClassSplit(tuple(seen), tuple(unseen), "random", 75, 3)


@pytest.mark.parametrize(
    ("seen", "unseen", "message"),
    [
        ("ab", "bc", r"split 75/25 #3 \(random\): 'b' on both sides"),
        ("aab", "c", "seen lists 'a' more than once"),
        ("", "c", "no seen class"),
        ("a", "", "no unseen class"),
    ],
)
def test_a_split_is_disjoint_and_not_empty(seen, unseen, message):
    with pytest.raises(PsftrError, match=message):
        split(seen, unseen)


def test_unknown_classes_are_named_with_the_nearest():
    split(["GolfSwing"], ["Diving"]).check_against(["Diving", "GolfSwing", "HighJump"])
    with pytest.raises(PsftrError, match=r"not among the 2 annotated classes: 'Divng' \(nearest known: 'Diving'\)"):
        split(["GolfSwing"], ["Divng"]).check_against(["Diving", "GolfSwing"])


def test_the_published_layout_round_trips(tmp_path):
    made = random_split(NAMES, ratio=75, index=4, seed=0)
    write_published_splits(tmp_path, [made])
    assert (tmp_path / "train_75_test_25/train/split_4.list").read_text().splitlines() == list(made.seen)
    read = read_published_split(tmp_path, ratio=75, index=4)
    assert (read.seen, read.unseen, read.source) == (made.seen, made.unseen, "published")
    with pytest.raises(PsftrError, match=r"no published split 5 at .*indices there: \[4\]"):
        read_published_split(tmp_path, ratio=75, index=5)
    with pytest.raises(PsftrError, match="train_50_test_50; there are train_75_test_25 beside it"):
        read_published_split(tmp_path, ratio=50, index=0)


@pytest.mark.parametrize("name", ["thumos14", "activitynet13"])
def test_all_published_splits_are_splits_of_the_annotated_classes(shared_data, name):
    file = {"thumos14": "Thumos14_annotations.json", "activitynet13": "activity_net.v1-3.subset.json"}[name]
    classes = read_annotations(shared_data / name / file).classes
    for ratio in (75, 50):
        for index in range(10):
            published = read_published_split(shared_data / name / "splits", ratio=ratio, index=index)
            published.check_against(classes)
            assert sorted(published.seen + published.unseen) == list(classes)
            assert len(published.seen) == len(classes) * ratio // 100


def test_random_splits_are_seeded_and_do_not_depend_on_the_order_of_names():
    first = random_split(NAMES, ratio=75, index=0, seed=7)
    assert len(first.seen) == 15
    assert sorted(first.seen + first.unseen) == NAMES
    assert random_split(NAMES[::-1], ratio=75, index=0, seed=7) == first
    assert len({random_split(NAMES, ratio=75, index=i, seed=s).unseen for i in range(5) for s in (7, 8)}) == 10
    with pytest.raises(PsftrError, match=r"two classes and a ratio in 1..99, got 20 and 100"):
        random_split(NAMES, ratio=100, index=0, seed=0)


def test_split_files(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("seen: [a, b, c]\nunseen: [d]\n")
    assert read_split_file(path) == ClassSplit(("a", "b", "c"), ("d",), "file:mine.yaml", 75, 0)
    for text, message in [
        ("seen: [a]\nunsen: [b]", "unknown key 'unsen'"),
        ("seen: [a, 1]\nunseen: [b]", "seen must be a list of class names"),
        ("seen: [a]", "unseen must be a list"),
        ("seen: [a", "not valid YAML"),
        ("- a", "expected two lists"),
    ]:
        path.write_text(text)
        with pytest.raises(PsftrError, match=message):
            read_split_file(path)


def test_held_out_classes_come_from_the_seen_only():
    whole = random_split(NAMES, ratio=75, index=2, seed=0)
    held = hold_out_classes(whole, count=3, seed=1)
    assert len(held.unseen) == 3
    assert set(held.seen) | set(held.unseen) == set(whole.seen)
    assert held.source == "held-out seen classes"
    assert hold_out_classes(whole, count=3, seed=1) == held
    assert hold_out_classes(whole, count=3, seed=2) != held
    with pytest.raises(PsftrError, match="cannot hold 15 of 15"):
        hold_out_classes(whole, count=15, seed=0)


def test_a_closed_split_trains_on_every_class_and_looks_for_every_class():
    split = open_split(SplitSettings(kind="closed", ratio=100), splits_dir="nowhere", classes=["run", "jump"])
    assert split.seen == split.unseen == ("jump", "run")
    assert (split.source, split.ratio) == ("closed", 100)
    with pytest.raises(PsftrError, match=r"ratio must be below 100, got 100 \(split=closed trains on every class\)"):
        SplitSettings(kind="random", ratio=100)
