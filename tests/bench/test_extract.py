"""The benchmark runs the pipeline and the encoder on the very same frames."""

import statistics

import pytest
from clips import numbered_clip
from extraction import tiny_encoder

from psftr.bench.extract import render, run_benchmark


def test_same_frames_both_ways(tmp_path):
    for name in ("a", "b"):
        numbered_clip(tmp_path / f"{name}.mp4", count=30)
    result = run_benchmark(videos=[tmp_path], encoder=tiny_encoder(), stride=4, batch_size=5, workers=None, rounds=3)
    assert (result["videos"], result["frames"], result["stride"], result["batch_size"]) == (2, 16, 4, 5)
    ratios = [pipeline / alone for pipeline, alone in zip(result["pipeline_fps"], result["encoder_fps"])]
    assert result["ratio"] == pytest.approx(statistics.median(ratios))
    assert len(ratios) == 3
    assert min(ratios) > 0
    text = render(result)
    assert ":random-seed0 (fp32 on cpu), 16 frames of 2 videos at stride 4: " in text
    assert text.endswith(f": {result['ratio']:.2f} (median of 3 rounds in turns)")
