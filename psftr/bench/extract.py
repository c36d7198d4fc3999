"""`psftr bench extract`: the whole pipeline against the encoder alone on pre-decoded frames, in one run."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from psftr.features.clip import ClipEncoder
from psftr.features.extract import VideoFile, default_batch_size, default_workers, extract, find_videos
from psftr.features.shards import ShardedStore
from psftr.features.video import sample_video


def run_benchmark(
    *,
    videos: Sequence[str | Path],
    encoder: ClipEncoder,
    stride: int,
    batch_size: int | None,
    workers: int | None,
    rounds: int,
) -> dict[str, Any]:
    """Encode the frames of `videos` (none: clips made for it) through `extract` and from memory, `rounds` times each.

    The pipeline decodes, resizes, encodes and writes a store; the encoder alone gets the same uint8 frames. `ratio` is
    the median over the rounds of pipeline to encoder, in frames per second. `batch_size` and `workers`: None as in
    `psftr extract`.
    """
    batch_size = batch_size or default_batch_size(encoder.device)
    workers = workers or default_workers(encoder.device)
    with tempfile.TemporaryDirectory(prefix="psftr-bench-") as folder:
        found = find_videos(videos or _make_clips(Path(folder)))
        frames = _decode_all(found, encoder, stride)
        _encode_all(frames[:batch_size], encoder, batch_size)  # first calls allocate and choose kernels
        pipeline_fps, encoder_fps = [], []
        for number in range(rounds):
            # Half of the encoder's turn before the pipeline's and half after: a machine that slows down slows both.
            half = len(frames) // 2
            alone_s = _encode_all(frames[:half], encoder, batch_size)
            store = ShardedStore(
                Path(folder) / f"store{number}", encoder=encoder.identity, dim=encoder.dim, stride=stride
            )
            report = extract(found, encoder=encoder, store=store, batch_size=batch_size, workers=workers)
            alone_s += _encode_all(frames[half:], encoder, batch_size)
            pipeline_fps.append(report.num_frames_encoded / report.elapsed_s)
            encoder_fps.append(len(frames) / alone_s)
    return {
        "encoder": encoder.identity,
        "device": str(encoder.device),
        "precision": encoder.precision,
        "stride": stride,
        "batch_size": batch_size,
        "workers": workers,
        "videos": len(found),
        "frames": len(frames),
        "rounds": rounds,
        "pipeline_fps": pipeline_fps,
        "encoder_fps": encoder_fps,
        "ratio": statistics.median(p / e for p, e in zip(pipeline_fps, encoder_fps)),
    }


def render(result: dict[str, Any]) -> str:
    return (
        f"extraction, {result['encoder']} ({result['precision']} on {result['device']}), {result['frames']} frames of "
        f"{result['videos']} videos at stride {result['stride']}: "
        f"{statistics.median(result['pipeline_fps']):.1f} frames/s through the pipeline, "
        f"{statistics.median(result['encoder_fps']):.1f} for the encoder alone on decoded frames: "
        f"{result['ratio']:.2f} (median of {result['rounds']} rounds in turns)"
    )


def _decode_all(videos: Sequence[VideoFile], encoder: ClipEncoder, stride: int) -> torch.Tensor:
    """Every frame the pipeline encodes, `[N, S, S, 3]` uint8."""
    frames: list[np.ndarray] = []
    for video in videos:
        sample_video(
            video.path, stride=stride, threads=0, emit=lambda f: frames.append(encoder.preprocessing.shrink(f.rgb))
        )
    return torch.from_numpy(np.stack(frames))


def _encode_all(frames: torch.Tensor, encoder: ClipEncoder, batch_size: int) -> float:
    """Seconds that the encoder takes for frames in memory."""
    started = time.perf_counter()
    features = [encoder.encode_frames(frames[k : k + batch_size]) for k in range(0, len(frames), batch_size)]
    torch.cat(features).cpu()  # waits for a GPU
    return time.perf_counter() - started


def _make_clips(folder: Path) -> list[Path]:
    """Two clips of 20 s with drifting gradients under noise, 25 frames/s, compressed as films are."""
    height, width, count = 360, 480, 500
    noise = np.random.default_rng(0).integers(0, 40, (height, width, 3), dtype=np.uint8)
    ramp = np.linspace(0, 8 * np.pi, width, dtype=np.float32)
    paths = [folder / "clip0.mp4", folder / "clip1.mp4"]
    for clip, path in enumerate(paths):
        waves = (100 + 80 * np.sin(ramp + clip + k / 9) for k in range(count))
        _write_clip(path, (np.roll(noise, k, axis=1) + wave.astype(np.uint8)[:, None] for k, wave in enumerate(waves)))
    return paths


def _write_clip(path: Path, frames: Iterable[np.ndarray]) -> None:
    """Frames `[H, W, 3]` uint8 at 25 frames/s, as H.264."""
    import av

    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"preset": "veryfast"})
        video.pix_fmt = "yuv420p"
        for index, frame in enumerate(frames):
            if index == 0:
                video.height, video.width = frame.shape[:2]
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode(None))
