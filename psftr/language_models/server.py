"""Models behind an OpenAI-compatible server (vLLM, DeepSeek, …): structured output, logprobs, retries, a budget.

Requests carry the prompt and frames as JPEG made from pixels, so no metadata of a file travels along. Messages and logs
quote a server only after the key has been cut out of its words.

Requests run on an event loop in a thread of its own. Whoever asks waits for the answer; an interrupt, or `close`,
cancels what is under way at once, whether the server answers or hangs.
"""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import contextlib
import json
import logging
import math
import threading
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from psftr.errors import PsftrError
from psftr.language_models.protocol import (
    Budget,
    BudgetExhausted,
    Fail,
    Frames,
    Keep,
    MllmError,
    Schema,
    Stopped,
    Usage,
    shares,
    spells,
)
from psftr.language_models.settings import ServerSettings

T = TypeVar("T")
TOP_LOGPROBS = 20
_FATAL = {401: "refused the key", 403: "refused access", 404: "knows no such model or address"}


class _Unusable(Exception):
    """A reply that arrived and cannot be read: worth another attempt."""


def identity(settings: ServerSettings, *, literal: bool) -> str:
    """Everything that decides an answer, as far as a client can know."""
    details = [f"{settings.frame_size}px", settings.structured, *(["literal"] if literal else [])]
    return ":".join(["openai-compatible", settings.model, *details])


class OpenAiServer:
    """`MLLM` over the `openai` client.

    api_key: sent in the header only. literal: of yes and no only the very words `Yes` and `No` count.
    """

    def __init__(
        self,
        settings: ServerSettings,
        *,
        api_key: str | None = None,
        literal: bool = False,
        budget: Budget | None = None,
    ) -> None:
        try:
            import openai
            import tenacity
        except ImportError as error:
            raise PsftrError(f"a server backend needs the package {error.name}; install psftr[mllm]") from error
        parts = urlsplit(settings.base_url)
        if parts.username or parts.password or parts.query:
            raise PsftrError("base_url holds a user name, password or query; put the key into the environment variable")
        self.settings, self.frame_size, self.literal = settings, settings.frame_size, literal
        self.identity = identity(settings, literal=literal)
        self.budget = budget or Budget(settings.budget)
        self.usage = Usage(settings.price_in, settings.price_out)
        self._openai: Any = openai
        self._key = api_key or ""
        self._limit_s: float | None = None
        for name in ("openai", "httpx", "httpcore"):  # at INFO and DEBUG they write out requests
            logging.getLogger(name).setLevel(logging.WARNING)
        self._retrying: Any = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(settings.attempts),
            wait=_Backoff(
                tenacity.wait_random_exponential(multiplier=settings.wait_s, max=settings.max_wait_s),
                settings.max_wait_s,
            ),
            retry=tenacity.retry_if_exception(self._is_passing),
            reraise=True,
        )
        self._loop = asyncio.new_event_loop()
        self._is_closed = False
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._client: Any = openai.AsyncOpenAI(
            api_key=api_key or "none", base_url=settings.base_url, timeout=settings.timeout_s, max_retries=0
        )
        threading.Thread(target=self._loop.run_forever, name="psftr-server", daemon=True).start()

    def generate(
        self, frames: Frames, prompt: str, *, schema: Schema | None = None, temperature: float = 0.0,
        answer_tokens: int,
    ) -> str:  # fmt: skip
        options: dict[str, Any] = {"temperature": temperature, "max_tokens": answer_tokens}
        structured = self.settings.structured
        if schema is not None and structured == "json_schema":
            described = {"name": schema.name, "schema": dict(schema.json), "strict": True}
            options["response_format"] = {"type": "json_schema", "json_schema": described}
        elif schema is not None and structured == "json_object":
            options["response_format"] = {"type": "json_object"}
            prompt = f"{prompt}\nJSON schema: {json.dumps(schema.json)}"
        return self._wait(self._ask(self._messages(self._images(frames), prompt), options, _text))

    def choose(
        self, clips: Sequence[Frames], prompts: Sequence[str], options: Sequence[str], *, keep: Keep, fail: Fail
    ) -> None:
        def read(reply: Any) -> tuple[float, ...] | None:
            return _choice(reply, options, literal=self.literal)

        def questions() -> Iterator[tuple[int, int, list[Any]]]:
            for t, clip in enumerate(clips):
                images = self._images(clip)
                for s, prompt in enumerate(prompts):
                    yield t, s, self._messages(images, prompt)

        waiting = questions()
        spent: list[BudgetExhausted] = []

        async def work() -> None:
            for t, s, messages in waiting:
                if spent:
                    return
                try:
                    found = await self._ask(
                        messages,
                        {"temperature": 0.0, "max_tokens": 1, "logprobs": True, "top_logprobs": TOP_LOGPROBS},
                        read,
                    )
                except BudgetExhausted as error:
                    spent.append(error)  # what is under way is paid for, so it is waited for
                except MllmError as error:
                    fail(t, s, error)
                else:
                    keep(t, s, found)

        async def all_of_them() -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.settings.concurrency, len(clips) * len(prompts))):
                    group.create_task(work())

        try:
            self._wait(all_of_them())
        except BaseExceptionGroup as group:
            error: BaseException = group
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            raise error from None
        if spent:
            raise spent[0]

    @contextlib.contextmanager
    def impatient(self) -> Iterator[None]:
        """Within it a question fails that has no answer after `preflight_s`, retries included."""
        self._limit_s = self.settings.preflight_s
        try:
            yield
        finally:
            self._limit_s = None

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True

        async def stop() -> None:
            under_way = asyncio.all_tasks() - {asyncio.current_task()}
            for task in under_way:
                task.cancel()
            await asyncio.wait(under_way) if under_way else None
            with contextlib.suppress(Exception):  # an open connection would complain after the loop has ended
                await asyncio.wait_for(self._client.close(), timeout=1.0)
            self._loop.stop()

        asyncio.run_coroutine_threadsafe(stop(), self._loop)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        if self._is_closed:
            work.close()
            raise Stopped()
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise Stopped() from None
        except BaseException:
            future.cancel()
            raise

    async def _ask(self, messages: list[Any], options: dict[str, Any], read: Any) -> Any:
        """One question with its retries. Raises MllmError, BudgetExhausted, or PsftrError when asking on is useless."""
        last: list[BaseException] = []

        async def attempt() -> Any:
            try:
                self.budget.spend()
                reply = await self._client.chat.completions.create(
                    model=self.settings.model, messages=messages, **options
                )
                self._note_usage(reply)
                return read(reply)
            except Exception as error:
                last[:] = [error]
                raise

        async with self._slots:
            try:
                async with asyncio.timeout(self._limit_s):
                    return await self._retrying(attempt)
            except PsftrError:
                raise
            except TimeoutError:
                told = f"; before that: {self._reason(last[0])}" if last else ""
                raise MllmError(
                    f"no answer within {self._limit_s:g} s{told} (backend.preflight_s limits the first questions)"
                ) from None
            except Exception as error:
                status = getattr(error, "status_code", None)
                if status in _FATAL:
                    raise PsftrError(
                        f"the server {_FATAL[status]} ({status}): {self._words(error)}{self._remedy(status)}"
                    ) from None
                raise MllmError(self._reason(error)) from None

    def _note_usage(self, reply: Any) -> None:
        counted = getattr(reply, "usage", None)
        numbers = [getattr(counted, name, None) for name in ("prompt_tokens", "completion_tokens")]
        self.usage.add(*(number if isinstance(number, int) and number >= 0 else 0 for number in numbers))

    def _is_passing(self, error: BaseException) -> bool:
        """Whether another attempt may succeed: time-outs, lost connections, 408, 409, 429, 5xx and garbled replies."""
        if isinstance(error, self._openai.APIStatusError):
            return error.status_code in (408, 409, 429) or error.status_code >= 500
        garbled = (_Unusable, ValueError, TypeError, AttributeError, self._openai.APIResponseValidationError)
        return isinstance(error, (self._openai.APIConnectionError, *garbled)) and not isinstance(error, PsftrError)

    def _reason(self, error: BaseException) -> str:
        if isinstance(error, _Unusable):
            return f"no usable answer: {error}"
        if status := getattr(error, "status_code", None):
            return f"the server answered {status}: {self._words(error)}"
        if isinstance(error, self._openai.APITimeoutError):
            return f"no answer within {self.settings.timeout_s:g} s (backend.timeout_s)"
        if isinstance(error, self._openai.APIConnectionError):
            return f"no connection to {self.settings.base_url}: is the server up? backend.base_url is its address"
        return f"no usable answer: a reply that is not of this API ({type(error).__name__})"

    def _remedy(self, status: int) -> str:
        name = self.settings.api_key_env
        if status == 404:
            return f"; the address is base_url={self.settings.base_url}, the model is model={self.settings.model}"
        return f"; the key is read from the environment variable {name} (backend.api_key_env), which is " + (
            "set" if self._key else "not set"
        )

    def _words(self, error: BaseException) -> str:
        """What the server said, short and without the key (servers like to quote it back) or most of it."""
        body: Any = getattr(error, "body", None)
        while isinstance(body, dict):
            body = body.get("message") or body.get("error") or body.get("detail") or json.dumps(body)
        if not isinstance(body, str) or not body.strip():
            response = getattr(error, "response", None)
            body = getattr(response, "text", "") or "nothing more"
        text = " ".join(body.split())
        pieces = [self._key] if self._key else []
        pieces += [self._key[:n] for n in (12, 8)] + [self._key[-n:] for n in (8, 4)] if len(self._key) >= 16 else []
        for piece in pieces:
            text = text.replace(piece, "***")
        return text[:300]

    def _messages(self, images: Sequence[str], prompt: str) -> list[Any]:
        """Images come first: a server that keeps prefixes encodes those of a frame once for all its stages."""
        if not images:
            return [{"role": "user", "content": prompt}]
        parts: list[Any] = [{"type": "image_url", "image_url": {"url": image}} for image in images]
        return [{"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}]

    def _images(self, frames: Frames) -> list[str]:
        return [
            "data:image/jpeg;base64," + base64.b64encode(frame.jpeg_of(self.frame_size)).decode()
            for frame in frames.frames
        ]


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
        asked_s = asked_s if math.isfinite(asked_s) else 0.0
        return min(max(self.exponential(state), asked_s), self.limit_s)


def _first_choice(reply: Any) -> Any:
    try:
        return reply.choices[0]
    except (AttributeError, LookupError, TypeError):
        raise _Unusable("a reply without choices") from None


def _text(reply: Any) -> str:
    content = getattr(getattr(_first_choice(reply), "message", None), "content", None)
    if not isinstance(content, str) or not content.strip():
        raise _Unusable("a reply without text")
    return content


def _choice(reply: Any, options: Sequence[str], *, literal: bool) -> tuple[float, ...] | None:
    """Shares of the options over all their spellings among the top tokens; None if none of them is there."""
    try:
        top = _first_choice(reply).logprobs.content[0].top_logprobs
        tokens = [(t.token, t.logprob) for t in top]
    except (AttributeError, LookupError, TypeError):
        raise _Unusable("a reply without logprobs (the confidence of stages is read from them)") from None
    if not tokens or not all(isinstance(token, str) and _is_logprob(logprob) for token, logprob in tokens):
        raise _Unusable("a reply without usable logprobs (the confidence of stages is read from them)")
    return shares(
        [sum(math.exp(lp) for token, lp in tokens if spells(token, option, literal=literal)) for option in options]
    )


def _is_logprob(value: Any) -> bool:
    """A number that is the logarithm of a probability; rounding may lift it a little above 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value < 1e-3
