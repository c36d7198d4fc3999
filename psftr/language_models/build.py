"""From the settings of a backend to a model with its memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from psftr.errors import PsftrError
from psftr.language_models.cache import AnswerCache
from psftr.language_models.dry import DryMLLM
from psftr.language_models.protocol import MLLM
from psftr.language_models.replay import ReplayMLLM, read_recording
from psftr.language_models.session import Session
from psftr.language_models.settings import Backend, LocalSettings, ReplaySettings, ServerSettings


def open_session(
    backend: Backend, *, step: str, cache: Path, device: Any, seed: int, literal: bool, is_dry: bool
) -> Session:
    """The model of a backend with its cache.

    step: the recorded step that a replay stands for. cache: the folder of answers where the backend names none.
    literal: of yes and no only the very words count. is_dry: no model; nothing is asked, the cache is read.
    """
    if isinstance(backend, ReplaySettings):
        if not backend.file:
            raise PsftrError("backend=replay needs backend.file=FILE, a recording made with record=FILE")
        replay = ReplayMLLM(read_recording(backend.file), step=step)
        return Session(replay, give_up_after=None if is_dry else backend.give_up_after)
    if not isinstance(backend, ServerSettings | LocalSettings):
        raise PsftrError(f"backend {backend.name} answers no questions; choose qwen, llava, server or replay")
    answers = AnswerCache(backend.cache or cache)
    if is_dry:
        return Session(DryMLLM(_identity(backend, seed=seed, literal=literal), frame_size=backend.frame_size), answers)
    model: MLLM
    if isinstance(backend, ServerSettings):
        from psftr.language_models.server import OpenAiServer

        model = OpenAiServer(backend, api_key=os.environ.get(backend.api_key_env), literal=literal)
    else:
        from psftr.language_models.local import TransformersMLLM

        model = TransformersMLLM.load(backend, device=device, seed=seed, literal=literal)
    return Session(model, answers, give_up_after=backend.give_up_after)


def _identity(backend: ServerSettings | LocalSettings, *, seed: int, literal: bool) -> str:
    """What the model would be called, without building it."""
    if isinstance(backend, ServerSettings):
        from psftr.language_models import server

        return server.identity(backend, literal=literal)
    from psftr.language_models import local, weights

    digest = weights.content_digest(weights.find_weights(backend.model))
    return local.identity(backend, weights=digest, seed=seed, literal=literal)
