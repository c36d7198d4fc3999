"""Localize actions in a feature store: python tools/localize_store.py MODEL_FOLDER FEATURES.h5 TEXT.h5 OUT.json LABEL….

The labels are any names the text file holds; none of them need have been seen in training.
"""

import sys

from psftr.checkpoints import load_pretrained
from psftr.data.windows import WindowPolicy
from psftr.features.store import FeatureStore
from psftr.features.text import check_compatible, load_text
from psftr.methods.psftr.localizer import PsftrLocalizer
from psftr.methods.psftr.postprocess import Decoder
from psftr.predictions import CHECKPOINT_LAST, Predictions, Provenance, write_predictions


def main(model: str, features: str, text_file: str, out: str, *labels: str) -> None:
    network, facts = load_pretrained(model)
    store, text = FeatureStore(features), load_text(text_file)
    check_compatible(text, store.encoder, store.dim)
    policy = WindowPolicy(**facts["config"]["window"])
    localizer = PsftrLocalizer(network=network, text=text, decoder=Decoder(), policy=policy)
    detections = dict(localizer.localize_many(map(store.read, store.video_ids), labels))
    provenance = Provenance(
        method="psftr",
        checkpoint_rule=facts.get("checkpoint_rule", CHECKPOINT_LAST),
        features={"encoder": store.encoder, "identity": store.identity, "synthetic": store.synthetic},
    )
    write_predictions(out, Predictions(detections, provenance))
    print(f"{sum(map(len, detections.values()))} detections of {len(detections)} videos in {out}")


if __name__ == "__main__":
    if len(sys.argv) < 6:
        sys.exit(__doc__)
    main(*sys.argv[1:])
