"""`psftr bench inference`: windows of many videos in one batch, for detections only, against one video at a time.

The THUMOS14 network, untrained, on random features of videos as long as THUMOS14's. The plain version runs the network
as training does, with all its outputs and in float32, on the windows of one video after the other. Ours runs in the
precision that is asked for; in float32 the detections are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from psftr.bench.forms import FORMS
from psftr.bench.timing import describe_machine, take_turns
from psftr.data.batches import Batch
from psftr.engine.precision import inference_precision
from psftr.features.store import VideoFeatures
from psftr.features.text import TextEmbeddings
from psftr.methods.psftr.build import build_network, build_postprocessor, build_window_policy, network_config
from psftr.methods.psftr.localizer import PsftrLocalizer
from psftr.methods.psftr.network import LayerOutputs
from psftr.methods.psftr.settings import ModelSettings, PostprocessSettings
from psftr.settings import WindowSettings

CLASSES, DIM, STRIDE, FPS, BATCH = 5, 512, 8, 30.0, 16
SEEN = 15  # names of a 75/25 split of THUMOS14, which get logits too


def make_videos(count: int) -> list[VideoFeatures]:
    """Random rows; from a fifth of a minute to about six minutes, as in THUMOS14's test set."""
    random = np.random.default_rng(0)
    videos = []
    for number, steps in enumerate(np.geomspace(45, 1300, count).astype(int)):
        rows = random.standard_normal((steps, DIM), dtype=np.float32)
        videos.append(VideoFeatures(f"v{number}", rows, STRIDE, FPS, int(steps) * STRIDE, float(steps) * STRIDE / FPS))
    return videos


def run_benchmark(*, rounds: int, device: torch.device, videos: int, precision: str, form: str) -> dict[str, Any]:
    """Milliseconds a window of both versions, features in memory to detections of videos, measured in turns.

    precision: as `EvaluateSettings.precision`. form: of `FORMS`.
    """
    torch.manual_seed(0)
    names = tuple(f"class {number}" for number in range(CLASSES))
    policy = build_window_policy(WindowSettings(), is_peer=False)
    network = build_network(network_config(ModelSettings(**FORMS[form]), feature_dim=DIM, text_dim=DIM))
    network.remember_seen(torch.randn(SEEN, DIM))
    localizer = PsftrLocalizer(
        network=network,
        text=TextEmbeddings(names=names, embeddings=torch.randn(CLASSES, DIM), encoder="random", prompt="{}"),
        postprocessor=build_postprocessor(PostprocessSettings(), is_peer=False),
        policy=policy,
        batch_size=BATCH,
        device=device,
        precision=inference_precision(precision, network, device),
    )
    all_videos = make_videos(videos)
    text = localizer.text.select(names).to(device)

    def all_outputs(batch: Batch) -> LayerOutputs:
        with torch.autocast(device.type, enabled=False):
            return localizer.network(batch.features, batch.is_padding, text).final

    def plain() -> None:
        for video in all_videos:
            dict(localizer.localize_with(all_outputs, localizer.postprocessor, [video], names))

    def ours() -> None:
        dict(localizer.localize(all_videos, names))

    times = take_turns({"plain": plain, "ours": ours}, rounds=rounds)
    count = _windows(all_videos, localizer)
    return {
        "machine": describe_machine(device),
        "rounds": rounds,
        "precision": localizer.precision,
        "form": form,
        "videos": videos,
        "windows": count,
        "plain_ms": 1e3 * times["plain"].median_s / count,
        "ours_ms": 1e3 * times["ours"].median_s / count,
        "ratio": times["ours"].times_faster_than(times["plain"]),
    }


def _windows(videos: Sequence[VideoFeatures], localizer: PsftrLocalizer) -> int:
    return sum(len(localizer.policy.windows(v.video_id, v.timeline, training=False)) for v in videos)


def render(result: dict[str, Any]) -> str:
    return (
        f"{result['machine']}\n"
        f"inference, THUMOS14 configuration, {result['form']} form, {result['windows']} windows of {result['videos']} "
        f"videos: {result['plain_ms']:.1f} ms a window with all outputs, one video at a time, 32-true; "
        f"{result['ours_ms']:.1f} ms with ours, {result['precision']}: "
        f"{result['ratio']:.2f} times faster (median of {result['rounds']} rounds in turns)"
    )
