"""The synthetic world: its statistics are CLIP's, its structure can be learned, its files say what they are."""

import json
from itertools import pairwise

import h5py
import numpy as np
import pytest

from psftr.data.annotations import Action, Annotations, Video, read_annotations
from psftr.data.record import read_record
from psftr.data.splits import read_published_split
from psftr.data.synthetic import (
    CLASSES,
    REPERTOIRE,
    World,
    build_world,
    encoder_name,
    ensure_world,
    plan_world,
    simulate_features,
)
from psftr.data.synthetic_distractors import Repertoire, distractors_in_gaps
from psftr.data.synthetic_order import twin_classes
from psftr.data.synthetic_space import (
    NAME_COSINES,
    NAME_QUANTILES,
    Composition,
    Event,
    Space,
    background_motions,
    compose,
    hard_negatives,
    render,
    seeded,
)
from psftr.errors import PsftrError
from psftr.features.store import FeatureStore
from psftr.features.text import load_text
from psftr.segments import Timeline

SIZES = {"num_train": 60, "num_test": 40}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthetic")
    build_world(root, **SIZES)
    return root


@pytest.fixture(scope="module")
def plan():
    return plan_world(World(**SIZES))


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def is_inside(spans, timeline):
    """[T] bool: the middle of the row lies inside one of the spans."""
    middle_s = timeline.seconds(np.arange(timeline.num_steps) + 0.5)
    return np.any([(middle_s >= a.start_s) & (middle_s < a.end_s) for a in spans] or [middle_s < 0], axis=0)


def words_that_differ(one, other):
    return (one.motion != other.motion) + (one.objects != other.objects) + (one.scene != other.scene)


def read(root, subset):
    """(video, unit features [T, D], inside [T], norms [T]) of every video of a subset."""
    store = FeatureStore(root / "features.h5")
    for video in read_annotations(root / "annotations.json").subset(subset):
        frames = store.read(video.video_id)
        inside = is_inside(video.actions, frames.timeline)
        yield video, unit(frames.features), inside, np.linalg.norm(frames.features, axis=1)


def off_diagonal(vectors):
    cosines = unit(vectors) @ unit(vectors).T
    return cosines[np.triu_indices(len(cosines), 1)]


def area_under_curve(scores, is_positive):
    """Chance that a positive scores above a negative."""
    rank = np.argsort(np.argsort(scores)) + 1
    positives, negatives = is_positive.sum(), (~is_positive).sum()
    return (rank[is_positive].sum() - positives * (positives + 1) / 2) / positives / negatives


def test_frames_have_the_statistics_of_real_clip_features(world):
    videos = list(read(world, "training"))
    norms = np.concatenate([norm for *_, norm in videos])
    assert norms.mean() == pytest.approx(10.6, abs=0.3)  # real: 10.9 as stated, 10.3 in the file beside it
    any_two = np.mean([off_diagonal(frames).mean() for _, frames, *_ in videos])
    assert any_two == pytest.approx(0.913, abs=0.015)
    centroids = [unit(np.stack([f[inside].mean(0), f[~inside].mean(0)])) for _, f, inside, _ in videos]
    assert np.mean([a @ b for a, b in centroids]) == pytest.approx(0.968, abs=0.01)


def test_cosine_falls_with_time_as_in_a_real_video(tmp_path, shared_data):
    # .980 is the cosine of adjacent *frames*; rows of a store are `stride` frames apart, in the real file .951 at 8.
    build_world(tmp_path, num_train=12, num_test=1, stride=1)
    real = unit(np.load(shared_data / "clip/v_GGSY1Qvo990_clip_vitb32_allframes.npy").astype(np.float32))
    real_fps, fps = len(real) / 18.16, 30.0

    def at_lag(frames, lag):
        return (frames[lag:] * frames[:-lag]).sum(axis=1).mean()

    synthetic = [frames for _, frames, *_ in read(tmp_path, "training")]
    assert np.mean([at_lag(frames, 1) for frames in synthetic]) == pytest.approx(0.980, abs=0.006)
    for lag_s in (0.2, 8 / 30, 0.5, 1.0, 2.0, 5.0):
        ours = np.mean([at_lag(frames, round(lag_s * fps)) for frames in synthetic])
        assert ours == pytest.approx(at_lag(real, round(lag_s * real_fps)), abs=0.012), f"at {lag_s} s"


def test_sentences_have_the_statistics_of_real_clip_text(world):
    text = load_text(world / "text.h5").embeddings.numpy()
    cosines = off_diagonal(text)
    assert cosines.mean() == pytest.approx(0.685, abs=0.03)
    assert cosines.min() > 0.397 - 0.05
    assert 0.85 < cosines.max() < 0.967 + 0.02


def test_sentences_of_real_names_have_them_too(shared_data):
    names = read_annotations(shared_data / "activitynet13/activity_net.v1-3.subset.json").classes
    space = Space(seed=0)
    cosines = off_diagonal(np.stack([space.text(compose(name)) for name in names]))
    assert len(names) == 200
    assert cosines.mean() == pytest.approx(0.685, abs=0.03)
    assert cosines.min() == pytest.approx(0.397, abs=0.12)
    assert cosines.max() == pytest.approx(0.967, abs=0.09)


def test_names_are_as_close_to_their_mean_as_real_ones(shared_data):
    real = unit(np.load(shared_data / "clip/anet200_clip_vitl14_text.npy").astype(np.float64))
    to_mean = real @ unit(real.mean(axis=0))
    assert np.quantile(to_mean, NAME_QUANTILES) == pytest.approx(NAME_COSINES, abs=5e-4)
    names = read_annotations(shared_data / "activitynet13/activity_net.v1-3.subset.json").classes
    space = Space(seed=0)
    ours = unit(np.stack([space.text(compose(name)) for name in names]))
    to_our_mean = ours @ unit(ours.mean(axis=0))
    assert to_our_mean.mean() == pytest.approx(to_mean.mean(), abs=0.015)  # .829
    assert to_our_mean.std() == pytest.approx(to_mean.std(), abs=0.004)  # .035


def test_image_text_agreement_is_high_everywhere_and_imperfect(world, plan):
    text = load_text(world / "text.h5")
    words, space = unit(text.embeddings.numpy()), Space(seed=0)
    strangers = [Composition(f"cake {i}", f"serving {i}", (f"cake {i}",), f"plate {i}") for i in range(20)]
    elsewhere = np.mean([unit(space.text(c, on_topic=False)) for c in strangers], axis=0)
    right, outside, unrelated, hits = [], [], [], []
    for video, frames, inside, _ in read(world, "validation"):
        labels = [text.names.index(a.label) for a in video.actions]
        logits = 100 * frames @ words.T
        right.append(logits[inside][:, labels[0]].mean())
        nobody_acts = ~inside & ~is_inside(plan.distractors[video.video_id], plan.timelines[video.video_id])
        outside.append(logits[nobody_acts][:, labels[0]].mean())
        unrelated.append(100 * (frames @ elsewhere).mean())
        for action, label in zip(video.actions, labels, strict=True):
            rows = slice(int(action.start_s * 3.75), int(action.end_s * 3.75) + 1)
            unseen = [label, *seeded(0, "others", label).choice(np.delete(np.arange(20), label), 4, replace=False)]
            hits.append(logits[rows].mean(axis=0)[unseen].argmax() == 0)
    assert 31 <= np.mean(right) <= 33.5
    assert np.mean(unrelated) == pytest.approx(15.5, abs=1.5)
    assert abs(np.mean(right) - np.mean(outside)) < 1.0  # the scene leaks: similarity hardly tells where the action is
    assert 0.5 < np.mean(hits) < 0.8  # of five classes


def test_actions_are_learnable_but_not_by_similarity_nor_told_from_distractors(world, plan):
    split, text = read_published_split(world / "splits", ratio=75, index=0), load_text(world / "text.h5")

    def rows(subset, names):
        """Frames less their video's mean, beside how much they change, for the videos of some classes."""
        parts, truths, strange, similarities = [], [], [], []
        for video, frames, inside, _ in read(world, subset):
            if {a.label for a in video.actions} <= set(names):
                centred = frames - frames.mean(axis=0)
                change = np.abs(np.diff(frames, axis=0, prepend=frames[:1]))
                parts.append(np.hstack([centred, change, np.ones((len(frames), 1))]))
                truths.append(inside)
                strange.append(is_inside(plan.distractors[video.video_id], plan.timelines[video.video_id]))
                similarities.append(frames @ unit(text.select([video.actions[0].label]).numpy())[0])
        return [np.concatenate(part) for part in (parts, truths, strange, similarities)]

    inputs, asked, distractor, _ = rows("training", split.seen)
    anything = asked | distractor
    weights = np.linalg.solve(inputs.T @ inputs + 3 * np.eye(inputs.shape[1]), inputs.T @ (2.0 * anything - 1))
    inputs, asked, distractor, similarity = rows("validation", split.unseen)
    found = inputs @ weights
    assert area_under_curve(found, asked | distractor) > 0.88
    acting = asked | distractor
    assert area_under_curve(found[acting], asked[acting]) == pytest.approx(0.5, abs=0.08)  # equally salient
    assert area_under_curve(similarity, asked) < 0.62


def test_distractors_are_of_no_class_and_many_differ_from_one_in_a_word(plan):
    for tag in ("train", "test"):
        events = [e for name, found in plan.distractors.items() if tag in name for e in found]
        actions = sum(len(v.actions) for name, v in plan.annotations.videos.items() if tag in name)
        assert 0.3 < len(events) / (len(events) + actions) < 0.45
        distances = [min(words_that_differ(e.composition, c) for c in CLASSES) for e in events]
        assert min(distances) == 1
        assert np.mean(np.array(distances) == 1) > 0.4
    for video_id, events in plan.distractors.items():
        spans = [(a.start_s, a.end_s) for a in plan.annotations.videos[video_id].actions]
        assert all(e.end_s < start or e.start_s > end for e in events for start, end in spans)
    paired = [c for c in CLASSES if any(words_that_differ(c, other) == 1 for other in CLASSES)]
    assert len(paired) >= 12


def test_a_repertoire_has_only_activities_that_are_no_class():
    rng = seeded(0)
    for _ in range(50):
        near, far = REPERTOIRE.near(CLASSES[0], rng), REPERTOIRE.far(rng)
        assert words_that_differ(near, CLASSES[0]) == 1
        assert all(words_that_differ(made, c) > 0 for made in (near, far) for c in CLASSES)
    jumps = [compose("HighJump"), compose("LongJump")]  # a jump, high or long, is always one of the two
    assert Repertoire(jumps, scenes_named=False).near(jumps[0], rng) is None
    assert Repertoire(jumps, scenes_named=False).far(rng) is None
    throws = Repertoire([compose("HammerThrow"), compose("CricketShot")], scenes_named=False)
    for made in (throws.near(throws.classes[0], rng), throws.far(rng)):
        assert (made.motion, made.objects) in [("throw", ("cricket",)), ("shot", ("hammer",))]


def test_distractors_in_gaps_keep_clear_and_are_as_long_as_actions():
    action = Event(5.0, 9.0, "action", CLASSES[0])
    taken = [(5.0, 9.0), (20.0, 24.0)]
    for seed in range(20):
        events = distractors_in_gaps([action] * 3, taken, 40.0, CLASSES[0], REPERTOIRE, seeded(seed))
        assert len(events) <= 3
        spans = sorted(taken + [(e.start_s, e.end_s) for e in events])
        assert all(after - before > 0.49 for (_, before), (after, _) in pairwise(spans))
        assert all(2.79 < e.end_s - e.start_s < 5.61 and e.start_s >= 0 and e.end_s <= 40 for e in events)
    assert distractors_in_gaps([action], [(0.0, 12.0)], 12.0, CLASSES[0], REPERTOIRE, seeded(0)) == []  # no room


def test_background_moves_at_any_time():
    events = background_motions(600.0, ["kicking"], seeded(0))
    assert 15 <= len(events) <= 45  # three a minute
    assert all(0 <= e.start_s < e.end_s <= 600 and e.kind == "background" for e in events)


def test_classes_share_their_words_and_splits_keep_them_learnable(world):
    assert len({c.name for c in CLASSES}) == 20
    for words in ([c.motion for c in CLASSES], [c.objects for c in CLASSES], [c.scene for c in CLASSES]):
        assert all(words.count(word) >= 2 for word in words)
    by_name = {c.name: c for c in CLASSES}
    for ratio, sizes in ((75, (15, 5)), (50, (10, 10))):
        drawn = [read_published_split(world / "splits", ratio=ratio, index=index) for index in range(10)]
        assert len({split.unseen for split in drawn}) == 10
        for split in drawn:
            split.check_against(by_name)
            assert (len(split.seen), len(split.unseen)) == sizes
            assert {by_name[n].motion for n in split.unseen} <= {by_name[n].motion for n in split.seen}
            assert {by_name[n].objects for n in split.unseen} <= {by_name[n].objects for n in split.seen}


def test_videos_hold_several_actions_and_some_hold_two_classes(world):
    annotations = read_annotations(world / "annotations.json")
    assert annotations.troubles == ()
    videos = list(annotations.videos.values())
    lengths_s = [a.end_s - a.start_s for video in videos for a in video.actions]
    assert np.mean([len(video.actions) for video in videos]) > 2.5  # beside as many that are not annotated, nearly
    assert min(lengths_s) >= 0.99
    assert max(lengths_s) <= 10.01
    assert 0.1 < np.mean([len({a.label for a in video.actions}) > 1 for video in videos]) < 0.35
    assert {video.subset for video in videos} == {"training", "validation"}


def test_hard_negatives_keep_clear_of_actions():
    taken = [(5.0, 9.0), (20.0, 24.0)]
    main = CLASSES[0]
    for seed in range(20):
        events = hard_negatives(taken, 40.0, main, seeded(seed))
        for event in events:
            assert event.kind in ("still", "idle")
            assert event.composition.objects == main.objects
            assert 0.5 <= event.start_s < event.end_s <= 39.5
            assert all(event.end_s <= start - 0.49 or event.start_s >= end + 0.49 for start, end in taken)
    assert hard_negatives([(0.0, 9.0), (10.0, 12.0)], 12.0, main, seeded(0)) == []  # no room


def test_same_arguments_make_the_same_bytes_and_others_do_not(tmp_path):
    sizes = {"num_train": 3, "num_test": 2, "dim": 64}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        build_world(tmp_path / name, seed=seed, **sizes)
    files = [read_record(tmp_path / name)["files"] for name in "abc"]
    assert files[0] == files[1]
    assert files[0]["features.h5"] != files[2]["features.h5"]
    assert [p.name for p in tmp_path.glob("*/.*")] == []  # nothing temporary stays


def test_world_is_rebuilt_only_when_something_differs(tmp_path):
    sizes = {"num_train": 2, "num_test": 1, "dim": 64}
    assert ensure_world(tmp_path / "w", **sizes)
    assert not ensure_world(tmp_path / "w", **sizes)
    assert ensure_world(tmp_path / "w", num_test=2)
    assert not ensure_world(tmp_path / "w")  # what was asked for once stays
    assert len(FeatureStore(tmp_path / "w" / "features.h5")) == 4
    (tmp_path / "w" / "text.h5").unlink()
    assert ensure_world(tmp_path / "w")
    assert len(FeatureStore(tmp_path / "w" / "features.h5")) == 4
    record = json.loads((tmp_path / "w" / "prepared.json").read_text())
    record["generator"]["version"] = 0  # made by an older psftr
    (tmp_path / "w" / "prepared.json").write_text(json.dumps(record))
    assert ensure_world(tmp_path / "w")


def test_world_leaves_other_data_alone(tmp_path):
    (tmp_path / "annotations.json").write_text("{}")
    with pytest.raises(PsftrError, match=r"holds a dataset without prepared.json: give the synthetic world a folder"):
        ensure_world(tmp_path)
    (tmp_path / "prepared.json").write_text('{"format": "psftr-prepared-1", "dataset": "thumos14", "files": {}}')
    with pytest.raises(PsftrError, match="holds thumos14: give the synthetic world a folder of its own"):
        ensure_world(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["annotations.json", "prepared.json"]


def test_bad_sizes_are_refused(tmp_path):
    with pytest.raises(PsftrError, match="at least one video"):
        ensure_world(tmp_path, num_test=0)
    with pytest.raises(PsftrError, match="lasts at least 15 s"):
        ensure_world(tmp_path, min_duration_s=5)


def test_every_file_says_synthetic(world):
    store, text = FeatureStore(world / "features.h5"), load_text(world / "text.h5")
    assert store.synthetic
    assert text.synthetic
    assert store.encoder == text.encoder == encoder_name(0, 512)
    assert store.encoder.startswith("synthetic:")
    assert read_record(world)["synthetic"] is True
    with h5py.File(world / "features.h5") as file:
        assert file.attrs["synthetic"]


def test_real_names_are_composed_of_their_words():
    assert compose("HammerThrow").motion == compose("JavelinThrow").motion == "throw"
    assert compose("CricketShot").objects == compose("CricketBowling").objects == ("cricket",)
    assert compose("CliffDiving").motion == compose("Diving").motion == "diving"
    assert compose("Putting on makeup") == Composition(
        "Putting on makeup", "putting", ("makeup",), compose("Putting on makeup").scene
    )
    assert compose("Billiards").objects == ("billiards",)


def test_features_over_real_timelines(tmp_path):
    fps, stride = 29.97, 16
    videos = {
        "one": Video("one", "val", 60.0, fps, (Action(5.0, 20.0, "HighJump"), Action(30.0, 41.0, "LongJump"))),
        "two": Video("two", "val", 40.0, fps, (Action(8.0, 12.0, "HighJump"),)),
        "bare": Video("bare", "val", 10.0, fps, ()),
    }
    annotations = Annotations(videos=videos, ignored={"two": (Action(20.0, 25.0, "Ambiguous"),)})
    timelines = {
        name: Timeline(stride, fps, int(v.duration_s * fps / stride), v.duration_s) for name, v in videos.items()
    }
    told = []
    simulate_features(
        annotations,
        timelines,
        tmp_path / "f.h5",
        tmp_path / "t.h5",
        seed=3,
        dim=64,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
    store, text = FeatureStore(tmp_path / "f.h5"), load_text(tmp_path / "t.h5")
    assert store.video_ids == ("bare", "one", "two")
    assert [len(store.read(name).features) for name in ("one", "two", "bare")] == [112, 74, 18]
    assert store.timeline("one") == timelines["one"]
    assert text.names == ("HighJump", "LongJump")
    # A video's frames do not depend on which others were asked for.
    only = {"two": timelines["two"]}
    simulate_features(annotations, only, tmp_path / "g.h5", tmp_path / "u.h5", seed=3, dim=64)
    assert np.array_equal(FeatureStore(tmp_path / "g.h5").read("two").features, store.read("two").features)


def test_twins_differ_in_the_order_of_their_motions_only(tmp_path):
    build_world(tmp_path, num_train=8, num_test=8, dim=64, twins=True)
    texts = json.loads((tmp_path / "descriptions.json").read_text())
    one, other = "activity 1", "activity 2"
    assert texts[one] == "It starts with throwing the ball on grass and ends with kicking it."
    assert texts[other] == "It starts with kicking the ball on grass and ends with throwing it."
    assert len(texts) == 8
    actions = [a for v in read_annotations(tmp_path / "annotations.json").videos.values() for a in v.actions]
    assert {a.label for a in actions} == set(texts)
    assert not (tmp_path / "splits").exists()
    # no sentence tells them apart but for its share of what all sentences have in common
    space = Space(seed=0, dim=64)
    heard = [space.heard("motion", motion, 0.2) for motion in ("kicking", "throwing")]
    unit = [text / np.linalg.norm(text) for text in (space.text(c) for c in twin_classes()[:2])]
    assert abs(unit[0] @ sum(heard) - unit[1] @ sum(heard)) < 0.2
    assert ensure_world(tmp_path) is False  # what is there stays, twins and all


def test_an_action_of_two_motions_shows_one_after_the_other():
    space = Space(seed=0, dim=64)
    first, _ = twin_classes()[:2]
    event = Event(10.0, 20.0, "action", first)
    rng = np.random.default_rng(0)
    rows = render(space, [event], main=first, clutter=[], steps=300, step_s=0.1, rng=rng)
    throwing, kicking = (rows @ space.word("motion", motion) for motion in ("throwing", "kicking"))
    early, late = slice(105, 135), slice(165, 195)
    assert throwing[early].mean() - throwing[late].mean() > 0.5
    assert kicking[late].mean() - kicking[early].mean() > 0.5


def test_noise_changes_descriptions_and_nothing_else(tmp_path):
    for name, noise in (("told", False), ("noise", True)):
        build_world(tmp_path / name, num_train=4, num_test=4, dim=64, twins=True, noise=noise)
    told, noise = (read_record(tmp_path / name)["files"] for name in ("told", "noise"))
    assert [name for name in told if told[name] != noise[name]] == ["descriptions.json"]
    texts = json.loads((tmp_path / "noise" / "descriptions.json").read_text())
    assert not any("throwing" in text for text in texts.values())
