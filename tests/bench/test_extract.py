"""The benchmark runs the pipeline and the encoder on the very same frames."""

import pytest
from clips import numbered_clip
from extraction import tiny_encoder

from psftr.bench.extract import ExtractBenchmark, run_benchmark


def test_same_frames_both_ways(tmp_path):
    for name in ("a", "b"):
        numbered_clip(tmp_path / f"{name}.mp4", count=30)
    result = run_benchmark(videos=[tmp_path], encoder=tiny_encoder(), stride=4, batch_size=5, repeats=2)
    assert (result.num_videos, result.num_frames, result.stride, result.batch_size) == (2, 16, 4, 5)
    assert len(result.pipeline_fps) == len(result.encoder_fps) == 2
    assert min(result.pipeline_fps + result.encoder_fps) > 0


def test_ratio_is_the_median_of_the_repeats():
    facts = {"encoder": "e", "device": "cpu", "precision": "fp32", "stride": 8, "batch_size": 1, "workers": 1}
    result = ExtractBenchmark(
        **facts, num_videos=1, num_frames=9, pipeline_fps=(9.0, 5.0, 19.0), encoder_fps=(10.0, 10.0, 20.0)
    )
    assert result.ratio == pytest.approx(0.9)  # of 0.9, 0.5, 0.95
