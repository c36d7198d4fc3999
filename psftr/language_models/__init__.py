"""Questions to multimodal models: words and choices, over local weights, servers and recordings; cached, budgeted."""

from psftr.language_models.cache import AnswerCache
from psftr.language_models.protocol import (
    MLLM,
    YES_NO,
    AnswerError,
    Budget,
    BudgetExhausted,
    Frame,
    Frames,
    MllmError,
    Pictures,
    Schema,
    Stopped,
    Usage,
)
from psftr.language_models.replay import Recording, ReplayMLLM, add_to_recording, read_recording
from psftr.language_models.session import NO_ANSWER, Counts, GivenUp, Session

__all__ = [
    "MLLM",
    "NO_ANSWER",
    "YES_NO",
    "AnswerCache",
    "AnswerError",
    "Budget",
    "BudgetExhausted",
    "Counts",
    "Frame",
    "Frames",
    "GivenUp",
    "MllmError",
    "Pictures",
    "Recording",
    "ReplayMLLM",
    "Schema",
    "Session",
    "Stopped",
    "Usage",
    "add_to_recording",
    "read_recording",
]
