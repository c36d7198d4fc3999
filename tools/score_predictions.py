"""Score a predictions file: python tools/score_predictions.py PREDICTIONS ANNOTATIONS [SPLITS_DIR [RATIO INDEX]].

Both files may be JSON (ActivityNet layout) or CSV. With a published split only its unseen classes are scored.
"""

import sys

from psftr.data.annotations import read_annotations
from psftr.data.splits import read_published_split
from psftr.evaluation.protocol import evaluate_predictions
from psftr.evaluation.render import evaluation_text
from psftr.evaluation.rules import protocol_for
from psftr.predictions import read_predictions
from psftr.settings import SplitSettings


def main(predictions: str, annotations: str, splits_dir: str = "", *which: str) -> None:
    ratio, index = map(int, which or (SplitSettings.ratio, SplitSettings.index))
    split = read_published_split(splits_dir, ratio=ratio, index=index) if splits_dir else None
    evaluation = evaluate_predictions(
        read_predictions(predictions), read_annotations(annotations), split, protocol=protocol_for("thumos14")
    )
    print(evaluation_text(evaluation))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
