import json
import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import h5py
import numpy as np
import pytest

from psftr.errors import PsftrError
from psftr.features.arrays import import_npy_folder, read_info
from psftr.features.store import FeatureStore, FeatureWriter
from psftr.segments import Timeline


def write(path, lengths, *, dim=4, stride=8, encoder="test", **how):
    with FeatureWriter(path, encoder=encoder, dim=dim, **how) as writer:
        for video_id, length in lengths.items():
            rows = np.arange(length * dim, dtype=np.float32).reshape(length, dim)
            facts = {
                "stride": stride,
                "fps": 25.0,
                "num_frames": length * stride + 3,
                "duration_s": length * stride / 25,
            }
            writer.write(video_id, rows, **facts)
    return path


def test_what_was_written_is_read(tmp_path):
    store = FeatureStore(write(tmp_path / "f.h5", {"b": 3, "a": 2}))
    assert store.video_ids == ("a", "b")
    assert (store.encoder, store.dim, store.synthetic, len(store)) == ("test", 4, False, 2)
    assert store.timeline("b") == Timeline(8, 25.0, 3, 0.96)
    video = store.read("b")
    assert video.features.dtype == np.float32
    assert video.features.tolist() == np.arange(12.0).reshape(3, 4).tolist()
    assert (video.num_frames, video.timeline) == (27, store.timeline("b"))
    assert store.read_rows("b", 1, 3).dtype == np.float16  # the default on disk
    assert store.read_rows("b", 1, 3).tolist() == video.features[1:3].tolist()
    with h5py.File(store.path) as file:
        assert dict(file.attrs)["format"] == "psftr-features"
        assert file["videos/a/features"].chunks is None
    assert FeatureStore(write(tmp_path / "s.h5", {"a": 1}, synthetic=True)).synthetic


def test_ids_are_joined_with_and_without_v(tmp_path):
    store = FeatureStore(write(tmp_path / "f.h5", {"v_QOlSCBRmfWY": 2}))
    assert store.video_ids == ("QOlSCBRmfWY",)
    assert "QOlSCBRmfWY" in store
    assert "v_QOlSCBRmfWY" in store
    assert store.read("v_QOlSCBRmfWY").video_id == "QOlSCBRmfWY"


def test_an_absent_video_is_an_error(tmp_path):
    with pytest.raises(PsftrError, match=r"no features of video 'c' \(1 videos there\)"):
        FeatureStore(write(tmp_path / "f.h5", {"a": 1})).read("c")


def test_shards_read_as_one_store_with_the_same_identity(tmp_path):
    whole = FeatureStore(write(tmp_path / "whole.h5", {"a": 2, "b": 3}))
    (tmp_path / "shards").mkdir()
    write(tmp_path / "shards/1.h5", {"b": 3})
    write(tmp_path / "shards/2.hdf5", {"a": 2})
    shards = FeatureStore(tmp_path / "shards")
    assert shards.video_ids == whole.video_ids
    assert shards.identity == whole.identity
    assert whole.identity.startswith("test dim=4 stride=8 videos=2 ")
    np.testing.assert_array_equal(shards.read("b").features, whole.read("b").features)
    assert FeatureStore(write(tmp_path / "other.h5", {"a": 2, "b": 4})).identity != whole.identity
    write(tmp_path / "shards/3.h5", {"a": 2})
    with pytest.raises(PsftrError, match=r"video 'a' is in 2.hdf5 and in 3.h5"):
        FeatureStore(tmp_path / "shards")
    (tmp_path / "shards/3.h5").unlink()
    write(tmp_path / "shards/3.h5", {"c": 2}, encoder="another")
    with pytest.raises(PsftrError, match=r"shards disagree: 1.h5 has .*'test'.*3.h5 has .*'another'"):
        FeatureStore(tmp_path / "shards")


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(PsftrError, match="no feature store there"):
        FeatureStore(tmp_path / "absent.h5")
    with pytest.raises(PsftrError, match=r"no .h5 or .hdf5 file in this directory"):
        FeatureStore(tmp_path)
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(PsftrError, match=r"text.h5: not readable as HDF5"):
        FeatureStore(tmp_path / "text.h5")
    path = write(tmp_path / "f.h5", {"a": 1})
    for name, value, message in [
        ("version", 2, "version 2, this psftr reads version 1; update psftr"),
        ("version", 0, "version 0, .*; extract again"),
        ("format", "other", "format is 'other', not 'psftr-features'"),
    ]:
        with h5py.File(path, "a") as file:
            before = file.attrs[name]
            file.attrs[name] = value
        with pytest.raises(PsftrError, match=message):
            FeatureStore(path)
        with h5py.File(path, "a") as file:
            file.attrs[name] = before


def test_wrong_contents_name_the_video(tmp_path):
    path = write(tmp_path / "f.h5", {"a": 3, "b": 3})
    with h5py.File(path, "a") as file:
        file["videos/a/features"][1, 2] = np.nan
    store = FeatureStore(path)
    assert store.read("b").features.shape == (3, 4)
    with pytest.raises(PsftrError, match=r"f.h5: video 'a' has non-finite features at row 1"):
        store.read("a")
    with pytest.raises(PsftrError, match=r"at row 1"):
        store.read_rows("a", 1, 3)
    store.close()
    with h5py.File(path, "a") as file:
        file["videos/b"].attrs["fps"] = 0.0
    with pytest.raises(PsftrError, match=r"video 'b': fps must be a positive number, got 0.0"):
        FeatureStore(path)
    with h5py.File(path, "a") as file:
        file["videos/b"].attrs["fps"] = 25.0
        del file["videos/b/features"]
        file["videos/b/features"] = np.zeros((3, 5))
    with pytest.raises(PsftrError, match=r"video 'b': features must be \[T >= 1, 4\], got \[3, 5\]"):
        FeatureStore(path)


def test_what_a_crashed_writer_left_is_reported_and_written_anew(tmp_path):
    path = tmp_path / "f.h5"
    script = f"""
import os, h5py, numpy as np
from psftr.features.store import FeatureWriter
writer = FeatureWriter({str(path)!r}, encoder="test", dim=4)
writer.write("done", np.ones((2, 4)), stride=8, fps=25.0, num_frames=16, duration_s=0.64)
writer._videos.create_group("half")["features"] = np.ones((2, 4))
writer._file.flush()
os._exit(1)
"""
    subprocess.run([sys.executable, "-c", script], check=False)
    store = FeatureStore(path)
    assert store.video_ids == ("done",)
    assert store.incomplete == ("half",)
    assert "half" not in store
    with FeatureWriter(path, encoder="test", dim=4, append=True) as writer:
        assert "done" in writer
        assert "half" not in writer
        writer.write("half", np.ones((5, 4)), stride=8, fps=25.0, num_frames=40, duration_s=1.6)
    again = FeatureStore(path)
    assert again.incomplete == ()
    assert again.timeline("half").num_steps == 5


def test_the_writer_refuses_what_a_reader_would(tmp_path):
    facts = {"stride": 8, "fps": 25.0, "num_frames": 16, "duration_s": 0.64}
    with FeatureWriter(tmp_path / "f.h5", encoder="test", dim=4) as writer:
        for rows, changed, message in [
            (np.ones((2, 5)), {}, r"features must be \[T >= 1, 4\], got \[2, 5\]"),
            (np.ones((0, 4)), {}, r"got \[0, 4\]"),
            (np.full((2, 4), np.inf), {}, "not finite"),
            (np.full((2, 4), 1e6), {}, r"not finite \(as float16\)"),
            (np.ones((2, 4)), {"stride": 0}, "stride must be a positive whole number, got 0"),
            (np.ones((2, 4)), {"duration_s": float("nan")}, "duration_s must be a positive number"),
        ]:
            with pytest.raises(PsftrError, match=f"video 'a': .*{message}|video 'a': {message}"):
                writer.write("a", rows, **{**facts, **changed})
        writer.write("a", np.ones((2, 4)), **facts)
        with pytest.raises(PsftrError, match="'a' is in the store already"):
            writer.write("a", np.ones((2, 4)), **facts)
        with pytest.raises(PsftrError, match="must not contain '/'"):
            writer.write("a/b", np.ones((2, 4)), **facts)
    with pytest.raises(PsftrError, match="exists already"):
        FeatureWriter(tmp_path / "f.h5", encoder="test", dim=4)
    with pytest.raises(PsftrError, match=r"was made with .*'dim': 4.*not with .*'dim': 5"):
        FeatureWriter(tmp_path / "f.h5", encoder="test", dim=5, append=True)
    with pytest.raises(PsftrError, match="float16 or float32, got 'int8'"):
        FeatureWriter(tmp_path / "g.h5", encoder="test", dim=4, dtype="int8")


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork")
def test_a_store_in_use_survives_a_fork(tmp_path):
    store = FeatureStore(write(tmp_path / "f.h5", {"a": 50, "b": 60}, dtype="float32"))
    sums = {v: float(store.read(v).features.sum()) for v in "ab"}  # the file is open now
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(target=lambda: answers.put(float(store.read("b").features.sum())))
    process.start()
    process.join(timeout=30)
    assert process.exitcode == 0
    assert answers.get() == sums["b"]
    assert store.read("a").features.sum() == sums["a"]


def test_a_store_in_use_survives_pickling(tmp_path):
    store = FeatureStore(write(tmp_path / "f.h5", {"a": 50, "b": 60}))
    first = store.read("a").features
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).read("a").features, first)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        np.testing.assert_array_equal(pool.submit(store.read, "a").result(timeout=60).features, first)


@pytest.fixture
def folder(tmp_path):
    """Arrays a, b, c; info of a, b, d, in which b has another length."""
    (tmp_path / "npy").mkdir()
    for name, length in (("a", 3), ("b", 5), ("c", 2)):
        np.save(tmp_path / f"npy/{name}.npy", np.full((length, 4), length, dtype=np.float32))
    row = {"video_fps": 25.0, "frame_length": 24, "snippet_length": 3, "frame_duration": 0.96, "snippet_duration": 0.96}
    (tmp_path / "info.json").write_text(json.dumps({"a": row, "b": row, "d": row}))
    return tmp_path


def test_importing_a_folder_reports_every_mismatch(folder):
    report = import_npy_folder(folder / "npy", folder / "info.json", folder / "f.h5", encoder="clip", stride=8)
    assert (report.imported, report.without_array, report.without_info) == (("a", "b"), ("d",), ("c",))
    assert report.other_length == (("b", 5, 3),)
    store = FeatureStore(folder / "f.h5")
    assert store.timeline("a") == Timeline(8, 25.0, 3, 0.96)
    assert store.read("b").features.shape == (5, 4)


def test_pickled_or_misshapen_arrays_are_refused(folder):
    np.save(folder / "npy/a.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(PsftrError, match=r"a.npy: not a plain array, and pickled ones are refused"):
        import_npy_folder(folder / "npy", folder / "info.json", folder / "f.h5", encoder="clip", stride=8)
    np.save(folder / "npy/a.npy", np.ones(4))
    with pytest.raises(PsftrError, match=r"a.npy: expected floats \[T, D\], got float64 \[4\]"):
        import_npy_folder(folder / "npy", folder / "info.json", folder / "f.h5", encoder="clip", stride=8)
    with pytest.raises(PsftrError, match=r"none of its 0 .npy files is a video of"):
        import_npy_folder(folder, folder / "info.json", folder / "f.h5", encoder="clip", stride=8)


def test_info_of_the_real_datasets(shared_data):
    thumos = read_info(shared_data / "thumos14/Thumos14_info_8frame.json")
    assert len(thumos) == 412
    assert thumos["video_test_0000672"].timeline(8) == Timeline(8, 30.0, 153, 40.9)
    assert len(read_info(shared_data / "activitynet13/ActivityNet13_info.json")) == 14950


def test_wrong_info_names_the_video(tmp_path):
    (tmp_path / "info.json").write_text('{"a": {"video_fps": 25}}')
    with pytest.raises(PsftrError, match="video 'a': needs positive video_fps, frame_length"):
        read_info(tmp_path / "info.json")
