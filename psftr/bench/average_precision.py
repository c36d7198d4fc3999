"""`psftr bench ap`: average precision at the size of ActivityNet's validation set, against a loop over detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from psftr.bench.baselines import looped_map
from psftr.bench.timing import describe_machine, take_turns
from psftr.data.annotations import Action
from psftr.evaluation.average_precision import evaluate_detections
from psftr.predictions import Detection

TIOUS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
Truth = Mapping[str, Sequence[Action]]
Found = Mapping[str, Sequence[Detection]]


def make_case(*, videos: int, actions: int, classes: int, per_video: int) -> tuple[Truth, Found, tuple[str, ...]]:
    """Random ground truth, and detections of which about half are near an action of their video."""
    random = np.random.default_rng(0)
    names = tuple(f"class {i}" for i in range(classes))
    owners = np.concatenate([np.arange(videos), random.integers(videos, size=actions - videos)])
    truth: dict[str, list[Action]] = {f"v{i}": [] for i in range(videos)}
    for owner, start, length, label in zip(
        owners, random.uniform(0, 80, actions), random.uniform(2, 40, actions), random.integers(classes, size=actions)
    ):
        truth[f"v{owner}"].append(Action(start, start + length, names[label]))
    found = {}
    for video_id, instances in truth.items():
        rows = []
        for number in range(per_video):
            near = instances[number % len(instances)]
            start, end = np.sort(np.array([near.start_s, near.end_s]) + random.normal(0, 6, 2))
            label = near.label if number % 2 else names[random.integers(classes)]
            rows.append(Detection(video_id, label, max(0.0, start), max(0.1, end), random.random()))
        found[video_id] = rows
    return truth, found, names


def run_benchmark(*, rounds: int, quick: bool) -> dict[str, Any]:
    """Seconds of ours on the whole set, and the ratio to the loop on an eighth of it, where both must agree."""
    size = (
        {"videos": 400, "actions": 600, "classes": 20, "per_video": 20}
        if quick
        else {"videos": 4728, "actions": 7293, "classes": 200, "per_video": 100}
    )
    truth, found, names = make_case(**size)
    part = list(truth)[: size["videos"] // 8]
    some_truth, some_found = {v: truth[v] for v in part}, {v: found[v] for v in part}
    ours = evaluate_detections(some_truth, some_found, classes=names, tious=TIOUS).average
    loop = looped_map(some_truth, some_found, names, TIOUS)
    if abs(ours - loop) > 1e-9:
        raise AssertionError(f"ours gives mAP {ours:.12f}, the loop {loop:.12f}: no time is worth reporting")
    whole = take_turns({"ours": lambda: evaluate_detections(truth, found, classes=names, tious=TIOUS)}, rounds=rounds)
    times = take_turns(
        {
            "loop": lambda: looped_map(some_truth, some_found, names, TIOUS),
            "ours": lambda: evaluate_detections(some_truth, some_found, classes=names, tious=TIOUS),
        },
        rounds=rounds,
    )
    return {
        "machine": describe_machine(torch.device("cpu")),
        "rounds": rounds,
        **size,
        "whole_s": whole["ours"].median_s,
        "part_videos": len(part),
        "loop_s": times["loop"].median_s,
        "ours_s": times["ours"].median_s,
        "ratio": times["ours"].times_faster_than(times["loop"]),
    }


def render(result: dict[str, Any]) -> str:
    return (
        f"{result['machine']}\n"
        f"average precision, {result['videos']} videos, {result['actions']} actions, {result['classes']} classes, "
        f"{result['per_video']} detections a video, {len(TIOUS)} tIoUs: {result['whole_s']:.2f} s\n"
        f"on {result['part_videos']} of the videos: {result['loop_s']:.2f} s by a loop over detections, "
        f"{result['ours_s']:.2f} s with ours: {result['ratio']:.1f} times faster, equal to 1e-9 "
        f"(median of {result['rounds']} rounds in turns)"
    )
