"""`psftr extract` as a user calls it: output, exit status, one line for every mistake."""

from __future__ import annotations

import sys

import h5py
import pytest
from clips import FASTSTART, numbered_clip
from extraction import TINY_CLIP

from psftr.cli import main
from psftr.features.store import FeatureStore

TINY = ["--model", str(TINY_CLIP), "--pretrained", "random", "--device", "cpu"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name in ("high", "low"):
        numbered_clip(folder / f"{name}.mp4", count=30, container_options=FASTSTART)
    return folder


def extract(*arguments) -> int:
    return main(["extract", *map(str, arguments)])


def test_help_has_an_example_for_each_use(capsys):
    with pytest.raises(SystemExit) as ended:
        extract("--help")
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for part in ("psftr extract videos/ --out features.h5", "--shard 3/8", "--pretrained random", "@list.txt"):
        assert part in text


def test_a_folder_to_a_store_and_again(videos, tmp_path, capsys):
    out = tmp_path / "new" / "features.h5"
    assert extract(videos, "--out", out, *TINY, "--stride", 5) == 0
    text = capsys.readouterr().out
    assert "2 videos, open_clip:tiny_clip@" in text
    assert ":random-seed0, fp32 on cpu, stride 5" in text
    assert "untrained weights: these features only try the pipeline" in text
    assert "2 videos written, 0 were there; 12 frames in" in text
    store = FeatureStore(out)
    assert store.video_ids == ("high", "low")
    assert store.timeline("low").num_steps == 6
    assert extract(videos, "--out", out, *TINY, "--stride", 5) == 0
    assert "0 videos written, 2 were there" in capsys.readouterr().out


def test_precision_and_projection_are_in_the_store(videos, tmp_path):
    out = tmp_path / "f.h5"
    assert (
        extract(videos / "low.mp4", "--out", out, *TINY, "--precision", "bf16", "--projection", "pre", "--seed", 7) == 0
    )
    assert FeatureStore(out).encoder.endswith(":random-seed7:pre-projection")
    assert FeatureStore(out).dim == 32
    with h5py.File(out) as file:
        facts = dict(file["videos/low"].attrs)
    assert (facts["precision"], facts["decoder"], facts["source"]) == ("bf16", "pyav", "low.mp4")
    assert "shortfall" not in facts


def test_bad_videos_are_named_and_make_the_exit_status_1(videos, tmp_path, capsys):
    whole = (videos / "high.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / "noise.mp4").write_bytes(b"no video")
    assert extract(tmp_path, videos, "--out", tmp_path / "f", *TINY) == 1
    told = capsys.readouterr()
    assert "3 videos written" in told.out
    assert "1 video fell short:\n  cut: declares 1.20 s, " in told.err
    assert "1 video failed:\n  noise: " in told.err
    assert "noise.mp4: not readable as a video" in told.err
    assert FeatureStore(tmp_path / "f").video_ids == ("cut", "high", "low")


def test_shards_go_to_one_folder(videos, tmp_path):
    for part in ("1/2", "2/2"):
        assert extract(videos, "--out", tmp_path / "f", *TINY, "--shard", part) == 0
    assert len(FeatureStore(tmp_path / "f")) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.mp4", "--out", "f.h5"], "video absent.mp4 not found"),
        (["@absent.txt", "--out", "f.h5"], "absent.txt"),
        (["{videos}", "--out", "f.h5", "--shard", "1/2"], "--shard needs a folder as --out, got the file f.h5"),
        (["{videos}", "--out", "f", "--shard", "3/2"], "shard '3/2' is not i/n with i from 1 to n"),
        (["{videos}", "--out", "f.h5", "--stride", "0"], "--stride must be at least 1, got 0"),
        (["{videos}", "--out", "f.h5", "--workers", "-1"], "--workers must be at least 1, got -1"),
        (["{videos}", "--out", "f.h5", "--model", "ViT-B/17"], "open_clip has no model 'ViT-B/17'; nearest: "),
        (["{videos}", "--out", "f.h5", *TINY, "--decoder", "torchcodec"], "decoder=torchcodec cannot be used"),
        (["{videos}", "--out", "f.h5", "--device", "gpu"], "device 'gpu' is unknown; try cpu or cuda"),
    ],
)
def test_mistakes_cost_one_line_and_exit_2(videos, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    assert extract(*(str(a).format(videos=videos) for a in arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("psftr extract: error: ")
    assert message in line


def test_the_real_videos(shared_data, tmp_path, capsys):
    assert extract(shared_data / "videos", "--out", tmp_path / "f.h5", *TINY, "--stride", 8, "--workers", 2) == 0
    assert "5 videos written, 0 were there; 355 frames in" in capsys.readouterr().out
    store = FeatureStore(tmp_path / "f.h5")
    assert [store.timeline(v).num_steps for v in store.video_ids] == [45, 53, 105, 76, 76]
    assert store.timeline("GGSY1Qvo990").duration_s == pytest.approx(18.16, abs=0.1)  # as ActivityNet has it
