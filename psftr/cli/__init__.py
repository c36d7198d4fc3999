"""`psftr VERB …`: the front door. Verbs are imported only when called, so `--help` is quick."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from psftr import __version__
from psftr.cli.errors import EXIT_BAD_INPUT, one_line
from psftr.errors import PsftrError

# verb: (kind, one line). Hydra verbs take key=value overrides, flag verbs plain flags.
VERBS: dict[str, tuple[str, str]] = {
    "prepare": ("flags", "fetch or import annotations and class splits, check them, report trouble"),
    "extract": ("flags", "videos -> CLIP frame features (HDF5 feature store)"),
    "train": ("hydra", "train on the seen classes of a split; -m sweeps"),
    "evaluate": ("hydra", "localize the unseen classes and score: one run, a multirun of ten, or a predictions file"),
    "cascade": ("hydra", "training-free localization by stages: CLIP features or a multimodal model"),
    "describe": ("hydra", "class names -> descriptions by a language model: what moves, from start to end"),
    "predict": ("flags", "find actions, named in your words, in your videos: times, subtitles, pictures, a page"),
    "report": ("flags", "one self-contained HTML page for predictions files"),
    "bench": ("flags", "ratios of our code to named baselines, measured in one run"),
}


def usage() -> str:
    width = max(map(len, VERBS))
    lines = [
        f"psftr {__version__}: find actions nobody annotated (zero-shot temporal action localization)",
        "",
        "usage: psftr VERB … | psftr VERB --help",
        "",
        *(f"  {verb.ljust(width)}  {text}" for verb, (_, text) in VERBS.items()),
        "",
        "example: psftr train split.index=0        # the embedded synthetic world, a minute or two on two cores",
    ]
    return "\n".join(lines)


def let_threads_wait_briefly() -> None:
    """Before torch is imported: between operations its threads spin for some microseconds and then sleep.

    Seconds a step of a small network (d = 128) with two threads on two cores, alone and beside another such process:
    OpenMP's own way 0.25 and 1.14, sleeping at once (PASSIVE) 0.35 and 0.45, this 0.28 and 0.56. Whoever sets either
    variable decides.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ["GOMP_SPINCOUNT"] = "1000"  # the GNU OpenMP library of PyTorch's Linux builds reads this one first


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit status: 0, 2 for bad input (one line on stderr), 130 when interrupted."""
    let_threads_wait_briefly()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else EXIT_BAD_INPUT
    if arguments[0] in ("-V", "--version"):
        print(f"psftr {__version__}")
        return 0
    verb, rest = arguments[0], arguments[1:]
    try:
        if verb not in VERBS:
            import difflib

            near = difflib.get_close_matches(verb, VERBS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"verbs: {', '.join(VERBS)}"
            raise PsftrError(f"no verb '{verb}'; {hint}")
        module = importlib.import_module(f"psftr.cli.{verb}")
        if VERBS[verb][0] == "hydra":
            from psftr.cli.hydra_app import run_hydra_verb

            return run_hydra_verb(verb, module, rest)
        from psftr.cli.flags import FlagParser

        parser = FlagParser(
            prog=f"psftr {verb}",
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(parser)
        return module.run(parser.parse_args(rest)) or 0
    except (PsftrError, OSError) as error:
        print(f"psftr {verb}: error: {one_line(error)}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt as stop:
        print(f"psftr {verb}: interrupted{f'; {stop}' if str(stop) else ''}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
