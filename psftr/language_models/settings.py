"""The settings of each kind of backend; conf/backend names them and says only what differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psftr.errors import PsftrError
from psftr.files import nearest
from psftr.settings import Checked, from_dict, setting


@dataclass(frozen=True, kw_only=True)
class NoBackend(Checked):
    """No model of its own: another one does this step."""

    kind: str = setting("none", "the kind of backend", choices=("none",))
    name: str = setting("none", "names output folders")


@dataclass(frozen=True, kw_only=True)
class ClipSettings(Checked):
    """No multimodal model: p = sigmoid(slope * (cos(frame, stage) - cos(frame, background))) on CLIP features."""

    kind: str = setting("clip", "the kind of backend", choices=("clip",))
    name: str = setting("clip", "names output folders")
    slope: float = setting(150.0, "steepness of the sigmoid", above=0)
    centre: str = setting(
        "median", "median: each stage's median over the video is its zero", choices=("none", "median")
    )
    smooth_s: float = setting(1.0, "width of a moving average over similarities", unit="s", least=0)
    min_presence: float = setting(0.1, "least mean probability of a class in a video to be looked for", least=0, most=1)


@dataclass(frozen=True, kw_only=True)
class _Answering(Checked):
    """What everything takes that answers questions."""

    give_up_after: int | None = setting(
        5, "so many failed questions of one kind in a row end the run; null: never", least=1
    )


@dataclass(frozen=True, kw_only=True)
class _AskedSettings(_Answering):
    """What every model takes that is asked."""

    model: str = setting(
        "Qwen/Qwen2.5-VL-7B-Instruct", "the server's name for it, a hub name, or a folder with all of it"
    )
    frame_size: int = setting(448, "longer side of the frames shown", unit="px", least=32, most=4096)
    budget: int | None = setting(None, "requests in all, retries included; null: no limit", least=0)
    price_in: float | None = setting(None, "price of a million tokens of prompts; null: not said", unit="$", least=0)
    price_out: float | None = setting(None, "price of a million tokens of answers; null: not said", unit="$", least=0)
    cache: str | None = setting(None, "folder that keeps answers; null: <data_root>/mllm_cache")


@dataclass(frozen=True, kw_only=True)
class ServerSettings(_AskedSettings):
    """Any OpenAI-compatible server with vision and logprobs, such as vLLM."""

    kind: str = setting("server", "the kind of backend", choices=("server",))
    name: str = setting("server", "names output folders")
    base_url: str = setting("http://localhost:8000/v1", "the server's address")
    api_key_env: str = setting("OPENAI_API_KEY", "the environment variable that holds the key")
    structured: str = setting(
        "json_schema", "how the server takes a JSON schema", choices=("json_schema", "json_object", "none")
    )
    timeout_s: float = setting(60.0, "patience with one request", unit="s", above=0)
    preflight_s: float = setting(6.0, "patience with each question before the first video", unit="s", above=0)
    attempts: int = setting(5, "tries of a question", least=1)
    wait_s: float = setting(1.0, "first pause between tries; it doubles", unit="s", above=0)
    max_wait_s: float = setting(60.0, "longest pause between tries", unit="s", above=0)
    concurrency: int = setting(32, "requests under way at once", least=1, most=1024)


@dataclass(frozen=True, kw_only=True)
class LocalSettings(_AskedSettings):
    """A model run here through transformers: Qwen2.5-VL, LLaVA-1.5 and others of their interface."""

    kind: str = setting("transformers", "the kind of backend", choices=("transformers",))
    name: str = setting("transformers", "names output folders")
    dtype: str = setting("auto", "number format of the weights", choices=("auto", "float32", "float16", "bfloat16"))
    quantize: str = setting("none", "weights in fewer bits, through bitsandbytes", choices=("none", "int8", "int4"))
    device_map: str | None = setting(None, "auto: weights over all GPUs and memory; null: one device")
    attention: str | None = setting(
        None, "how attention is computed; null: transformers' choice", choices=("eager", "sdpa", "flash_attention_2")
    )
    square: bool = setting(False, "black edges make frames square, where the image processor would crop them")
    batch_rows: int = setting(16, "clip and prompt pairs per forward pass; halved when memory runs out", least=1)
    max_tokens: int | None = setting(None, "no answer is longer; null: as long as the question allows", least=1)


@dataclass(frozen=True, kw_only=True)
class ReplaySettings(_Answering):
    """Answers recorded by an earlier run (record=FILE): no model, no network."""

    kind: str = setting("replay", "the kind of backend", choices=("replay",))
    name: str = setting("replay", "names output folders")
    file: str | None = setting(None, "the recording")


Backend = NoBackend | ClipSettings | ServerSettings | LocalSettings | ReplaySettings
BACKENDS: Mapping[str, type[Any]] = {
    "none": NoBackend,
    "clip": ClipSettings,
    "server": ServerSettings,
    "transformers": LocalSettings,
    "replay": ReplaySettings,
}


def backend_settings(values: Mapping[str, Any], *, where: str) -> Any:
    """The settings class that `kind` names, filled. Raises PsftrError that names `where` and the setting."""
    kind = str(values.get("kind"))
    if kind not in BACKENDS:
        raise PsftrError(f"{where}.kind={kind} is unknown{nearest(kind, BACKENDS)}; choose {', '.join(BACKENDS)}")
    return from_dict(BACKENDS[kind], values, where=f"{where}.")
