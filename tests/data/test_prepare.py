"""`psftr prepare`: downloading over a loopback server, importing, checking, simulating and importing features."""

import hashlib
import json
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
from front_door import psftr

from psftr.data.annotations import read_annotations
from psftr.data.checks import summary
from psftr.data.datasets import DATASETS
from psftr.data.download import BASE_URL_VARIABLE, fetch
from psftr.data.prepare import import_features, prepare, simulate
from psftr.data.record import read_record
from psftr.data.sources import ACTIVITYNET13, THUMOS14, RemoteFile
from psftr.data.splits import ClassSplit, read_published_split, write_published_splits
from psftr.errors import PsftrError
from psftr.features.store import FeatureStore
from psftr.features.text import load_text

CLASSES = ("HighJump", "LongJump", "Diving", "CliffDiving")


@pytest.fixture
def server():
    """A loopback server of `server.files` (path -> bytes); `server.faults` (path -> list) spoils the next answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            httpd.asked.append(self.path)
            body = httpd.files.get(self.path)
            fault = httpd.faults[self.path].pop(0) if httpd.faults.get(self.path) else None
            if body is None or isinstance(fault, int):
                self.send_error(fault or 404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.files, httpd.faults, httpd.asked = {}, {}, []
    httpd.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield httpd
    httpd.shutdown()
    thread.join()
    httpd.server_close()


BODY = b"pole vault\n" * 9000
ADDRESS = "/someone/lists/abc123/a/list.txt"


def remote(body=BODY):
    return RemoteFile("someone/lists", "abc123", "a/list.txt", hashlib.sha256(body).hexdigest(), "sub/here.txt")


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_fetch_keeps_what_is_there_and_right(server, tmp_path):
    server.files[ADDRESS] = BODY
    assert fetch((remote(),), tmp_path, base=server.url, pause_s=0) == 1
    assert (tmp_path / "sub/here.txt").read_bytes() == BODY
    assert fetch((remote(),), tmp_path, base=server.url + "/", pause_s=0) == 0
    (tmp_path / "sub/here.txt").write_bytes(BODY[:100])  # somebody's editor
    assert fetch((remote(),), tmp_path, base=server.url, pause_s=0) == 1
    assert server.asked == [ADDRESS, ADDRESS]
    assert files_below(tmp_path) == ["sub/here.txt"]


@pytest.mark.parametrize("faults", [["cut"], [503, 500], [429, "cut"]])
def test_fetch_tries_again_after_a_passing_fault(server, tmp_path, faults):
    server.files[ADDRESS], server.faults[ADDRESS] = BODY, list(faults)
    fetch((remote(),), tmp_path, base=server.url, pause_s=0)
    assert (tmp_path / "sub/here.txt").read_bytes() == BODY
    assert len(server.asked) == len(faults) + 1


@pytest.mark.parametrize(
    ("body", "faults", "tries", "told"),
    [
        (None, [], 1, r"the server answers 404 Not Found; nothing of it was kept"),
        (BODY, ["cut"] * 3, 3, r"it ended after 49500 of 99000 bytes; nothing of it was kept"),
        (BODY + b"x", [], 1, r"its SHA-256 is [0-9a-f]{64}, not the pinned [0-9a-f]{64}; nothing of it was kept"),
    ],
)
def test_fetch_leaves_nothing_half_written(server, tmp_path, body, faults, tries, told):
    if body is not None:
        server.files[ADDRESS] = body
    server.faults[ADDRESS] = list(faults)
    with pytest.raises(PsftrError, match=told) as raised:
        fetch((remote(),), tmp_path, base=server.url, pause_s=0)
    assert "\n" not in str(raised.value)
    assert f"cannot fetch {server.url}{ADDRESS}" in str(raised.value)
    assert len(server.asked) == tries
    assert files_below(tmp_path) == []


def test_fetch_says_when_nobody_answers(tmp_path):
    with pytest.raises(PsftrError, match=r"cannot fetch http://127\.0\.0\.1:9/.*refused.*use --from DIR"):
        fetch((remote(),), tmp_path, base="http://127.0.0.1:9", pause_s=0)


def test_sources_are_pinned_completely():
    for dataset in (THUMOS14, ACTIVITYNET13):
        names = [file.name for file in dataset.files]
        assert len(set(names)) == len(names)
        assert sum(name.endswith(".list") for name in names) == 40
        assert all(len(file.sha256) == 64 and len(file.commit) == 40 for file in dataset.files)
        assert dataset.info_file in names
    by_name = {file.name: file for file in ACTIVITYNET13.files}
    assert by_name["splits/train_50_test_50/test/split_9.list"].path == (
        "splits/train_50_test_50/ActivityNet/test/split_9.list"
    )


def test_thumos14_arrives_over_the_network(server, tmp_path, shared_data, monkeypatch):
    for file in THUMOS14.files:
        path = "/" + file.url("")[1:]
        server.files[path] = (shared_data / "thumos14" / file.name).read_bytes()
    monkeypatch.setenv(BASE_URL_VARIABLE, server.url)
    done = psftr("prepare", "thumos14", cwd=tmp_path)
    root = tmp_path / "data/thumos14"
    assert "THUMOS14, downloaded from Run542968/GAP, into data/thumos14" in done.stdout
    assert "all files are the published ones (SHA-256)" in done.stdout
    assert (root / "annotations.json").read_bytes() == (shared_data / "thumos14/Thumos14_annotations.json").read_bytes()
    assert len(server.asked) == 42
    again = psftr("prepare", "thumos14", cwd=tmp_path)
    assert again.stdout == done.stdout
    assert len(server.asked) == 42  # nothing was fetched twice

    path = "/" + THUMOS14.files[0].url("")[1:]
    server.files[path] = server.files[path].replace(b"Billiards", b"Billiardo")
    failed = psftr("prepare", "thumos14", "--out", "other", cwd=tmp_path, check=False)
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1
    assert "not the pinned fae6ec67" in failed.stderr
    assert files_below(tmp_path / "other") == []


def test_thumos14_from_a_folder_names_every_known_trouble(tmp_path, shared_data):
    report = prepare("thumos14", tmp_path, source=shared_data / "thumos14")
    told = "\n".join(summary(report))
    assert "val: 200 videos, 3,007 actions, for training" in told
    assert "test: 213 videos, 3,358 actions, for testing" in told
    assert "20 classes, besides 188 'Ambiguous'" in told
    assert "10 splits 75/25: 15 seen and 5 unseen classes" in told
    assert "360 segments are labelled CliffDiving and Diving: on opposite sides in 4 of 10 splits 75/25, " in told
    assert "6 of 10 splits 50/50" in told
    assert "expected" not in told
    counts = {kind: len(cases) for kind, cases in report.troubles.items()}
    assert counts["segment past the end of the video"] == 30
    listed = json.loads((tmp_path / "troubles.json").read_text())
    assert [case["video_id"] for case in listed["test video that several published methods leave out"]] == [
        f"video_test_{number:07d}" for number in (270, 504, 814, 1292, 1496)
    ]
    assert [case["video_id"] for case in listed["video without a row in the info file"]] == ["video_test_0001292"]
    assert {kind: len(cases) for kind, cases in listed.items()} == counts
    record = read_record(tmp_path)
    assert record["synthetic"] is False
    assert record["files"]["annotations.json"] == THUMOS14.annotation_sha256


def test_activitynet13_from_a_folder(tmp_path, shared_data):
    report = prepare("activitynet13", tmp_path, source=shared_data / "activitynet13")
    told = "\n".join(summary(report))
    assert "training: 9,649 videos" in told
    assert "validation: 4,728 videos, 7,293 actions" in told
    assert "testing: 4,851 videos, 0 actions" in told
    assert "10 splits 50/50: 100 seen and 100 unseen classes; disjoint, complete, all names known" in told
    assert "all files are the published ones (SHA-256)" in told
    assert "expected" not in told


@pytest.fixture
def folder(tmp_path):
    """A THUMOS14 folder of three videos and four classes, laid out as the published one."""
    root = tmp_path / "published"
    root.mkdir()

    def video(subset, duration_s, *actions):
        rows = [{"segment": [start, end], "label": label} for start, end, label in actions]
        return {"subset": subset, "duration": duration_s, "fps": 30.0, "annotations": rows}

    database = {
        "video_a": video("val", 40.0, (5.0, 9.0, "HighJump"), (20.0, 41.0, "LongJump")),
        "video_b": video("val", 30.0, (3.0, 6.0, "Diving"), (3.0, 6.0, "CliffDiving")),
        "video_c": video("test", 20.0, (2.0, 2.0, "HighJump"), (4.0, 8.0, "Ambiguous"), (9.0, 12.0, "Diving")),
    }
    (root / "Thumos14_annotations.json").write_text(json.dumps({"classes": CLASSES, "database": database}))
    info = {
        name: {"video_fps": 30.0, "frame_length": int(length * 30), "snippet_length": int(length * 30) // 8}
        | {"frame_duration": length}
        for name, length in (("video_a", 40.0), ("video_b", 33.0))
    }
    (root / "Thumos14_info_8frame.json").write_text(json.dumps(info))
    for ratio, num_seen in ((75, 3), (50, 2)):
        for index in range(10):
            order = CLASSES[index % 4 :] + CLASSES[: index % 4]
            split = ClassSplit(order[:num_seen], order[num_seen:], "published", ratio, index)
            write_published_splits(root / "splits", [split])
    return root


def test_a_data_set_arrives_over_the_network(folder, server, tmp_path, monkeypatch):
    """The made-up folder, published by the loopback server under its own pins: what every contributor can run."""
    files = []
    for name in files_below(folder):
        content = (folder / name).read_bytes()
        files.append(RemoteFile("someone/world", "abc123", f"data/{name}", hashlib.sha256(content).hexdigest(), name))
        server.files[f"/someone/world/abc123/data/{name}"] = content
    pins = {file.name: file.sha256 for file in files}
    source = replace(
        THUMOS14,
        files=tuple(files),
        annotation_sha256=pins["Thumos14_annotations.json"],
        num_videos={"val": 2, "test": 1},
        num_actions={"val": 4, "test": 2},
        num_classes=4,
    )
    monkeypatch.setitem(DATASETS, "thumos14", replace(DATASETS["thumos14"], source=source))
    monkeypatch.setenv(BASE_URL_VARIABLE, server.url)
    done = psftr("prepare", "thumos14", cwd=tmp_path)
    assert "THUMOS14, downloaded from someone/world, into data/thumos14" in done.stdout
    assert "all files are the published ones (SHA-256)" in done.stdout
    assert "expected" not in done.stdout
    assert len(server.asked) == len(files) == 42
    root = tmp_path / "data/thumos14"
    assert (root / "annotations.json").read_bytes() == (folder / "Thumos14_annotations.json").read_bytes()
    assert read_record(root)["files"]["annotations.json"] == pins["Thumos14_annotations.json"]
    assert psftr("prepare", "thumos14", cwd=tmp_path).stdout == done.stdout
    assert len(server.asked) == 42  # nothing was fetched twice

    path = "/someone/world/abc123/data/Thumos14_annotations.json"
    server.files[path] = server.files[path].replace(b"Diving", b"Divong")
    failed = psftr("prepare", "thumos14", "--out", "other", cwd=tmp_path, check=False)
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1
    assert f"not the pinned {pins['Thumos14_annotations.json']}" in failed.stderr
    assert files_below(tmp_path / "other") == []


def test_import_checks_and_lists(folder, tmp_path):
    report = prepare("thumos14", tmp_path / "out", source=folder)
    assert {kind: [case.video_id for case in cases] for kind, cases in report.troubles.items()} == {
        "segment past the end of the video": ["video_a"],
        "two labels on one segment": ["video_b"],
        "segment without length": ["video_c"],
        "video without a row in the info file": ["video_c"],
        "length in annotations and info more than 2 s apart": ["video_b"],
    }
    told = summary(report)
    assert "  test: 1 videos, 2 actions (1 left out), for testing" in told
    assert "  expected 200 val videos, found 2" in told
    assert any(
        line.startswith("  other than the published files (SHA-256): Thumos14_annotations.json") for line in told
    )
    # Diving and CliffDiving are neighbours in the circle of four: apart in every other 50/50 split, and whenever one of
    # them is the single unseen class of a 75/25 split (indices 0, 3, 4, 7, 8).
    assert any("on opposite sides in 5 of 10 splits 75/25, 5 of 10 splits 50/50" in line for line in told)
    assert told[-1].startswith("Features: none yet")
    split = read_published_split(tmp_path / "out/splits", ratio=75, index=1)
    assert split.unseen == ("HighJump",)


def test_import_again_changes_nothing(folder, tmp_path):
    out = tmp_path / "out"
    for _ in range(2):
        simulate(prepare("thumos14", out, source=folder), dim=64)
        state = {name: (out / name).read_bytes() for name in files_below(out)}
        written_ns = (out / "features.h5").stat().st_mtime_ns
    simulate(prepare("thumos14", out, source=folder), dim=64)
    assert {name: (out / name).read_bytes() for name in files_below(out)} == state
    assert (out / "features.h5").stat().st_mtime_ns == written_ns  # not even simulated anew
    simulate(prepare("thumos14", out, source=folder), dim=64, seed=1)
    assert FeatureStore(out / "features.h5").encoder.endswith("seed1:dim64")


def test_simulated_features_follow_the_real_timelines_and_say_synthetic(folder, tmp_path):
    report = simulate(prepare("thumos14", tmp_path, source=folder), dim=64)
    store, text = FeatureStore(tmp_path / "features.h5"), load_text(tmp_path / "text.h5")
    # 40 s and, by the info file, 33 s at 30 fps, stride 8; video_c is not in it: its annotation says 20 s at 30 fps
    assert {name: store.timeline(name).num_steps for name in store.video_ids} == {
        "video_a": 150,
        "video_b": 123,
        "video_c": 75,
    }
    assert store.synthetic
    assert text.names == tuple(sorted(CLASSES))
    assert text.encoder == store.encoder
    assert read_record(tmp_path)["synthetic"] is True
    assert summary(report)[-1].startswith("Features: SYNTHETIC features, no numbers about real videos: 3 videos")
    only = simulate(report, dim=64, subset="val", limit=1)
    assert FeatureStore(tmp_path / "features.h5").video_ids == ("video_a",)
    with pytest.raises(PsftrError, match=r"no video is in subset 'train'; there are 'test', 'val'"):
        simulate(only, dim=64, subset="train")
    with pytest.raises(PsftrError, match="--limit must be at least 1, got 0"):
        simulate(only, dim=64, limit=0)
    assert FeatureStore(tmp_path / "features.h5").video_ids == ("video_a",)  # a refused call leaves them


def test_simulation_asks_for_disk_space_first(folder, tmp_path, monkeypatch):
    report = prepare("thumos14", tmp_path / "out", source=folder)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=30_000))
    with pytest.raises(PsftrError, match=r"need 0\.0 GB, .* left: write fewer with --subset or --limit"):
        simulate(report, dim=64)  # 348 rows of 128 bytes
    assert not (tmp_path / "out/features.h5").exists()


def test_real_features_are_imported_and_never_overwritten(folder, tmp_path):
    out, arrays = tmp_path / "out", tmp_path / "arrays"
    arrays.mkdir()
    np.save(arrays / "video_a.npy", np.full((150, 8), 0.5, np.float32))
    np.save(arrays / "video_b.npy", np.full((120, 8), 0.25, np.float32))
    report = simulate(prepare("thumos14", out, source=folder), dim=64)
    report = import_features(report, arrays, encoder="open_clip:ViT-B-16:openai")
    store = FeatureStore(out / "features.h5")
    assert (store.encoder, store.dim, store.synthetic) == ("open_clip:ViT-B-16:openai", 8, False)
    assert store.timeline("video_a").stride == 8
    assert not (out / "text.h5").exists()  # it belonged to the simulated ones
    expected = {
        "annotated video without features": ["video_c: subset test"],
        "features and info disagree about the number of rows": ["video_b: 120 rows, info says 123; the rows count"],
    }
    for again in (report, prepare("thumos14", out, source=folder)):
        for kind, told in expected.items():
            assert [f"{case.video_id}: {case.detail}" for case in again.troubles[kind]] == told
        assert again.features["synthetic"] is False
    for overwrite in (lambda: simulate(report), lambda: import_features(report, arrays, encoder="another")):
        with pytest.raises(PsftrError, match="holds features of open_clip:ViT-B-16:openai: move them away first"):
            overwrite()
    assert files_below(out) == [name for name in files_below(out) if not name.split("/")[-1].startswith(".")]


def test_bsn_files_become_activitynets_layout(folder, tmp_path):
    bsn = tmp_path / "bsn"
    bsn.mkdir()
    (folder / "splits").rename(bsn / "splits")
    ids = {"v_QOlSCBRmfWY": "training", "v_---9CpRcKoU": "validation"}
    entries = {}
    for number, key in enumerate(ids):
        rows = [{"segment": [1.0, 2.0 + i], "label": label} for i, label in enumerate(CLASSES[2 * number :][:2])]
        entries[key] = {"duration_second": 30.5, "duration_frame": 760, "annotations": rows, "feature_frame": 752}
    (bsn / "anet_anno_action.json").write_text(json.dumps(entries))
    rows = "".join(f"{key},760,30.5,25.0,24.9,{subset},752\n" for key, subset in ids.items())
    (bsn / "video_info_new.csv").write_text("video,numFrame,seconds,fps,rfps,subset,featureFrame\n" + rows)
    info = {"video_fps": 25.0, "frame_length": 760, "snippet_length": 47, "frame_duration": 30.4}
    (bsn / "ActivityNet13_info.json").write_text(json.dumps(dict.fromkeys(ids, info)))
    prepare("activitynet13", tmp_path / "out", source=bsn)
    annotations = read_annotations(tmp_path / "out/annotations.json")
    assert list(annotations.videos) == ["QOlSCBRmfWY", "---9CpRcKoU"]
    video = annotations.videos["QOlSCBRmfWY"]
    assert (video.subset, video.duration_s, [a.label for a in video.actions]) == (
        "training",
        30.5,
        ["HighJump", "LongJump"],
    )
    (bsn / "video_info_new.csv").write_text("video,subset\n")
    with pytest.raises(PsftrError, match=r"anet_anno_action.json and video_info_new.csv are not BSN's: KeyError"):
        prepare("activitynet13", tmp_path / "out", source=bsn)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            lambda f: (f / "Thumos14_annotations.json").unlink(),
            r"lacks Thumos14_annotations\.json: see data/README\.md",
        ),
        (
            lambda f: (f / "Thumos14_info_8frame.json").unlink(),
            r"lacks Thumos14_info_8frame\.json: see data/README\.md",
        ),
        (lambda f: (f / "Thumos14_annotations.json").write_text("{"), r"not valid JSON"),
        (lambda f: (f / "splits/train_50_test_50/test/split_3.list").unlink(), r"no published split 3 at"),
        (
            lambda f: (f / "splits/train_75_test_25/test/split_0.list").write_text("CliffDivin\n"),
            r"not among the 4 annotated classes: 'CliffDivin' \(nearest known: 'CliffDiving'\)",
        ),
        (
            lambda f: (f / "splits/train_75_test_25/train/split_0.list").write_text("HighJump\nDiving\n"),
            r"split 75/25 #0 \(published\): 'LongJump' on neither side",
        ),
    ],
)
def test_a_spoilt_folder_is_one_line_and_leaves_the_output_alone(folder, tmp_path, spoil, told):
    out = tmp_path / "out"
    prepare("thumos14", out, source=folder)
    before = {name: (out / name).read_bytes() for name in files_below(out)}
    spoil(folder)
    with pytest.raises(PsftrError, match=told) as raised:
        prepare("thumos14", out, source=folder)
    assert "\n" not in str(raised.value)
    assert {name: (out / name).read_bytes() for name in files_below(out)} == before


def test_folders_are_not_mixed_up(folder, tmp_path):
    prepare("thumos14", tmp_path / "out", source=folder)
    with pytest.raises(PsftrError, match="holds thumos14: give activitynet13 a folder of its own with --out"):
        prepare("activitynet13", tmp_path / "out", source=folder)
    with pytest.raises(PsftrError, match=r"no data set 'thumos', did you mean 'thumos14'\? psftr knows"):
        prepare("thumos", tmp_path / "new", source=folder)


def test_front_door(folder, tmp_path):
    done = psftr("prepare", "thumos14", "--from", "published", "--simulate-features", "--dim", "64", cwd=tmp_path)
    assert files_below(tmp_path / "data/thumos14")[:3] == ["annotations.json", "features.h5", "info.json"]
    assert "SYNTHETIC" in done.stdout
    done = psftr("prepare", "synthetic", "--num-train", "2", "--num-test", "1", "--dim", "64", cwd=tmp_path)
    assert done.stdout == "Synthetic world built in data/synthetic: 3 videos, synthetic:words-v2:seed0:dim64\n"
    for arguments, told in (
        (["--from", "nowhere"], "--from nowhere: no such folder"),
        (["--from", "published", "--features", "x"], "--features needs --encoder NAME"),
        (["--from", "published", "--features", "x", "--encoder", "e"], "--features x: no such folder"),
        (["--from", "published", "--features", "x", "--encoder", "e", "--simulate-features"], "exclude each other"),
    ):
        failed = psftr("prepare", "thumos14", "--out", "fresh", *arguments, cwd=tmp_path, check=False)
        assert failed.returncode == 2
        assert told in failed.stderr
        assert failed.stderr.count("\n") == 1


def test_help_needs_no_heavy_library():
    code = "import sys, psftr.cli.prepare; sys.exit(bool({'torch', 'numpy', 'h5py'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
