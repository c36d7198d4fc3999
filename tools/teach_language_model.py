"""Teach a tiny language model on the synthetic space, for ActionVLM on the world of twins: language.model=FOLDER.

python tools/teach_language_model.py FOLDER [--seed 0] [--dim 64] [--steps 1500]

It learns to say which description fits the frames it reads (psftr/methods/actionvlm/teaching.py), on casts of classes
that are drawn at random and never those of the world of twins. `--seed` and `--dim` are those of the world. A step takes
about 0.15 s of one core. Needs psftr[vlm].
"""

from __future__ import annotations

import argparse

import torch

from psftr.methods.actionvlm.teaching import teach


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--casts", type=int, default=1500, help="how many sets of classes to draw lessons of")
    args = parser.parse_args()
    torch.set_num_threads(1)
    taught = teach(
        args.folder, seed=args.seed, dim=args.dim, steps=args.steps, casts=args.casts,
        tell=lambda line: print(line, flush=True),
    )  # fmt: skip
    print(
        f"{args.folder}: {args.steps} steps; right class of eight in {100 * taught.other_lessons:.1f} % of the "
        f"rows of actions of other lessons, and in {100 * taught.own_twins:.1f} % on the classes of the world of twins"
    )


if __name__ == "__main__":
    main()
