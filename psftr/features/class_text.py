"""Class texts in the space of a feature store: from a file, from the data set's folder, or from the store's encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from psftr.errors import PsftrError
from psftr.features.text import TextEmbeddings, cache_path, check_compatible, embed_names, load_text, resolve_prompt

if TYPE_CHECKING:
    from psftr.features.clip import ClipEncoder
    from psftr.features.store import FeatureStore
    from psftr.settings import TextSettings


def class_text(names: Sequence[str], *, store: FeatureStore, root: Path, settings: TextSettings) -> TextEmbeddings:
    """Embeddings of the class names in the space of the store's features.

    A file given by `text.embeddings`, else text.h5 in `root` if its prompt is the one asked for (a synthetic one always
    fits), else the open_clip encoder that the store names, cached in `root`. Raises PsftrError.
    """
    prompt, names = resolve_prompt(settings.prompt), tuple(names)
    given, found = settings.embeddings, root / "text.h5"
    if given is not None or found.is_file():
        text = load_text(given or found)
        if given is not None or text.synthetic or text.prompt == prompt:
            check_compatible(text, store.encoder, store.dim)
            text.select(names)
            return text
    if store.synthetic:
        raise PsftrError(
            f"the features of {root} are synthetic and there is no text.h5 beside them: "
            "run `psftr prepare` with --simulate-features again, or set text.embeddings=FILE"
        )
    cache = root / "text_cache"
    cached = cache_path(cache, store.encoder, prompt, names)
    if cached.is_file():  # saves loading the encoder
        text = load_text(cached)
    else:
        encoder = text_encoder(store.encoder, weights=settings.weights)
        text = embed_names(names, encoder=encoder, template=prompt, cache_dir=cache)
    check_compatible(text, store.encoder, store.dim)
    return text


def text_encoder(identity: str, *, weights: str | None = None) -> ClipEncoder:
    """The encoder a feature store names, for its text side. `weights`: a local file, where the identity is of one.

    Raises PsftrError where it is not of open_clip, names a local file that was not given, or has no text side.
    """
    from psftr.features.encoders import open_encoder

    if not identity.startswith("open_clip:"):
        raise PsftrError(
            f"the features are of encoder {identity!r}, which psftr cannot run: give text.embeddings=FILE, "
            "a psftr-text file of the same encoder"
        )
    if identity.endswith(":pre-projection"):
        raise PsftrError(f"features of {identity} have no matching text: extract them again after CLIP's projection")
    if ":sha256-" in identity and weights is None:
        raise PsftrError(f"the features are of a local weights file ({identity}): give it with text.weights=FILE")
    return open_encoder(identity, pretrained=weights, device="cpu")
