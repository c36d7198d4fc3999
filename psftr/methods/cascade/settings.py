"""The settings of `psftr cascade`: each with its default, unit and meaning, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from psftr.errors import PsftrError
from psftr.features.settings import EncoderSettings, ExtractSettings
from psftr.language_models.settings import (
    Backend,
    LocalSettings,
    NoBackend,
    ReplaySettings,
    ServerSettings,
    backend_settings,
)
from psftr.settings import PROTOCOLS, Checked, CommonSettings, from_dict, group, setting

COMPAT_MAX_FRAMES = 400


@dataclass(frozen=True, kw_only=True)
class ReconstructionSettings(Checked):
    """How stage confidences become detections. Constants are the source's where they are known, ours elsewhere."""

    threshold: float = setting(0.7, "a row shows the action if its best stage is at least this sure", above=0, most=1)
    min_run_s: float = setting(0.8, "shorter runs are dropped", unit="s", least=0)
    gap_s: float = setting(0.5, "a run may dip below the threshold for this long", unit="s", least=0)
    key_rule: str = setting("majority", "which key stage a run has", choices=("majority", "first"))
    same_key_fill: float = setting(
        0.9, "runs of one key stage are joined if more than this share of their span is not gap", least=0, most=1
    )
    later_key_gap_s: float | None = setting(
        3.0, "a run of a later key stage is joined if it follows within this time; null: never", unit="s", least=0
    )
    margin: float = setting(0.25, "width of the margins in the score, as a share of the detection", least=0)
    margin_weight: float = setting(0.2, "what the score takes off for confidence in the margins", least=0)
    filter_power: float = setting(0.5, "exponent of the filter's confidence in the score", least=0)
    coverage_power: float = setting(0.5, "exponent of the share of key stages seen in the score", least=0)
    scored: bool = setting(True, "false: every detection scores 1")
    decoding: str = setting(
        "greedy",
        "greedy: runs above the threshold, joined; ordered: the best path through the stages in their order",
        choices=("greedy", "ordered"),
    )
    entry_cost: float = setting(0.3, "of decoding=ordered: what beginning an instance costs", least=0)
    skip_cost: float = setting(0.3, "of decoding=ordered: what each stage left out costs", least=0)


@dataclass(frozen=True, kw_only=True)
class FramesSettings(Checked):
    """Frames that a multimodal model looks at."""

    fps: float = setting(2.0, "frames looked at, at least", unit="1/s", above=0)
    max_frames: int | None = setting(None, "of a video, at most; null: as many as fps asks for", least=1)
    filter_frames: int = setting(25, "shown together to the filter", least=1)
    caption_frames: int = setting(25, "shown together for a caption", least=1)
    clip_frames: int = setting(
        1, "shown together in a stage question: 1 is a frame, 3 to 5 a short clip", least=1, most=9
    )
    min_confidence: float = setting(0.0, "the filter drops classes below this confidence", least=0, most=1)


@dataclass(frozen=True, kw_only=True)
class QuestionSettings(Checked):
    """Which questions a multimodal model is asked. To ask fewer costs accuracy: docs/cascade.md has figures."""

    filter: str = setting(
        "model",
        "which candidates are looked for: model asks, clip takes those that CLIP features find, all takes every one",
        choices=("model", "clip", "all"),
    )
    stages: str = setting(
        "each",
        "each: one yes/no question for each stage; together: which stage, in one question",
        choices=("each", "together"),
    )
    calibrate: str = setting(
        "none",
        "zero of each stage: background: a question about the scene without it; median: its own median over the video",
        choices=("none", "median", "background", "both"),
    )
    coarse_s: float | None = setting(
        None,
        "look once in this time first, then at every frame around what was found; null: at every frame",
        unit="s",
        above=0,
    )
    coarse_threshold: float = setting(
        0.3, "of coarse_s: least confidence that calls for a closer look", least=0, most=1
    )
    max_classes: int | None = setting(
        None, "only so many classes, those that CLIP features find best; null: all", least=1
    )
    frames_share: float = setting(
        1.0, "share of the frames looked at: those that CLIP features find nearest to the class", above=0, most=1
    )


@dataclass(frozen=True, kw_only=True)
class NearestSettings(Checked):
    """A name the model answers that is no candidate's goes to the nearest by text embedding."""

    model: str | None = setting(None, "CLIP model that compares names; null: such names are dropped")
    pretrained: str = setting("openai", "its weights")
    min_cosine: float = setting(0.9, "least cosine to a candidate's name", least=-1, most=1)


@dataclass(frozen=True, kw_only=True)
class RescoreSettings(Checked):
    """Detections of another method, re-scored by stage evidence."""

    blend: float = setting(0.5, "score * (mean stage confidence inside)^blend", least=0)


@dataclass(frozen=True, kw_only=True)
class CascadeSettings(CommonSettings):
    """`psftr cascade`: training-free, stage-wise localization. encoder, extract: of own videos with backend=clip."""

    method: str = setting("cascade", "the method", choices=("cascade",))
    backend: Any = setting(None, "what looks at frames: clip, qwen, llava, server, replay")
    filter: Any = setting(None, "backend@filter: the model that names the actions of a video; none: the backend")
    caption: Any = setting(None, "backend@caption: the model that describes an action; none: the filter's")
    planner: Any = setting(None, "backend@planner: the model that divides actions into stages; none: the caption's")
    preset: str | None = setting(None, "preset=paper_llava or paper_qwen: the models of the paper's four steps")
    videos: tuple[str, ...] = setting((), "own videos in place of a data set")
    labels: tuple[str, ...] = setting((), "with videos: the actions to look for, in your words")
    videos_dir: str | None = setting(None, "folder with <video id>.mp4 and the like, for a model that looks at videos")
    stages: str | None = setting(
        None, "stage file, or one that comes with psftr (thumos14); null: the model plans stages"
    )
    stages_text: str | None = setting(None, "psftr-text file of its sentences; null: the encoder of the features")
    candidates: str = setting("unseen", "the classes of the split that are looked for", choices=("unseen", "all"))
    compat: bool = setting(False, "as the released code was observed to do it")
    reconstruction: ReconstructionSettings = group(ReconstructionSettings)
    frames: FramesSettings = group(FramesSettings)
    questions: QuestionSettings = group(QuestionSettings)
    nearest: NearestSettings = group(NearestSettings)
    workers: int | None = setting(None, "videos under way at once; null: 8 with servers, else 1", least=1, most=64)
    proposals: str | None = setting(None, "predictions.json of another method, to be re-scored by stage evidence")
    rescore: RescoreSettings = group(RescoreSettings)
    write_text: str | None = setting(None, "write class texts that know their stages to this psftr-text file")
    name_weight: float = setting(0.25, "of write_text: share of the name; the rest is the stages", least=0, most=1)
    dry_run: bool = setting(False, "print how many questions the run would ask, and stop")
    redo: bool = setting(False, "forget finished videos of this output folder; kept answers stay")
    record: str | None = setting(None, "add every answer to this file, for backend=replay")
    baseline: bool = setting(True, "the training-free CLIP baseline in the same table")
    protocol: str = setting("clean", "how a data set is scored", choices=PROTOCOLS)
    out: str | None = setting(None, "output folder; null: outputs/<dataset>/cascade-…")
    figures: bool = setting(False, "draw the figures")
    device: str = setting("auto", "auto, cpu or cuda")
    encoder: EncoderSettings = group(EncoderSettings)
    extract: ExtractSettings = group(ExtractSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        for step in ("backend", "filter", "caption", "planner"):
            value = getattr(self, step)
            if isinstance(value, Mapping):
                object.__setattr__(self, step, backend_settings(value, where=step))
        if self.compat:
            _adopt_observed(self)

    @property
    def steps(self) -> dict[str, Backend]:
        """The backend of each step: one that names none has that of the step before; filter before all: `backend`."""
        named, before = {}, self.backend
        for step, given in (("filter", self.filter), ("caption", self.caption), ("plan", self.planner)):
            before = given if isinstance(given, ServerSettings | LocalSettings) else before
            named[step] = before
        return {**named, "confidence": self.backend}

    @property
    def num_workers(self) -> int:
        if self.workers is not None:
            return self.workers
        return 8 if all(isinstance(step, ServerSettings) for step in self.steps.values()) else 1


def _adopt_observed(settings: CascadeSettings) -> None:
    """The released code: at most 400 frames, no dips, same-key merging only, no scores. Refuses what contradicts it."""
    own, observed = settings.reconstruction, {"gap_s": 0.0, "later_key_gap_s": None, "scored": False}
    defaults = ReconstructionSettings()
    for name, value in observed.items():
        given = getattr(own, name)
        if given not in (value, getattr(defaults, name)):
            raise PsftrError(
                f"compat=true sets reconstruction.{name}={_shown(value)}, but {_shown(given)} was given: leave out one"
            )
    if own.decoding != "greedy" or settings.questions != QuestionSettings():
        raise PsftrError(
            "compat=true is greedy decoding and one yes/no question for each frame and stage: leave it out"
        )
    object.__setattr__(settings, "reconstruction", replace(own, **observed))  # type: ignore[arg-type]
    if settings.frames.max_frames is None:
        object.__setattr__(settings, "frames", replace(settings.frames, max_frames=COMPAT_MAX_FRAMES))


def _shown(value: Any) -> str:
    return json.dumps(value)


def cascade_settings(values: Mapping[str, Any]) -> CascadeSettings:
    """From plain values by name, groups and backends as mappings. Raises PsftrError that names the setting."""
    unnamed = {step: {"kind": "none"} for step in ("filter", "caption", "planner")} | {"backend": {"kind": "clip"}}
    settings = from_dict(
        CascadeSettings, unnamed | {k: v for k, v in values.items() if v is not None or k not in unnamed}
    )
    kind = settings.backend.kind
    if kind == "none":
        raise PsftrError("backend=none looks at nothing; choose clip, qwen, llava, server or replay")
    for step in ("filter", "caption", "planner"):
        own = getattr(settings, step)
        if not isinstance(own, NoBackend | ServerSettings | LocalSettings):
            raise PsftrError(f"backend@{step}={own.name} answers no questions; choose qwen, llava, server or deepseek")
        if not isinstance(own, NoBackend) and kind in ("clip", "replay"):
            raise PsftrError(f"backend={kind} asks no other model: leave out backend@{step}")
    if bool(settings.videos) != bool(settings.labels):
        raise PsftrError("videos=[FILE,…] and labels=[NAME,…] belong together; give both, or a dataset")
    check_labels(settings.labels)
    if (settings.proposals or settings.write_text) and (kind != "clip" or settings.videos):
        raise PsftrError("proposals=FILE and write_text=FILE work on a data set with backend=clip")
    if settings.record and isinstance(settings.backend, ReplaySettings):
        raise PsftrError("backend=replay has nothing new to record: leave out record=FILE")
    if settings.record and kind == "clip":
        raise PsftrError("backend=clip asks no questions: leave out record=FILE")
    if (
        settings.questions.frames_share < 1
        and settings.questions.calibrate in ("median", "both")
        and not settings.questions.coarse_s
    ):
        raise PsftrError(
            "questions.calibrate=median needs frames from all of the video: with questions.frames_share set "
            "questions.coarse_s=2 too"
        )
    return settings


def check_labels(labels: tuple[str, ...]) -> None:
    """Raises PsftrError for an empty label, and for two that are the same in words (`high jump`, `HighJump`)."""
    from psftr.features.text import spell_out

    seen: dict[str, str] = {}
    for label in labels:
        if not label.strip():
            raise PsftrError("a label in labels=[…] is empty; give words to look for")
        words = spell_out(label).casefold()
        if words in seen:
            raise PsftrError(f"labels {seen[words]!r} and {label!r} are the same in words; give it once")
        seen[words] = label


def shipped_stage_file(given: str | None, plans: Path) -> Path | None:
    """The stage file named by the user: a path, or the name of one that comes with psftr, in the folder `plans`."""
    if not given:
        return None
    shipped = plans / f"{given}.yaml"
    return shipped if shipped.is_file() and not Path(given).exists() else Path(given)
