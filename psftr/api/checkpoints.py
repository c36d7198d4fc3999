"""Where a trained network is: a run folder, a model folder, a .ckpt, or a repository on the Hugging Face hub."""

from __future__ import annotations

import os
import re
import socket
import urllib.request
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from psftr.checkpoints import CONFIG, WEIGHTS, load_trained
from psftr.data.windows import WindowPolicy
from psftr.errors import PsftrError
from psftr.methods.psftr.network import PSFTR
from psftr.methods.psftr.postprocess import Decoder, hard_nms_merge

HUB_SCHEME = "hf://"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def load_network(path: str | os.PathLike[str], *, revision: str | None = None) -> tuple[PSFTR, dict[str, Any], Path]:
    """(network in eval mode, what it says about itself, where it was found). Raises PsftrError."""
    found = locate(path, revision=revision)
    if found.is_dir() and not (found / WEIGHTS).is_file():
        last = found / "checkpoints" / "last.ckpt"
        if last.is_file():  # a training that is still going on, or was stopped
            found = last
        elif runs := sorted(file.parent for file in found.glob(f"*/{WEIGHTS}")):
            raise PsftrError(f"{found} holds {len(runs)} runs; give one of them, such as {runs[0]}")
    network, facts = load_trained(found)
    return network, facts, found


def locate(path: str | os.PathLike[str], *, revision: str | None = None) -> Path:
    """A file or folder on this machine: `path` itself, or what `hf://USER/REPOSITORY[@REVISION]` is downloaded to.

    `USER/REPOSITORY` will do where no such folder exists. Raises PsftrError.
    """
    text = os.fspath(path)
    local = Path(text).expanduser()
    if not text.startswith(HUB_SCHEME) and local.exists():
        return local
    name, _, stated = text.removeprefix(HUB_SCHEME).partition("@")
    if _HUB_ID.fullmatch(name) and not name.endswith((".ckpt", ".safetensors")):
        return _download(name, revision or stated or None, is_certain=text.startswith(HUB_SCHEME))
    if text.startswith(HUB_SCHEME):
        raise PsftrError(f"{text} is no repository; write hf://USER/REPOSITORY or hf://USER/REPOSITORY@REVISION")
    raise PsftrError(f"{text}: no such run folder, model folder or checkpoint")


def _download(name: str, revision: str | None, *, is_certain: bool) -> Path:
    try:
        from huggingface_hub import constants, snapshot_download
    except ImportError as error:
        raise PsftrError(f"{name}: the Hugging Face hub needs the package huggingface_hub") from error
    try:
        host = urlparse(constants.ENDPOINT).hostname
        is_cut_off = False
        if host and not urllib.request.getproxies():
            try:
                socket.getaddrinfo(host, 443)
            except OSError:
                is_cut_off = True  # spares the client's retries; what was fetched before is still there
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=[WEIGHTS, CONFIG], local_files_only=is_cut_off)
        )
    except Exception as error:  # the client's errors have no common base
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        first = "" if is_certain else f"{name}: no such folder here, and "
        raise PsftrError(
            f"{first}hf://{name} is not to be had ({reason}); put its {WEIGHTS} and {CONFIG} into a folder "
            "and give that"
        ) from error


def window_policy(facts: Mapping[str, Any]) -> WindowPolicy:
    """The windows a network was trained with; the default where it does not say."""
    return WindowPolicy(**((facts.get("config") or {}).get("window") or {}))


def decoder(facts: Mapping[str, Any]) -> Decoder:
    """The decoding a network was trained with. One trained under the peers' protocol decodes by our rules here."""
    settings = dict((facts.get("config") or {}).get("decode") or {})
    merge, threshold = settings.pop("merge", "soft_nms"), settings.pop("nms_threshold", 0.5)
    settings = {name: value for name, value in settings.items() if name in Decoder.__dataclass_fields__}
    if merge == "nms":
        most = int(settings.get("max_per_video", 200))
        settings["merge_rule"] = partial(hard_nms_merge, threshold=threshold, max_kept=most)
    return Decoder(**settings)


def trained_stride(facts: Mapping[str, Any], default: int) -> int:
    """Frames per feature row of the store a network was trained on."""
    stated = re.search(r"\bstride=(\d+)(?!\S)", str((facts.get("features") or {}).get("identity", "")))
    return int(stated[1]) if stated else default
