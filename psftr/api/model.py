"""From videos, frames or features, and labels in plain words, to detections."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from psftr.api.curves import HasSaliency, ScoreCurves, score_curves
from psftr.api.hub import HubModel
from psftr.api.inputs import Frames, Inputs, Progress, open_features, open_videos
from psftr.api.result import Result
from psftr.api.stream import stream_detections
from psftr.checkpoints import Saved, load_saved
from psftr.engine.localize import build_localizer, localize, precision_of, settings_of
from psftr.errors import PsftrError
from psftr.features.clip import ClipEncoder
from psftr.features.encoders import make_encoder, open_encoder, pick_device
from psftr.features.settings import EncoderSettings, ExtractSettings
from psftr.features.store import FeatureStore, VideoFeatures
from psftr.features.text import TextEmbeddings, check_compatible, embed_names, load_text, resolve_prompt
from psftr.predictions import (
    CHECKPOINT_LAST,
    CHECKPOINT_NONE,
    Detection,
    Localizer,
    Predictions,
    Provenance,
    canonical_id,
)
from psftr.settings import EvaluateSettings, TextSettings, to_dict

Path_ = str | os.PathLike[str]
Videos = Path_ | Frames | Iterable[Path_ | Frames]
Features = Path_ | VideoFeatures | Iterable[VideoFeatures]


def load(
    path: Path_,
    *,
    device: str = EncoderSettings.device,
    revision: str | None = None,
    model: str | None = None,
    pretrained: str | None = None,
    precision: str = EvaluateSettings.precision,
) -> Model:
    """A trained model: a run folder, a model folder, a .ckpt, or `hf://USER/REPOSITORY` on the Hugging Face hub.

    model, pretrained: where its CLIP encoder is, if that is not a published one. precision: of the network, as the
    setting of `psftr evaluate`: auto, 32-true or bf16-mixed. Raises PsftrError.
    """
    EvaluateSettings(precision=precision)  # refuses an unknown one
    return Model(
        saved=load_saved(path, revision=revision),
        device=device,
        encoder_model=model,
        encoder_pretrained=pretrained,
        precision=precision,
    )


def baseline(
    model: str | None = None,
    pretrained: str | None = None,
    *,
    device: str = EncoderSettings.device,
    seed: int = EncoderSettings.seed,
) -> Model:
    """The training-free CLIP baseline, which needs no checkpoint. `seed`: of untrained encoder weights."""
    return Model(saved=None, device=device, encoder_model=model, encoder_pretrained=pretrained, seed=seed)


class Model(HubModel):
    """A trained method, or without training (`saved` is None) the CLIP baseline; `predict` runs it.

    encoder_model, encoder_pretrained: where the CLIP encoder is. seed: of untrained encoder weights.
    """

    def __init__(
        self,
        *,
        saved: Saved | None,
        device: str,
        encoder_model: str | None = None,
        encoder_pretrained: str | None = None,
        seed: int = EncoderSettings.seed,
        precision: str = EvaluateSettings.precision,
    ) -> None:
        self.saved = saved
        _, self.method, self.own = settings_of(saved)
        self.encoder_model, self.encoder_pretrained, self.seed = encoder_model, encoder_pretrained, seed
        self.precision = precision
        self._encoder: ClipEncoder | None = None
        self.to(device)

    @classmethod
    def _load(cls, path: Path_, **how: Any) -> Model:
        return load(path, **how)

    def __repr__(self) -> str:
        return f"<{self.name}{f' of {self.origin}' if self.origin else ''}, encoder {self.encoder or 'any'}>"

    @property
    def name(self) -> str:
        return self.method.name

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the training recorded; empty without training."""
        return self.saved.facts if self.saved else {}

    @property
    def origin(self) -> str:
        return self.saved.where if self.saved else ""

    @property
    def encoder(self) -> str | None:
        """Identity of the encoder whose features it takes; None where any will do."""
        return str(self.facts["encoder"]) if self.saved else None

    @property
    def seen_classes(self) -> tuple[str, ...]:
        return tuple(self.facts.get("train_classes") or ())

    @property
    def prompt(self) -> str:
        return str((self.facts.get("text") or {}).get("prompt") or TextSettings.prompt)

    def to(self, device: str | torch.device) -> Model:
        """Run on this device from now on: "cpu", "cuda", "cuda:1" or "auto". Raises PsftrError."""
        chosen = pick_device(str(device))
        if self._encoder is not None and self._encoder.device != chosen:
            self._encoder = None  # opened again where it is needed, in the precision of its device
        self.device = chosen
        return self

    def predict(
        self,
        videos: Videos | None = None,
        *,
        labels: Sequence[str],
        features: Features | None = None,
        video_ids: Sequence[str] | None = None,
        prompt: str | None = None,
        text: Path_ | TextEmbeddings | None = None,
        threshold: float | None = None,
        max_per_video: int | None = None,
        stride: int | None = None,
        keep_features: Path_ | None = None,
        on_progress: Callable[[Progress], None] = lambda _: None,
        on_video: Callable[[int, int], None] = lambda done, total: None,
        returns_on_interrupt: bool = False,
    ) -> Result:
        """Find `labels`, any words, in video files or `Frames`, or in features in place of them.

        features: a feature store, or `VideoFeatures` made by this model's encoder. text: class texts made elsewhere,
        in place of the encoder's. keep_features: a folder for the features, where the next call finds them.
        threshold: least score kept. Videos that cannot be read are in `Result.failed`.
        Raises PsftrError for bad input, and if no video could be read at all.
        """
        names = _checked_labels(labels)
        given_text = self._given_text(names, text, prompt)
        if (videos is None) == (features is None):
            raise PsftrError("give videos, or features in place of them (not both)")
        if videos is not None:
            encoder = self._open_encoder(self.encoder)
            frames_per_row = stride or trained_stride(self.facts)
            inputs = open_videos(
                videos, encoder=encoder, stride=frames_per_row, keep=keep_features, on_progress=on_progress
            )
        else:
            assert features is not None
            inputs = open_features(features, video_ids, encoder=partial(self._encoder_of, given_text))
            self._refuse_other_features(inputs.store)
        embeddings = self._embed(names, given_text, inputs.store, prompt) if self.method.reads_text else None
        localizer = build_localizer(self.saved, embeddings, device=self.device, precision=self.precision)
        kept = partial(_kept, threshold=threshold, most=max_per_video)
        detections, failed, is_complete = _search(localizer, inputs, names, kept, on_video, returns_on_interrupt)
        failed = [*inputs.failed, *failed]
        if not detections and failed:
            raise PsftrError("; ".join(reason for _, reason in failed[:3]))
        provenance = self._provenance(localizer, inputs.store, embeddings, names, threshold, max_per_video)
        return Result(
            predictions=Predictions(detections, provenance),
            labels=names,
            durations_s={video_id: inputs.store.timeline(video_id).duration_s for video_id in detections},
            files=inputs.files,
            failed=tuple(failed),
            shortfalls=inputs.shortfalls,
            threshold=threshold,
            is_complete=is_complete,
            curves=partial(_curves, inputs, localizer, embeddings, names) if embeddings else None,
        )

    def stream(
        self,
        video: Path_ | Frames,
        *,
        labels: Sequence[str],
        prompt: str | None = None,
        text: Path_ | TextEmbeddings | None = None,
        threshold: float | None = None,
        stride: int | None = None,
    ) -> Iterator[Detection]:
        """Detections of one long video while it is read, in order of time, in memory that does not grow with it.

        The video is searched in overlapping chunks (`psftr.api.stream`); an action longer than a chunk is cut, and
        scores compare within a chunk. Raises PsftrError.
        """
        names = _checked_labels(labels)
        given_text = self._given_text(names, text, prompt)
        encoder = self._open_encoder(self.encoder)
        embeddings = None
        if self.method.reads_text:
            embeddings = given_text or embed_names(names, encoder=encoder, template=prompt or self.prompt)
            check_compatible(embeddings, encoder.identity, encoder.dim)
        localizer = build_localizer(self.saved, embeddings, device=self.device, precision=self.precision)
        found = stream_detections(video, localizer, names, encoder=encoder, stride=stride or trained_stride(self.facts))
        return (d for d in found if threshold is None or d.score >= threshold)

    def export(self, path: Path_) -> Path:
        """Write the network as a file of torch.export (see `psftr.methods.psftr.export`). Raises PsftrError."""
        if self.saved is None or self.name != "psftr":
            raise PsftrError(f"{self.name} has no network to export; load a trained model of psftr")
        from psftr.methods.psftr.export import export_saved

        return export_saved(self.saved, path)

    def _open_encoder(self, identity: str | None) -> ClipEncoder:
        """The encoder of this identity; without one the encoder of the user's choice, or the default."""
        if self._encoder is None or (identity and self._encoder.identity != identity):
            if identity is not None:
                self._encoder = open_encoder(
                    identity, model=self.encoder_model, pretrained=self.encoder_pretrained, device=str(self.device)
                )
            else:
                settings = EncoderSettings(seed=self.seed, device=str(self.device))
                if self.encoder_model is not None:
                    settings = replace(settings, model=self.encoder_model)
                if self.encoder_pretrained is not None:
                    settings = replace(settings, pretrained=self.encoder_pretrained)
                self._encoder = make_encoder(settings)
        return self._encoder

    def _encoder_of(self, text: TextEmbeddings | None) -> str:
        """Identity of the encoder that features given as arrays are taken to be of."""
        return self.encoder or (text.encoder if text else self._open_encoder(None).identity)

    def _refuse_other_features(self, store: FeatureStore) -> None:
        if self.encoder is not None and store.encoder != self.encoder:
            raise PsftrError(
                f"{self.origin} was trained on features of {self.encoder}, the store {store.path} holds those of "
                f"{store.encoder}: extract with the checkpoint's encoder, or give another checkpoint"
            )
        wanted = (self.facts.get("network") or {}).get("feature_dim")
        if wanted is not None and wanted != store.dim:
            raise PsftrError(
                f"{self.origin} takes features of {wanted} dimensions, the store {store.path} has {store.dim}"
            )

    def _given_text(self, names: tuple[str, ...], text: Any, prompt: str | None) -> TextEmbeddings | None:
        """Class texts made elsewhere, checked before minutes of extraction; the prompt is checked too."""
        if prompt is not None:
            resolve_prompt(prompt)
        if text is None:
            return None
        if prompt is not None:
            raise PsftrError("class texts made elsewhere keep their own prompt: leave out the prompt, or the texts")
        embeddings = text if isinstance(text, TextEmbeddings) else load_text(text)
        embeddings.select(names)
        return embeddings

    def _embed(
        self, names: tuple[str, ...], text: TextEmbeddings | None, store: FeatureStore, prompt: str | None
    ) -> TextEmbeddings:
        if text is not None:
            check_compatible(text, store.encoder, store.dim)
            return text
        if store.synthetic:
            raise PsftrError(
                f"the features of {store.path} are synthetic, so no encoder has their words: give the text file that "
                "was made with them (--text)"
            )
        # Where features were just extracted this is the encoder that made them.
        return embed_names(names, encoder=self._open_encoder(store.encoder), template=prompt or self.prompt)

    def _provenance(
        self,
        localizer: Localizer,
        store: FeatureStore,
        text: TextEmbeddings | None,
        names: tuple[str, ...],
        threshold: float | None,
        max_per_video: int | None,
    ) -> Provenance:
        split = self.facts.get("split") or {}
        config: dict[str, Any] = {"labels": list(names), "threshold": threshold, "max_per_video": max_per_video}
        if self.saved:
            config |= {"checkpoint": self.origin, "train_classes": list(self.seen_classes)}
        return Provenance(
            method=self.name,
            checkpoint_rule=self.facts.get("checkpoint_rule", CHECKPOINT_LAST) if self.saved else CHECKPOINT_NONE,
            config=config | to_dict(self.own) | precision_of(localizer),
            # Only the very classes of its split are a test of a trained network; free words are no split at all.
            split=split if set(names) == set(split.get("unseen") or ()) else None,
            features=store.provenance(),
            text=text.provenance() if text else None,
            training=self.facts.get("training"),
        )


def trained_stride(facts: Mapping[str, Any]) -> int:
    """Frames per feature row of the store a network was trained on; the default where none or several are stated."""
    identity = str((facts.get("features") or {}).get("identity", ""))
    stated = [word.removeprefix("stride=") for word in identity.split() if word.startswith("stride=")]
    return int(stated[0]) if stated and stated[0].isdecimal() else ExtractSettings.stride


def _search(
    localizer: Localizer,
    inputs: Inputs,
    names: tuple[str, ...],
    kept: Callable[[Sequence[Detection]], tuple[Detection, ...]],
    on_video: Callable[[int, int], None],
    returns_on_interrupt: bool,
) -> tuple[dict[str, tuple[Detection, ...]], list[tuple[str, str]], bool]:
    """(detections by video, (video, reason) of those that failed, whether all were looked at)."""
    detections: dict[str, tuple[Detection, ...]] = {}
    failed: list[tuple[str, str]] = []

    def note(video_id: str, error: PsftrError) -> None:
        failed.append((video_id, str(error)))
        on_video(len(detections) + len(failed), len(inputs.ids))

    spelled = {canonical_id(video_id): video_id for video_id in inputs.ids}  # the id as the user knows it
    try:
        for found_id, found in localize(localizer, inputs.store, inputs.ids, names, on_failure=note):
            video_id = spelled[canonical_id(found_id)]
            detections[video_id] = kept([replace(d, video_id=video_id) for d in found])
            on_video(len(detections) + len(failed), len(inputs.ids))
    except KeyboardInterrupt:
        if not returns_on_interrupt:
            raise
        return detections, failed, False
    return detections, failed, True


def _checked_labels(labels: Sequence[str]) -> tuple[str, ...]:
    if isinstance(labels, str):
        raise PsftrError(f"labels is one string, {labels!r}; give a list of labels: [{labels!r}]")
    names = [" ".join(label.split()) for label in labels]
    names = [name for name in names if name]
    if not names:
        raise PsftrError("no labels to look for; give at least one, such as --labels 'high jump'")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PsftrError(f"labels given twice: {', '.join(twice)}")
    return tuple(names)


def _kept(detections: Sequence[Detection], *, threshold: float | None, most: int | None) -> tuple[Detection, ...]:
    ranked = sorted(detections, key=lambda d: -d.score)
    return tuple(d for d in ranked if threshold is None or d.score >= threshold)[:most]


def _curves(
    inputs: Inputs, localizer: Localizer, text: TextEmbeddings, names: tuple[str, ...], video_id: str
) -> ScoreCurves:
    features = inputs.store.read(video_id)
    salient = localizer.saliency(features, names) if isinstance(localizer, HasSaliency) else None
    return score_curves(features, names, text.select(names).numpy(), saliency=salient)
