"""Videos -> feature store: the same numbers as open_clip, every video accounted for, no kill that hurts."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import av
import h5py
import numpy as np
import pytest
import torch
from clips import FASTSTART, damaged_videos, numbered_clip
from conftest import SHARED_DATA
from extraction import extract_tiny, tiny_encoder

from psftr.errors import PsftrError
from psftr.features.extract import Progress, extract, find_videos, select_shard
from psftr.features.shards import ShardedStore
from psftr.features.store import FeatureStore

# More of each, for a night or a release: PSFTR_DAMAGED_VIDEOS=200 PSFTR_KILLS=50 pytest tests/test_extract.py -s
DAMAGED = int(os.environ.get("PSFTR_DAMAGED_VIDEOS", "60"))
KILLS = int(os.environ.get("PSFTR_KILLS", "6"))


@pytest.fixture(scope="module")
def encoder():
    return tiny_encoder()


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Twelve clips of 20 to 42 frames."""
    folder = tmp_path_factory.mktemp("videos")
    for k in range(12):
        numbered_clip(folder / f"clip_{k:02d}.mp4", count=20 + 2 * k, container_options=FASTSTART)
    return folder


def contents(out: Path) -> dict[str, np.ndarray]:
    store = FeatureStore(out)
    assert store.incomplete == ()
    return {video_id: store.read(video_id).features for video_id in store.video_ids}


@pytest.mark.parametrize(("workers", "takes_turns"), [(1, False), (3, False), (2, True)])
def test_features_are_open_clips_own(videos, tmp_path, encoder, monkeypatch, workers, takes_turns):
    monkeypatch.setattr("psftr.features.extract._takes_turns", lambda device: takes_turns)
    report = extract_tiny(videos, tmp_path / "f.h5", encoder=encoder, workers=workers)
    assert len(report.written) == 12
    assert (report.skipped, report.failed, report.shortfalls) == ((), (), ())
    store = FeatureStore(tmp_path / "f.h5")
    assert (store.encoder, store.dim, store.synthetic) == (encoder.identity, 16, False)
    for k in (0, 7):
        with av.open(str(videos / f"clip_{k:02d}.mp4")) as container:
            images = [frame.to_image() for frame in container.decode(video=0)]
        shown = images[2::4]  # centres of strides of 4: 2, 6, 10 …; 20 and 34 frames
        shown += images[-1:] if len(images) % 4 in (1, 2) else []
        expected = encoder.encode_image(torch.stack([encoder.preprocess(image) for image in shown]))
        video = store.read(f"clip_{k:02d}")
        assert video.features.shape == (-(-len(images) // 4), 16)
        assert (video.stride, video.fps, video.num_frames) == (4, 25.0, len(images))
        assert video.duration_s == pytest.approx(len(images) / 25)
        np.testing.assert_allclose(video.features, expected.numpy(), atol=2e-3, rtol=0)  # float16 on disk


def test_float32_features_agree_to_1e_5(videos, tmp_path, encoder):
    store = ShardedStore(tmp_path / "f", encoder=encoder.identity, dim=16, stride=5, dtype="float32")
    one = find_videos([videos / "clip_03.mp4"])
    extract(one, encoder=encoder, store=store, batch_size=3)
    with av.open(str(one[0].path)) as container:
        images = [frame.to_image() for frame in container.decode(video=0)]  # 26: rows 2, 7, 12, 17, 22, 25
    assert len(images) == 26
    expected = encoder.encode_image(torch.stack([encoder.preprocess(images[k]) for k in (2, 7, 12, 17, 22, 25)]))
    np.testing.assert_allclose(contents(tmp_path / "f")["clip_03"], expected.numpy(), atol=1e-5, rtol=0)


def test_a_folder_and_a_file_hold_the_same_and_a_second_run_skips(videos, tmp_path, encoder):
    extract_tiny(videos, tmp_path / "folder", encoder=encoder)
    extract_tiny(videos, tmp_path / "file.h5", encoder=encoder)
    folder, file = contents(tmp_path / "folder"), contents(tmp_path / "file.h5")
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == [f"{v}.h5" for v in folder]
    assert not (tmp_path / "file.h5.parts").exists()
    assert folder.keys() == file.keys()
    assert all(np.array_equal(folder[v], file[v]) for v in folder)
    for out in ("folder", "file.h5"):
        again = extract_tiny(videos, tmp_path / out, encoder=encoder)
        assert (len(again.skipped), again.written, again.num_frames_encoded) == (12, (), 0)


def test_a_file_grows_by_new_videos(videos, tmp_path, encoder):
    for _ in range(2):
        store = ShardedStore(tmp_path / "f.h5", encoder=encoder.identity, dim=16, stride=4)
        extract(find_videos([videos])[:5], encoder=encoder, store=store)
    before = contents(tmp_path / "f.h5")
    report = extract_tiny(videos, tmp_path / "f.h5", encoder=encoder)
    after = contents(tmp_path / "f.h5")
    assert (len(report.skipped), len(report.written), len(after)) == (5, 7, 12)
    assert all(np.array_equal(before[v], after[v]) for v in before)


def test_shards_of_several_machines_are_one_store(videos, tmp_path, encoder):
    found = find_videos([videos])
    shards = [select_shard(found, f"{i}/3") for i in (1, 2, 3)]
    assert sorted(v.video_id for shard in shards for v in shard) == [v.video_id for v in found]
    assert {len(shard) for shard in shards} == {4}
    for shard in shards:
        store = ShardedStore(tmp_path / "all", encoder=encoder.identity, dim=16, stride=4)
        assert len(extract(shard, encoder=encoder, store=store).written) == 4
    assert len(FeatureStore(tmp_path / "all")) == 12
    for bad in ("0/3", "4/3", "1", "a/b", "-1/2"):
        with pytest.raises(PsftrError, match="is not i/n with i from 1 to n"):
            select_shard(found, bad)


def test_a_store_of_another_encoder_or_stride_is_not_added_to(videos, tmp_path, encoder):
    extract_tiny(videos / "clip_00.mp4", tmp_path / "f.h5", encoder=encoder)
    with pytest.raises(PsftrError, match=r"f\.h5 holds stride 4, not 8; choose another --out"):
        ShardedStore(tmp_path / "f.h5", encoder=encoder.identity, dim=16, stride=8)
    with pytest.raises(PsftrError, match=r"holds open_clip:tiny_clip@\w+:random-seed0 with 16 .*, not other with 9"):
        ShardedStore(tmp_path / "f.h5", encoder="other", dim=9, stride=4)
    with pytest.raises(PsftrError, match=r"a file that does not end in \.h5"):
        ShardedStore(videos / "clip_00.mp4", encoder="e", dim=1, stride=4)


def test_a_damaged_shard_is_extracted_again(videos, tmp_path, encoder):
    extract_tiny(videos, tmp_path / "f", encoder=encoder)
    whole = contents(tmp_path / "f")
    shard = tmp_path / "f" / "clip_05.h5"
    shard.write_bytes(shard.read_bytes()[:700])
    report = extract_tiny(videos, tmp_path / "f", encoder=encoder)
    assert report.written == ("clip_05",)
    assert all(np.array_equal(whole[v], features) for v, features in contents(tmp_path / "f").items())


def test_finding_videos(videos, tmp_path):
    (tmp_path / "list.txt").write_text(f"# two of them\n{videos / 'clip_01.mp4'}\n\nbeside.mp4\n")
    shutil.copy(videos / "clip_00.mp4", tmp_path / "beside.mp4")
    (tmp_path / "notes.md").write_text("not a video")
    assert [v.video_id for v in find_videos([f"@{tmp_path / 'list.txt'}"])] == ["beside", "clip_01"]
    assert [v.video_id for v in find_videos([tmp_path])] == ["beside"]
    assert len(find_videos([videos, videos / "clip_01.mp4", videos])) == 12
    with pytest.raises(PsftrError, match=r"video absent\.mp4 not found"):
        find_videos(["absent.mp4"])
    (tmp_path / "list.txt").write_text("gone.mp4")
    with pytest.raises(PsftrError, match=r"gone\.mp4 not found \(listed in .*list\.txt\)"):
        find_videos([f"@{tmp_path / 'list.txt'}"])
    shutil.copy(videos / "clip_00.mp4", tmp_path / "clip_01.mkv")
    with pytest.raises(PsftrError, match=r"two files of one video id 'clip_01': .* and .*; rename one"):
        find_videos([tmp_path / "clip_01.mkv", videos])
    (tmp_path / "none").mkdir()
    with pytest.raises(PsftrError, match="holds no video"):
        find_videos([tmp_path / "none"])


def test_progress_ends_where_it_said_it_would(videos, tmp_path, encoder):
    states: list[Progress] = []
    report = extract_tiny(videos, tmp_path / "f", encoder=encoder, progress=states.append)
    last = states[-1]
    assert (last.videos_done, last.videos_total) == (12, 12)
    assert (
        last.rows_done
        == last.rows_expected
        == report.num_frames_encoded
        == sum(map(len, contents(tmp_path / "f").values()))
    )
    assert last.seconds_left == 0
    assert [s.rows_done for s in states] == sorted(s.rows_done for s in states)
    assert Progress(0, 2, 0, 0.0, 1.0).seconds_left is None
    assert Progress(1, 2, 50, 150.0, 5.0).seconds_left == pytest.approx(10)  # 10 frames/s, 100 to go


def test_a_full_disk_ends_the_run_with_the_reason(videos, tmp_path, encoder, monkeypatch):
    def full(self, *_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ShardedStore, "add", full)
    with pytest.raises(OSError, match="No space left on device"):
        extract_tiny(videos, tmp_path / "f", encoder=encoder)


def test_damaged_videos_end_in_a_named_error_or_a_reported_shortfall(tmp_path, encoder, shared_data_or_none):
    originals = {}
    if shared_data_or_none is not None:
        folder = shared_data_or_none / "videos"
        originals = {folder / "v_GGSY1Qvo990.mp4": 355, folder / "video_validation_0000986.mp4": 603}
    made = damaged_videos(tmp_path / "damaged", count=DAMAGED, originals=originals)
    listing = tmp_path / "list.txt"
    listing.write_text("\n".join(str(video.path) for video in made))
    report = extract_tiny(f"@{listing}", tmp_path / "f.h5", encoder=encoder, stride=16, workers=2)
    failed, short = dict(report.failed), dict(report.shortfalls)
    store = FeatureStore(tmp_path / "f.h5")
    assert len(failed) + len(report.written) == len(made)
    with h5py.File(tmp_path / "f.h5") as file:
        told = {name: group.attrs.get("shortfall") for name, group in file["videos"].items()}
    for video in made:
        name = video.path.stem
        if name in failed:
            assert name in failed[name], f"{video.kind}: the error does not name the file: {failed[name]}"
            assert "\n" not in failed[name]
            assert not video.is_harmless, f"{video.kind}: {failed[name]}"
            continue
        summary = store.read(name)
        assert len(summary.features) == -(-summary.num_frames // 16), video.kind
        assert told[name] == (str(short[name]) if name in short else None)
        if name not in short:
            assert summary.num_frames >= video.true_frames, f"silently short: {video.kind}"
        assert not (video.is_harmless and name in short), f"{video.kind}: {short.get(name)}"
    print(f"{len(made)} damaged videos: {len(failed)} errors, {len(short)} shortfalls, {len(report.written)} written")
    assert len(failed) >= DAMAGED // 5
    assert len(short) >= DAMAGED // 5


@pytest.fixture(scope="module")
def shared_data_or_none():
    return SHARED_DATA if SHARED_DATA.is_dir() else None


def test_killed_at_random_moments_nothing_finished_is_lost_and_nothing_half_written_kept(videos, tmp_path):
    chance = random.Random(1)
    context = multiprocessing.get_context("forkserver")  # children start in no time, with the libraries loaded
    context.set_forkserver_preload(["extraction", "open_clip", "torch"])
    whole = tmp_path / "whole"
    assert _run_child(context, videos, whole, kill_after_s=None) == 0
    expected = contents(whole)
    started = time.monotonic()
    _run_child(context, videos, tmp_path / "warm", kill_after_s=None)
    lasts_s = time.monotonic() - started
    finished = killed = 0
    for number in range(KILLS):
        out = tmp_path / ("store.h5" if number % 2 else "store")
        folder = tmp_path / "store.h5.parts" if number % 2 else out
        before = {p.name: p.read_bytes() for p in folder.glob("*.h5")} if folder.is_dir() else {}
        ended = _run_child(context, videos, out, kill_after_s=chance.uniform(0, lasts_s))
        killed += ended == -signal.SIGKILL
        assert ended in (0, -signal.SIGKILL)
        held = _check(out, folder, expected)
        kept = {p.name: p.read_bytes() for p in folder.glob("*.h5")} if folder.is_dir() else {}
        merged = out.is_file()
        assert merged or all(kept.get(name) == data for name, data in before.items()), "a finished video was lost"
        if len(held) == len(expected) and (not number % 2 or merged):
            finished += 1
            shutil.rmtree(out) if out.is_dir() else out.unlink()  # and from the start again
    assert killed >= KILLS // 4
    for out in (tmp_path / "store", tmp_path / "store.h5"):
        assert _run_child(context, videos, out, kill_after_s=None) == 0
        assert contents(out).keys() == expected.keys()
    assert not list(tmp_path.rglob(".*.part"))
    print(f"{KILLS} runs, {killed} killed, {finished} stores completed in between")


def _run_child(context, videos: Path, out: Path, *, kill_after_s: float | None) -> int:
    child = context.Process(target=extract_tiny, args=(videos, out))
    child.start()
    child.join(kill_after_s)
    if child.is_alive() and kill_after_s is not None:
        os.kill(child.pid, signal.SIGKILL)
    child.join(120)
    return child.exitcode


def _check(out: Path, folder: Path, expected: dict[str, np.ndarray]) -> set[str]:
    """Whatever is there is whole and right; returns the videos."""
    held: dict[str, np.ndarray] = {}
    for place in {out, folder}:
        if place.is_file() or (place.is_dir() and any(place.glob("*.h5"))):
            held.update(contents(place))
    for video_id, features in held.items():
        np.testing.assert_array_equal(features, expected[video_id])
    return set(held)
