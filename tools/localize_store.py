"""Localize actions in a feature store: python tools/localize_store.py MODEL_FOLDER FEATURES.h5 TEXT.h5 OUT.json LABEL….

The labels are any names the text file holds; none of them need have been seen in training.
"""

import sys

from psftr.data.features import FeatureStore
from psftr.data.windows import WindowPolicy
from psftr.methods.psftr.decode import Decoder
from psftr.methods.psftr.export import load_pretrained
from psftr.methods.psftr.localizer import PsftrLocalizer
from psftr.predictions import CHECKPOINT_LAST, Predictions, Provenance, write_predictions
from psftr.text import check_compatible, load_text


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
