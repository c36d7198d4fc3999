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
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from psftr.cli.flags import add_settings, settings_from
from psftr.cli.folders import no_remains, writable_folder
from psftr.cli.progress import duration, progress
from psftr.features.settings import EncoderSettings, ExtractSettings

if TYPE_CHECKING:
    from psftr.features.extract import ExtractReport, Progress

EXIT_INCOMPLETE = 1
NAMED_AT_MOST = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("videos", nargs="+", metavar="VIDEO", help="video files, folders of them, or @FILE with one of either per line")
    add("--out", required=True, help="a .h5 file, or a folder that gets one file per video (read as one store)")
    add("--shard", metavar="I/N", help="extract every N-th video, beginning with the I-th; needs a folder as --out")
    add_settings(parser, EncoderSettings)
    add_settings(parser, ExtractSettings)


def run(args: argparse.Namespace) -> int:
    """0, or 1 if a video failed or fell short."""
    from psftr.errors import PsftrError

    if not args.out:
        raise PsftrError("--out is empty; name a .h5 file or a folder")
    writable_folder("--out", str(Path(args.out).parent))
    if args.shard and args.out.endswith((".h5", ".hdf5")):
        raise PsftrError(f"--shard needs a folder as --out, got the file {args.out}: machines cannot share one file")

    from psftr.features.encoders import make_encoder
    from psftr.features.extract import extract, find_videos, select_shard
    from psftr.features.shards import ShardedStore
    from psftr.features.video import check_decoder

    encoding, settings = settings_from(EncoderSettings, args), settings_from(ExtractSettings, args)
    check_decoder(settings.decoder)
    videos = find_videos(args.videos)
    if args.shard:
        videos = select_shard(videos, args.shard)
    if not videos:
        raise PsftrError(f"no video in {' '.join(args.videos)}")
    encoder = make_encoder(encoding)
    stride = settings.stride
    out = Path(args.out)
    with no_remains(out, out.with_name(f"{out.name}.parts")), progress() as tell:
        store = ShardedStore(out, encoder=encoder.identity, dim=encoder.dim, stride=stride, dtype=settings.dtype)
        for path in store.broken:
            print(f"{path} is damaged and not used; its video is extracted again", file=sys.stderr)
        print(f"{_count(len(videos))}, {encoder.identity}, {encoder.precision} on {encoder.device}, stride {stride}")
        if encoding.pretrained == "random":
            print("untrained weights: these features only try the pipeline, they mean nothing")
        report = extract(
            videos,
            encoder=encoder,
            store=store,
            batch_size=settings.batch_size,
            workers=settings.workers,
            decoder=settings.decoder,
            progress=lambda state: tell(share_done(state), describe(state)),
        )
    _print_report(report, args.out)
    return EXIT_INCOMPLETE if report.failed or report.shortfalls else 0


def share_done(state: Progress) -> float:
    return state.rows_done / state.rows_expected if state.rows_expected else 0.0


def describe(state: Progress) -> str:
    """`3/40 videos  55.2 frames/s  1 min 4 s left`."""
    words = [f"{state.videos_done}/{state.videos_total} videos", f"{state.frames_per_s:.1f} frames/s"]
    if state.seconds_left is not None and state.videos_done < state.videos_total:
        words.append(f"{duration(state.seconds_left)} left")
    return "  ".join(words)


def _print_report(report: ExtractReport, out: str) -> None:
    rate = report.num_frames_encoded / report.elapsed_s if report.elapsed_s else 0.0
    print(
        f"{out}: {_count(len(report.written))} written, {len(report.skipped)} were there; "
        f"{report.num_frames_encoded} frames in {duration(report.elapsed_s)}, {rate:.1f} frames/s"
    )
    for title, rows in (("fell short", report.shortfalls), ("failed", report.failed)):
        if rows:
            print(f"{_count(len(rows))} {title}:", file=sys.stderr)
        for video_id, reason in rows[:NAMED_AT_MOST]:
            print(f"  {video_id}: {reason}", file=sys.stderr)
        if len(rows) > NAMED_AT_MOST:
            print(f"  and {len(rows) - NAMED_AT_MOST} more", file=sys.stderr)


def _count(videos: int) -> str:
    return f"{videos} video" if videos == 1 else f"{videos} videos"
