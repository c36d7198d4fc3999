"""Teach a tiny language model on the space of a synthetic world, for ActionVLM on it: language.model=FOLDER.

python tools/teach_language_model.py WORLD FOLDER [--steps 1500]

WORLD is a folder that `psftr prepare synthetic --twins` made; only its seed and width are read. The model learns to say
which description fits the frames it reads (psftr/methods/actionvlm/teaching.py), on classes that are drawn at random
and never those of the world of twins. A step takes about 0.15 s of one core. Needs psftr[vlm].
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from psftr.data.record import read_record
from psftr.methods.actionvlm.teaching import teach


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world")
    parser.add_argument("folder")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--casts", type=int, default=1500, help="how many sets of classes to draw lessons of")
    args = parser.parse_args()
    record = read_record(Path(args.world))
    if record is None or record["dataset"] != "synthetic":
        print(f"{args.world} holds no synthetic world: make one with `psftr prepare synthetic`", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    made = record["generator"]
    taught = teach(
        args.folder, seed=made["seed"], dim=made["dim"], steps=args.steps, casts=args.casts,
        tell=lambda line: print(line, flush=True),
    )  # fmt: skip
    print(
        f"{args.folder}: {args.steps} steps; right class of eight in {100 * taught.other_lessons:.1f} % of the "
        f"rows of actions of other lessons, and in {100 * taught.own_twins:.1f} % on the classes of the world of twins"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
