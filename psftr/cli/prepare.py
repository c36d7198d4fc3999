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
  psftr prepare synthetic --twins --out data/twins                classes that differ in the order of motions only
  psftr prepare custom --name kitchen --annotations kitchen.json --subset training validation --features kitchen.h5
                                                                  your own data, for dataset=data/kitchen
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from psftr.cli.flags import flag_of, number
from psftr.cli.folders import no_remains, writable_folder
from psftr.cli.progress import counter, progress

# which flags go with what; they are refused elsewhere, where they would do nothing
WORLD = ("seed", "dim", "num_train", "num_test", "twins", "noise")
SIMULATION = ("seed", "dim", "subset", "limit")
ARRAYS = ("info", "encoder", "stride")
REAL = ("source", "base_url", "features", "simulate_features", "subset", "limit", *ARRAYS)
OWN = ("name", "annotations", "test_share", "ignore_labels", "tious", "split")


CUSTOM = "custom"
share = number(float, above=0, most=1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from psftr.data.datasets import DATASETS

    add = parser.add_argument
    add("dataset", choices=(*DATASETS, CUSTOM))
    add("--out", metavar="DIR", help="the dataset's folder (default: data/DATASET)")
    add("--from", dest="source", metavar="DIR", help="take the files from this folder instead of downloading them")
    add("--base-url", metavar="URL", help="a mirror of the public host (also: the variable PSFTR_BASE_URL)")
    add = parser.add_argument_group("custom: a data set of your own").add_argument
    add("--name", help="its name, in tables and folders (default: that of the folder --out)")
    add("--annotations", metavar="FILE", help="ActivityNet's JSON, or CSV with video,start,end,label in seconds")
    add("--subset", nargs="+", metavar="NAME", help="the subsets to train on and to test on; see below for others")
    add("--test-share", type=share, metavar="F", help="without subsets: draw this share of the videos for the test")
    add("--split", metavar="FILE", help="YAML with the class names `seen` and `unseen` (default: ten splits are drawn)")
    add("--ignore-labels", nargs="+", metavar="NAME", help="labels that are neither ground truth nor background")
    add("--tious", nargs="+", type=share, metavar="T", help="tIoUs to score (default: 0.3 0.4 0.5 0.6 0.7)")
    add = parser.add_argument_group("features that are there already, one <video id>.npy [T, D] per video").add_argument
    add("--features", metavar="DIR", help="the folder of arrays; becomes features.h5 (custom: or a feature store)")
    add("--info", metavar="FILE", help="their info JSON (default: the published one)")
    add("--encoder", metavar="NAME", help="what made them, e.g. open_clip:ViT-B-16:openai")
    add("--stride", type=number(int, least=1), help="frames per row (default: the data set's own)")
    add = parser.add_argument_group("synthetic features").add_argument
    add(
        "--simulate-features", action="store_true", default=None, help="write some over the real timelines, so labelled"
    )
    # --subset NAME, above: only this subset's videos (default: all annotated ones)
    add("--limit", type=number(int, least=1), metavar="N", help="only the first N videos of each subset")
    add("--seed", type=number(int, least=0), help="of synthetic features and worlds")
    add("--dim", type=number(int, least=64), help="of synthetic features and worlds")
    add("--num-train", type=number(int, least=1), help="training videos of the synthetic world")
    add("--num-test", type=number(int, least=1), help="test videos of the synthetic world")
    add("--twins", action="store_true", default=None, help="synthetic world of classes that differ in order only")
    add("--noise", action="store_true", default=None, help="synthetic world whose descriptions mean nothing")


def run(args: argparse.Namespace) -> int:
    from psftr.errors import PsftrError

    if args.dataset == CUSTOM:
        _refuse(
            args,
            ("source", "base_url", "simulate_features", "limit", "dim", "num_train", "num_test"),
            "is not for a data set of your own",
        )
        return _prepare_own(args)
    _refuse(args, OWN, "is for `psftr prepare custom`")
    if args.subset is not None:
        if len(args.subset) > 1:
            raise PsftrError("--subset takes one name here: the subset whose videos get synthetic features")
        args.subset = args.subset[0]
    if args.dataset == "synthetic":
        _refuse(args, REAL, "is for real data sets")
    else:
        _refuse(args, ("num_train", "num_test", "twins", "noise"), "is for `psftr prepare synthetic`")
        if not args.simulate_features:
            _refuse(args, SIMULATION, "needs --simulate-features")
        if not args.features:
            _refuse(args, ARRAYS, "needs --features DIR")
    if args.features is not None and args.simulate_features:
        raise PsftrError("--features and --simulate-features exclude each other: give one")
    if args.features is not None and not args.encoder:
        raise PsftrError("--features needs --encoder NAME, what made them, e.g. open_clip:ViT-B-16:openai")
    out = writable_folder("--out", args.out if args.out is not None else f"data/{args.dataset}")
    with no_remains(out):
        return _prepare_world(out, args) if args.dataset == "synthetic" else _prepare_real(out, args)


def _prepare_own(args: argparse.Namespace) -> int:
    from psftr.data.custom import Features, prepare_custom
    from psftr.errors import PsftrError

    if args.annotations is None:
        raise PsftrError("--annotations FILE is missing: ActivityNet's JSON, or CSV with video,start,end,label")
    if args.name is None and args.out is None:
        raise PsftrError("--name NAME is missing: how tables and folders call the data set")
    if args.subset is not None and len(args.subset) != 2:
        raise PsftrError(f"--subset {' '.join(args.subset)}: name two, the one to train on and the one to test on")
    if args.subset is not None and args.test_share is not None:
        raise PsftrError("--subset and --test-share exclude each other: give one")
    if args.features is None:
        _refuse(args, ARRAYS, "needs --features DIR")
    out = writable_folder("--out", args.out if args.out is not None else f"data/{args.name}")
    features = None
    if args.features is not None:
        info = Path(args.info) if args.info else None
        features = Features(path=Path(args.features), info=info, encoder=args.encoder, stride=args.stride)
    with no_remains(out):
        told = prepare_custom(
            out,
            name=args.name if args.name is not None else out.name,
            annotations=args.annotations,
            subsets=args.subset or (),
            features=features,
            **_given(args, ("test_share", "seed", "ignore_labels", "tious", "split")),
        )
    print("\n".join(told))
    return 0


def _prepare_real(out: Path, args: argparse.Namespace) -> int:
    from psftr.data.checks import summary
    from psftr.data.prepare import import_features, prepare, simulate

    with progress() as tell:
        files = counter(tell, "files checked")
        report = prepare(args.dataset, out, source=args.source, base=args.base_url, progress=files)
        if args.features is not None:
            report = import_features(report, args.features, encoder=args.encoder, stride=args.stride, info=args.info)
        if args.simulate_features:
            report = simulate(report, **_given(args, SIMULATION), progress=counter(tell, "videos simulated"))
    print("\n".join(summary(report)))
    return 0


def _prepare_world(out: Path, args: argparse.Namespace) -> int:
    from psftr.data.synthetic import ensure_world
    from psftr.features.store import FeatureStore

    built = ensure_world(out, **_given(args, WORLD))
    store = FeatureStore(out / "features.h5")
    print(f"Synthetic world {'built in' if built else 'is there already:'} {out}: {len(store)} videos, {store.encoder}")
    return 0


def _given(args: argparse.Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    """The flags that were given: the others keep the default of the function they go to."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def _refuse(args: argparse.Namespace, names: tuple[str, ...], why: str) -> None:
    from psftr.errors import PsftrError

    for name in _given(args, names):
        raise PsftrError(f"{'--from' if name == 'source' else flag_of(name)} {why}; leave it out")
