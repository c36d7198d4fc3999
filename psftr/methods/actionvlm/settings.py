"""The settings of ActionVLM beside those of the detector. Defaults are the paper's; docs/actionvlm.md has the gaps."""

from __future__ import annotations

from dataclasses import dataclass

from psftr.detection.settings import DetectionsSettings, DetectorSettings, LearningSettings
from psftr.errors import PsftrError
from psftr.settings import Checked, WindowSettings, group, setting

TINY = "tiny"


@dataclass(frozen=True, kw_only=True)
class LanguageSettings(Checked):
    """The language model, and how its features join those of the frames (equations 4, 5 and 9)."""

    model: str = setting(
        "Qwen/Qwen2.5-1.5B", "a causal language model: folder, hub name, or tiny (random weights, nothing to download)"
    )
    tuning: str = setting("lora", "what of the language model is trained", choices=("lora", "frozen", "full"))
    rank: int = setting(128, "of lora: rank", least=1)
    alpha: int = setting(256, "of lora: scale, in ranks", least=1)
    weights: str = setting("auto", "number format of frozen weights", choices=("auto", "float32", "bfloat16"))
    saves_memory: bool = setting(True, "gradient checkpointing: activations are computed twice, and not kept")
    rate: float = setting(5e-6, "learning rate of the language model", above=0)
    sees: str = setting(
        "embedded",
        "what the token of a frame is made of: the detector's F_vis (embedded), or the features as stored",
        choices=("embedded", "stored"),
    )
    keeps_states: bool = setting(
        False, "of tuning=frozen: what is read of a training window is kept in memory, and the next epochs take it"
    )
    joins: str = setting(
        "residual",
        "residual: added to the visual features (equation 5); alone: in their place; never: vision only",
        choices=("residual", "alone", "never"),
    )
    weighting: str = setting(
        "learned", "where lambda comes from: equations 2 and 4, or fixed_weight", choices=("learned", "fixed")
    )
    fixed_weight: float = setting(1.0, "of weighting=fixed: lambda", least=0, most=1)
    tokens: str = setting(
        "separate",
        "separate: [cls] and [loc]; shared: one for both; frames: none, the frame's own token is read (Table 9)",
        choices=("separate", "shared", "frames"),
    )
    alternates: bool = setting(True, "every other epoch, from the first on, is of vision only (algorithm 1)")
    first_advantage: float = setting(0.0, "A_hat of every frame before training: above 0 the gate starts open")
    advantage_unit: str = setting(
        "loss",
        "unit of the advantage: the loss itself, or its mean over the rows of the last epoch of vision only (mean)",
        choices=("loss", "mean"),
    )
    advantage_weight: float = setting(0.1, "of L_adv in equation 9; 0: no advantage is estimated", least=0)
    text_weight: float = setting(0.1, "of L_tg in equation 9; 0: no text is generated", least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model == TINY and self.tuning != "full":
            raise PsftrError(f"the weights of model=tiny are random, tuning={self.tuning} would keep them: tuning=full")
        if self.keeps_states and (self.tuning != "frozen" or self.sees != "stored" or self.text_weight):
            raise PsftrError(
                "what the language model says is the same in every epoch only with language.tuning=frozen, "
                "language.sees=stored and language.text_weight=0: set these, or keeps_states=false"
            )
        if self.uses_advantage and not self.alternates:
            raise PsftrError(
                "the advantage is measured against epochs of vision only: set alternates=true, or advantage_weight=0"
            )
        if self.joins == "alone" and self.alternates:
            raise PsftrError("joins=alone leaves epochs of vision only nothing to train: set alternates=false")

    @property
    def uses_advantage(self) -> bool:
        """L_adv is part of the objective."""
        return self.joins == "residual" and self.weighting == "learned" and self.advantage_weight > 0

    @property
    def is_read(self) -> bool:
        """There is a language model at all: with lambda fixed at 0 nothing of it would be seen."""
        is_silent = self.joins == "residual" and self.weighting == "fixed" and self.fixed_weight == 0
        return self.joins != "never" and not is_silent


@dataclass(frozen=True, kw_only=True)
class DescriptionSettings(Checked):
    """What the language model is told about the classes."""

    file: str | None = setting(
        None, "JSON or YAML, class: text; null: descriptions.json in the data set's root, else those that psftr brings"
    )
    used: bool = setting(True, "false: class names only (Table 9)")
    position: str = setting(
        "before",
        "before the frames, where causal attention lets them read it; after: as the paper says",
        choices=("before", "after"),
    )


@dataclass(frozen=True, kw_only=True)
class MismatchSettings(Checked):
    """Conflicting language on purpose, in inference only (LAP, section 4.3)."""

    descriptions: bool = setting(False, "every class gets the description of another one")
    circle: int = setting(0, "which one: the seed of the exchange", least=0)


@dataclass(frozen=True, kw_only=True)
class ActionVlmSettings(Checked):
    """The groups that ActionVLM adds to the shared settings."""

    window: WindowSettings = group(WindowSettings)
    detector: DetectorSettings = group(DetectorSettings)
    learning: LearningSettings = group(LearningSettings)
    detections: DetectionsSettings = group(DetectionsSettings)
    language: LanguageSettings = group(LanguageSettings)
    descriptions: DescriptionSettings = group(DescriptionSettings)
    mismatch: MismatchSettings = group(MismatchSettings)
