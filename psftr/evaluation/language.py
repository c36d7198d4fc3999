"""How much a method leans on language, from its predictions files alone (ActivityNet JSON or CSV of any method).

Source: ActionVLM, "Towards Mitigating Modality Bias in Vision-Language Models for
Temporal Action Localization"; sections and tables named below are its own. What it leaves open is marked [ours].
All figures are fractions of 1 unless said otherwise.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from psftr.data.annotations import Action
from psftr.errors import PsftrError
from psftr.evaluation.protocol import Evaluation
from psftr.predictions import Detection

LEVELS = ("easy", "medium", "hard")
EASY_SHARE, HARD_SHARE = 0.2, 0.1  # of the classes: the paper's 4 and 2 of THUMOS14's 20 (appendix A.8)
TAUS = (0.3, 0.5, 0.7)  # of Table 5
REPEATS = 3  # one segment listed so often is repeated without end [ours]
LISTED = 10  # so many equal segments at equal steps are a list without end [ours]
FIXED_TO_S = 0.1  # boundaries that agree to this are the same [ours]
MATCH_TIOU = 0.5  # a detection whose frames count for an action overlaps it by so much [ours]


def lap(aligned: float, mismatched: float) -> float:
    """Language Advantage on Performance (section 4.3): the relative drop of average mAP when every class is described
    by the text of another one, (aligned - mismatched) / aligned. Small: vision decides. NaN where `aligned` is zero.
    """
    return (aligned - mismatched) / aligned if aligned > 0 else math.nan


def lap_of(aligned: Evaluation, mismatched: Evaluation) -> float:
    """`lap` of two evaluations. Raises PsftrError unless both are of the same classes, tIoUs and number of videos."""
    _refuse_other(aligned, mismatched, "the predictions with mismatched descriptions")
    return lap(aligned.ap.average, mismatched.ap.average)


def fixed_outputs(detections: Mapping[str, Sequence[Detection]]) -> float:
    """The share of videos whose output is "fixed": boundaries that do not depend on the video (section 4.3, Table 2).

    [ours] A video's output is fixed if its set of segments (labels aside, to a tenth of a second) is exactly that of
    another video. Videos without detections are not fixed and count in the share. NaN without videos.
    """
    outputs = {
        video_id: frozenset((round(d.start_s / FIXED_TO_S), round(d.end_s / FIXED_TO_S)) for d in found)
        for video_id, found in detections.items()
    }
    counts = Counter(outputs.values())
    return _share([bool(output) and counts[output] > 1 for output in outputs.values()])


def infinite_outputs(detections: Mapping[str, Sequence[Detection]]) -> float:
    """The share of videos whose output is "infinite": segments listed or repeated without end (section 4.3, Table 2).

    [ours] That is, one labelled segment is there at least three times, or the segments of one label are a list of at
    least ten, of equal length and at equal steps. NaN without videos.
    """
    return _share([_is_infinite(found) for found in detections.values()])


def _is_infinite(found: Sequence[Detection]) -> bool:
    if any(count >= REPEATS for count in Counter((d.label, d.start_s, d.end_s) for d in found).values()):
        return True
    spans: dict[str, list[tuple[float, float]]] = {}
    for d in found:
        spans.setdefault(d.label, []).append((d.start_s, d.end_s))
    return any(len(own) >= LISTED and _is_ladder(sorted(own)) for own in spans.values())


def _is_ladder(spans: Sequence[tuple[float, float]]) -> bool:
    """Equal lengths at equal steps, to a millisecond."""
    lengths = [end_s - start_s for start_s, end_s in spans]
    steps = [later[0] - earlier[0] for earlier, later in pairwise(spans)]
    return all(max(values) - min(values) < 1e-3 for values in (lengths, steps)) and steps[0] > 0


def difficulty(vision_only: Mapping[str, float]) -> dict[str, str]:
    """easy, medium or hard for each class, by the AP of a model without language (section 4.4 and appendix A.8).

    The best fifth of the classes is easy, the worst tenth hard, at least one each: the sizes of the paper's groups on
    THUMOS14. Equal APs go by name. Raises PsftrError for fewer than three classes.
    """
    if len(vision_only) < len(LEVELS):
        raise PsftrError(f"{len(vision_only)} classes cannot be divided into easy, medium and hard: three are needed")
    ranked = sorted(vision_only, key=lambda name: (-vision_only[name], name))
    num_easy, num_hard = (max(1, round(share * len(ranked))) for share in (EASY_SHARE, HARD_SHARE))
    levels = dict.fromkeys(ranked, "medium")
    return levels | dict.fromkeys(ranked[:num_easy], "easy") | dict.fromkeys(ranked[-num_hard:], "hard")


@dataclass(frozen=True)
class Level:
    """A row of Table 3: classes of one difficulty.

    gain: mAP less that of the model without language. mla: mean language advantage, see `mean_advantage`; NaN where the
    predictions do not carry it.
    """

    name: str
    classes: tuple[str, ...]
    map: float
    vision_only: float
    mla: float

    @property
    def gain(self) -> float:
        return self.map - self.vision_only


def by_difficulty(evaluation: Evaluation, vision_only: Evaluation) -> tuple[Level, ...]:
    """Table 3: mAP (over tIoUs and the level's classes), gain and mean language advantage of each level.

    Raises PsftrError unless both evaluations are of the same classes, tIoUs and number of videos.
    """
    _refuse_other(evaluation, vision_only, "the predictions of the model without language")
    own, theirs = evaluation.ap.ap_per_class, vision_only.ap.ap_per_class
    levels = difficulty(theirs)
    rows = []
    for level in LEVELS:
        names = tuple(name for name in own if levels[name] == level)
        mla = mean_advantage(evaluation, names)
        rows.append(Level(level, names, fmean(own[n] for n in names), fmean(theirs[n] for n in names), mla))
    return tuple(rows)


def mean_advantage(evaluation: Evaluation, classes: Sequence[str]) -> float:
    """mLA of Table 3: the language advantage averaged over frames of actions of `classes`.

    [ours] A predictions file holds one value a detection, the mean over its frames. So it is the mean over detections
    that overlap an action of their own class with tIoU 0.5 or more, weighted by their length. NaN where there is none.
    """
    selection = evaluation.selection
    if selection is None:
        return math.nan
    weighted = length = 0.0
    for video_id, found in selection.detections.items():
        for d in found:
            if d.label not in classes or d.language_advantage is None:
                continue
            if any(a.label == d.label and _tiou(d, a) >= MATCH_TIOU for a in selection.ground_truth[video_id]):
                weighted += d.language_advantage * (d.end_s - d.start_s)
                length += d.end_s - d.start_s
    return weighted / length if length else math.nan


@dataclass(frozen=True)
class Ambiguity:
    """Table 5: how careful a method is on clips that only look like an action.

    confidence (mConf), length (mLen): means over clips of the surest detection's score and of the share of the clip it
    covers. accuracy (acc@tau): share of clips of which it covers less than tau. num_clips: what the means are over.
    """

    confidence: float
    length: float
    accuracy: tuple[float, ...]  # one for each of TAUS
    num_clips: int


def ambiguity(
    detections: Mapping[str, Sequence[Detection]],
    clips: Mapping[str, Sequence[Action]],
    *,
    classes: Sequence[str],
) -> Ambiguity | None:
    """Appendix A.1: of the detections that share time with an ambiguous clip the one with the highest score.

    clips: by video id; the label is the class that a clip resembles, and only its detections count; a label outside
    `classes` (THUMOS14's `Ambiguous`) stands for any. [ours] What lies outside the clip is cut off, and a clip in which
    nothing is found counts with confidence and length zero. Clips of videos that were not looked at are left out.
    None where no clip is left.
    """
    confidences, lengths = [], []
    for video_id, own in clips.items():
        for clip in own if video_id in detections else ():
            shared = [
                (d.score, min(d.end_s, clip.end_s) - max(d.start_s, clip.start_s))
                for d in detections[video_id]
                if clip.label not in classes or d.label == clip.label
            ]
            score, shared_s = max((one for one in shared if one[1] > 0), default=(0.0, 0.0))
            confidences.append(score)
            lengths.append(shared_s / (clip.end_s - clip.start_s))
    if not lengths:
        return None
    accuracy = tuple(_share([length < tau for length in lengths]) for tau in TAUS)
    return Ambiguity(fmean(confidences), fmean(lengths), accuracy, len(lengths))


@dataclass(frozen=True)
class LanguageFigures:
    """What one predictions file says about language: Tables 2, 3 and 5. None: not asked, or not known."""

    average: float
    fixed: float
    infinite: float
    lap: float | None = None
    levels: tuple[Level, ...] | None = None
    ambiguity: Ambiguity | None = None


def language_figures(
    evaluation: Evaluation,
    *,
    mismatched: Evaluation | None = None,
    vision_only: Evaluation | None = None,
    clips: Mapping[str, Sequence[Action]] | None = None,
) -> LanguageFigures:
    """All figures of an evaluation. clips: ambiguous stretches by video id; default: those of the annotations.

    mismatched: the same model with descriptions of other classes. vision_only: a model without language.
    Raises PsftrError where the evaluations do not belong together.
    """
    selection = evaluation.selection
    if selection is None:
        raise PsftrError("this evaluation does not say what it scored; score the predictions file again")
    clips = selection.ignored if clips is None else clips
    return LanguageFigures(
        average=evaluation.ap.average,
        fixed=fixed_outputs(selection.detections),
        infinite=infinite_outputs(selection.detections),
        lap=None if mismatched is None else lap_of(evaluation, mismatched),
        levels=None if vision_only is None else by_difficulty(evaluation, vision_only),
        ambiguity=ambiguity(selection.detections, clips, classes=selection.classes),
    )


def _refuse_other(evaluation: Evaluation, other: Evaluation, what: str) -> None:
    same = [(one.ap.classes, one.ap.tious, one.num_videos) for one in (evaluation, other)]
    if same[0] != same[1]:
        told = [f"{len(classes)} classes in {videos} videos" for classes, _, videos in same]
        raise PsftrError(
            f"{what} are scored on {told[1]}, these on {told[0]}: compare files of one data set, split and protocol"
        )


def _tiou(detection: Detection, action: Action) -> float:
    shared = min(detection.end_s, action.end_s) - max(detection.start_s, action.start_s)
    union = max(detection.end_s, action.end_s) - min(detection.start_s, action.start_s)
    return shared / union if shared > 0 else 0.0


def _share(holds: Sequence[bool]) -> float:
    return fmean(holds) if holds else math.nan
