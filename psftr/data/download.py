"""Download published files, whole and with the pinned content, or not at all."""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from psftr import __version__
from psftr.data.sources import RemoteFile
from psftr.errors import PsftrError
from psftr.files import replacing, sha256_of

BASE_URL = "https://raw.githubusercontent.com"
BASE_URL_VARIABLE = "PSFTR_BASE_URL"
TIMEOUT_S = 30.0
TRIES = 3
_CHUNK = 1 << 16


def base_url(given: str | None = None) -> str:
    """Where repositories are fetched from: what is given, else the variable PSFTR_BASE_URL, else the public host.

    Raises PsftrError for what is not an address.
    """
    base = given or os.environ.get(BASE_URL_VARIABLE) or BASE_URL
    if not base.startswith(("https://", "http://", "file://")):
        raise PsftrError(f"{base!r} is not the address of a mirror; it begins with https://, http:// or file://")
    return base


def fetch(
    files: tuple[RemoteFile, ...],
    folder: Path,
    *,
    base: str,
    pause_s: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Download `files` into `folder`; returns how many were fetched. `pause_s`: before the second try, doubled after.

    Raises:
        PsftrError: a file is not there, does not arrive whole, or has another content than the pinned one.
    """
    fetched = 0
    for done, file in enumerate(files, start=1):
        target = folder / file.name
        if not target.is_file() or sha256_of(target) != file.sha256:
            _fetch_one(file, target, file.url(base), pause_s)
            fetched += 1
        if progress is not None:
            progress(done, len(files))
    return fetched


def _fetch_one(file: RemoteFile, target: Path, url: str, pause_s: float) -> None:
    with replacing(target) as part:
        for attempt in range(TRIES):
            if attempt:
                time.sleep(pause_s * 2 ** (attempt - 1))
            try:
                digest = _download(url, part)
            except urllib.error.HTTPError as error:
                trouble = f"the server answers {error.code} {error.reason}"
                if error.code < 500 and error.code != 429:
                    break  # asking again would not help; nor if the content is another
            except (OSError, http.client.HTTPException) as error:
                trouble = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
            else:
                if digest == file.sha256:
                    return
                trouble = f"its SHA-256 is {digest}, not the pinned {file.sha256}"
                break
        raise PsftrError(
            f"cannot fetch {url}: {trouble}; nothing of it was kept. Try again, or get the repository by other means "
            "and use --from DIR"
        )


def _download(url: str, part: Path) -> str:
    """Write the body to `part`; returns its SHA-256. Raises OSError if it ends early."""
    request = urllib.request.Request(url, headers={"User-Agent": f"psftr/{__version__}"})
    digest, size = hashlib.sha256(), 0
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response, open(part, "wb") as out:
        announced = response.headers.get("Content-Length")
        while chunk := response.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            out.write(chunk)
    if announced is not None and size != int(announced):
        raise OSError(f"it ended after {size} of {announced} bytes")
    return digest.hexdigest()
