"""From videos or features, and labels in plain words, to detections."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from psftr.api.curves import HasSaliency, ScoreCurves, score_curves
from psftr.api.result import Result
from psftr.checkpoints import Saved, load_saved
from psftr.engine.configuration import read_config
from psftr.engine.localize import localize
from psftr.errors import PsftrError
from psftr.features.clip import DEFAULT_MODEL, DEFAULT_PRETRAINED, ClipEncoder
from psftr.features.encoders import open_encoder, pick_device
from psftr.features.extract import ExtractReport, Progress, VideoFile, extract, find_videos
from psftr.features.store import FeatureStore
from psftr.features.text import DEFAULT_PROMPT, TextEmbeddings, check_compatible, embed_names, load_text
from psftr.methods import LocalizerSetup, Method, find_method
from psftr.predictions import (
    CHECKPOINT_LAST,
    CHECKPOINT_NONE,
    CHECKPOINT_RULES,
    Detection,
    Localizer,
    Predictions,
    Provenance,
    canonical_id,
)
from psftr.settings import TrainSettings

DEFAULT_STRIDE = 8  # frames, as `psftr extract`
Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


def load(
    path: str | os.PathLike[str],
    *,
    device: str = "auto",
    revision: str | None = None,
    model: str | None = None,
    pretrained: str | None = None,
) -> Model:
    """A trained model: a run folder, a model folder, a .ckpt, or `hf://USER/REPOSITORY` on the Hugging Face hub.

    model, pretrained: where its CLIP encoder is, if that is not a published one. Raises PsftrError.
    """
    return Model(
        saved=load_saved(path, revision=revision), device=device, encoder_model=model, encoder_pretrained=pretrained
    )


def baseline(model: str | None = None, pretrained: str | None = None, *, device: str = "auto", seed: int = 0) -> Model:
    """The training-free CLIP baseline, which needs no checkpoint."""
    return Model(device=device, encoder_model=model, encoder_pretrained=pretrained, seed=seed)


@dataclass(eq=False, kw_only=True, repr=False)
class Model:
    """A trained network, or without one the training-free CLIP baseline; `predict` runs it."""

    saved: Saved | None = None
    device: str = "auto"
    encoder_model: str | None = None
    encoder_pretrained: str | None = None
    seed: int = 0
    _encoder: ClipEncoder | None = None

    def __repr__(self) -> str:
        return f"<{self.name}{f' of {self.origin}' if self.origin else ''}, encoder {self.encoder or 'any'}>"

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the training said about itself; empty without one."""
        return self.saved.facts if self.saved else {}

    @property
    def origin(self) -> str:
        return self.saved.where if self.saved else ""

    @property
    def method(self) -> Method:
        return find_method(str(self.facts.get("method", "clip_baseline")))

    @property
    def name(self) -> str:
        return self.method.name

    @property
    def encoder(self) -> str | None:
        """Identity of the encoder whose features it takes; None where any will do."""
        return None if self.saved is None else str(self.facts.get("encoder"))

    @property
    def seen_classes(self) -> tuple[str, ...]:
        return tuple(self.facts.get("train_classes") or ())

    @property
    def prompt(self) -> str:
        return str((self.facts.get("text") or {}).get("prompt") or DEFAULT_PROMPT)

    def predict(
        self,
        videos: Paths | None = None,
        *,
        labels: Sequence[str],
        features: str | os.PathLike[str] | None = None,
        video_ids: Sequence[str] | None = None,
        prompt: str | None = None,
        text: str | os.PathLike[str] | TextEmbeddings | None = None,
        threshold: float | None = None,
        max_per_video: int | None = None,
        stride: int | None = None,
        keep_features: str | os.PathLike[str] | None = None,
        on_progress: Callable[[Progress], None] = lambda _: None,
        on_video: Callable[[int, int], None] = lambda done, total: None,
        returns_on_interrupt: bool = False,
    ) -> Result:
        """Find `labels`, any words, in video files, or in a feature store in place of them.

        text: class texts made elsewhere, in place of the encoder's. keep_features: a folder for the features, where
        the next call finds them. threshold: least score kept. Videos that cannot be read are in `Result.failed`.
        Raises PsftrError for bad input, and if no video could be read at all.
        """
        names = _checked_labels(labels)
        if (videos is None) == (features is None):
            raise PsftrError("give videos, or features in place of them (not both)")
        if features is not None:
            store, files, report, keep = FeatureStore(Path(features)), {}, None, None
            ids = _checked_ids(store, video_ids)
            self._refuse_other_features(store)
        else:
            if keep_features is None:
                # Held by the result, which reads features again for its pictures.
                keep = tempfile.TemporaryDirectory(prefix="psftr-", ignore_cleanup_errors=True)
                keep_features = keep.name
            else:
                keep = None
            found = find_videos(_as_paths(videos))
            if not found:
                raise PsftrError("no videos given")
            store, report = self._extract(found, Path(keep_features), stride, on_progress)
            files = {v.video_id: v.path for v in found if v.video_id in store}
            ids = list(files)
        embeddings = self._embed(names, text, store, prompt)
        localizer = self._localizer(embeddings)
        detections, failed, is_complete = _localize(
            localizer, store, ids, names,
            partial(_kept, threshold=threshold, most=max_per_video), on_video, returns_on_interrupt,
        )  # fmt: skip
        failed = [*(report.failed if report else ()), *failed]
        if not detections and failed:
            raise PsftrError("; ".join(reason for _, reason in failed[:3]))
        return Result(
            predictions=Predictions(detections, self._provenance(store, embeddings, names, threshold, max_per_video)),
            labels=names,
            durations_s={video_id: store.timeline(video_id).duration_s for video_id in detections},
            files=files,
            failed=tuple(failed),
            shortfalls=tuple((video_id, str(why)) for video_id, why in (report.shortfalls if report else ())),
            threshold=threshold,
            is_complete=is_complete,
            curves=partial(_curves, store, localizer, embeddings, names, keep),
        )

    def _open_encoder(self, identity: str | None) -> ClipEncoder:
        """The encoder of this identity; of the user's choice, or the default, where there is none to meet."""
        if self._encoder is None or (identity and self._encoder.identity != identity):
            if identity is not None:
                self._encoder = open_encoder(
                    identity, model=self.encoder_model, pretrained=self.encoder_pretrained, device=self.device
                )
            else:
                device = pick_device(self.device)
                model, weights = self.encoder_model or DEFAULT_MODEL, self.encoder_pretrained or DEFAULT_PRETRAINED
                precision = "bf16" if device.type == "cuda" else "fp32"
                self._encoder = ClipEncoder(model, weights, device, precision, seed=self.seed)
        return self._encoder

    def _extract(
        self, videos: Sequence[VideoFile], folder: Path, stride: int | None, on_progress: Callable[[Progress], None]
    ) -> tuple[FeatureStore, ExtractReport]:
        from psftr.features.shards import ShardedStore

        encoder = self._open_encoder(self.encoder)
        stride = stride or self._trained_stride() or DEFAULT_STRIDE
        # A folder for each encoder and stride: nothing extracted before is in the way, nor lost.
        folder = folder / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', encoder.identity)}-stride{stride}"
        _forget_changed_files(folder, videos)
        shards = ShardedStore(folder, encoder=encoder.identity, dim=encoder.dim, stride=stride)
        report = extract(videos, encoder=encoder, store=shards, progress=on_progress)
        if not any(video.video_id in shards for video in videos):
            raise PsftrError("; ".join(reason for _, reason in report.failed[:3]))
        return FeatureStore(folder), report

    def _trained_stride(self) -> int | None:
        """Frames per feature row of the store it was trained on."""
        stated = re.search(r"\bstride=(\d+)(?!\S)", str((self.facts.get("features") or {}).get("identity", "")))
        return int(stated[1]) if stated else None

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

    def _embed(self, names: tuple[str, ...], text: Any, store: FeatureStore, prompt: str | None) -> TextEmbeddings:
        if text is None and store.synthetic:
            raise PsftrError(
                f"the features of {store.path} are synthetic, so no encoder has their words: give the text file that "
                "was made with them (--text)"
            )
        if text is None:
            # Where features were just extracted this is the encoder that made them.
            return embed_names(names, encoder=self._open_encoder(store.encoder), template=prompt or self.prompt)
        if prompt is not None:
            raise PsftrError("class texts made elsewhere keep their own prompt: leave out the prompt, or the texts")
        embeddings = text if isinstance(text, TextEmbeddings) else load_text(text)
        check_compatible(embeddings, store.encoder, store.dim)
        embeddings.select(names)
        return embeddings

    def _localizer(self, text: TextEmbeddings) -> Localizer:
        method = self.method
        _, _, own = read_config(TrainSettings, {**self.facts.get("config", {}), "method": method.name})
        return method.localizer(
            LocalizerSetup(
                own=own,
                text=text,
                saved=self.saved,
                protocol="clean",  # one trained under the peers' protocol is merged by our rules here
                batch_size=TrainSettings().data.batch_size,
                device=pick_device(self.device),
            )
        )

    def _provenance(
        self,
        store: FeatureStore,
        text: TextEmbeddings,
        names: tuple[str, ...],
        threshold: float | None,
        max_per_video: int | None,
    ) -> Provenance:
        split = self.facts.get("split") or {}
        rule = self.facts.get("checkpoint_rule", CHECKPOINT_LAST)
        config: dict[str, Any] = {"labels": list(names), "threshold": threshold, "max_per_video": max_per_video}
        if self.saved is not None:
            trained = self.facts.get("config") or {}
            config |= {"checkpoint": self.origin, "seen_classes": list(self.seen_classes)}
            config |= {key: trained[key] for key in ("window", "postprocess") if key in trained}
        return Provenance(
            method=self.name,
            checkpoint_rule=(
                CHECKPOINT_NONE if self.saved is None else rule if rule in CHECKPOINT_RULES else CHECKPOINT_LAST
            ),
            config=config,
            # Only the very classes of its split are a test of a trained network; free words are no split at all.
            split=split if set(names) == set(split.get("unseen") or ()) else None,
            features={
                "encoder": store.encoder,
                "dim": store.dim,
                "identity": store.identity,
                "synthetic": store.synthetic,
            },
            text={"encoder": text.encoder, "prompt": text.prompt, "synthetic": text.synthetic},
        )


def _as_paths(videos: Paths | None) -> list[str | Path]:
    if videos is None:
        return []
    given = [videos] if isinstance(videos, str | os.PathLike) else videos
    return [os.fspath(video) for video in given]


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


def _checked_ids(store: FeatureStore, video_ids: Sequence[str] | None) -> list[str]:
    if video_ids is None:
        return list(store.video_ids)
    absent = [video_id for video_id in video_ids if video_id not in store]
    if absent:
        raise PsftrError(f"{store.path} has no features of {', '.join(absent[:5])} ({len(store)} videos there)")
    return list(video_ids)


def _forget_changed_files(folder: Path, videos: Sequence[VideoFile]) -> None:
    """Remove features of an earlier run whose video was another file, or has changed since."""
    notes = folder / "sources.json"
    try:
        known = json.loads(notes.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    for video in videos:
        facts = video.path.stat()
        now = [str(video.path.resolve()), facts.st_size, facts.st_mtime_ns]
        if known.get(video.video_id) != now:
            (folder / f"{video.video_id}.h5").unlink(missing_ok=True)
        known[video.video_id] = now
    folder.mkdir(parents=True, exist_ok=True)
    notes.write_text(json.dumps(known, indent=1), encoding="utf-8")


def _localize(
    localizer: Localizer,
    store: FeatureStore,
    ids: Sequence[str],
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
        on_video(len(detections) + len(failed), len(ids))

    spelled = {canonical_id(video_id): video_id for video_id in ids}  # the id as the user knows it
    try:
        for found_id, found in localize(localizer, store, ids, names, on_failure=note):
            video_id = spelled.get(canonical_id(found_id), found_id)
            detections[video_id] = kept([replace(d, video_id=video_id) for d in found])
            on_video(len(detections) + len(failed), len(ids))
    except KeyboardInterrupt:
        if not returns_on_interrupt:
            raise
        return detections, failed, False
    return detections, failed, True


def _kept(detections: Sequence[Detection], *, threshold: float | None, most: int | None) -> tuple[Detection, ...]:
    ranked = sorted(detections, key=lambda d: -d.score)
    return tuple(d for d in ranked if threshold is None or d.score >= threshold)[:most]


def _curves(
    store: FeatureStore,
    localizer: Localizer,
    text: TextEmbeddings,
    names: tuple[str, ...],
    keep: Any,
    video_id: str,
) -> ScoreCurves:
    """`keep` holds a temporary store alive for as long as this function is referred to."""
    features = store.read(video_id)
    salient = localizer.saliency(features, names) if isinstance(localizer, HasSaliency) else None
    return score_curves(features, names, text.select(names).numpy(), saliency=salient)
