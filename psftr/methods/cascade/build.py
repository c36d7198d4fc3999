"""From settings to the parts of a run: models, plans, texts, features and videos."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psftr.errors import PsftrError
from psftr.features.class_text import class_text, text_encoder
from psftr.features.encoders import make_encoder, pick_device
from psftr.features.settings import EncoderSettings
from psftr.features.store import FeatureStore
from psftr.features.text import TextEmbeddings, class_prompts, embed_names, load_text, resolve_prompt
from psftr.features.video import SUFFIXES
from psftr.files import some
from psftr.language_models import ReplayMLLM, Session
from psftr.language_models.build import open_session
from psftr.methods.cascade.clip_cascade import ClipCascade
from psftr.methods.cascade.filtering import Nearest, nearest_by_embedding
from psftr.methods.cascade.mllm_cascade import MllmCascade, Steps
from psftr.methods.cascade.prefilter import Hints
from psftr.methods.cascade.preflight import Preflight
from psftr.methods.cascade.settings import CascadeSettings, NearestSettings
from psftr.methods.cascade.stages import (
    StagePlan,
    check_stage_text,
    one_stage_plan,
    read_stage_file,
    stage_sentences,
    write_stage_file,
)
from psftr.methods.cascade.synthetic_stages import embed_synthetic, synthetic_plans
from psftr.predictions import canonical_id

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from psftr.features.clip import ClipEncoder

log = logging.getLogger("psftr")


def open_cascade(
    settings: CascadeSettings, plans: Mapping[str, StagePlan], names: Sequence[str], *, hints: Hints | None
) -> MllmCascade:
    """The models of all steps, ready to look at videos. In a dry run they only know what is kept.

    Raises PsftrError for a model that is not available, and where questions are to be spared by features that are not
    given.
    """
    asked = settings.questions
    if hints is None and (asked.filter == "clip" or asked.max_classes is not None or asked.frames_share < 1):
        raise PsftrError(
            "questions.filter=clip, questions.max_classes and questions.frames_share need CLIP features of the videos: "
            "use a data set with features (dataset.features=FILE), or leave them out"
        )
    opened: dict[Any, Session] = {}
    for step, backend in settings.steps.items():
        key = (step, backend) if backend.kind == "replay" else backend
        if key not in opened:
            opened[key] = open_session(
                backend,
                step=step,
                cache=Path(settings.data_root) / "mllm_cache",
                device=pick_device(settings.device),
                seed=settings.seed,
                literal=settings.compat,
                is_dry=settings.dry_run,
            )
        opened[step] = opened[key]
    steps = Steps(opened["filter"], opened["caption"], opened["plan"], opened["confidence"])
    preflight = Preflight(
        steps,
        frames=settings.frames,
        questions=asked,
        needs_plans=any(name not in plans for name in names),
    )
    for session in steps.sessions:
        if not settings.dry_run and not isinstance(session.model, ReplayMLLM):
            session.before_asking = preflight
    return MllmCascade(
        steps=steps,
        frames=settings.frames,
        questions=asked,
        reconstruction=settings.reconstruction,
        plans=plans,
        compat=settings.compat,
        nearest=nearest_candidate(settings.nearest, names, prompt=settings.text.prompt),
        hints=hints,
    )


def nearest_candidate(settings: NearestSettings, names: Sequence[str], *, prompt: str) -> Nearest | None:
    """Names that are no candidate's -> the candidate of the closest CLIP text embedding; None if not asked for."""
    if not settings.model:
        return None
    encoder = make_encoder(EncoderSettings(model=settings.model, pretrained=settings.pretrained, device="cpu"))
    template = resolve_prompt(prompt)

    def embed(said: Sequence[str]) -> NDArray:
        return encoder.encode(class_prompts(said, template)).numpy()

    return nearest_by_embedding(names, embed(names), lambda said: embed([said])[0], min_cosine=settings.min_cosine)


def open_clip_cascade(
    settings: CascadeSettings, store: FeatureStore, root: Path, names: Sequence[str], *, file: Path | None, out: Path
) -> ClipCascade:
    """CASCADE on a feature store. `file`: stage plans; those of synthetic classes are written to `out` without one."""
    plans, sentences = stage_texts(settings, store, names, file=file, out=out)
    return ClipCascade(
        plans=plans,
        names=class_text(names, store=store, root=root, settings=settings.text),
        sentences=sentences,
        settings=settings.backend,
        reconstruction=settings.reconstruction,
    )


def stage_texts(
    settings: CascadeSettings, store: FeatureStore, names: Sequence[str], *, file: Path | None, out: Path
) -> tuple[dict[str, StagePlan], TextEmbeddings]:
    """Plans and the embeddings of their sentences in the space of the store; what is made here is written to `out`."""
    if file is not None:
        plans = read_stage_file(file)
    elif store.synthetic:
        plans = synthetic_plans(names)
        log.info("stage plans of the synthetic classes: %s", write_stage_file(out / "stages.yaml", plans))
    else:
        raise PsftrError("backend=clip needs stages=FILE, a stage file with a plan for every class (docs/cascade.md)")
    wanted = stage_sentences(plans, names, file=file)
    if settings.stages_text:
        text = load_text(settings.stages_text)
        check_stage_text(text, plans, names)
        return plans, text
    if store.synthetic:
        text = embed_synthetic(plans, names, encoder=store.encoder)
    else:
        model = text_encoder(store.encoder, weights=settings.text.weights)
        text = TextEmbeddings(wanted, model.encode(wanted), model.identity, prompt="stages")
    text.save(out / "stages.h5")
    return plans, text


def open_clip_cascade_for(settings: CascadeSettings, encoder: ClipEncoder, *, file: Path | None) -> ClipCascade:
    """CASCADE on features of own videos by `encoder`. A label without a plan is its own only stage."""
    names = settings.labels
    plans = read_stage_file(file) if file else {}
    plans |= {name: one_stage_plan(name) for name in names if name not in plans}
    sentences = stage_sentences(plans, names)
    return ClipCascade(
        plans=plans,
        names=embed_names(names, encoder=encoder, template=settings.text.prompt),
        sentences=TextEmbeddings(sentences, encoder.encode(sentences), encoder.identity, prompt="stages"),
        settings=settings.backend,
        reconstruction=settings.reconstruction,
    )


@dataclass(frozen=True)
class VideoFiles:
    """Stands where a data set has its feature store, for a model that looks at the videos themselves."""

    path: str
    encoder: str

    @property
    def dim(self) -> int:
        return 0

    @property
    def synthetic(self) -> bool:
        return False

    @property
    def identity(self) -> str:
        return self.encoder

    def provenance(self) -> dict[str, Any]:
        """The `features` entry of a predictions file."""
        return {name: getattr(self, name) for name in ("encoder", "dim", "identity", "synthetic")}

    def __contains__(self, video_id: str) -> bool:
        return True  # `locate_videos` tells which are there


def locate_videos(folder: str | None, ids: Iterable[str], *, backend: str) -> dict[str, Path]:
    """The file of every test video. Raises PsftrError naming the folder, and how many are absent."""
    if not folder:
        raise PsftrError(
            f"backend={backend} looks at videos: give videos_dir=DIR with <video id>.mp4, or "
            "backend=clip, which needs only the feature store"
        )
    place = Path(folder)
    if not place.is_dir():
        raise PsftrError(f"no folder {place}: videos_dir=DIR holds the test videos")
    files = {canonical_id(file.stem): file for file in sorted(place.iterdir()) if file.suffix.lower() in SUFFIXES}
    wanted = list(ids)
    found = {video_id: files[canonical_id(video_id)] for video_id in wanted if canonical_id(video_id) in files}
    absent = [video_id for video_id in wanted if video_id not in found]
    if not found:
        raise PsftrError(f"none of the {len(absent)} test videos (such as {some(absent, 1)}) is in {place}")
    if absent:
        log.info("TEST VIDEOS MISSING from %s: %d of %d", place, len(absent), len(wanted))
    return found


def own_videos(files: Sequence[str]) -> dict[str, Path]:
    """Own videos by id: the file's name without its ending, or its path where two names are alike."""
    paths = [Path(file) for file in files]
    for path in paths:
        if not path.is_file():
            raise PsftrError(f"{path}: no such video file; videos=[…] takes files")
    if len({path.resolve() for path in paths}) != len(paths):
        raise PsftrError("a file is given twice in videos=[…]; give it once")
    ids = [path.stem for path in paths]
    if len(set(ids)) != len(ids):
        ids = [str(path) for path in paths]
    return dict(zip(ids, paths))


def facts_of(settings: CascadeSettings, cascade: MllmCascade) -> dict[str, Any]:
    """What decides the outcome of a run over models: for provenance and for the journal."""
    groups = {name: asdict(getattr(settings, name)) for name in ("frames", "questions", "reconstruction", "nearest")}
    return {
        "backend": settings.backend.name,
        "models": cascade.steps.identities,
        "compat": settings.compat,
        **groups,
    }
