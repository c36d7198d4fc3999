"""Decoding: the right picture in every row, the right timeline, and nothing lost in silence."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import av
import numpy as np
import pytest
import torch
from clips import FASTSTART, SOURCES, number_of, numbered_clip, numbered_frames, write_clip

from psftr.errors import PsftrError
from psftr.features.video import VideoError, num_rows, probe_video, row_frame, sample_video


def sample(path, stride=1, **how):
    frames = []
    summary = sample_video(path, stride=stride, emit=frames.append, **how)
    assert [frame.row for frame in frames] == list(range(summary.num_rows))
    return summary, frames


def numbers(frames):
    return [number_of(frame.rgb) for frame in frames]


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return numbered_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", container_options=FASTSTART)


@pytest.mark.parametrize(
    ("count", "stride", "expected"),
    [
        (60, 8, [4, 12, 20, 28, 36, 44, 52, 59]),  # the last row covers 56..59 and would show 60
        (56, 8, [4, 12, 20, 28, 36, 44, 52]),
        (57, 8, [4, 12, 20, 28, 36, 44, 52, 56]),
        (5, 3, [1, 4]),
        (4, 1, [0, 1, 2, 3]),
        (1, 8, [0]),
        (3, 8, [2]),
    ],
)
def test_each_row_shows_the_centre_of_its_frames(tmp_path, count, stride, expected):
    summary, frames = sample(numbered_clip(tmp_path / "c.mp4", count=count), stride)
    assert numbers(frames) == expected
    assert summary.num_rows == num_rows(count, stride) == len(expected)
    assert [row_frame(row, stride=stride, num_frames=count) for row in range(len(expected))] == expected
    assert (summary.num_frames, summary.fps, summary.shortfall) == (count, 25.0, None)
    assert summary.duration_s == pytest.approx(count / 25)
    assert frames[0].time_s == pytest.approx(expected[0] / 25)


@pytest.mark.parametrize("name", SOURCES)
def test_every_frame_of_every_container_in_order(tmp_path, name):
    summary, frames = sample(SOURCES[name](tmp_path / name))
    # Lossy codecs miss the level by less than a step or so; the order must be right all the same.
    assert np.abs(np.array(numbers(frames)) - np.arange(60)).max() <= 1
    assert (summary.num_frames, summary.fps, summary.shortfall) == (60, 25.0, None)


def test_reordered_pictures_and_threads_do_not_matter(tmp_path):
    path = numbered_clip(tmp_path / "b.mp4", options={"crf": "1", "bf": "3"})
    assert numbers(sample(path)[1]) == list(range(60)) == numbers(sample(path, threads=0)[1])


def test_variable_rate_follows_the_timestamps(tmp_path):
    # Six frames in 1.1 s and one mean step (0.22 s) for the last: 1.32 s, so ticks of 0.22 s centred at 0.11, 0.33 …
    # On screen then: frame 1 (from 0.1), 3 (0.3) until 1.0, and 5 (1.1) at 1.21.
    path = numbered_clip(tmp_path / "v.mkv", count=6, times_s=[0, 0.1, 0.2, 0.3, 1.0, 1.1])
    summary, frames = sample(path)
    assert numbers(frames) == [1, 3, 3, 3, 3, 5]
    assert [frame.time_s for frame in frames] == pytest.approx([0.1, 0.3, 0.3, 0.3, 0.3, 1.1])
    assert summary.is_variable
    assert summary.fps == pytest.approx(6 / 1.32)
    assert summary.duration_s == pytest.approx(1.32)
    assert summary.shortfall is None


def test_an_ntsc_rate_stays_exact_over_milliseconds(tmp_path):
    path = numbered_clip(tmp_path / "n.mkv", fps=30000 / 1001)  # Matroska rounds to 33, 67, 100 ms …
    summary, frames = sample(path)
    assert numbers(frames) == list(range(60))
    assert summary.fps == pytest.approx(30000 / 1001, rel=1e-3)
    assert summary.num_frames == 60
    assert not summary.is_variable


def test_pixels_are_those_of_the_frames_own_image(clip):
    with av.open(str(clip)) as container:
        expected = [np.asarray(frame.to_image()) for frame in container.decode(video=0)]
    assert all(np.array_equal(frame.rgb, image) for frame, image in zip(sample(clip)[1], expected))


def test_a_portrait_video_stored_lying_down_is_turned_up(tmp_path):
    left_bright = np.zeros((48, 64, 3), np.uint8)
    left_bright[:, :32] = 250
    _, (frame,) = sample(write_clip(tmp_path / "r.mp4", [left_bright], times_s=[0], rotation=90))
    assert frame.rgb.shape == (64, 48, 3)  # a quarter turn counter-clockwise: left goes down
    assert frame.rgb[-20:].mean() > 200
    assert frame.rgb[:20].mean() < 20


def test_the_real_reference_has_one_row_per_frame(shared_data):
    path = shared_data / "videos" / "v_GGSY1Qvo990.mp4"
    reference = np.load(shared_data / "clip" / "v_GGSY1Qvo990_clip_vitb32_allframes.npy", mmap_mode="r")
    summary, _ = sample(path)
    assert summary.num_rows == len(reference) == summary.num_frames == 355
    assert summary.fps == pytest.approx(19.62)
    assert sample_video(path, stride=8, emit=lambda _: None).num_rows == 45


def test_real_durations_agree_with_the_annotations(shared_data):
    thumos = json.loads((shared_data / "thumos14" / "Thumos14_annotations.json").read_text())["database"]
    info = json.loads((shared_data / "thumos14" / "Thumos14_info_8frame.json").read_text())
    for name in ("video_test_0000946", "video_validation_0000949", "video_validation_0000986"):
        probe = probe_video(shared_data / "videos" / f"{name}.mp4")
        assert probe.num_packets == info[name]["frame_length"]
        assert float(probe.total_s) == pytest.approx(thumos[name]["duration"], abs=1.5 / 30)
    assert float(probe_video(shared_data / "videos" / "v_GGSY1Qvo990.mp4").total_s) == pytest.approx(18.16, abs=0.1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"some text\n" * 100, "not readable as a video"),
        (bytes(3000), "not readable as a video"),
    ],
)
def test_what_is_no_video_is_named(tmp_path, content, message):
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError, match=rf"x\.mp4: {message}"):
        sample(path)


def test_a_text_file_is_not_drawn_as_a_video(tmp_path):
    (tmp_path / "notes.txt").write_text("hello\n" * 100)
    with pytest.raises(VideoError, match=r"notes\.txt: is tty, not a video"):
        sample(tmp_path / "notes.txt")


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.mp4 not found"):
        sample(tmp_path / "absent.mp4")
    with pytest.raises(IsADirectoryError, match="is a folder, not a video"):
        sample(tmp_path)


def test_the_ending_of_a_name_does_not_matter(clip, tmp_path):
    path = tmp_path / "odd: 50%d.txt"
    path.write_bytes(clip.read_bytes())
    assert sample(path)[0].num_frames == 60


def test_a_cut_file_is_a_reported_shortfall(clip, tmp_path):
    path = tmp_path / "cut.mp4"
    path.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    summary, frames = sample(path)
    assert 0 < summary.num_frames < 60
    assert numbers(frames) == list(range(summary.num_frames))
    assert summary.shortfall.declared_s == pytest.approx(2.4)
    assert summary.shortfall.decoded_s == pytest.approx(summary.num_frames / 25)
    assert str(summary.shortfall).startswith(f"declares 2.40 s, {summary.num_frames / 25:.2f} s could be decoded")


def test_frames_lost_in_the_middle_keep_the_rest_in_place(clip, tmp_path):
    data = bytearray(clip.read_bytes())
    with av.open(str(clip)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        start, size = packets[30].pos, packets[30].size
    data[start : start + size] = bytes(size)
    (tmp_path / "hole.mp4").write_bytes(data)
    summary, frames = sample(tmp_path / "hole.mp4")
    assert summary.shortfall.lost_frames + summary.shortfall.corrupt_frames >= 1
    assert summary.num_frames == 60
    assert numbers(frames)[:30] == list(range(30))


def test_skipped_timestamps_are_counted_but_a_variable_rate_is_not(tmp_path):
    times_s = [k / 25 for k in range(40) if k not in (20, 21, 22)]
    summary, _ = sample(numbered_clip(tmp_path / "gap.mkv", count=37, times_s=times_s))
    assert summary.shortfall.skipped_frames == 3
    assert "timestamps skip 3 frames" in str(summary.shortfall)
    assert summary.duration_s == pytest.approx(1.6, abs=0.02)
    late = numbered_clip(tmp_path / "late.mkv", count=40, times_s=[1 + k / 25 for k in range(40)])
    assert sample(late)[0].shortfall.skipped_frames == 25


def test_sound_that_outlasts_the_picture_is_no_shortfall(tmp_path):
    for ending in ("mp4", "mkv", "flv"):
        codec = "flv1" if ending == "flv" else "libx264"
        path = numbered_clip(tmp_path / f"s.{ending}", codec=codec, audio_s=6)
        assert sample(path)[0].shortfall is None, ending


def test_absurd_timestamps_are_named(tmp_path):
    path = write_clip(tmp_path / "a.mkv", numbered_frames(3), times_s=[0, 0.04, 9000])
    with pytest.raises(VideoError, match=r"3 frames over .* s is not a frame rate of a video"):
        sample(path)


def test_what_emit_raises_passes_through(clip):
    def stop(frame):
        raise KeyError(frame.row)

    with pytest.raises(KeyError, match="0"):
        sample_video(clip, stride=1, emit=stop)


def test_unknown_arguments(clip, monkeypatch):
    with pytest.raises(PsftrError, match="stride must be at least 1 frame, got 0"):
        sample(clip, stride=0)
    with pytest.raises(PsftrError, match="decoder 'opencv' is unknown; choose one of pyav, torchcodec"):
        sample(clip, decoder="opencv")
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(PsftrError, match=r"decoder=torchcodec cannot be used .*; install torchcodec, or use"):
        sample(clip, decoder="torchcodec")


class StandInDecoder:
    """The part of torchcodec's VideoDecoder that is used, with its documented meaning, over PyAV."""

    def __init__(self, path, *, dimension_order, num_ffmpeg_threads, seek_mode):
        assert (dimension_order, seek_mode) == ("NHWC", "exact")
        with av.open(path) as container:
            self.frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]

    def get_frames_played_at(self, seconds):
        shown = [max((time, k) for k, (time, _) in enumerate(self.frames) if time <= second) for second in seconds]
        return SimpleNamespace(
            data=torch.stack([torch.from_numpy(self.frames[k][1]) for _, k in shown]),
            pts_seconds=torch.tensor([time for time, _ in shown], dtype=torch.float64),
        )


@pytest.mark.parametrize("stride", [1, 7])
def test_torchcodec_is_asked_for_the_same_rows(clip, tmp_path, monkeypatch, stride):
    module = ModuleType("torchcodec.decoders")
    module.VideoDecoder = StandInDecoder
    monkeypatch.setitem(sys.modules, "torchcodec", ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)
    variable = numbered_clip(tmp_path / "v.mkv", count=6, times_s=[0, 0.1, 0.2, 0.3, 1.0, 1.1])
    for path in (clip, variable):
        one, frames = sample(path, stride)
        other, same = sample(path, stride, decoder="torchcodec")
        assert one == other
        assert all(np.array_equal(a.rgb, b.rgb) for a, b in zip(frames, same))
        assert [a.time_s for a in frames] == pytest.approx([b.time_s for b in same])
