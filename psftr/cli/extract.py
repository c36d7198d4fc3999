"""Turn videos into a store of CLIP frame features, one row per stride.

A killed run is taken up where it stopped: start it again with the same arguments. Videos that cannot be read, or give
less than they declare, are named at the end and make the exit status 1; the others are extracted all the same.

examples:
  psftr extract videos/ --out features.h5
  psftr extract a.mp4 b.mkv --out features.h5 --model ViT-L-14 --stride 16
  psftr extract @list.txt --out features/ --shard 3/8          the third of eight machines; the folder is one store
  psftr extract clip.mp4 --out try.h5 --model ViT-B-32 --pretrained random      the pipeline, without weights
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psftr.features.extract import ExtractReport, Progress

EXIT_INCOMPLETE = 1
LINE_EVERY_S = 5.0
NAMED_AT_MOST = 20
log = logging.getLogger("psftr")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("videos", nargs="+", metavar="VIDEO", help="video files, folders of them, or @FILE with one of either per line")
    add("--out", required=True, help="a .h5 file, or a folder that gets one file per video (read as one store)")
    add_encoder_arguments(parser)
    add(
        "--stride",
        type=int,
        default=8,
        help="frames per feature row (THUMOS14: 8, ActivityNet: 16; default %(default)s)",
    )
    add(
        "--dtype",
        choices=("float16", "float32"),
        default="float16",
        help="of the stored features (default %(default)s)",
    )
    add("--batch-size", type=int, help="frames per encoder call (default: 32 on the CPU, 256 on a GPU)")
    add("--workers", type=int, help="videos decoded at the same time (default: one per core, up to 16)")
    add("--shard", metavar="I/N", help="extract every N-th video, beginning with the I-th; needs a folder as --out")
    add("--decoder", choices=("pyav", "torchcodec"), default="pyav", help="default %(default)s")


def add_encoder_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that choose a CLIP model, for every verb that runs one."""
    add = parser.add_argument
    add(
        "--model", default="ViT-B-16", help="any open_clip model or a JSON layout (paper: ViT-B-32, ViT-B-16, ViT-L-14)"
    )
    add(
        "--pretrained",
        default="openai",
        help="a tag of the model, a local weights file, or 'random' for untrained weights (default %(default)s)",
    )
    add("--projection", choices=("post", "pre"), default="post", help="before or after CLIP's image projection")
    add("--seed", type=int, default=0, help="of untrained weights (default %(default)s)")
    add("--device", default="auto", help="cpu, cuda, cuda:1 … (default: cuda if there is one)")
    add("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="auto: bf16 on a GPU, fp32 on the CPU")


def make_encoder(args: argparse.Namespace) -> Any:
    """The ClipEncoder that `add_encoder_arguments` describe."""
    import torch

    from psftr.errors import PsftrError
    from psftr.features.clip import ClipEncoder

    has_cuda = torch.cuda.is_available()
    try:
        device = torch.device(("cuda" if has_cuda else "cpu") if args.device == "auto" else args.device)
    except RuntimeError:
        raise PsftrError(f"device {args.device!r} is unknown; try cpu or cuda") from None
    if device.type == "cuda" and not has_cuda:
        raise PsftrError(f"device {args.device!r}: this machine has no usable CUDA device; use --device cpu")
    precision = args.precision
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" else "fp32"
    return ClipEncoder(args.model, args.pretrained, device, precision, projection=args.projection, seed=args.seed)


def run(args: argparse.Namespace) -> int:
    """0, or 1 if a video failed or fell short."""
    from psftr.errors import PsftrError

    for name in ("stride", "batch_size", "workers"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise PsftrError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if args.shard and args.out.endswith((".h5", ".hdf5")):
        raise PsftrError(f"--shard needs a folder as --out, got the file {args.out}: machines cannot share one file")

    from psftr.features.extract import extract, find_videos, select_shard
    from psftr.features.shards import ShardedStore

    videos = find_videos(args.videos)
    if args.shard:
        videos = select_shard(videos, args.shard)
    encoder = make_encoder(args)
    store = ShardedStore(args.out, encoder=encoder.identity, dim=encoder.dim, stride=args.stride, dtype=args.dtype)
    for path in store.broken:
        print(f"{path} is damaged and not used; its video is extracted again", file=sys.stderr)
    print(f"{_count(len(videos))}, {encoder.identity}, {encoder.precision} on {encoder.device}, stride {args.stride}")
    if args.pretrained == "random":
        print("untrained weights: these features only try the pipeline, they mean nothing")
    with _progress() as progress:
        report = extract(
            videos,
            encoder=encoder,
            store=store,
            batch_size=args.batch_size,
            workers=args.workers,
            decoder=args.decoder,
            progress=progress,
        )
    _print_report(report, args.out)
    return EXIT_INCOMPLETE if report.failed or report.shortfalls else 0


def _print_report(report: ExtractReport, out: str) -> None:
    rate = report.num_frames_encoded / report.elapsed_s if report.elapsed_s else 0.0
    print(
        f"{out}: {_count(len(report.written))} written, {len(report.skipped)} were there; "
        f"{report.num_frames_encoded} frames in {_duration(report.elapsed_s)}, {rate:.1f} frames/s"
    )
    for title, rows in (("fell short", report.shortfalls), ("failed", report.failed)):
        if rows:
            print(f"{_count(len(rows))} {title}:", file=sys.stderr)
        for video_id, reason in rows[:NAMED_AT_MOST]:
            print(f"  {video_id}: {reason}", file=sys.stderr)
        if len(rows) > NAMED_AT_MOST:
            print(f"  and {len(rows) - NAMED_AT_MOST} more", file=sys.stderr)


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal, a line every few seconds elsewhere."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
        with RichProgress(*columns, console=Console(stderr=True)) as bars:
            task = bars.add_task("extract", total=1.0, text="")

            def update(state: Progress) -> None:
                share = state.rows_done / state.rows_expected if state.rows_expected else 0.0
                bars.update(task, completed=min(1.0, share), text=_describe(state))

            yield update
        return
    last = time.monotonic()

    def line(state: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            print(_describe(state), flush=True)

    yield line


def _describe(state: Progress) -> str:
    left = state.seconds_left
    words = [f"{state.videos_done}/{state.videos_total} videos", f"{state.frames_per_s:.1f} frames/s"]
    if left is not None and state.videos_done < state.videos_total:
        words.append(f"{_duration(left)} left")
    return "  ".join(words)


def _count(videos: int) -> str:
    return f"{videos} video" if videos == 1 else f"{videos} videos"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
