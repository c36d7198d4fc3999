"""The one way from a feature store to detections: for `evaluate`, `predict`, CASCADE's proposals and tools alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from psftr.checkpoints import Saved
from psftr.data.datasets import Dataset
from psftr.engine.configuration import read_config
from psftr.engine.precision import inference_precision
from psftr.errors import PsftrError
from psftr.evaluation.rules import CLEAN
from psftr.features.class_text import class_text
from psftr.features.encoders import pick_device
from psftr.features.store import FeatureStore, VideoFeatures
from psftr.features.text import TextEmbeddings
from psftr.methods import LocalizerSetup, Method
from psftr.predictions import CHECKPOINT_NONE, Detection, Localizer, Predictions, Provenance
from psftr.settings import CommonSettings, TrainSettings, to_dict

BASELINE = "clip_baseline"


def localize(
    localizer: Localizer,
    store: FeatureStore,
    video_ids: Iterable[str],
    class_names: Sequence[str],
    *,
    on_failure: Callable[[str, PsftrError], None] | None = None,
) -> Iterator[tuple[str, tuple[Detection, ...]]]:
    """(video id, detections best first) of each video of the store, in order, as soon as it is done.

    on_failure: told of a video whose features cannot be read, which is then left out; without it the error is raised.
    """

    def readable() -> Iterator[VideoFeatures]:
        for video_id in video_ids:
            try:
                features = store.read(video_id)
            except PsftrError as error:
                if on_failure is None:
                    raise
                on_failure(video_id, error)
            else:
                yield features

    return localizer.localize(readable(), class_names)


def precision_of(localizer: Localizer) -> dict[str, str]:
    """For provenance: what its network computes in; nothing where there is no choice."""
    return {"precision": localizer.precision} if hasattr(localizer, "precision") else {}


def settings_of(saved: Saved | None) -> tuple[TrainSettings, Method, Any]:
    """(shared settings, method, its settings) of a training; without one, those of the training-free CLIP baseline.

    Raises PsftrError for settings that this psftr does not know.
    """
    config = dict(saved.facts.get("config") or {}, method=saved.facts["method"]) if saved else {"method": BASELINE}
    return read_config(TrainSettings, config)


def build_localizer(
    saved: Saved | None, text: TextEmbeddings | None, *, device: str | torch.device, precision: str
) -> Localizer:
    """Of a training as it lies on disk, with its own settings; without one, the training-free CLIP baseline.

    One trained under the peers' protocol is merged by our rules here. precision: as `EvaluateSettings.precision`.
    """
    common, method, own = settings_of(saved)
    return _localizer(common, method, own, text, protocol=CLEAN, device=device, precision=precision, saved=saved)


def _localizer(
    common: CommonSettings,
    method: Method,
    own: Any,
    text: TextEmbeddings | None,
    *,
    protocol: str,
    device: str | torch.device,
    precision: str,
    saved: Saved | None,
) -> Localizer:
    if method.training is not None and saved is None:
        raise PsftrError(
            f"{method.name} is a trained method: give a run of `psftr train`, a model folder or a checkpoint"
        )
    chosen = pick_device(str(device))
    return method.localizer(
        LocalizerSetup(
            own=own,
            text=text,
            saved=saved,
            protocol=protocol,
            batch_size=common.data.batch_size,
            device=chosen,
            precision=partial(inference_precision, precision, device=chosen),
        )
    )


def localize_split(
    common: CommonSettings,
    method: Method,
    own: Any,
    dataset: Dataset,
    *,
    protocol: str,
    device: str | torch.device,
    precision: str,
    saved: Saved | None = None,
) -> Predictions:
    """Detections of the unseen classes in the test videos of the data set's split, with what produced them."""
    unseen = dataset.split.unseen
    text = None
    if method.reads_text:
        text = class_text(unseen, store=dataset.store, root=dataset.root, settings=common.text)
    localizer = _localizer(
        common, method, own, text, protocol=protocol, device=device, precision=precision, saved=saved
    )
    ids = dataset.test_videos(protocol, exclude=common.dataset.exclude)
    detections = dict(localize(localizer, dataset.store, ids, unseen))
    facts = saved.facts if saved else {}
    provenance = Provenance(
        method=method.name,
        checkpoint_rule=facts.get("checkpoint_rule", CHECKPOINT_NONE),
        config={
            **facts.get("config", {}),
            **to_dict(own),
            "protocol": protocol,
            **precision_of(localizer),
        },
        text=text.provenance() if text else None,
        training=facts.get("training"),
        **dataset.provenance(),
    )
    return Predictions(detections, provenance)
