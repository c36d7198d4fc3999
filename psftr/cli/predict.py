"""Find actions, named in your own words, in your own videos.

Writes into --out: predictions.json and predictions.csv (everything), for each video VIDEO.srt and VIDEO.vtt (subtitles)
and VIDEO.png (a timeline), and over all of them report.html. Subtitles, pictures, the printed table and the page show
the same detections: those from --threshold on, or without it those with at least half the best score of all videos, and
no more than ten per video on average. On the page the threshold can be moved.

A call never writes over an earlier one's results: where --out holds some, it writes to OUT-2, OUT-3, …; --overwrite
replaces them. Features stay in OUT/features, so that the next call with other labels is quick. A video that cannot be
read, or gives less than it declares, is named at the end and makes the exit status 1; the others are done all the same.

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
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING

from psftr.cli.flags import add_settings, number
from psftr.cli.folders import free_folder, no_remains, writable_folder
from psftr.cli.progress import counter, progress
from psftr.features.settings import EncoderSettings, ExtractSettings
from psftr.settings import EvaluateSettings

if TYPE_CHECKING:
    from psftr.api import Model, Result
    from psftr.data.annotations import Annotations

EXIT_INCOMPLETE, EXIT_INTERRUPTED = 1, 130
PRINTED_PER_VIDEO, PRINTED_AT_MOST = 8, 40
PREDICTIONS = "predictions.json"


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
    words = {
        "model": f"open_clip model or JSON layout (default: the checkpoint's encoder, else {EncoderSettings.model})",
        "pretrained": f"tag, weights file or 'random' (default: the checkpoint's, else {EncoderSettings.pretrained})",
        "stride": f"frames per feature row (default: the checkpoint's, else {ExtractSettings.stride})",
    }
    told = (
        "of the network: auto (default), 32-true or bf16-mixed; auto takes the faster one of a large network on a CPU"
    )
    add("--precision", choices=("auto", "32-true", "bf16-mixed"), metavar="KIND", help=told)
    add_settings(parser, EncoderSettings, leave_out=("projection", "seed", "precision"), help=words)
    add_settings(parser, ExtractSettings, leave_out=("dtype", "batch_size", "workers", "decoder"), help=words)
    add("--threshold", type=number(float, least=0, most=1), help="least score kept, in every output")
    kept = "best detections kept per video, in every output"
    add("--max-per-video", type=number(int, least=1), metavar="N", help=kept)
    add("--ground-truth", metavar="FILE", help="annotations: drawn, and scored where they know the labels")
    add("--out", default="psftr-predict", metavar="DIR", help="default %(default)s")
    add("--overwrite", action="store_true", help="replace the results of an earlier call in --out")
    add("--copy-videos", action="store_true", help="copy the videos beside the page, so that both can be moved or sent")
    add("--no-pictures", action="store_true", help="no timeline pictures")
    add("--fiftyone", action="store_true", help="also labels.json of a FiftyOne temporal detection dataset")
    add("--activitynet", action="store_true", help="also activitynet.json as ActivityNet's toolkit takes it")


def run(args: argparse.Namespace) -> int:
    """0; 1 if a video failed or fell short; 130 if interrupted, with what was done written."""
    from psftr.cli.ground_truth import read_ground_truth
    from psftr.errors import PsftrError
    from psftr.evaluation.labels import same_labels, told

    labels = _labels(args)
    if not args.videos and not args.features:
        raise PsftrError(
            "no videos: name video files, or a feature store with --features (labels go last, or after --)"
        )
    if args.video_ids and not args.features:
        raise PsftrError("--videos chooses among the videos of --features STORE; give video files by themselves")
    asked = writable_folder("--out", args.out)
    out = asked if args.overwrite else free_folder(asked, PREDICTIONS)
    annotations = read_ground_truth(args.ground_truth) if args.ground_truth else None
    model = _model(args)
    with no_remains(out, asked):
        result = _predict(model, args, labels, asked / "features")
        if args.overwrite:
            _remove_results(out)
        paths = _write(result, out, args, annotations)
    _print_table(result)
    if annotations and (renamed := same_labels(result.labels, annotations.classes)):
        print(told(renamed))
    if out != asked:
        print(f"{asked} holds the results of an earlier call; these are in {out} (--overwrite replaces them)")
    print("written:\n" + "\n".join(f"  {path}" for path in paths))
    return _tell_what_is_missing(result)


def _labels(args: argparse.Namespace) -> list[str]:
    from psftr.errors import PsftrError
    from psftr.files import read_lines

    if bool(args.labels) == bool(args.labels_file):
        raise PsftrError('say what to look for, with --labels "high jump" "pole vault" or with --labels-file FILE')
    if args.labels:
        return args.labels
    labels = read_lines(args.labels_file, "labels")
    if not labels:
        raise PsftrError(f"{args.labels_file} holds no label; write one per line")
    return labels


def _model(args: argparse.Namespace) -> Model:
    from psftr.api import baseline, load

    device = args.device or EncoderSettings.device
    if args.checkpoint:
        model = load(
            args.checkpoint,
            device=device,
            model=args.model,
            pretrained=args.pretrained,
            precision=args.precision or EvaluateSettings.precision,
        )
        print(f"checkpoint {model.origin}, encoder {model.encoder}")
    else:
        model = baseline(args.model, args.pretrained, device=device)
        print(f"no --checkpoint given: running the training-free CLIP baseline ({model.name})")
    return model


def _predict(model: Model, args: argparse.Namespace, labels: list[str], features: Path) -> Result:
    from psftr.cli.extract import describe, share_done

    with progress() as tell:
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
            keep_features=None if args.features else features,
            on_progress=lambda state: tell(share_done(state), describe(state)),
            on_video=counter(tell, "videos searched"),
            returns_on_interrupt=True,
        )


def _remove_results(out: Path) -> None:
    """Remove what an earlier call wrote, by its own list of videos, and nothing else."""
    from psftr.errors import PsftrError
    from psftr.predictions import canonical_id, read_predictions

    try:
        videos = list(read_predictions(out / PREDICTIONS).detections)
    except PsftrError:  # none there, or a damaged one
        videos = []
    copies = out / "videos"
    for copy in [file for video_id in videos for file in copies.glob(f"{escape(canonical_id(video_id))}.*")]:
        copy.unlink()
    if copies.is_dir() and not any(copies.iterdir()):
        copies.rmdir()
    names = [PREDICTIONS, "predictions.csv", "activitynet.json", "labels.json", "report.html"]
    for name in names + [f"{video_id}{ending}" for video_id in videos for ending in (".srt", ".vtt", ".png")]:
        (out / name).unlink(missing_ok=True)


def _write(result: Result, out: Path, args: argparse.Namespace, annotations: Annotations | None) -> list[Path]:
    """What is needed most comes first; a picture whose video gives no frame is told and costs nothing else."""
    from psftr.errors import PsftrError

    paths = [result.to_json(out / PREDICTIONS), result.to_csv(out / "predictions.csv")]
    if args.activitynet:
        paths.append(result.to_activitynet(out / "activitynet.json"))
    if args.fiftyone:
        paths.append(result.to_fiftyone_labels(out / "labels.json"))
    if not result.is_complete:
        return paths
    for video_id in result.videos:
        paths += [result.to_srt(out / f"{video_id}.srt", video_id), result.to_vtt(out / f"{video_id}.vtt", video_id)]
        if args.no_pictures:
            continue
        try:
            paths.append(result.to_timeline(out / f"{video_id}.png", video_id, annotations=annotations))
        except PsftrError as error:
            print(f"{video_id}: no picture: {error}", file=sys.stderr)
    paths.append(result.to_report(out / "report.html", annotations=annotations, copy_videos=args.copy_videos))
    return paths


def _print_table(result: Result) -> None:
    """The likely detections of every video, and the labels of which there is none."""
    from psftr.evaluation.render import aligned
    from psftr.evaluation.shown import threshold_text
    from psftr.files import some

    rows: list[list[str]] = []
    left_out = 0
    for video_id in result.videos:
        likely = result.likely(video_id)
        shown = likely[: max(1, min(PRINTED_PER_VIDEO, PRINTED_AT_MOST - len(rows)))]
        left_out += len(likely) - len(shown)
        rows.append([video_id, "", "", ""])
        rows += [[f"  {d.label}", f"{d.start_s:.2f}", f"{d.end_s:.2f}", f"{d.score:.3g}"] for d in shown]
        if absent := [label for label in result.labels if label not in {d.label for d in likely}]:
            rows.append([f"  nothing: {some(absent)}", "", "", ""])
    for warning in result.warnings:
        print(warning)
    print(aligned(["video", "start s", "end s", "score"], rows))
    if left_out:
        print(f"and {left_out} more of these")
    print(f"{len(result)} detections in {len(result.videos)} videos; {threshold_text(result.predictions)}")


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
