"""The settings of PSFTR: sizes, variants of the paper's tables, matching, losses, optimizer and post-processing.

Sizes and rates are the paper's for THUMOS14 (Table 5). The way names guide and the classifier are ours, because the
paper's did not help unseen classes (docs/decisions.md); conf/experiment/paper.yaml is the paper's own form.
conf/dataset_method/ states what differs on other data sets.
"""

from __future__ import annotations

from dataclasses import dataclass

from psftr.errors import PsftrError
from psftr.settings import Checked, WindowSettings, group, setting

ADDING = ("residual", "mlp_residual")  # values of spde that add to the queries, so that a gate can weight it
MAX_LOGIT_SCALE = 200.0  # twice CLIP's: a clamp at CLIP's own 100 would hold its starting value without gradient

CLASS_HEADS = {
    "similarity": "psftr.methods.psftr.similarity:SimilarityClassifier",
    "cosine": "psftr.methods.psftr.heads:CosineClassifier",
    "clip_adapter": "psftr.methods.psftr.heads:AdapterClassifier",
    "attention_pool": "psftr.methods.psftr.heads:AttentionPoolClassifier",
}
"""model.class_head -> its module, which names in its constructor the settings it wants."""


@dataclass(frozen=True, kw_only=True)
class ModelSettings(Checked):
    """Sizes and variants of the network."""

    dim: int = setting(512, "width of the model", least=2)
    heads: int = setting(8, "attention heads (Table 6)", least=1)
    # a softmax over one point, query or bin would be constant and leave what feeds it untrained
    points: int = setting(4, "sampling points of deformable attention per head", least=2)
    encoder_layers: int = setting(2, "layers of SSAE", least=1)
    decoder_layers: int = setting(5, "layers of SGQG", least=1)
    queries: int = setting(40, "queries, the most actions a window can have", least=2)
    ffn_expansion: int = setting(4, "hidden width of feed-forward blocks, in model widths", least=1)
    dropout: float = setting(0.1, "dropout on residual branches", least=0, below=1)
    frame_components: int = setting(
        64, "principal components of training frames that the encoder reads; 0: frames as they are", least=0
    )
    similarity_guidance: bool = setting(
        True, "names guide the encoder as curves of their similarity to every frame, read with weights all names share"
    )
    guidance_channels: int = setting(16, "of similarity_guidance: channels of a name's curve", least=1)
    text_to_vision: bool = setting(False, "the paper's: frames read names (Table 2, equation 1)")
    vision_to_text: bool = setting(False, "the paper's: names read frames (Table 2, equation 2)")
    text_to_query: bool = setting(False, "the paper's: queries read names (Table 2, equation 3)")
    spde: str = setting(
        "none",
        "how SPDE fuses the prototype (Table 3)",
        choices=("none", "residual", "concat_mlp", "mlp_residual"),
    )
    query_residual: str = setting(
        "attended", "residual of equation 3: Q_bar, or Q as printed", choices=("attended", "literal")
    )
    refine: bool = setting(True, "each decoder layer starts from the segments of the one before")
    auxiliary: bool = setting(True, "losses on every decoder layer")
    class_head: str = setting(
        "similarity",
        "similarity: the names' curves along the segment; cosine: the paper's; the others: raw features of the segment",
        choices=tuple(CLASS_HEADS),
    )
    adapter_ratio: float = setting(0.2, "of clip_adapter: share of the learned part", above=0, most=1)
    roi_bins: int = setting(16, "of clip_adapter and attention_pool: samples of a segment", least=2)
    logit_scale: float = setting(
        100.0, "CLIP's: fixed in equation 5, the starting value in the class head", least=1, most=MAX_LOGIT_SCALE
    )

    language_gate: str = setting(
        "none",
        "what text adds to frames or queries is weighted by how much it is expected to help (ActionVLM)",
        choices=("none", "frame", "query", "both"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % self.heads:
            raise PsftrError(f"dim {self.dim} is not a multiple of heads {self.heads}: change one of them")
        if self.dim % 2:
            raise PsftrError(f"dim must be even for the sine position encoding, got {self.dim}")
        if self.vision_to_text and not (self.text_to_vision or self.text_to_query):
            raise PsftrError(
                "vision_to_text alone changes only text that nothing reads: "
                "turn on text_to_vision or text_to_query, or turn it off"
            )
        if self.class_head == "similarity" and self.spde != "none":
            raise PsftrError(
                f"class_head=similarity reads no queries, so spde={self.spde} would change nothing: set spde=none"
            )
        if self.gates_frames and not (self.similarity_guidance or self.text_to_vision):
            raise PsftrError(
                f"language_gate={self.language_gate} has no text to weight in frames: "
                "turn on similarity_guidance or text_to_vision, or set language_gate=none"
            )
        if self.gates_queries and not (self.text_to_query or self.spde in ADDING):
            raise PsftrError(
                f"language_gate={self.language_gate} has no text to weight in queries: "
                f"turn on text_to_query, set spde={' or '.join(ADDING)}, or set language_gate=none"
            )
        if self.gates_queries and self.text_to_query and self.query_residual == "literal":
            raise PsftrError("language_gate weights queries with query_residual=attended only: set it, or no gate")

    @property
    def gates_frames(self) -> bool:
        return self.language_gate in ("frame", "both")

    @property
    def gates_queries(self) -> bool:
        return self.language_gate in ("query", "both")


IOU_FORMS = ("tiou", "giou")


@dataclass(frozen=True, kw_only=True)
class MatcherSettings(Checked):
    """Weights of the Hungarian matching (equation 7)."""

    cost: str = setting(
        "both",
        "the class term: equation 7 writes class, GAP takes actionness",
        choices=("class", "class_probability", "actionness", "both"),
    )
    classification: float = setting(2.0, "weight of the class term", least=0)
    l1: float = setting(5.0, "weight of the distance of centre and width", least=0)
    iou: float = setting(2.0, "weight of one minus the IoU", least=0)


@dataclass(frozen=True, kw_only=True)
class LossSettings(Checked):
    """Weights and forms of the losses (equation 11, Table 5)."""

    classification: float = setting(2.0, "weight of the class loss", least=0)
    l1: float = setting(5.0, "weight of the distance of centre and width", least=0)
    iou: float = setting(2.0, "weight of the IoU loss", least=0)
    actionness: float = setting(3.0, "weight of the actionness loss", least=0)
    saliency: float = setting(3.0, "weight of the saliency loss", least=0)
    denoising: float = setting(
        1.0, "weight of denoising queries, true segments with noise that training mends; 0, the paper's: none", least=0
    )
    advantage: float = setting(0.1, "of language_gate: weight of the advantage loss (ActionVLM, equation 9)", least=0)
    iou_form: str = setting("tiou", "overlap in the loss and in the matching", choices=IOU_FORMS)
    saliency_form: str = setting("bce", "the paper's, or GAP's focal form", choices=("bce", "focal"))


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings(Checked):
    """AdamW with two learning rates, a linear warm-up and a drop."""

    lr: float = setting(1e-4, "learning rate", above=0)
    lr_backbone: float = setting(1e-5, "learning rate of the convolution over the features", above=0)
    weight_decay: float = setting(1e-4, "weight decay, not on norms and biases", least=0)
    warmup_steps: int = setting(500, "linear warm-up", unit="steps", least=0)
    drop_epoch: int | None = setting(None, "the rates are multiplied by drop_factor after this epoch", least=1)
    drop_factor: float = setting(0.1, "see drop_epoch", above=0)
    average_share: float = setting(
        0.3,
        "the result is the mean of the weights over this last share of the epochs; 0: the last epoch's",
        least=0,
        most=1,
    )


@dataclass(frozen=True, kw_only=True)
class PostprocessSettings(Checked):
    """From the network's outputs to detections (section 3.7.1)."""

    roi_weight: float = setting(
        0.0, "1 classifies by ROIAligned CLIP features alone (GAP), 0 by the class head alone", least=0, most=1
    )
    class_temperature: float = setting(2.0, "divides the class head's logits before the softmax over names", above=0)
    evidence_weight: float = setting(
        0.1, "a name's logit of the class head, times this, is added to the logit of actionness", least=0
    )
    seen_weight: float = setting(
        0.2,
        "seen names stand beside those asked for in the softmax over names, each with this weight: what fits one of "
        "them better is not what is asked for; 0: only names asked for",
        least=0,
    )
    roi_bins: int = setting(16, "bins of ROIAlign", least=1)
    logit_scale: float = setting(100.0, "CLIP's: of the cosine of ROIAligned features and names", above=0)
    top_per_window: int = setting(100, "pairs of query and class kept in a window", least=1)
    max_per_video: int = setting(200, "detections kept in a video", least=1)
    merge: str = setting(
        "soft_nms", "how windows become a video; protocol=peer merges by GAP's rule", choices=("soft_nms", "nms")
    )
    soft_nms_sigma: float = setting(0.1, "of soft_nms: small suppresses more", above=0)
    nms_threshold: float = setting(0.4, "of nms: a detection that overlaps a better one by more is removed", least=0)


@dataclass(frozen=True, kw_only=True)
class PsftrSettings(Checked):
    """The groups that PSFTR adds to the shared settings."""

    window: WindowSettings = group(WindowSettings)
    model: ModelSettings = group(ModelSettings)
    matcher: MatcherSettings = group(MatcherSettings)
    loss: LossSettings = group(LossSettings)
    optimizer: OptimizerSettings = group(OptimizerSettings)
    postprocess: PostprocessSettings = group(PostprocessSettings)
