"""The settings of the detector of ActionFormer: sizes, objective, optimizer and post-processing.

Defaults are those of its paper for THUMOS14 (Zhang et al., 2022, section 4 and appendix), unless the help says
otherwise. conf/dataset_method states what differs on other data sets.
"""

from __future__ import annotations

from dataclasses import dataclass

from psftr.errors import PsftrError
from psftr.settings import Checked, setting


@dataclass(frozen=True, kw_only=True)
class DetectorSettings(Checked):
    """Sizes of the network and the form of its objective (equation 6 of ActionVLM)."""

    dim: int = setting(512, "width of the network", least=2)
    attention_heads: int = setting(4, "attention heads", least=1)
    attention_span: int = setting(19, "rows of its level that a row attends to, itself in the middle", least=1)
    pyramid_levels: int = setting(6, "levels of the pyramid, each with half the rows of the one before", least=1)
    stem_blocks: int = setting(2, "attention blocks before the first level's own", least=0)
    expansion: int = setting(4, "hidden width of feed-forward blocks, in network widths", least=1)
    block_dropout: float = setting(0.1, "dropout on residual branches", least=0, below=1)
    finest_range: float = setting(
        4.0, "the finest level finds boundaries up to so many rows away; it doubles from level to level", above=0
    )
    centre_radius: float = setting(
        1.5, "points this near to an action's centre, in strides of their level, are positive", above=0
    )
    class_prior: float = setting(0.01, "probability of every class before training", above=0, below=1)
    focal_alpha: float = setting(0.25, "of the focal loss: weight of the positive side", above=0, below=1)
    focal_gamma: float = setting(2.0, "of the focal loss: 0 makes it cross-entropy", least=0)
    overlap_form: str = setting("diou", "the loss of the boundaries", choices=("diou", "giou"))
    location_weight: float = setting(1.0, "weight of the boundaries in the objective", least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % self.attention_heads:
            raise PsftrError(
                f"dim {self.dim} is not a multiple of attention_heads {self.attention_heads}: change one of them"
            )
        if self.attention_span % 2 == 0:
            raise PsftrError(f"attention_span must be odd, as many rows on both sides, got {self.attention_span}")


@dataclass(frozen=True, kw_only=True)
class LearningSettings(Checked):
    """AdamW with a linear warm-up and a cosine to zero."""

    lr: float = setting(1e-4, "learning rate of the detector", above=0)
    weight_decay: float = setting(0.05, "weight decay, on the weights of linear layers and convolutions", least=0)
    warmup_epochs: float = setting(5.0, "linear warm-up", unit="epochs", least=0)


@dataclass(frozen=True, kw_only=True)
class DetectionsSettings(Checked):
    """From points to detections."""

    least_score: float = setting(0.001, "least score of a candidate", least=0, below=1)
    top_candidates: int = setting(2000, "candidates kept in a window", least=1)
    sigma: float = setting(0.5, "of the Gaussian soft-NMS inside a class: small suppresses more", above=0)
    most_per_video: int = setting(200, "detections kept in a video", least=1)
    voting: float | None = setting(
        None, "boundaries are averaged over candidates of at least this tIoU; null: no voting", above=0, most=1
    )
