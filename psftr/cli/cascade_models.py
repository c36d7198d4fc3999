"""The multimodal models behind `psftr cascade`: built from the configuration, asked about videos, resumed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psftr.errors import PsftrError

Config = Mapping[str, Any]

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from psftr.language_models import Session
    from psftr.methods.cascade.filtering import Nearest
    from psftr.methods.cascade.mllm_cascade import MllmCascade, MllmCascadeConfig
    from psftr.methods.cascade.reconstruction import ReconstructionConfig
    from psftr.methods.cascade.stages import StagePlan
    from psftr.predictions import Detection

log = logging.getLogger("psftr")


@dataclass(frozen=True)
class Result:
    """What a backend found, with the traces for stages.json and what provenance says about how."""

    detections: Mapping[str, tuple[Detection, ...]]
    traces: Mapping[str, Mapping[str, Any]]
    config: Mapping[str, Any]
    threshold: float
    text: Mapping[str, Any] | None = None
    features: Mapping[str, Any] | None = None
    counts: Mapping[str, Any] | None = None


def reconstruction(config: Config) -> ReconstructionConfig:
    """The constants given, or under compat the observed ones."""
    from psftr.methods.cascade.mllm_cascade import MllmCascadeConfig
    from psftr.methods.cascade.reconstruction import ReconstructionConfig

    if config["compat"]:
        return MllmCascadeConfig().as_compat().reconstruction
    return ReconstructionConfig(**config["reconstruction"])


def stage_file(config: Config) -> Path | None:
    """The stage file named by the user: a path, or the name of one that comes with psftr (conf/plans)."""
    from psftr.cli.hydra_app import conf_dir

    given = config["stages"]
    if not given:
        return None
    shipped = conf_dir() / "plans" / f"{given}.yaml"
    return shipped if shipped.is_file() and not Path(given).exists() else Path(given)


def mllm_result(config: Config, names: Sequence[str], found: Mapping[str, Path], out: Path) -> Result | None:
    """Ask a model about every video not finished yet. None after a dry run."""
    from psftr.methods.cascade.frames import Journal, count_frames, read_frames
    from psftr.methods.cascade.mllm_cascade import plan_questions
    from psftr.methods.cascade.stages import read_stage_file

    settings = mllm_config(config)
    file = stage_file(config)
    plans = read_stage_file(file) if file else {}
    if config["dry_run"]:
        counts = [count_frames(p, fps=settings.fps, max_frames=settings.max_frames) for p in found.values()]
        log.info("dry run: %s", plan_questions(counts, names, plans, compat=settings.compat))
        return None
    cascade = build_cascade(config, settings, plans, names)
    facts = {"backend": config["backend"]["kind"], "model": cascade.session.model.identity, **settings.to_dict()}
    if cascade.planner is not cascade.session:
        facts["planner"] = cascade.planner.model.identity
    planned = {name: [plan.descriptions, plan.is_key] for name, plan in plans.items()}
    journal = Journal(out / "finished", {**facts, "classes": list(names), "plans": planned})
    if config["redo"]:
        journal.clear()
    detections, traces = {}, {}
    sessions = list(dict.fromkeys((cascade.session, cascade.planner)))
    try:
        for number, (video_id, path) in enumerate(found.items(), 1):
            finished = journal.get(video_id)
            if finished is None:
                log.info("video %d of %d", number, len(found))
                frames = read_frames(path, video_id, fps=settings.fps, max_frames=settings.max_frames)
                trace = cascade.trace(frames, names)
                finished = trace.detections(), trace.to_dict()
                journal.put(video_id, *finished)
            detections[video_id], traces[video_id] = finished
    finally:
        for session in sessions:
            log.info("%s", session.counts)
            session.cache.close()
    if config["record"]:
        cascade.session.write_recording(Path(config["record"]))
        log.info("answers recorded: %s", config["record"])
    return Result(
        detections=detections,
        traces=traces,
        config=facts,
        threshold=settings.reconstruction.threshold,
        counts={session.model.identity: session.counts.to_dict() for session in sessions},
        features={"encoder": cascade.session.model.identity, "synthetic": False},
    )


def mllm_config(config: Config) -> MllmCascadeConfig:
    from psftr.methods.cascade.mllm_cascade import MllmCascadeConfig

    settings = MllmCascadeConfig(**config["frames"], reconstruction=reconstruction(config))
    return settings.as_compat() if config["compat"] else settings


def build_cascade(
    config: Config, settings: MllmCascadeConfig, plans: Mapping[str, StagePlan], names: Sequence[str]
) -> MllmCascade:
    from psftr.methods.cascade.mllm_cascade import MllmCascade

    session = build_session(config["backend"], config)
    planner = build_session(config["planner"], config) if config["planner"]["kind"] != "none" else None
    if config["record"] and planner is not None:
        raise PsftrError("record=FILE records one model: leave out backend@planner, or give its plans with stages=FILE")
    nearest = nearest_candidate(config, names)
    return MllmCascade(session=session, planner=planner, config=settings, plans=plans, nearest=nearest)


def nearest_candidate(config: Config, names: Sequence[str]) -> Nearest | None:
    """Names that are no candidate's -> the candidate of the closest CLIP text embedding; None if not asked for."""
    from psftr.features.text import class_prompts, resolve_prompt
    from psftr.methods.cascade.filtering import nearest_by_embedding
    from psftr.settings import TextSettings

    settings = config["nearest"]
    if not settings["model"]:
        return None
    from psftr.features.clip import ClipEncoder

    encoder = ClipEncoder(settings["model"], settings["pretrained"], device="cpu", precision="fp32")
    template = resolve_prompt(TextSettings.prompt)

    def embed(said: Sequence[str]) -> NDArray:
        return encoder.encode(class_prompts(said, template)).numpy()

    return nearest_by_embedding(names, embed(names), lambda said: embed([said])[0], min_cosine=settings["min_cosine"])


def build_session(backend: Mapping[str, Any], config: Config) -> Session:
    """The model of a backend section, with its cache and budget."""
    from psftr.language_models import AnswerCache, Budget, ReplayMLLM, Session

    kind = backend["kind"]
    if kind == "replay":
        return Session(ReplayMLLM(backend["file"]))
    rest = {key: value for key, value in backend.items() if key not in ("kind", "cache", "budget")}
    budget = Budget(backend["budget"])
    model: Any
    if kind == "transformers":
        from psftr.features.encoders import pick_device
        from psftr.language_models.local import TransformersMLLM

        name, device = rest.pop("model"), pick_device(config["device"])
        model = TransformersMLLM.load(name, device=str(device), literal=config["compat"], budget=budget, **rest)
    elif kind == "server":
        from psftr.language_models.server import OpenAiServer

        model = OpenAiServer(api_key=os.environ.get(rest.pop("api_key_env")), budget=budget, **rest)
    else:
        raise PsftrError(f"backend.kind={kind} is unknown; choose transformers, server or replay")
    return Session(model, AnswerCache(backend["cache"]))


def locate_videos(config: Config, ids: Iterable[str]) -> dict[str, Path]:
    """The file of every test video. Raises PsftrError naming the folder, and how many are absent."""
    from psftr.features.video import SUFFIXES
    from psftr.predictions import canonical_id

    if not config["videos_dir"]:
        raise PsftrError(
            f"backend={config['backend']['kind']} looks at videos: give videos_dir=DIR with <video id>.mp4, or "
            "backend=clip, which needs only the feature store"
        )
    folder = Path(config["videos_dir"])
    if not folder.is_dir():
        raise PsftrError(f"no folder {folder}: videos_dir=DIR holds the test videos")
    files = {canonical_id(file.stem): file for file in sorted(folder.iterdir()) if file.suffix.lower() in SUFFIXES}
    found = {video_id: files[canonical_id(video_id)] for video_id in ids if canonical_id(video_id) in files}
    absent = [video_id for video_id in ids if video_id not in found]
    if not found:
        raise PsftrError(f"none of the {len(absent)} test videos (such as {absent[0]}) is in {folder}")
    if absent:
        log.info("TEST VIDEOS MISSING from %s: %d of %d", folder, len(absent), len(absent) + len(found))
    return found
