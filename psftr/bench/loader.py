"""`psftr bench loader`: an epoch of training windows from memory, against reading each window from the file.

A store of random features with as many videos and rows as THUMOS14's training set; windows as in training, with a few
actions each. The first epoch reads every video once and works out the labels; later ones only copy rows.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from psftr.bench.timing import describe_machine, take_turns
from psftr.data.annotations import Action
from psftr.data.batches import Sample
from psftr.data.loading import EpochSampler, RowReader, WindowDataset, as_it_is
from psftr.features.store import FeatureStore, FeatureWriter
from psftr.methods.psftr.build import build_window_policy
from psftr.settings import WindowSettings

DIM, STRIDE, FPS, BATCH = 512, 8, 30.0, 16
CLASSES = tuple(f"class {number}" for number in range(15))
CACHE_MB = 1024.0


def run_benchmark(*, rounds: int, videos: int, rows: int) -> dict[str, Any]:
    """Seconds of an epoch of both versions in turns, and of the start: opening the store up to the first batch."""
    with tempfile.TemporaryDirectory(prefix="psftr-bench-") as folder:
        path = Path(folder) / "features.h5"
        _write(path, videos=videos, rows=rows)
        started = time.perf_counter()
        store = FeatureStore(path)
        samples = _samples(store)
        ours = _loader(samples, store, limit_mb=CACHE_MB)
        next(iter(ours))
        start_s = time.perf_counter() - started
        started = time.perf_counter()
        count = _run(ours)
        first_s = time.perf_counter() - started
        from_file = _loader(samples, store, limit_mb=0.0)
        times = take_turns({"from_file": lambda: _run(from_file), "ours": lambda: _run(ours)}, rounds=rounds)
        store.close()
    return {
        "machine": describe_machine(torch.device("cpu")),
        "rounds": rounds,
        "videos": videos,
        "windows": len(samples),
        "batches": count,
        "start_s": start_s,
        "first_epoch_s": first_s,
        "from_file_s": times["from_file"].median_s,
        "ours_s": times["ours"].median_s,
        "ratio": times["ours"].times_faster_than(times["from_file"]),
    }


def _write(path: Path, *, videos: int, rows: int) -> None:
    random = np.random.default_rng(0)
    with FeatureWriter(path, encoder="random", dim=DIM, synthetic=True) as writer:
        for number in range(videos):
            features = random.standard_normal((rows, DIM), dtype=np.float32)
            frames = rows * STRIDE
            writer.write(f"v{number}", features, stride=STRIDE, fps=FPS, num_frames=frames, duration_s=frames / FPS)


def _samples(store: FeatureStore) -> list[Sample]:
    """Every training window, with an action of two thirds of its length in it."""
    policy = build_window_policy(WindowSettings(), is_peer=False)
    samples = []
    for number, video_id in enumerate(store.video_ids):
        for window in policy.windows(video_id, store.timeline(video_id), training=True):
            sixth = (window.end_s - window.start_s) / 6
            action = Action(window.start_s + sixth, window.end_s - sixth, CLASSES[number % len(CLASSES)])
            samples.append(Sample(window, policy.targets([action], window), [action]))
    return samples


def _loader(samples: Sequence[Sample], store: FeatureStore, *, limit_mb: float) -> DataLoader:
    dataset = WindowDataset(samples, RowReader(store, limit_mb=limit_mb), CLASSES)
    return DataLoader(dataset, batch_size=BATCH, sampler=EpochSampler(dataset, seed=0), collate_fn=as_it_is)


def _run(loader: DataLoader) -> int:
    return sum(1 for _ in loader)


def render(result: dict[str, Any]) -> str:
    return (
        f"{result['machine']}\n"
        f"loader, {result['windows']} training windows of {result['videos']} videos, {result['batches']} batches: "
        f"{result['from_file_s']:.2f} s an epoch from the file, {result['ours_s']:.2f} s with ours: "
        f"{result['ratio']:.1f} times faster (median of {result['rounds']} rounds in turns)\n"
        f"from opening the store to the first batch {result['start_s']:.2f} s, the first epoch "
        f"{result['first_epoch_s']:.2f} s"
    )
