"""`psftr cascade` over videos of a data set, and over a long one: what a table may say, what memory may hold."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from clips import write_clip
from front_door import psftr
from misbehaving_server import running_server

for needed in ("openai", "diskcache", "tenacity"):
    pytest.importorskip(needed, reason="needs the extra psftr[mllm]")
pytest.importorskip("av", reason="needs the extra psftr[video]")

_PEAK = """
import sys
from psftr.cli import main
code = main(sys.argv[1:])
print("peak", next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
sys.exit(code)
"""


@pytest.fixture
def server():
    with running_server() as running:
        running.keeps_bodies = False
        yield running


def asking(server):
    return [
        "backend=server",
        "backend.model=m",
        f"backend.base_url={server.url}",
        "questions.filter=all",
        "backend.cache=c",
    ]


def noise(path, *, count):
    """Frames of 448 x 336 that no codec makes small: 150 KB each as JPEG."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (8, 336, 448, 3), dtype=np.uint8)
    frames = (np.roll(pictures[k % 8], 16 * k, axis=1) for k in range(count))
    return write_clip(path, frames, times_s=[k / 10 for k in range(count)], options={"crf": "8", "preset": "ultrafast"})


def peak_mib(*arguments, cwd):
    """The most memory that `psftr …` had at once."""
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, *arguments], cwd=cwd, env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return int(done.stdout.rsplit("peak ", 1)[1]) / 1024


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the peak of memory where Linux tells it")
def test_a_long_video_takes_no_more_memory_than_a_short_one(server, tmp_path):
    (tmp_path / "plans.yaml").write_text("jump: {stages: [{description: people jump, is_key: true}]}")
    peaks = {}
    for count in (40, 240):
        noise(tmp_path / f"{count}.mp4", count=count)
        # every frame is read, one in forty is asked about
        few = ["frames.fps=10", "questions.coarse_s=4", "questions.coarse_threshold=0.95"]
        own = [f"videos=[{count}.mp4]", "labels=[jump]", "stages=plans.yaml", f"out=o{count}"]
        peaks[count] = peak_mib("cascade", *asking(server), *own, *few, cwd=tmp_path)
    print(f"MiB at most, by number of frames: {peaks}")
    # 200 more frames are 86 MiB as pixels and 29 MiB as JPEG
    assert peaks[240] - peaks[40] < 18


@pytest.fixture
def one_test_video(shared_data, tmp_path):
    """A folder with THUMOS14's annotations, simulated features of a few, and one of split 0's 52 test videos."""
    simulated = ["--simulate-features", "--subset", "test", "--limit", "37", "--dim", "64"]
    psftr("prepare", "thumos14", "--from", str(shared_data / "thumos14"), *simulated, cwd=tmp_path)
    (tmp_path / "videos").mkdir()
    pictures = [np.full((32, 48, 3), 210 if 10 <= k < 25 else 20, np.uint8) for k in range(40)]
    write_clip(tmp_path / "videos" / "video_test_0000270.mp4", pictures, times_s=[k / 10 for k in range(40)])
    return tmp_path


def test_a_table_says_what_is_synthetic_and_which_videos_are_missing(server, one_test_video):
    own = ["dataset=thumos14", "videos_dir=videos", "stages=thumos14", "frames.fps=5", "figures=false"]
    asked = ["cascade", *own, *asking(server)]
    done = psftr(*asked, "out=pair", cwd=one_test_video)
    table = done.stdout[done.stdout.index("per-video AP without scores") - len("[SYNTHETIC] ") :]
    assert table.startswith("[SYNTHETIC] ")
    assert "\ncascade (1 of 52 videos) " in table
    assert "\nclip_baseline (SYNTHETIC features) " in table
    assert "CASCADE-LLaVA" not in done.stdout  # of real videos: not beside synthetic rows
    assert "INCOMPLETE: 51 of 52 test videos are missing from cascade's row" in table
    alone = psftr(*asked, "out=alone", "baseline=false", cwd=one_test_video).stdout
    table = alone[alone.index("per-video AP without scores") :]
    assert "SYNTHETIC" not in alone
    assert "\ncascade (1 of 52 videos) " in table
    assert "\nCASCADE-LLaVA (CASCADE paper) " in table
    assert "INCOMPLETE: 51 of 52 test videos are missing from cascade's row" in table
    assert set(json.loads((one_test_video / "alone" / "per_video.json").read_text())) == {"cascade (1 of 52 videos)"}
    (one_test_video / "videos" / "video_test_0000270.mp4").rename(one_test_video / "videos" / "video_test_0000946.mp4")
    without_features = psftr(*asked, "out=no-features", cwd=one_test_video).stdout
    assert "no CLIP features of these videos, so no baseline" in without_features
    assert "clip_baseline" not in without_features
