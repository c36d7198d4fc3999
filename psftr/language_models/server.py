"""Models behind an OpenAI-compatible server (vLLM, DeepSeek, …): structured output, logprobs, retries, a budget.

Requests carry the prompt and frames re-encoded from pixels as JPEG, so no metadata of a file travels along. Messages
and logs are made from the kind of failure alone; what a server says is quoted only after the key has been cut out.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import math
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from psftr.errors import PsftrError
from psftr.language_models.protocol import Budget, Frames, Keep, MllmError, Schema, is_no, is_yes

STRUCTURED = ("json_schema", "json_object", "none")
TOP_LOGPROBS = 20
_FATAL = {401: "refused the key", 403: "refused access", 404: "knows no such model or address"}


class _Unusable(Exception):
    """A reply that arrived and cannot be read: worth another attempt."""


class OpenAiServer:
    """`MLLM` over the `openai` client.

    api_key: sent in the header only. structured: how the server takes a JSON schema (DeepSeek: json_object).
    attempts, wait_s, max_wait_s: tries per question and the backoff between them (a Retry-After is obeyed up to
    max_wait_s). concurrency: questions under way at once. frame_size: longer side of the frames sent, in pixels.
    give_up_after: so many questions failing in a row end the run, since more would only cost time.
    """

    def __init__(
        self,
        *,
        model: str,
        base_url: str | None = None,
        api_key: str | None = None,
        structured: str = "json_schema",
        timeout_s: float = 60.0,
        attempts: int = 5,
        wait_s: float = 1.0,
        max_wait_s: float = 60.0,
        concurrency: int = 8,
        frame_size: int = 448,
        give_up_after: int | None = 20,
        budget: Budget | None = None,
    ) -> None:
        try:
            import openai
            import tenacity
        except ImportError as error:
            raise PsftrError(f"a server backend needs the package {error.name}; install psftr[mllm]") from error
        if structured not in STRUCTURED:
            raise PsftrError(f"structured={structured} is unknown; choose {', '.join(STRUCTURED)}")
        parts = urlsplit(base_url or "")
        if base_url and (parts.username or parts.password or parts.query):
            raise PsftrError("base_url holds a user name, password or query; put the key into the environment variable")
        self.model, self.structured = model, structured
        self.identity = f"openai-compatible:{model}:{frame_size}px"
        self.concurrency, self.frame_size = concurrency, frame_size
        self.budget = budget or Budget()
        self._openai: Any = openai
        self._key = api_key or ""
        self._failed_in_a_row, self._give_up_after = 0, give_up_after
        self._lock = threading.Lock()
        self._client: Any = openai.OpenAI(
            api_key=api_key or "none", base_url=base_url, timeout=timeout_s, max_retries=0
        )
        for name in ("openai", "httpx", "httpcore"):  # at INFO and DEBUG they write out requests
            logging.getLogger(name).setLevel(logging.WARNING)
        self._retrying: Any = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(attempts),
            wait=_Backoff(tenacity.wait_random_exponential(multiplier=wait_s, max=max_wait_s), max_wait_s),
            retry=tenacity.retry_if_exception(self._is_passing),
            reraise=True,
        )

    def generate(
        self, frames: Frames, prompt: str, *, schema: Schema | None = None, temperature: float = 0.0,
        max_tokens: int = 512,
    ) -> str:  # fmt: skip
        options: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens}
        if schema is not None and self.structured == "json_schema":
            described = {"name": schema.name, "schema": dict(schema.json), "strict": True}
            options["response_format"] = {"type": "json_schema", "json_schema": described}
        elif schema is not None and self.structured == "json_object":
            options["response_format"] = {"type": "json_object"}
            prompt = f"{prompt}\nJSON schema: {json.dumps(schema.json)}"
        messages = self._messages([self._image(frame) for frame in frames.rgb], prompt)
        return self._ask(messages, options, _text)

    def yes_no(self, frames: Frames, prompts: Sequence[str], *, keep: Keep | None = None) -> NDArray[np.float64]:
        table = np.full((len(frames), len(prompts)), np.nan)
        images = [self._image(frame) for frame in frames.rgb]
        options = {"temperature": 0.0, "max_tokens": 1, "logprobs": True, "top_logprobs": TOP_LOGPROBS}
        stop = threading.Event()

        def one(t: int, s: int) -> None:
            if stop.is_set():
                return
            try:
                p = self._ask(self._messages([images[t]], prompts[s]), options, _yes_share)
            except MllmError:
                return  # stays NaN and is not kept, which is how the caller counts it
            except BaseException:
                stop.set()
                raise
            table[t, s] = p
            if keep is not None:
                keep(t, s, p)

        with ThreadPoolExecutor(self.concurrency) as pool:
            asked = [pool.submit(one, t, s) for t, s in np.ndindex(table.shape)]
            try:
                done, _ = wait(asked, return_when=FIRST_EXCEPTION)
            except BaseException:  # an interrupt must not wait for what has not been sent yet
                stop.set()
                raise
        for future in done:
            future.result()  # raises what ended the run
        return table

    def _ask(self, messages: list[Any], options: dict[str, Any], read: Any) -> Any:
        """One question with its retries. Raises MllmError, BudgetExhausted, or PsftrError when asking on is useless."""

        def attempt() -> Any:
            self.budget.spend()
            reply = self._client.chat.completions.create(model=self.model, messages=messages, **options)
            return read(reply)

        try:
            answer = self._retrying(attempt)
        except PsftrError:
            raise
        except Exception as error:
            status = getattr(error, "status_code", None)
            if status in _FATAL:
                raise PsftrError(f"the server {_FATAL[status]} ({status}): {self._scrubbed(error)}") from None
            with self._lock:
                self._failed_in_a_row += 1
                hopeless = self._give_up_after is not None and self._failed_in_a_row >= self._give_up_after
            reason = f"{type(error).__name__}{f' {status}' if status else ''}"
            if isinstance(error, _Unusable):
                reason = str(error)
            if hopeless:
                raise PsftrError(
                    f"{self._failed_in_a_row} questions in a row failed, the last with: {reason}; answers so far are "
                    "kept: run again when the server is well"
                ) from None
            raise MllmError(f"no usable answer ({reason})") from None
        with self._lock:
            self._failed_in_a_row = 0
        return answer

    def _is_passing(self, error: BaseException) -> bool:
        """Whether another attempt may succeed: time-outs, lost connections, 408, 409, 429, 5xx and garbled replies."""
        if isinstance(error, self._openai.APIStatusError):
            return error.status_code in (408, 409, 429) or error.status_code >= 500
        garbled = (_Unusable, ValueError, self._openai.APIResponseValidationError)
        return isinstance(error, (self._openai.APIConnectionError, *garbled)) and not isinstance(error, PsftrError)

    def _scrubbed(self, error: BaseException) -> str:
        """What the server said, short and without the key (servers like to quote it back) or most of it."""
        text = " ".join(str(error).split())
        pieces = [self._key] if self._key else []
        pieces += [self._key[:n] for n in (12, 8)] + [self._key[-n:] for n in (8, 4)] if len(self._key) >= 16 else []
        for piece in pieces:
            text = text.replace(piece, "***")
        return text[:200]

    def _messages(self, images: Sequence[str], prompt: str) -> list[Any]:
        if not images:
            return [{"role": "user", "content": prompt}]
        parts: list[Any] = [{"type": "image_url", "image_url": {"url": image}} for image in images]
        return [{"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}]

    def _image(self, frame: NDArray[np.uint8]) -> str:
        from PIL import Image

        image = Image.fromarray(frame)
        image.thumbnail((self.frame_size, self.frame_size))
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=90)
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


class _Backoff:
    """Exponential with jitter, or as long as the server asks for, up to a limit."""

    def __init__(self, exponential: Any, limit_s: float) -> None:
        self.exponential, self.limit_s = exponential, limit_s

    def __call__(self, state: Any) -> float:
        response = getattr(state.outcome.exception(), "response", None)
        try:
            asked_s = float(response.headers["retry-after"])  # type: ignore[union-attr]
        except (AttributeError, KeyError, ValueError):
            asked_s = 0.0
        return min(max(self.exponential(state), asked_s), self.limit_s)


def _first_choice(reply: Any) -> Any:
    try:
        return reply.choices[0]
    except (AttributeError, IndexError, TypeError):
        raise _Unusable("a reply without choices") from None


def _text(reply: Any) -> str:
    content = getattr(getattr(_first_choice(reply), "message", None), "content", None)
    if not isinstance(content, str) or not content.strip():
        raise _Unusable("a reply without text")
    return content


def _yes_share(reply: Any) -> float:
    """p(yes) / (p(yes) + p(no)) over all spellings among the top tokens; NaN if none of them is either."""
    try:
        tokens = [(str(t.token), float(t.logprob)) for t in _first_choice(reply).logprobs.content[0].top_logprobs]
    except (AttributeError, IndexError, TypeError, ValueError):
        raise _Unusable("a reply without logprobs") from None
    if not tokens or not all(math.isfinite(logprob) or logprob == -math.inf for _, logprob in tokens):
        raise _Unusable("a reply without logprobs")
    yes = sum(math.exp(logprob) for token, logprob in tokens if is_yes(token))
    no = sum(math.exp(logprob) for token, logprob in tokens if is_no(token))
    return yes / (yes + no) if yes + no > 0 else math.nan
