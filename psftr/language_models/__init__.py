"""Questions to multimodal models: generate and yes/no, over local weights, servers and recordings; cached, budgeted."""

from psftr.language_models.cache import AnswerCache
from psftr.language_models.protocol import (
    MLLM,
    AnswerError,
    Budget,
    BudgetExhausted,
    Frames,
    MllmError,
    Schema,
    is_no,
    is_yes,
)
from psftr.language_models.replay import ReplayMLLM
from psftr.language_models.session import Counts, Session

__all__ = [
    "MLLM",
    "AnswerCache",
    "AnswerError",
    "Budget",
    "BudgetExhausted",
    "Counts",
    "Frames",
    "MllmError",
    "ReplayMLLM",
    "Schema",
    "Session",
    "is_no",
    "is_yes",
]
