"""Made-up evaluations for tests of tables, charts and reports."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from psftr.data.splits import ClassSplit
from psftr.evaluation.aggregate import TenSplitReport, aggregate
from psftr.evaluation.average_precision import ApResult
from psftr.evaluation.facts import Facts, Training
from psftr.evaluation.protocol import Evaluation
from psftr.evaluation.rules import protocol_for

FACTS = Facts(
    protocol="clean",
    dataset="thumos14",
    synthetic=False,
    method="psftr (psftr 0.1.0)",
    checkpoint="last",
    features="open_clip:ViT-B-16:openai",
    split="75/25, published",
    classes="2 unseen classes, 2 seen",
    videos="those with an unseen-class action",
    counts="videos: 2 of 3, actions: 4",
    tious="0.30 to 0.70",
    external_classifier="none",
    ambiguous="",
    double_labels="",
)


def evaluation(
    index: int,
    average: float = 0.5,
    *,
    dataset: str = "thumos14",
    protocol: str = "clean",
    ratio: int = 75,
    classes: tuple[str, ...] = ("a", "b"),
    held_out: tuple[str, ...] = (),
    **facts,
) -> Evaluation:
    """Class "a" has `average` + 0.1 at every tIoU, "b" `average` - 0.1."""
    rules = protocol_for(dataset, protocol)
    ap = np.array([[average + 0.1] * len(rules.tious), [average - 0.1] * len(rules.tious)])
    synthetic = dataset == "synthetic"
    return Evaluation(
        protocol=rules,
        split=ClassSplit(("x", "y"), classes, "published", ratio, index),
        ap=ApResult(classes, rules.tious, ap, np.array([3, 1]), np.array([10, 20])),
        facts=replace(FACTS, **{"dataset": dataset, "synthetic": synthetic, **facts}),
        num_videos=2,
        training=Training(videos=100 + index, classes=2 - len(held_out), held_out=held_out),
    )


def three(**changes) -> TenSplitReport:
    return aggregate([evaluation(i, a, **changes) for i, a in ((0, 0.3), (2, 0.5), (1, 0.4))], expected=range(3))
