"""Where the weights of a model are, and what they are called: by content, so that two models never share answers."""

from __future__ import annotations

import hashlib
import re
import threading
from pathlib import Path

from psftr.errors import PsftrError

_HUB_PATIENCE_S = 8.0
_DECIDING = (".json", ".safetensors", ".bin", ".model", ".jinja", ".txt")  # configuration, weights, tokenizer, template
_known: dict[tuple[str, int, int], str] = {}


def find_weights(name: str, *, key: str = "backend.model") -> str:
    """The folder of a model: one that was given, or the hub's (fetched, or kept from before).

    key: the setting that names it. Raises PsftrError within seconds where a hub name is neither kept here nor within
    reach.
    """
    if Path(name).is_dir():
        return name
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(name, local_files_only=True)
    except (OSError, ValueError) as error:
        if "/" not in name or name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise PsftrError(f"no model at {name}: no such folder, and not a hub name (OWNER/MODEL)") from error
    reason = _why_not_at_the_hub(name)
    if reason is not None:
        raise PsftrError(
            f"the model {name} is neither a folder nor kept on this machine, and the hub does not help ({reason}): "
            f"give {key}=FOLDER, or run once where the hub can be reached"
        )
    try:
        return snapshot_download(name)
    except (OSError, ValueError) as error:
        raise PsftrError(f"cannot fetch {name} from the hub ({' '.join(str(error).split())[:160]})") from None


def _why_not_at_the_hub(name: str) -> str | None:
    """None where the hub knows the model; otherwise what is in the way. The hub's own client tries for minutes."""
    answer: list[str | None] = []

    def ask() -> None:
        try:
            import httpx
            from huggingface_hub import constants

            if constants.HF_HUB_OFFLINE:
                answer.append("HF_HUB_OFFLINE is set")
                return
            url = f"{constants.ENDPOINT}/api/models/{name}"
            status = httpx.get(url, timeout=_HUB_PATIENCE_S / 2, follow_redirects=True).status_code
            # 401 is its answer for private, gated and unknown models alike: its client has the user's own token
            answer.append(None if status < 400 or status in (401, 403) else f"it answers {status}")
        except Exception as error:
            answer.append(type(error).__name__)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_HUB_PATIENCE_S)
    return answer[0] if answer else f"no answer within {_HUB_PATIENCE_S:g} s"


def content_digest(folder: str | Path) -> str:
    """A name for the content of a model folder: configuration, tokenizer and weights, wherever it lies."""
    folder = Path(folder)
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.suffix in _DECIDING)
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.relative_to(folder).as_posix()}:{_file_digest(file)}\n".encode())
    return whole.hexdigest()[:24]


def _file_digest(file: Path) -> str:
    blob = file.resolve()
    if re.fullmatch(r"[0-9a-f]{64}", blob.name):  # the hub's cache names large files by their SHA-256
        return blob.name
    facts = blob.stat()
    key = (str(blob), facts.st_size, facts.st_mtime_ns)
    if key not in _known:
        with blob.open("rb") as opened:
            _known[key] = hashlib.file_digest(opened, "sha256").hexdigest()
    return _known[key]
