"""Find actions, named in your own words, in your own videos.

Writes into --out: predictions.json and predictions.csv (everything), for each video VIDEO.srt and VIDEO.vtt (subtitles)
and VIDEO.png (a timeline), and over all of them report.html. Subtitles, pictures and the printed table hold the likely
detections: those from --threshold on, or without it those with at least half the best score of their video.

A video that cannot be read, or gives less than it declares, is named at the end and makes the exit status 1; the
others are done all the same. Features stay in OUT/features, so that the next call with other labels is quick.

examples:
  psftr predict clip.mp4 --labels "high jump" "pole vault" --checkpoint outputs/thumos14/75-split0/2026-01-31_12-00-00
  psftr predict videos/ --labels-file names.txt --checkpoint hf://user/repository --out found
  psftr predict --features features.h5 --videos v1 v2 --labels "high jump" --checkpoint model/
  psftr predict clip.mp4 --labels "high jump" --model ViT-B-16 --pretrained openai       training-free CLIP baseline
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psftr.api import Model, Result
    from psftr.data.annotations import Annotations

EXIT_INCOMPLETE, EXIT_INTERRUPTED = 1, 130
PRINTED_PER_VIDEO, PRINTED_AT_MOST = 8, 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("videos", nargs="*", metavar="VIDEO", help="video files, folders of them, or @FILE with one of either per line")
    add("--features", metavar="STORE", help="a feature store in place of videos")
    add("--videos", dest="video_ids", nargs="+", metavar="ID", help="only these videos of the store")
    add("--labels", nargs="+", metavar="NAME", help="what to look for, in any words")
    add("--labels-file", metavar="FILE", help="the same, one per line")
    add("--prompt", help="none, prompt1, prompt2, prompt3 or a text with {} (default: the checkpoint's, else prompt3)")
    add("--text", metavar="FILE", help="class texts made elsewhere (psftr-text), in place of the encoder's")
    add("--checkpoint", metavar="PATH", help="run folder, model folder, .ckpt or hf://USER/REPOSITORY; none: baseline")
    add("--model", help="open_clip model or JSON layout (default: the checkpoint's encoder, else ViT-B-16)")
    add("--pretrained", help="tag, local weights file or 'random' (default: the checkpoint's, else openai)")
    add("--device", default="auto", help="cpu, cuda, cuda:1 … (default: cuda if there is one)")
    add("--stride", type=int, help="frames per feature row (default: the checkpoint's, else 8)")
    add("--threshold", type=float, help="least score kept, in every output")
    add("--max-per-video", type=int, metavar="N", help="best detections kept per video, in every output")
    add("--ground-truth", metavar="FILE", help="annotations: drawn, and scored where they know the labels")
    add("--out", default="psftr-predict", metavar="DIR", help="default %(default)s")
    add("--no-pictures", action="store_true", help="no timeline pictures")
    add("--fiftyone", action="store_true", help="also labels.json of a FiftyOne temporal detection dataset")
    add("--activitynet", action="store_true", help="also activitynet.json as ActivityNet's toolkit takes it")


def run(args: argparse.Namespace) -> int:
    """0; 1 if a video failed or fell short; 130 if interrupted, with what was done written."""
    from psftr.api import baseline, load
    from psftr.errors import PsftrError

    labels = _labels(args)
    for name in ("stride", "max_per_video"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise PsftrError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if not args.videos and not args.features:
        raise PsftrError(
            "no videos: name video files, or a feature store with --features (labels go last, or after --)"
        )
    if args.video_ids and not args.features:
        raise PsftrError("--videos chooses among the videos of --features STORE; give video files by themselves")
    annotations = _ground_truth(args.ground_truth)
    if args.checkpoint:
        model = load(args.checkpoint, device=args.device, model=args.model, pretrained=args.pretrained)
        print(f"checkpoint {model.origin}, encoder {model.encoder}")
    else:
        model = baseline(args.model, args.pretrained, device=args.device)
        print("no --checkpoint given: running the training-free CLIP baseline (clip_baseline)")
    out = Path(args.out)
    result = _predict(model, args, labels, out)
    paths = _write(result, out, args, annotations)
    _print_table(result)
    print("written:\n" + "\n".join(f"  {path}" for path in paths))
    return _tell_what_is_missing(result)


def _labels(args: argparse.Namespace) -> list[str]:
    from psftr.errors import PsftrError

    if bool(args.labels) == bool(args.labels_file):
        raise PsftrError('say what to look for, with --labels "high jump" "pole vault" or with --labels-file FILE')
    if args.labels:
        return args.labels
    lines = Path(args.labels_file).read_text(encoding="utf-8").splitlines()
    labels = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not labels:
        raise PsftrError(f"{args.labels_file} holds no label; write one per line")
    return labels


def _ground_truth(path: str | None) -> Annotations | None:
    if path is None:
        return None
    from psftr.data.annotations import read_annotations

    return read_annotations(path)


def _predict(model: Model, args: argparse.Namespace, labels: list[str], out: Path) -> Result:
    from psftr.cli.extract import _progress as extraction_progress

    with extraction_progress() as on_progress:
        return model.predict(
            args.videos or None,
            labels=labels,
            features=args.features,
            video_ids=args.video_ids,
            prompt=args.prompt,
            text=args.text,
            threshold=args.threshold,
            max_per_video=args.max_per_video,
            stride=args.stride,
            keep_features=None if args.features else out / "features",
            on_progress=on_progress,
            on_video=_line_every(20),
            returns_on_interrupt=True,
        )


def _line_every(number: int) -> Any:
    def tell(done: int, total: int) -> None:
        if total > number and (done % number == 0 or done == total):
            print(f"{done}/{total} videos searched", flush=True)

    return tell


def _write(result: Result, out: Path, args: argparse.Namespace, annotations: Annotations | None) -> list[Path]:
    """What is needed most comes first; a picture that cannot be made is told and costs nothing else."""
    from psftr.errors import PsftrError

    out.mkdir(parents=True, exist_ok=True)
    paths = [result.to_json(out / "predictions.json"), result.to_csv(out / "predictions.csv")]
    if args.activitynet:
        paths.append(result.to_activitynet(out / "activitynet.json"))
    if args.fiftyone:
        from psftr.api.formats import write_fiftyone_labels

        paths.append(write_fiftyone_labels(out / "labels.json", result.predictions))
    if not result.is_complete:
        return paths
    for video_id in result.videos:
        paths += [result.to_srt(out / f"{video_id}.srt", video_id), result.to_vtt(out / f"{video_id}.vtt", video_id)]
        if args.no_pictures:
            continue
        try:
            paths.append(result.to_timeline(out / f"{video_id}.png", video_id, annotations=annotations))
        except (PsftrError, OSError) as error:
            print(f"{video_id}: no picture: {error}", file=sys.stderr)
    paths.append(result.to_report(out / "report.html", annotations=annotations))
    return paths


def _print_table(result: Result) -> None:
    from psftr.evaluation.render import aligned

    rows: list[list[str]] = []
    left_out = 0
    for video_id in result.videos:
        likely = result.likely(video_id)
        shown = likely[: max(1, min(PRINTED_PER_VIDEO, PRINTED_AT_MOST - len(rows)))]
        left_out += len(likely) - len(shown)
        rows.append([video_id if likely else f"{video_id}: nothing found", "", "", ""])
        rows += [[f"  {d.label}", f"{d.start_s:.2f}", f"{d.end_s:.2f}", f"{d.score:.3g}"] for d in shown]
    provenance = result.predictions.provenance
    encoder = str(provenance.features.get("encoder")) if provenance else ""
    if ":random-seed" in encoder:
        print(f"untrained weights ({encoder}): these detections only try the pipeline, they mean nothing")
    if provenance and provenance.features.get("synthetic"):
        print("SYNTHETIC features: these detections say nothing about real videos")
    print(aligned(["video", "start s", "end s", "score"], rows))
    if left_out:
        print(f"and {left_out} more likely ones")
    print(f"{len(result)} detections in {len(result.videos)} videos")


def _tell_what_is_missing(result: Result) -> int:
    def tell(what: str, rows: Iterable[tuple[str, str]]) -> None:
        for video_id, reason in rows:
            print(f"{video_id} {what}: {reason}", file=sys.stderr)

    tell("failed", result.failed)
    tell("fell short", result.shortfalls)
    if not result.is_complete:
        print("interrupted: only the videos above were searched", file=sys.stderr)
        return EXIT_INTERRUPTED
    return EXIT_INCOMPLETE if result.failed or result.shortfalls else 0
