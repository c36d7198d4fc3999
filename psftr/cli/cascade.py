"""CASCADE: name the actions of a video, divide them into stages, look for the stages, put the actions together."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psftr.cli.cascade_models import Result, locate_videos, mllm_result, reconstruction, stage_file
from psftr.errors import PsftrError
from psftr.settings import CommonSettings, from_dict

if TYPE_CHECKING:
    from psftr.data.datasets import Dataset
    from psftr.evaluation.protocol import Evaluation
    from psftr.features.text import TextEmbeddings
    from psftr.methods.cascade.clip_cascade import ClipCascade
    from psftr.methods.cascade.stages import StagePlan
    from psftr.predictions import Predictions

CONFIG = "cascade"
SETTINGS = CommonSettings
Config = Mapping[str, Any]
HELP = """
usage: psftr cascade [dataset=NAME split.ratio=75 split.index=0] [backend=clip|qwen|llava|server|replay] [key=value …]
       psftr cascade videos=[FILE,…] labels=[NAME,…] [backend=…] [key=value …]

Training-free localization by stages: filter the classes, divide each action into stages, look for every stage in every
frame, put instances together. Writes predictions.json and stages.json (how each detection came about).

examples:
  psftr cascade                                                       the embedded synthetic world, CLIP backend
  psftr cascade dataset=thumos14 split.index=0 backend=clip stages=thumos14
  psftr cascade 'videos=[jump.mp4]' 'labels=[high jump,pole vault]' backend=server backend.base_url=URL dry_run=true
  psftr cascade dataset=thumos14 videos_dir=videos backend=qwen backend@planner=deepseek backend.budget=20000

main keys:
  backend=clip          CLIP features and a stage file, no multimodal model; qwen, llava: transformers;
                        server: OpenAI-compatible (the key comes from the environment variable backend.api_key_env)
  backend@planner=…     another model for dividing actions into stages
  stages=FILE|thumos14  stage plans, YAML or JSON, or those that come with psftr; stages_text=FILE their embeddings
  compat=true           as the released code was observed to do it
  dry_run=true          print how many questions a run may ask
  record=FILE           keep all answers for backend=replay backend.file=FILE
  proposals=FILE        re-score a psftr run's predictions.json by stage evidence (rescore.blend)
  write_text=FILE       class texts that know their stages, for `psftr train text.embeddings=FILE`
  baseline=false        leave out the training-free CLIP baseline
  out=DIR  redo=true  protocol=peer
"""
log = logging.getLogger("psftr")


def common_settings(config: Config) -> CommonSettings:
    names = [field.name for field in fields(CommonSettings)]
    return from_dict(CommonSettings, {name: config[name] for name in names if name in config})


def load_dataset(config: Config) -> Dataset:
    from psftr.data.datasets import open_dataset

    common = common_settings(config)
    return open_dataset(common.dataset, common.split, data_root=common.data_root)


def load_class_text(config: Config, dataset: Dataset, names: Sequence[str]) -> TextEmbeddings:
    from psftr.features.class_text import class_text

    return class_text(names, store=dataset.store, root=dataset.root, settings=common_settings(config).text)


def score(predictions: Predictions, dataset: Dataset, protocol: str, *, exclude: Sequence[str]) -> Evaluation:
    from psftr.engine.evaluate import score

    return score(predictions, dataset, protocol, exclude=exclude)


def baseline_predictions(config: Config, dataset: Dataset) -> Predictions:
    from psftr.engine.localize import localize_split
    from psftr.methods import find_method

    method = find_method("clip_baseline")
    return localize_split(
        common_settings(config), method, method.settings(), dataset,
        protocol=config["protocol"], device=config["device"],
    )  # fmt: skip


def run(config: Config) -> float | None:
    kind = config["backend"]["kind"]
    if kind not in ("clip", "transformers", "server", "replay"):
        raise PsftrError(f"backend.kind={kind} is unknown; choose clip, transformers, server or replay")
    if config["candidates"] not in ("unseen", "all"):
        raise PsftrError(f"candidates={config['candidates']} is unknown; choose unseen or all")
    if bool(config["videos"]) != bool(config["labels"]):
        raise PsftrError("videos=[FILE,…] and labels=[NAME,…] belong together; give both, or a dataset")
    if len(set(config["labels"])) != len(config["labels"]):
        raise PsftrError("a label is given twice in labels=[…]")
    if (config["proposals"] or config["write_text"]) and (kind != "clip" or config["videos"]):
        raise PsftrError("proposals=FILE and write_text=FILE work on a data set with backend=clip")
    if config["write_text"]:
        write_class_text(config)
        return None
    if config["proposals"]:
        return rescore_proposals(config)
    if not config["videos"]:
        return run_on_dataset(config)
    run_on_videos(config)
    return None


def run_on_dataset(config: Config) -> float | None:
    from psftr.evaluation.per_video import per_video_text, score_per_video
    from psftr.evaluation.rules import protocol_for

    dataset = load_dataset(config)
    split, kind = dataset.split, config["backend"]["kind"]
    folder = Path("outputs") / dataset.name / f"cascade-{kind}-{split.ratio}"  # `psftr evaluate run=` takes it whole
    out = Path(config["out"] or folder / f"split{split.index}")
    names = dataset.annotations.classes if config["candidates"] == "all" or config["compat"] else split.unseen
    ids = dataset.test_videos(config["protocol"], exclude=config["dataset"]["exclude"])
    if kind == "clip":
        result = clip_result(config, dataset, names, ids, out)
    else:
        found = locate_videos(config, ids)
        answered = mllm_result(config, names, found, out)
        if answered is None:
            return None
        result = answered
    facts = dataset.provenance()
    predictions = write_result(out, result, facts["split"], result.features or facts["features"])
    exclude = config["dataset"]["exclude"]
    rule = protocol_for(dataset.name, config["protocol"], exclude=exclude)
    scored = {"cascade": predictions}
    if config["baseline"]:
        scored["clip_baseline"] = baseline_predictions(config, dataset)
    evaluations = {name: score(p, dataset, config["protocol"], exclude=exclude) for name, p in scored.items()}
    average = show_evaluations(list(evaluations.values()), split.index, out, figures=config["figures"])
    own = {name: score_per_video(p, dataset.annotations, split, protocol=rule) for name, p in scored.items()}
    synthetic = evaluations["cascade"].facts.synthetic
    log.info("\n%s\n", per_video_text(own, protocol=rule, synthetic=synthetic, ratio=split.ratio))
    write_json(out / "per_video.json", {name: ap.to_dict() for name, ap in own.items()})
    log.info("predictions and stages: %s, %s", out / "predictions.json", out / "stages.json")
    return average


def run_on_videos(config: Config) -> None:
    out = Path(config["out"] or Path("outputs") / f"cascade-{config['backend']['kind']}")
    paths = [Path(path) for path in config["videos"]]
    for path in paths:
        if not path.is_file():
            raise PsftrError(f"{path}: no such video file; videos=[…] takes files")
    ids = [path.stem for path in paths]
    if len(set(ids)) != len(ids):
        ids = [str(path) for path in paths]
    names, found = tuple(config["labels"]), dict(zip(ids, paths))
    if config["backend"]["kind"] == "clip":
        result = clip_on_videos(config, names, found)
    else:
        answered = mllm_result(config, names, found, out)
        if answered is None:
            return
        result = answered
    write_result(out, result, None, result.features or {"encoder": "none: frames of the videos", "synthetic": False})
    for video_id, detections in result.detections.items():
        log.info("%s", video_id)
        for d in detections:
            log.info("  %8.2f %8.2f  %.3f  %s", d.start_s, d.end_s, d.score, d.label)
        if not detections:
            log.info("  nothing found")
    log.info("predictions and stages: %s, %s", out / "predictions.json", out / "stages.json")


# --- CLIP ------------------------------------------------------------------------------------------------------------


def clip_result(config: Config, dataset: Dataset, names: Sequence[str], ids: Iterable[str], out: Path) -> Result:
    """CLIP features of a store, class names and a stage file."""
    store = dataset.store
    plans, sentences = stage_texts(config, store.encoder, store.synthetic, names, out)
    cascade = clip_cascade(config, plans, load_class_text(config, dataset, tuple(names)), sentences)
    traces = [cascade.trace(store.read(video_id), names) for video_id in ids]
    return clip_traces(cascade, traces)


def write_class_text(config: Config) -> None:
    """Name and stages of every class as one embedding each."""
    from psftr.methods.cascade.reuse import class_text_with_stages

    dataset, file = load_dataset(config), Path(config["write_text"])
    classes = dataset.annotations.classes
    plans, sentences = stage_texts(config, dataset.store.encoder, dataset.store.synthetic, classes, file.parent)
    names = load_class_text(config, dataset, classes)
    names = replace(names, names=classes, embeddings=names.select(classes))
    class_text_with_stages(names, plans, sentences, name_weight=config["name_weight"]).save(file)
    log.info("class texts with stages: %s; use them with text.embeddings=%s", file, file)


def rescore_proposals(config: Config) -> float:
    """Another method's detections with scores that take stage evidence into account, both in one table."""
    from psftr.methods.cascade.reuse import rescore
    from psftr.predictions import Predictions, read_predictions, write_predictions

    dataset = load_dataset(config)
    split, store = dataset.split, dataset.store
    given = read_predictions(config["proposals"])
    made = given.provenance
    if made is None or made.features.get("identity") != store.identity:
        raise PsftrError(f"{config['proposals']} was not made by psftr from the features at hand; give that run's own")
    out = Path(
        config["out"] or Path("outputs") / dataset.name / f"{made.method}+cascade-{split.ratio}-split{split.index}"
    )
    out.mkdir(parents=True, exist_ok=True)
    plans, sentences = stage_texts(config, store.encoder, store.synthetic, split.unseen, out)
    cascade = clip_cascade(config, plans, load_class_text(config, dataset, split.unseen), sentences)
    blend = config["rescore"]["blend"]
    detections = {}
    for video_id, found in given.detections.items():
        features = store.read(video_id)
        evidence = partial(cascade.evidence, features)
        detections[video_id] = rescore(found, evidence, step_s=features.timeline.seconds(1.0), blend=blend)
    settings = {**made.config, "rescore": {"blend": blend, **cascade.config.to_dict()}}
    facts = replace(made, method=f"{made.method}+cascade", config=settings)
    predictions = Predictions(detections, facts)
    write_predictions(out / "predictions.json", predictions)
    exclude = config["dataset"]["exclude"]
    pair = [score(p, dataset, config["protocol"], exclude=exclude) for p in (predictions, given)]
    return show_evaluations(pair, split.index, out, figures=config["figures"])


def clip_cascade(
    config: Config, plans: Mapping[str, StagePlan], names: TextEmbeddings, sentences: TextEmbeddings
) -> ClipCascade:
    from psftr.methods.cascade.clip_cascade import ClipCascade, ClipCascadeConfig

    settings = {key: value for key, value in config["backend"].items() if key != "kind"}
    clip_config = ClipCascadeConfig(**settings, reconstruction=reconstruction(config))
    return ClipCascade(plans=plans, names=names, sentences=sentences, config=clip_config)


def clip_traces(cascade: ClipCascade, traces: Sequence[Any], features: Mapping[str, Any] | None = None) -> Result:
    return Result(
        detections={trace.video_id: trace.detections() for trace in traces},
        traces={trace.video_id: trace.to_dict() for trace in traces},
        config={"backend": "clip", **cascade.config.to_dict()},
        threshold=cascade.config.reconstruction.threshold,
        text={**cascade.names.provenance(), "stages": cascade.sentences.prompt},
        features=features,
    )


def stage_texts(
    config: Config, encoder: str, synthetic: bool, names: Sequence[str], out: Path
) -> tuple[dict[str, StagePlan], TextEmbeddings]:
    """Plans and the embeddings of their sentences, in the space of `encoder`; synthetic ones are written to `out`."""
    from psftr.features.text import TextEmbeddings, load_text
    from psftr.methods.cascade.stages import check_stage_text, read_stage_file, stage_sentences, write_stage_file
    from psftr.methods.cascade.synthetic_stages import embed_synthetic, synthetic_plans

    file = stage_file(config)
    if file:
        plans = read_stage_file(file)
    elif synthetic:
        plans = synthetic_plans(names)
        log.info("stage plans of the synthetic classes: %s", write_stage_file(out / "stages.yaml", plans))
    else:
        raise PsftrError("backend=clip needs stages=FILE, a stage file with a plan for every class (docs/cascade.md)")
    wanted = stage_sentences(plans, names)
    if config["stages_text"]:
        text = load_text(config["stages_text"])
        check_stage_text(text, plans, names)
    elif synthetic:
        text = embed_synthetic(plans, names, encoder=encoder)
    else:
        from psftr.features.class_text import text_encoder

        model = text_encoder(encoder, weights=config["text"]["weights"])
        text = TextEmbeddings(wanted, model.encode(wanted), model.identity, prompt="stages")
    if not config["stages_text"]:
        text.save(out / "stages.h5")
    return plans, text


def clip_on_videos(config: Config, names: Sequence[str], found: Mapping[str, Path]) -> Result:
    """Own videos: frames encoded here, every label a plan of the stage file or of one stage."""
    from psftr.features.clip import ClipEncoder
    from psftr.features.text import TextEmbeddings, embed_names
    from psftr.methods.cascade.stages import one_stage_plan, read_stage_file, stage_sentences

    settings = config["encoder"]
    from psftr.features.encoders import pick_device

    encoder = ClipEncoder(
        settings["model"], settings["pretrained"], device=pick_device(config["device"]), precision="fp32"
    )
    file = stage_file(config)
    plans = read_stage_file(file) if file else {}
    plans |= {name: one_stage_plan(name) for name in names if name not in plans}
    sentences = stage_sentences(plans, names)
    cascade = clip_cascade(
        config,
        plans,
        embed_names(names, encoder=encoder, template=config["text"]["prompt"]),
        TextEmbeddings(sentences, encoder.encode(sentences), encoder.identity, prompt="stages"),
    )
    features = {"encoder": encoder.identity, "dim": encoder.dim, "synthetic": False}
    traces = []
    for number, (video_id, path) in enumerate(found.items(), 1):
        log.info("video %d of %d: encoding frames", number, len(found))
        traces.append(cascade.trace(encode_video(encoder, path, video_id, fps=settings["fps"]), names))
    return clip_traces(cascade, traces, features)


def encode_video(encoder: Any, path: Path, video_id: str, *, fps: float) -> Any:
    """CLIP features of a video, at least `fps` of them a second."""
    import numpy as np
    import torch

    from psftr.features.store import VideoFeatures
    from psftr.features.video import probe_video, sample_video
    from psftr.methods.cascade.frames import frame_stride

    shrunk: list[Any] = []
    probe = probe_video(path)
    stride = frame_stride(probe, fps=fps, max_frames=None)
    summary = sample_video(
        probe, stride=stride, emit=lambda frame: shrunk.append(encoder.preprocessing.shrink(frame.rgb))
    )
    rows = [
        encoder.encode_frames(torch.from_numpy(np.stack(shrunk[i : i + 32]))).cpu().numpy()
        for i in range(0, len(shrunk), 32)
    ]
    return VideoFeatures(
        video_id=video_id,
        features=np.concatenate(rows),
        stride=stride,
        fps=summary.fps,
        num_frames=summary.num_frames,
        duration_s=summary.duration_s,
    )


# --- results ---------------------------------------------------------------------------------------------------------


def write_result(
    out: Path, result: Result, split: Mapping[str, Any] | None, features: Mapping[str, Any]
) -> Predictions:
    from psftr.methods.cascade.trace import write_stages
    from psftr.predictions import CHECKPOINT_NONE, Predictions, Provenance, write_predictions

    provenance = Provenance(
        method="cascade",
        checkpoint_rule=CHECKPOINT_NONE,
        config=result.config,
        split=split,
        features=features,
        text=result.text,
    )
    predictions = Predictions(result.detections, provenance)
    write_predictions(out / "predictions.json", predictions)
    write_stages(out / "stages.json", result.traces, threshold=result.threshold, counts=result.counts)
    return predictions


def show_evaluations(evaluations: Sequence[Any], index: int, out: Path, *, figures: bool) -> float:
    """CASCADE and the baseline in one table, by the standard protocol."""
    from psftr.cli.present import show
    from psftr.evaluation.aggregate import aggregate

    report, *others = (aggregate([one], expected=[index]) for one in evaluations)
    show(report, others[0] if others else None, out, figures=figures)
    return report.average.mean


def write_json(path: Path, value: Any) -> None:
    from psftr.files import write_json as write

    write(path, value)
