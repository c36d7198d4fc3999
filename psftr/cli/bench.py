"""Ratios of our code to named baselines, measured in one run on this machine.

examples:
  psftr bench ops --json ops.json             temporal deformable attention against grid_sample and gather
  psftr bench train-step --threads 1          one training step of the THUMOS14 network, with ours and with grid_sample
  psftr bench extract --pretrained random     the extraction pipeline against its encoder alone
  psftr bench ap --threads 1                  average precision at ActivityNet's size against a loop over detections
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from psftr.cli.extract import add_encoder_arguments, make_encoder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    benches = parser.add_subparsers(dest="bench", required=True, metavar="WHAT")
    ops = benches.add_parser("ops", help="temporal deformable attention against grid_sample and gather")
    ops.add_argument("--quick", action="store_true", help="small cases and few rounds: does it work at all?")
    step = benches.add_parser("train-step", help="one training step of the THUMOS14 network against grid_sample")
    step.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="default %(default)s")
    for bench in (ops, step):
        bench.add_argument("--device", default="auto", help="cpu or cuda[:N] (default: cuda where there is one)")
    extract = benches.add_parser("extract", help="the extraction pipeline against its encoder alone")
    extract.add_argument("videos", nargs="*", help="videos or folders of them (default: clips made for it)")
    add_encoder_arguments(extract)
    extract.add_argument("--stride", type=int, default=8, help="frames per feature row (default %(default)s)")
    extract.add_argument("--batch-size", type=int, help="frames per encoder call")
    extract.add_argument("--workers", type=int, help="videos decoded at the same time")
    ap = benches.add_parser("ap", help="average precision at ActivityNet's size against a loop over detections")
    ap.add_argument("--quick", action="store_true", help="a small case: does it work at all?")
    kinds = ((ops, _ops, 15), (step, _train_step, 5), (extract, _extract, 3), (ap, _average_precision, 3))
    for bench, measure, rounds in kinds:
        bench.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's own choice)")
        bench.add_argument("--rounds", type=int, default=rounds, help="to take medians of (default %(default)s)")
        bench.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
        bench.set_defaults(measure=measure)


def run(args: argparse.Namespace) -> int:
    import torch

    from psftr.errors import PsftrError

    for flag in ("rounds", "threads"):
        if (number := getattr(args, flag)) is not None and number < 1:
            raise PsftrError(f"--{flag} must be at least 1, got {number}")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    bench, result = args.measure(args)
    print(bench.render(result))
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def _ops(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    from psftr.bench import ops

    return ops, ops.run_benchmark(device=_device(args.device), rounds=args.rounds, quick=args.quick)


def _train_step(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    from psftr.bench import train_step

    device = _device(args.device)
    return train_step, train_step.run_benchmark(device=device, rounds=args.rounds, precision=args.precision)


def _extract(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    from psftr.bench import extract

    result = extract.run_benchmark(
        videos=args.videos,
        encoder=make_encoder(args),
        stride=args.stride,
        batch_size=args.batch_size,
        workers=args.workers,
        rounds=args.rounds,
    )
    return extract, result


def _average_precision(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    from psftr.bench import average_precision

    return average_precision, average_precision.run_benchmark(rounds=args.rounds, quick=args.quick)


def _device(name: str) -> Any:
    import torch

    from psftr.errors import PsftrError

    device = torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise PsftrError(f"--device {name}, but PyTorch finds no CUDA device: leave it out to measure the CPU")
    return device
