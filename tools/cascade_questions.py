"""What each way of asking about stages costs in questions and gains or loses in mAP, on the synthetic world.

    python tools/cascade_questions.py [--data data/synthetic] [--split 0]

There is no multimodal model in the synthetic world. One is imitated: p(yes) = sigmoid(slope * (cos(row, sentence) -
mean)), row by row, with every sentence's own offset in it, as real models have. Scored are training videos of the split
with its SEEN classes as the vocabulary, five at a time: the unseen classes take no part. SYNTHETIC figures throughout.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from psftr.data.datasets import open_dataset
from psftr.evaluation.protocol import scorer
from psftr.evaluation.rules import protocol_for
from psftr.features.class_text import class_text
from psftr.methods.cascade.confidence import WITH_BACKGROUND, moving_average, over_time, unit
from psftr.methods.cascade.prefilter import Hints, nearest_share
from psftr.methods.cascade.settings import FramesSettings, QuestionSettings, ReconstructionSettings
from psftr.methods.cascade.stages import stage_sentences
from psftr.methods.cascade.synthetic_stages import embed_synthetic, synthetic_plans
from psftr.methods.cascade.trace import VideoTrace, trace_class
from psftr.settings import DatasetSettings, SplitSettings, TextSettings

SLOPE = 100.0
GROUP = 5


@dataclass(frozen=True)
class Way:
    """One way to ask."""

    name: str
    questions: QuestionSettings = field(default_factory=QuestionSettings)
    reconstruction: ReconstructionSettings = field(default_factory=ReconstructionSettings)
    frames: FramesSettings = field(default_factory=FramesSettings)


def ways() -> Iterator[Way]:
    plain, steps = QuestionSettings(), ReconstructionSettings()
    yield Way("every frame, every stage")
    for how in ("background", "median", "both"):
        yield Way(f"calibrate={how}", replace(plain, calibrate=how))
    both = replace(plain, calibrate="both")
    for clip in (3, 5):
        yield Way(f"both, clip_frames={clip}", both, frames=FramesSettings(clip_frames=clip))
    yield from one_by_one(both, steps)
    clips = FramesSettings(clip_frames=3)
    for apart_s, least in ((1.0, 0.5), (2.0, 0.5), (2.0, 0.6), (4.0, 0.6)):
        coarse = replace(both, coarse_s=apart_s, coarse_threshold=least)
        yield Way(f"both, clips of 3, coarse_s={apart_s:g}, coarse_threshold={least}", coarse, frames=clips)
    together = replace(plain, stages="together")
    yield Way("clips of 3, stages=together", together, frames=clips)
    for how in ("median", "both"):
        yield Way(f"{how}, clips of 3, stages=together", replace(together, calibrate=how), frames=clips)
    best = replace(together, calibrate="both")
    for apart_s, least in ((1.0, 0.5), (2.0, 0.5), (2.0, 0.6)):
        coarse = replace(best, coarse_s=apart_s, coarse_threshold=least)
        yield Way(f"both, clips of 3, together, coarse_s={apart_s:g}, coarse_threshold={least}", coarse, frames=clips)
    for share in (0.5, 0.3):
        found = replace(best, coarse_s=1.0, coarse_threshold=0.5, frames_share=share)
        yield Way(f"both, clips of 3, together, coarse_s=1, frames_share={share}", found, frames=clips)
    for classes in (1, 2):
        yield Way(
            f"both, clips of 3, together, max_classes={classes}", replace(best, max_classes=classes), frames=clips
        )
    for entry, skip in ((0.1, 0.1), (0.3, 0.1), (0.3, 0.3), (0.6, 0.1), (1.0, 0.3)):
        ordered = replace(steps, decoding="ordered", entry_cost=entry, skip_cost=skip)
        yield Way(
            f"both, clips of 3, together, ordered, entry_cost={entry:g}, skip_cost={skip:g}", best, ordered, clips
        )


def one_by_one(both: QuestionSettings, steps: ReconstructionSettings) -> Iterator[Way]:
    """Every other option by itself, beside calibrate=both."""
    yield Way("both, together", replace(both, stages="together"))
    for apart_s, least in ((1.0, 0.5), (2.0, 0.6)):
        coarse = replace(both, coarse_s=apart_s, coarse_threshold=least)
        yield Way(f"both, coarse_s={apart_s:g}, coarse_threshold={least}", coarse)
    for share in (0.5, 0.3):
        yield Way(f"both, frames_share={share}", replace(both, frames_share=share))
    for classes in (2, 1):
        yield Way(f"both, max_classes={classes}", replace(both, max_classes=classes))
    ordered = replace(steps, decoding="ordered", entry_cost=0.3, skip_cost=0.3)
    yield Way("both, ordered, entry_cost=0.3, skip_cost=0.3", both, ordered)


class Imitated:
    """Answers about one class in one video from its features, and counts questions."""

    def __init__(self, rows: NDArray, sentences: NDArray, background: NDArray, mean: float, way: Way) -> None:
        self.way, self.asked = way, 0
        shown = unit(moving_average(rows, way.frames.clip_frames)) if way.frames.clip_frames > 1 else rows
        self.cosines = shown @ unit(np.vstack((sentences, background))).T - mean  # [T, S + 1]

    def __call__(self, rows: Sequence[int]) -> NDArray[np.float64]:
        """[rows, S], or [rows, S + 1] with the background."""
        scaled = SLOPE * self.cosines[list(rows)]
        has_background = self.way.questions.calibrate in WITH_BACKGROUND
        if self.way.questions.stages == "together":
            self.asked += len(rows)
            raised = np.exp(scaled - scaled.max(axis=1, keepdims=True))
            p = raised / raised.sum(axis=1, keepdims=True)
        else:
            self.asked += len(rows) * (scaled.shape[1] - (not has_background))
            p = 1 / (1 + np.exp(-scaled))
        return p if has_background else p[:, :-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/synthetic"))
    parser.add_argument("--split", type=int, default=0)
    args = parser.parse_args()
    data = open_dataset(
        DatasetSettings(root=str(args.data)), SplitSettings(index=args.split), data_root=args.data.parent
    )
    seen, plans = data.split.seen, synthetic_plans(data.split.seen)
    names = class_text(seen, store=data.store, root=data.root, settings=TextSettings())
    text = embed_synthetic(plans, seen, encoder=data.store.encoder)
    subset = [v.video_id for v in data.annotations.subset(data.spec.train_subset) if v.video_id in data.store]
    wanted = data.annotations.only_classes(seen).videos
    ids = [video_id for video_id in subset if video_id in wanted and wanted[video_id].actions]
    features = {video_id: data.store.read(video_id) for video_id in ids}
    sample = np.concatenate([unit(one.features) for one in features.values()])[::7]
    mean = float((sample @ unit(text.select(stage_sentences(plans, seen)).numpy()).T).mean())
    groups = [seen[i : i + GROUP] for i in range(0, len(seen) - GROUP + 1, GROUP)]
    hints = Hints(store=data.store, names=names, min_presence=0.1)
    chosen = data.annotations.with_videos([data.annotations.videos[v] for v in ids])
    for way in ways():
        scores, asked = [], 0
        for group in groups:
            score = scorer(chosen, classes=group, protocol=protocol_for("synthetic", exclude=()))
            found = {}
            for video_id in ids:
                if not {a.label for a in wanted[video_id].actions} & set(group):
                    continue
                one, traces = features[video_id], []
                step_s = one.timeline.seconds(1.0)
                candidates = group
                if way.questions.max_classes:
                    candidates = tuple(hints.best_classes(video_id, group, way.questions.max_classes))
                similarity = hints.similarity(video_id, group)[0]
                for label, confidence in hints.passed(video_id, group).items():
                    if label not in candidates:
                        continue
                    plan = plans[label]
                    ask = Imitated(
                        unit(one.features), text.select(plan.descriptions).numpy(),
                        text.select([plan.background]).numpy(), mean, way,
                    )  # fmt: skip
                    allowed = nearest_share(similarity[:, group.index(label)], way.questions.frames_share)
                    table = over_time(ask, len(one.features), step_s=step_s, settings=way.questions, allowed=allowed)
                    asked += ask.asked
                    traces.append(
                        trace_class(plan, table, step_s=step_s, filter_confidence=confidence, config=way.reconstruction)
                    )
                threshold = way.reconstruction.threshold
                found[video_id] = VideoTrace(video_id, one.duration_s, step_s, tuple(traces), threshold).detections()
            scores.append(100 * score(found)["mAP"])
        print(f"[SYNTHETIC] {np.mean(scores):6.2f} mAP  {asked:7d} questions  {way.name}", flush=True)


if __name__ == "__main__":
    main()
