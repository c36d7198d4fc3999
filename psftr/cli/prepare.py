"""Write the folder of a dataset: annotations, published class splits, everything that is wrong with them, features.

Annotations and split lists come from public repositories, pinned by commit and SHA-256, or from a folder. Videos and
features of THUMOS14 and ActivityNet are not downloaded: extract features (`psftr extract`), import a folder of arrays
(--features), or try the whole path at true scale with --simulate-features, whose numbers say nothing about videos.
Running it again is safe: what is there and right stays.

examples:
  psftr prepare thumos14                                          download into data/thumos14
  psftr prepare thumos14 --from ../shared/data/thumos14 --simulate-features
  psftr prepare activitynet13 --simulate-features --subset validation --limit 500
  psftr prepare thumos14 --features CLIP/ --encoder open_clip:ViT-B-16:openai
  psftr prepare synthetic --seed 1 --out data/synthetic-1         the embedded default, with another seed
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

DATASETS = ("thumos14", "activitynet13", "synthetic")
LINE_EVERY_S = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("dataset", choices=DATASETS)
    add("--out", metavar="DIR", help="the dataset's folder (default: data/DATASET)")
    add("--from", dest="source", metavar="DIR", help="take the files from this folder instead of downloading them")
    add("--base-url", metavar="URL", help="a mirror of the public host (also: the variable PSFTR_BASE_URL)")
    group = parser.add_argument_group("features that are there already, one <video id>.npy [T, D] per video")
    group.add_argument("--features", metavar="DIR", help="the folder of arrays; becomes features.h5")
    group.add_argument("--info", metavar="FILE", help="their info JSON (default: the published one)")
    group.add_argument("--encoder", metavar="NAME", help="what made them, e.g. open_clip:ViT-B-16:openai")
    group.add_argument("--stride", type=int, help="frames per row (default: 8 for THUMOS14, 16 for ActivityNet)")
    group = parser.add_argument_group("synthetic features")
    group.add_argument(
        "--simulate-features", action="store_true", help="write some over the real timelines, so labelled"
    )
    group.add_argument("--subset", metavar="NAME", help="only this subset's videos (default: all annotated ones)")
    group.add_argument("--limit", type=int, metavar="N", help="only the first N videos of each subset")
    group.add_argument("--seed", type=int, default=0, help="of synthetic features and worlds (default %(default)s)")
    group.add_argument("--dim", type=int, default=512, help="of synthetic features and worlds (default %(default)s)")
    group.add_argument("--num-train", type=int, default=120, help="training videos of the synthetic world")
    group.add_argument("--num-test", type=int, default=80, help="test videos of the synthetic world")


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from psftr.errors import PsftrError

    out = Path(args.out or f"data/{args.dataset}")
    if args.dataset == "synthetic":
        _prepare_world(out, args)
        return 0
    if args.features is not None and args.simulate_features:
        raise PsftrError("--features and --simulate-features exclude each other: give one")
    if args.features is not None and not args.encoder:
        raise PsftrError("--features needs --encoder NAME, what made them, e.g. open_clip:ViT-B-16:openai")

    from psftr.data.checks import summary
    from psftr.data.prepare import import_features, prepare, simulate

    report = prepare(args.dataset, out, source=args.source, base=args.base_url, progress=progress("files checked"))
    if args.features is not None:
        report = import_features(report, args.features, encoder=args.encoder, stride=args.stride, info=args.info)
    if args.simulate_features:
        report = simulate(
            report,
            seed=args.seed,
            dim=args.dim,
            subset=args.subset,
            limit=args.limit,
            progress=progress("videos simulated"),
        )
    print("\n".join(summary(report)))
    return 0


def _prepare_world(out, args: argparse.Namespace) -> None:
    from psftr.data.synthetic import ensure_world
    from psftr.features.store import FeatureStore

    built = ensure_world(out, seed=args.seed, dim=args.dim, num_train=args.num_train, num_test=args.num_test)
    store = FeatureStore(out / "features.h5")
    print(f"Synthetic world {'built in' if built else 'is there already:'} {out}: {len(store)} videos, {store.encoder}")


def progress(what: str) -> Callable[[int, int], None]:
    """One line that renews itself on a terminal, a line every few seconds elsewhere; silent if it is over soon."""
    started = last = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        is_terminal = sys.stderr.isatty()
        if is_terminal and (done == total or now - last > 0.1):
            left = (now - started) / done * (total - done)
            end = "\n" if done == total else ""
            print(f"\r{done}/{total} {what}, {left:.0f} s left  ", end=end, file=sys.stderr, flush=True)
        elif not is_terminal and now - last > LINE_EVERY_S:
            print(f"{done}/{total} {what}", file=sys.stderr, flush=True)
        else:
            return
        last = now

    return tell
