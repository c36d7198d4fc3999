"""Ratios of our code to named baselines, measured in one run on this machine.

examples:
  psftr bench ops --json ops.json             temporal deformable attention against grid_sample and gather
  psftr bench step --threads 1                one training step of the THUMOS14 network against plain PyTorch
  psftr bench step --form paper --precision bf16    the paper's own form of the network, under autocast
  psftr bench inference --threads 1           milliseconds a window, against one video at a time with all outputs
  psftr bench loader --threads 1              an epoch of training windows, against reading each from the file
  psftr bench extract --pretrained random     the extraction pipeline against its encoder alone
  psftr bench ap --threads 1                  average precision at ActivityNet's size against a loop over detections
  psftr bench protocol --epochs 5             ten splits in one command, against ten commands one after the other
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from psftr.bench.forms import FORMS
from psftr.cli.flags import add_settings, number, settings_from
from psftr.cli.folders import writable_folder
from psftr.features.settings import EncoderSettings, ExtractSettings
from psftr.settings import EvaluateSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    benches = parser.add_subparsers(dest="bench", required=True, metavar="WHAT")
    ops = benches.add_parser("ops", help="temporal deformable attention against grid_sample and gather")
    told = "one training step of the THUMOS14 network against plain PyTorch and a large matrix product"
    step = benches.add_parser("step", aliases=["train-step"], help=told)
    step.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="default %(default)s")
    extract = benches.add_parser("extract", help="the extraction pipeline against its encoder alone")
    extract.add_argument("videos", nargs="*", help="videos or folders of them (default: clips made for it)")
    add_settings(extract, EncoderSettings)
    add_settings(extract, ExtractSettings, leave_out=("dtype", "decoder"))
    ap = benches.add_parser("ap", help="average precision at ActivityNet's size against a loop over detections")
    inference = benches.add_parser("inference", help="windows of many videos together against one video at a time")
    loader = benches.add_parser("loader", help="an epoch of training windows against reading each from the file")
    told = "auto: bf16-mixed where the CPU gains from it (default %(default)s)"
    precisions = ("auto", "32-true", "bf16-mixed")
    inference.add_argument("--precision", choices=precisions, default=EvaluateSettings.precision, help=told)
    for bench in (step, inference):
        told = "of the network: psftr's default, or the paper's own (default %(default)s)"
        bench.add_argument("--form", choices=tuple(FORMS), default="default", help=told)
    for bench in (ops, ap, inference, loader):
        bench.add_argument("--quick", action="store_true", help="a small case: does it work at all?")
    for bench in (ops, step, inference):
        bench.add_argument("--device", default="auto", help="cpu or cuda[:N]; auto: cuda where there is one")
    kinds = ((ops, _ops, 15), (step, _train_step, 5), (extract, _extract, 3), (ap, _average_precision, 3))
    for bench, measure, rounds in (*kinds, (inference, _inference, 3), (loader, _loader, 3)):
        bench.add_argument("--threads", type=number(int, least=1), help="CPU threads (default: PyTorch's own choice)")
        count, told = number(int, least=1), "to take medians of (default %(default)s)"
        bench.add_argument("--rounds", type=count, default=rounds, help=told)
        bench.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
        bench.set_defaults(measure=measure)
    protocol = benches.add_parser(
        "protocol", help="ten splits in one command, against ten commands one after the other"
    )
    protocol.add_argument("--splits", type=number(int, least=1), default=10, help="default %(default)s")
    protocol.add_argument("--epochs", type=number(int, least=1), default=20, help="of each (default %(default)s)")
    told = "a prepared THUMOS14, simulated features included: project twenty trainings of 30 epochs from measured ones"
    protocol.add_argument("--project", type=Path, metavar="DIR", help=told)
    protocol.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    protocol.set_defaults(measure=_protocol, threads=None)


def run(args: argparse.Namespace) -> int:
    import torch

    from psftr.errors import PsftrError
    from psftr.files import write_json

    if args.json is not None:  # before minutes of measuring
        writable_folder("--json", str(args.json.parent))
        if args.json.is_dir():
            raise PsftrError(f"--json {args.json} is a folder; name a file")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    bench, result = args.measure(args)
    print(bench.render(result))
    if args.json is not None:
        write_json(args.json, result)
    return 0


def _ops(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    from psftr.bench import ops
    from psftr.features.encoders import pick_device

    return ops, ops.run_benchmark(device=pick_device(args.device), rounds=args.rounds, quick=args.quick)


def _train_step(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    from psftr.bench import train_step
    from psftr.features.encoders import pick_device

    return train_step, train_step.run_benchmark(
        device=pick_device(args.device), rounds=args.rounds, precision=args.precision, form=args.form
    )


def _inference(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    from psftr.bench import inference
    from psftr.features.encoders import pick_device

    return inference, inference.run_benchmark(
        device=pick_device(args.device),
        rounds=args.rounds,
        videos=2 if args.quick else 24,
        precision=args.precision,
        form=args.form,
    )


def _loader(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    from psftr.bench import loader

    size = {"videos": 4, "rows": 200} if args.quick else {"videos": 155, "rows": 600}
    return loader, loader.run_benchmark(rounds=args.rounds, **size)


def _protocol(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    from psftr.bench import protocol
    from psftr.errors import PsftrError

    if args.project is not None and not (args.project / "annotations.json").is_file():
        raise PsftrError(f"--project {args.project}: no prepared data set there; `psftr prepare thumos14` makes one")
    return protocol, protocol.run_benchmark(splits=args.splits, epochs=args.epochs, project=args.project)


def _extract(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    from psftr.bench import extract
    from psftr.features.encoders import make_encoder
    from psftr.features.extract import find_videos

    find_videos(args.videos)  # a mistyped name is told before an encoder is loaded
    own = settings_from(ExtractSettings, args)
    result = extract.run_benchmark(
        videos=args.videos,
        encoder=make_encoder(settings_from(EncoderSettings, args)),
        stride=own.stride,
        batch_size=own.batch_size,
        workers=own.workers,
        rounds=args.rounds,
    )
    return extract, result


def _average_precision(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    from psftr.bench import average_precision

    return average_precision, average_precision.run_benchmark(rounds=args.rounds, quick=args.quick)
