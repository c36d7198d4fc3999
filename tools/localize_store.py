"""Localize actions in a feature store: python tools/localize_store.py MODEL FEATURES.h5 TEXT.h5 OUT.json LABEL….

MODEL is a run folder, a model folder or a checkpoint. The labels are any names in the text file; training need not have
seen them. Detections are those of `psftr evaluate`: the run's own settings hold.
"""

import sys

from psftr.checkpoints import load_saved
from psftr.engine.localize import build_localizer, localize
from psftr.features.store import FeatureStore
from psftr.features.text import check_compatible, load_text
from psftr.predictions import Predictions, Provenance, write_predictions
from psftr.settings import EvaluateSettings


def main(model: str, features: str, text_file: str, out: str, *labels: str) -> None:
    saved, store, text = load_saved(model), FeatureStore(features), load_text(text_file)
    check_compatible(text, store.encoder, store.dim)
    localizer = build_localizer(saved, text, device="auto", precision=EvaluateSettings.precision)
    detections = dict(localize(localizer, store, store.video_ids, labels))
    provenance = Provenance(
        method=saved.facts["method"],
        checkpoint_rule=saved.facts["checkpoint_rule"],
        features={"encoder": store.encoder, "identity": store.identity, "synthetic": store.synthetic},
        training=saved.facts.get("training"),
    )
    write_predictions(out, Predictions(detections, provenance))
    print(f"{sum(map(len, detections.values()))} detections of {len(detections)} videos in {out}")


if __name__ == "__main__":
    if len(sys.argv) < 6:
        sys.exit(__doc__)
    main(*sys.argv[1:])
