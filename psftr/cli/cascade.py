"""CASCADE: name the actions of a video, divide them into stages, look for the stages, put the actions together."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psftr.cli.hydra_app import conf_dir
from psftr.errors import PsftrError
from psftr.files import some, write_json
from psftr.language_models.settings import BACKENDS, ClipSettings
from psftr.methods.cascade.settings import CascadeSettings, cascade_settings, shipped_stage_file

if TYPE_CHECKING:
    from psftr.data.annotations import Annotations
    from psftr.data.datasets import Dataset
    from psftr.data.splits import ClassSplit
    from psftr.evaluation.protocol import Evaluation
    from psftr.methods.cascade.run import Outcome
    from psftr.predictions import Predictions

CONFIG = "cascade"
SETTINGS = CascadeSettings
GROUPS = {"backend": BACKENDS}
HELP = """
usage: psftr cascade [dataset=NAME split.ratio=75 split.index=0] [backend=clip|qwen|llava|server|replay] [key=value …]
       psftr cascade videos=[FILE,…] labels=[NAME,…] [backend=…] [key=value …]

Training-free localization by stages: filter the classes, divide each action into stages, look for every stage in every
frame, put instances together. Writes predictions.json and stages.json (how each detection came about).

examples:
  psftr cascade                                                       the embedded synthetic world, CLIP backend
  psftr cascade dataset=thumos14 split.index=0 backend=clip stages=thumos14
  psftr cascade 'videos=[jump.mp4]' 'labels=[high jump,pole vault]' backend=server backend.base_url=URL dry_run=true
  psftr cascade dataset=thumos14 videos_dir=videos backend=qwen backend@planner=deepseek planner.budget=2000
  psftr cascade dataset=thumos14 videos_dir=videos preset=paper_llava

Each step may have its own model: backend@filter=, backend@caption=, backend@planner=; one that is not given is that of
the step before, and `backend` answers the questions about stages. A key of a server comes from the environment variable
that backend.api_key_env names. A run that was interrupted, or had failures, goes on with the same command. Exit status
1: some videos could not be read or have failed questions.
"""
log = logging.getLogger("psftr")


def check(config: Mapping[str, Any]) -> None:
    """Refuse wrong settings before anything is read."""
    cascade_settings(config)


def run(config: Mapping[str, Any]) -> float | None:
    settings = cascade_settings(config)
    if settings.write_text:
        write_class_text(settings)
        return None
    if settings.proposals:
        return rescore_proposals(settings)
    if settings.videos:
        run_on_videos(settings)
        return None
    return run_on_clip(settings) if settings.backend.kind == "clip" else run_on_models(settings)


def run_on_videos(settings: CascadeSettings) -> None:
    """Own videos, free-text labels."""
    from psftr.methods.cascade import build

    out = Path(settings.out or Path("outputs") / f"cascade-{settings.backend.name}")
    videos = build.own_videos(settings.videos)
    found: dict[str, Any]
    file = stage_file(settings)
    if settings.backend.kind == "clip":
        from psftr.api.inputs import open_videos
        from psftr.features.encoders import make_encoder

        encoder = make_encoder(settings.encoder)
        inputs = open_videos(
            list(videos.values()), encoder=encoder, stride=settings.extract.stride, keep=out / "features",
            on_progress=lambda _: None,
        )  # fmt: skip
        cascade = build.open_clip_cascade_for(settings, encoder, file=file)
        traces = [cascade.trace(inputs.store.read(video_id), settings.labels) for video_id in inputs.ids]
        found, failures = {t.video_id: t.detections() for t in traces}, dict(inputs.failed)
        write(
            out, found, {t.video_id: t.to_dict() for t in traces},
            config=cascade.config, features=inputs.store.provenance(), text=cascade.names.provenance(),
            threshold=settings.reconstruction.threshold, failures=failures,
        )  # fmt: skip
    else:
        outcome = ask_models(settings, settings.labels, videos, out)
        if outcome is None:
            return
        found = {video_id: looked.detections for video_id, looked in outcome.finished.items()}
        failures = outcome.failures
    for video_id, detections in found.items():
        log.info("%s", video_id)
        for d in detections:
            log.info("  %8.2f %8.2f  %.3f  %s", d.start_s, d.end_s, d.score, d.label)
        if not detections:
            log.info("  nothing found")
    log.info("predictions and stages: %s, %s", out / "predictions.json", out / "stages.json")
    end_with(failures)


def run_on_clip(settings: CascadeSettings) -> float:
    """A data set's feature store, class names and a stage file."""
    from psftr.data.datasets import open_dataset
    from psftr.engine.evaluate import score
    from psftr.methods.cascade import build

    dataset = open_dataset(settings.dataset, settings.split, data_root=settings.data_root)
    out = output_folder(settings, dataset.name, dataset.split)
    names = candidates(settings, dataset.annotations, dataset.split)
    cascade = build.open_clip_cascade(settings, dataset.store, dataset.root, names, file=stage_file(settings), out=out)
    ids = dataset.test_videos(settings.protocol, exclude=settings.dataset.exclude)
    traces = [cascade.trace(dataset.store.read(video_id), names) for video_id in ids]
    predictions = write(
        out, {t.video_id: t.detections() for t in traces}, {t.video_id: t.to_dict() for t in traces},
        config=cascade.config, text={**cascade.names.provenance(), "stages": cascade.sentences.prompt},
        threshold=settings.reconstruction.threshold, **dataset.provenance(),
    )  # fmt: skip
    own = score(predictions, dataset, settings.protocol, exclude=settings.dataset.exclude)
    return show_scores(settings, out, own, predictions, dataset.annotations, dataset)


def run_on_models(settings: CascadeSettings) -> float | None:
    """The videos of a data set. CLIP features are used where they are there, and not needed."""
    from psftr.data.datasets import Dataset, features_path, open_annotations, open_dataset
    from psftr.engine.evaluate import score
    from psftr.methods.cascade import build

    spec, root, annotations, split = open_annotations(settings.dataset, settings.split, data_root=settings.data_root)
    files: Any = build.VideoFiles(str(settings.videos_dir), f"frames of the videos, by {settings.backend.name}")
    dataset = Dataset(
        spec=spec, root=root, annotations=annotations, store=files, split=split,
        allow_missing=settings.dataset.allow_missing,
    )  # fmt: skip
    ids = dataset.test_videos(settings.protocol, exclude=settings.dataset.exclude)
    videos = build.locate_videos(settings.videos_dir, ids, backend=settings.backend.name)
    has_features = features_path(settings.dataset, root).exists()
    features = open_dataset(settings.dataset, settings.split, data_root=settings.data_root) if has_features else None
    out = output_folder(settings, spec.name, split)
    outcome = ask_models(settings, candidates(settings, annotations, split), videos, out, features, dataset)
    if outcome is None:
        return None
    average = None
    if outcome.finished:
        own = score(outcome.predictions, dataset, settings.protocol, exclude=settings.dataset.exclude)
        missing = len(ids) - len(outcome.finished)
        average = show_scores(settings, out, own, outcome.predictions, annotations, features, missing, len(ids))
    end_with(outcome.failures)
    return average


def ask_models(
    settings: CascadeSettings,
    names: Sequence[str],
    videos: Mapping[str, Path],
    out: Path,
    features: Dataset | None = None,
    dataset: Dataset | None = None,
) -> Outcome | None:
    """Look at every video not finished yet and write what was found. None after a dry run."""
    from psftr.features.class_text import class_text
    from psftr.methods.cascade import build
    from psftr.methods.cascade.dry_run import estimate
    from psftr.methods.cascade.journal import Journal
    from psftr.methods.cascade.mllm_cascade import prompts_digest
    from psftr.methods.cascade.prefilter import Hints
    from psftr.methods.cascade.run import Outcome, look_at_videos, record
    from psftr.methods.cascade.stages import read_stage_file

    file = stage_file(settings)
    plans = read_stage_file(file) if file else {}
    hints, asked = None, settings.questions
    if features is not None and (asked.filter == "clip" or asked.max_classes or asked.frames_share < 1):
        text = class_text(names, store=features.store, root=features.root, settings=settings.text)
        hints = Hints(store=features.store, names=text, min_presence=ClipSettings().min_presence)
        absent = [video_id for video_id in videos if video_id not in features.store]
        if absent:
            raise PsftrError(f"{features.store.path} has no features of {some(absent)}, which questions.… asks for")
    cascade = build.open_cascade(settings, plans, names, hints=hints)
    facts = build.facts_of(settings, cascade)
    used = {name: [plan.descriptions, plan.is_key, plan.background] for name, plan in plans.items() if name in names}
    run_facts = {**facts, "prompts": prompts_digest(), "classes": list(names), "plans": used}
    journal = Journal(out / "finished", run_facts)
    if settings.dry_run:
        log.info("dry run: %s", estimate(cascade, videos, names, journal))
        return None
    if settings.redo:
        journal.clear()
    outcome = Outcome()
    is_over = False
    try:
        look_at_videos(cascade, videos, names, journal=journal, workers=settings.num_workers, outcome=outcome)
        is_over = True
    finally:
        sources = {"encoder": "frames of the videos", "synthetic": False}
        outcome.predictions = write(
            out,
            {video_id: looked.detections for video_id, looked in outcome.finished.items()},
            {video_id: looked.trace for video_id, looked in outcome.finished.items()},
            config=facts, threshold=settings.reconstruction.threshold,
            counts={s.model.identity: s.counts.to_dict() | s.model.usage.to_dict() for s in cascade.steps.sessions},
            failures={**outcome.failures, **never_reached(videos, outcome)}, is_over=is_over,
            **(dataset.provenance() if dataset else {"features": sources}),
        )  # fmt: skip
    if settings.record:
        kept = record(Path(settings.record), cascade.steps, outcome.finished)
        log.info("answers recorded: %s holds %d", settings.record, kept)
    cascade.steps.close()
    for session in cascade.steps.sessions:
        session.cache.close()
    return outcome


def never_reached(videos: Mapping[str, Path], outcome: Outcome) -> dict[str, str]:
    reached = {**outcome.looked, **outcome.unreadable}
    return {video_id: "the run ended before it was finished" for video_id in videos if video_id not in reached}


def write_class_text(settings: CascadeSettings) -> None:
    """Name and stages of every class as one embedding each."""
    from psftr.data.datasets import open_dataset
    from psftr.features.class_text import class_text
    from psftr.methods.cascade.build import stage_texts
    from psftr.methods.cascade.reuse import class_text_with_stages

    dataset = open_dataset(settings.dataset, settings.split, data_root=settings.data_root)
    file, classes = Path(str(settings.write_text)), dataset.annotations.classes
    plans, sentences = stage_texts(settings, dataset.store, classes, file=stage_file(settings), out=file.parent)
    names = class_text(classes, store=dataset.store, root=dataset.root, settings=settings.text)
    names = replace(names, names=classes, embeddings=names.select(classes))
    class_text_with_stages(names, plans, sentences, name_weight=settings.name_weight).save(file)
    log.info("class texts with stages: %s; use them with text.embeddings=%s", file, file)


def rescore_proposals(settings: CascadeSettings) -> float:
    """Another method's detections with scores that take stage evidence into account, both in one table."""
    from psftr.data.datasets import open_dataset
    from psftr.engine.evaluate import score
    from psftr.methods.cascade.build import open_clip_cascade
    from psftr.methods.cascade.reuse import rescore
    from psftr.predictions import Predictions, read_predictions, write_predictions

    dataset = open_dataset(settings.dataset, settings.split, data_root=settings.data_root)
    split, store = dataset.split, dataset.store
    given = read_predictions(str(settings.proposals))
    made = given.provenance
    if made is None or made.features.get("identity") != store.identity:
        raise PsftrError(f"{settings.proposals} was not made by psftr from the features given; give that run's own")
    folder = Path("outputs") / dataset.name / f"{made.method}+cascade-{split.ratio}-split{split.index}"
    out = Path(settings.out or folder)
    cascade = open_clip_cascade(settings, store, dataset.root, split.unseen, file=stage_file(settings), out=out)
    detections = {}
    for video_id, found in given.detections.items():
        features = store.read(video_id)
        detections[video_id] = rescore(
            found,
            partial(cascade.evidence, features),
            step_s=features.timeline.seconds(1.0),
            blend=settings.rescore.blend,
        )
    config = {**made.config, "rescore": {"blend": settings.rescore.blend, **cascade.config}}
    predictions = Predictions(detections, replace(made, method=f"{made.method}+cascade", config=config))
    write_predictions(out / "predictions.json", predictions)
    pair = [score(p, dataset, settings.protocol, exclude=settings.dataset.exclude) for p in (predictions, given)]
    return show_evaluations(pair, split.index, out, figures=settings.figures)


# --- parts of several of these ---------------------------------------------------------------------------------------


def stage_file(settings: CascadeSettings) -> Path | None:
    return shipped_stage_file(settings.stages, conf_dir() / "plans")


def candidates(settings: CascadeSettings, annotations: Annotations, split: ClassSplit) -> tuple[str, ...]:
    return tuple(annotations.classes if settings.candidates == "all" or settings.compat else split.unseen)


def output_folder(settings: CascadeSettings, dataset: str, split: ClassSplit) -> Path:
    """`psftr evaluate run=` takes the folder of a split, or the one above it whole."""
    folder = Path("outputs") / dataset / f"cascade-{settings.backend.name}-{split.ratio}"
    return Path(settings.out or folder / f"split{split.index}")


def write(
    out: Path,
    detections: Mapping[str, Any],
    traces: Mapping[str, Mapping[str, Any]],
    *,
    config: Mapping[str, Any],
    threshold: float,
    features: Mapping[str, Any],
    split: Mapping[str, Any] | None = None,
    text: Mapping[str, Any] | None = None,
    counts: Mapping[str, Any] | None = None,
    failures: Mapping[str, str] | None = None,
    is_over: bool = True,
) -> Predictions:
    """predictions.json and stages.json in `out`; of a run that ended early only the latter, which says why."""
    from psftr.methods.cascade.trace import write_stages
    from psftr.predictions import CHECKPOINT_NONE, Predictions, Provenance, write_predictions

    provenance = Provenance(
        method="cascade", checkpoint_rule=CHECKPOINT_NONE, config=config, split=split, features=features, text=text
    )
    predictions = Predictions(detections, provenance)
    if is_over:
        write_predictions(out / "predictions.json", predictions)
    write_stages(out / "stages.json", traces, threshold=threshold, counts=counts, failures=failures)
    return predictions


def end_with(failures: Mapping[str, str]) -> None:
    """Name the videos that are not finished; exit status 1 if there are any."""
    if not failures:
        return
    log.warning("NOT FINISHED: %d videos; the same command asks again what failed", len(failures))
    for video_id, why in list(failures.items())[:10]:
        log.warning("  %s: %s", video_id, why)
    raise SystemExit(1)


def show_scores(
    settings: CascadeSettings,
    out: Path,
    own: Evaluation,
    predictions: Predictions,
    annotations: Annotations,
    dataset: Dataset | None,
    missing: int = 0,
    of: int = 0,
) -> float:
    """CASCADE and the baseline by the standard protocol, and by the paper's own way of scoring."""
    from psftr.data.datasets import spec_of
    from psftr.engine.evaluate import score
    from psftr.evaluation.per_video import per_video_text, score_per_video
    from psftr.evaluation.rules import protocol_for
    from psftr.methods import find_method

    split = own.split
    assert split is not None
    exclude = settings.dataset.exclude
    rule = protocol_for(spec_of(settings.dataset), settings.protocol, exclude=exclude)
    scored, evaluations = {f"cascade ({of - missing} of {of} videos)" if missing else "cascade": predictions}, [own]
    is_synthetic = own.facts.synthetic
    has_features = dataset is not None and any(video_id in dataset.store for video_id in predictions.detections)
    if settings.baseline and dataset is not None and has_features:
        from psftr.engine.localize import localize_split

        dataset = replace(dataset, allow_missing=True)  # the rows say how many videos are missing

        method = find_method("clip_baseline")
        found = localize_split(
            settings, method, method.settings(), dataset,
            protocol=settings.protocol, device=settings.device, precision="32-true",
        )  # fmt: skip
        evaluations.append(score(found, dataset, settings.protocol, exclude=exclude))
        scored["clip_baseline"] = found
        if dataset.store.synthetic and not is_synthetic:
            log.info("SYNTHETIC FEATURES: the baseline's are made by psftr, CASCADE looked at videos; no fair pair")
            scored["clip_baseline (SYNTHETIC features)"] = scored.pop("clip_baseline")
            is_synthetic = True
    elif settings.baseline:
        log.info(
            "no CLIP features of these videos, so no baseline: extract them with `psftr extract`, or set "
            "dataset.features=FILE"
        )
    average = show_evaluations(evaluations, split.index, out, figures=settings.figures)
    per_video = {name: score_per_video(p, annotations, split, protocol=rule) for name, p in scored.items()}
    log.info("\n%s", per_video_text(per_video, protocol=rule, synthetic=is_synthetic, ratio=split.ratio))
    if missing:
        log.info(
            "INCOMPLETE: %d of %d test videos are missing from cascade's row and count as nothing found", missing, of
        )
    write_json(out / "per_video.json", {name: ap.to_dict() for name, ap in per_video.items()})
    log.info("\npredictions and stages: %s, %s", out / "predictions.json", out / "stages.json")
    return average


def show_evaluations(evaluations: Sequence[Evaluation], index: int, out: Path, *, figures: bool) -> float:
    """CASCADE and the baseline in one table, by the standard protocol."""
    from psftr.cli.present import show
    from psftr.evaluation.aggregate import aggregate

    report, *others = (aggregate([one], expected=[index]) for one in evaluations)
    show(report, others[0] if others else None, out, figures=figures)
    return report.average.mean
