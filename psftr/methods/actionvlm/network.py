"""ActionVLM, the network of Figure 3: frames in, a class and boundaries for every point out; language refines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from psftr.detection.network import Detector, PointOutputs
from psftr.methods.actionvlm.advantage import language_weight
from psftr.methods.actionvlm.stream import LanguageFeatures, LanguageStream

Join = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(F_vis [B,T,D], lambda [B,T], F_lang [B,T,D]) -> what the detector reads."""


def residual(visual: Tensor, weight: Tensor, language: Tensor) -> Tensor:
    """Equation 5: F_vis + lambda F_lang. With lambda 0 it is F_vis bit for bit."""
    return visual + weight[..., None] * language


def alone(visual: Tensor, weight: Tensor, language: Tensor) -> Tensor:
    """Table 2: only the features of the language model."""
    return language


Sight = Callable[[Tensor, Tensor], Tensor]
"""(features [B,T,feature_dim], F_vis [B,T,D]) -> what the tokens of the frames are made of."""


def embedded(features: Tensor, visual: Tensor) -> Tensor:
    """F_vis: what the detector makes of the features."""
    return visual


def stored(features: Tensor, visual: Tensor) -> Tensor:
    """The features as they are: what a language model that was taught on them knows."""
    return features


class PredictedWeight(nn.Module):
    """Equations 2 and 4: A_hat = FC(F_adv), lambda = 2 sigmoid(ReLU(A_hat)) - 1. first: about A_hat before training."""

    def __init__(self, *, dim: int, first: float) -> None:
        super().__init__()
        self.predict = nn.Linear(dim, 1)
        nn.init.constant_(self.predict.bias, first)

    def forward(self, for_advantage: Tensor) -> tuple[Tensor, Tensor]:
        """F_adv [B,T,D] -> (A_hat, lambda), each [B,T]."""
        advantage = self.predict(for_advantage).squeeze(-1)
        return advantage, language_weight(advantage)


class FixedWeight(nn.Module):
    """Table 4: the same lambda everywhere."""

    def __init__(self, *, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, for_advantage: Tensor) -> tuple[None, Tensor]:
        return None, torch.full_like(for_advantage[..., 0], self.weight)


@dataclass(frozen=True)
class Reading:
    """outputs: of the detector. advantage, weight [B,T]: A_hat (None: not predicted) and lambda.

    text_loss: L_tg, None without sentences.
    """

    outputs: PointOutputs
    advantage: Tensor | None
    weight: Tensor
    text_loss: Tensor | None


class ActionVlm(nn.Module):
    """The detector, and a language stream that is added to what it reads. language None: vision only."""

    def __init__(
        self,
        *,
        detector: Detector,
        language: LanguageStream | None,
        weighting: nn.Module | None,
        join: Join,
        sight: Sight,
    ) -> None:
        super().__init__()
        self.detector, self.language, self.weighting = detector, language, weighting
        self.join, self.sight = join, sight

    def forward(self, features: Tensor, is_padding: Tensor) -> PointOutputs:
        """Inference: one pass of the language model, and no text."""
        if self.language is None:
            return self.see(features, is_padding)
        read = self.read(features, is_padding)
        return replace(read.outputs, advantage=read.advantage)

    def see(self, features: Tensor, is_padding: Tensor) -> PointOutputs:
        """Vision only: the language model is not called."""
        return self.detector(features, is_padding)

    def read(self, features: Tensor, is_padding: Tensor, sentences: Sequence[str] | None = None) -> Reading:
        """Vision and language; sentences: the text to generate for every window, teacher forced."""
        assert self.language is not None
        assert self.weighting is not None
        visual = self.detector.embed(features, is_padding)
        language: LanguageFeatures = self.language(self.sight(features, visual), is_padding, sentences)
        advantage, weight = self.weighting(language.for_advantage)  # eq. 2 and 4
        for_classes = self.join(visual, weight, language.for_classes)  # eq. 5
        for_locations = for_classes
        if language.for_locations is not language.for_classes:
            for_locations = self.join(visual, weight, language.for_locations)
        outputs = self.detector.detect(for_classes, for_locations, is_padding)
        return Reading(outputs, advantage, weight, language.text_loss)
