"""Action names in words -> prompts -> class-text embeddings, computed once per vocabulary and kept on disk.

The labels of a dataset are never changed: `spell_out` serves the prompt only, and embeddings are looked up by
the original name. `psftr-text` version 1 is HDF5: datasets `names` (UTF-8) and `embeddings [K, D]`, and the
attributes `format`, `version`, `encoder`, `prompt` and, where true, `synthetic`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import torch
from torch import Tensor

from psftr.errors import PsftrError
from psftr.features.hdf5 import created
from psftr.files import nearest_names, replacing

FORMAT = "psftr-text"
VERSION = 1

# Table 4 of the paper, under its own names. The space before the name in prompt2 is ours: the paper prints
# "a video of action" + [ACTION], which would glue the two words together.
PROMPTS = {
    "none": "{}",
    "prompt1": "a video of {}",
    "prompt2": "a video of action {}",
    "prompt3": "a video of a person doing {}",
}


def resolve_prompt(prompt: str) -> str:
    """A preset's name or a template of one's own -> the template, checked to have exactly one `{}`."""
    template = PROMPTS.get(prompt, prompt)
    if template.count("{}") != 1 or "{" in template.replace("{}", ""):
        raise PsftrError(
            f"prompt {prompt!r} is neither a preset ({', '.join(PROMPTS)}) nor a template with exactly one {{}}"
        )
    return template


def spell_out(name: str) -> str:
    """A class name as words for a prompt: `CleanAndJerk` -> `clean and jerk`, `BMXRacing` -> `BMX racing`.

    Underscores count as spaces. A name that already has spaces is a person's own wording: only its leading
    capital is lowered (`Clean and jerk` -> `clean and jerk`; `BMX stunts` stays). In a single CamelCase word,
    acronyms stay together and in capitals, and digits stay with a unit or letter that follows them
    (`Run100m` -> `run 100m`, `3DPrinting` -> `3D printing`, `4x100Relay` -> `4x100 relay`).
    """
    words = name.replace("_", " ").split()
    if not words:
        raise PsftrError(f"class name {name!r} has no words to put into a prompt")
    if len(words) > 1:
        return " ".join([_lower_if_title(words[0]), *words[1:]])
    return " ".join(_lower_if_title(word) for word in _split_camel_case(words[0]))


def _lower_if_title(word: str) -> str:
    is_title = word[0].isupper() and not any(c.isupper() or c.isdigit() for c in word[1:])
    return word.lower() if is_title else word


def _split_camel_case(word: str) -> list[str]:
    parts = [word[0]]
    for i in range(1, len(word)):
        before, here, after = word[i - 1], word[i], word[i + 1 : i + 2]
        starts_word = here.isupper() and (
            before.islower()  # clean|And
            or ((before.isupper() or before.isdigit()) and after.islower())  # BMX|Racing, 100|Meter
        )
        starts_number = here.isdigit() and word[max(0, i - 2) : i].isalpha() and i >= 2  # run|100m, but 4x100
        if starts_word or starts_number:
            parts.append(here)
        else:
            parts[-1] += here
    return parts


def class_prompts(names: Sequence[str], template: str) -> list[str]:
    """One prompt per name, in order. `template` is a preset of Table 4 or a text with one `{}`."""
    pattern = resolve_prompt(template)
    return [pattern.replace("{}", spell_out(name)) for name in names]


@dataclass(frozen=True)
class TextEmbeddings:
    """Class-text embeddings: `embeddings [K, D]` float32, row k for `names[k]`, as the encoder gave them."""

    names: tuple[str, ...]
    embeddings: Tensor
    encoder: str
    prompt: str
    synthetic: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "embeddings", self.embeddings.detach().to("cpu", torch.float32))
        if self.embeddings.ndim != 2 or len(self.embeddings) != len(self.names) or not self.names:
            raise PsftrError(
                f"text embeddings of shape {tuple(self.embeddings.shape)} for {len(self.names)} names: "
                "one row per name is needed, and at least one name"
            )
        duplicates = sorted({name for name in self.names if self.names.count(name) > 1})
        if duplicates:
            raise PsftrError(f"class names appear twice among the text embeddings: {', '.join(duplicates)}")
        if not torch.isfinite(self.embeddings).all():
            raise PsftrError(f"text embeddings of {self.encoder} hold values that are not finite")

    @property
    def dim(self) -> int:
        return self.embeddings.shape[1]

    def provenance(self) -> dict[str, Any]:
        """The `text` entry of a predictions file."""
        return {"encoder": self.encoder, "prompt": self.prompt, "synthetic": self.synthetic}

    def select(self, names: Sequence[str]) -> Tensor:
        """Embeddings `[len(names), D]` in the order asked for. Raises PsftrError naming every absent name."""
        rows = {name: row for row, name in enumerate(self.names)}
        absent = [name for name in names if name not in rows]
        if absent:
            raise PsftrError(
                f"no text embedding for {nearest_names(absent, self.names)} among the {len(self.names)} names of "
                f"{self.encoder}: embed the missing names with that encoder"
            )
        return self.embeddings[[rows[name] for name in names]]

    def save(self, path: str | Path) -> None:
        """Write a `psftr-text` file; whole or not at all."""
        with replacing(path) as temporary, created(temporary) as file:
            file["names"] = np.array(self.names, dtype=h5py.string_dtype("utf-8"))
            file["embeddings"] = self.embeddings.numpy()
            file.attrs.update(format=FORMAT, version=VERSION, encoder=self.encoder, prompt=self.prompt)
            if self.synthetic:
                file.attrs["synthetic"] = True


def load_text(path: str | Path) -> TextEmbeddings:
    """Read a `psftr-text` file. Raises FileNotFoundError, or PsftrError for a file that is not one."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"text embeddings {path} not found")
    try:
        with h5py.File(path, "r") as file:
            attributes = dict(file.attrs)
            says = attributes.get("format")
            if says != FORMAT or "names" not in file or "embeddings" not in file:
                raise PsftrError(f"{path} is not a {FORMAT} file (its format says {says!r})")
            version = int(attributes.get("version", 0))
            if version != VERSION:
                raise PsftrError(f"{path} is {FORMAT} version {version}; this psftr reads version {VERSION}")
            names = tuple(file["names"].asstr()[:])
            embeddings = torch.from_numpy(np.asarray(file["embeddings"][:], dtype=np.float32))
    except OSError as error:
        raise PsftrError(f"{path} cannot be read as HDF5 text embeddings: {error}") from error
    missing = [key for key in ("encoder", "prompt") if key not in attributes]
    if missing:
        raise PsftrError(f"{path} lacks the attribute {missing[0]!r}, so it cannot be matched to features")
    return TextEmbeddings(
        names=names,
        embeddings=embeddings,
        encoder=str(attributes["encoder"]),
        prompt=str(attributes["prompt"]),
        synthetic=bool(attributes.get("synthetic", False)),
    )


class TextEncoder(Protocol):
    """Whatever turns prompts into vectors of the image features' space; `identity` names it in every file."""

    @property
    def identity(self) -> str: ...

    @property
    def dim(self) -> int: ...

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings `[len(prompts), dim]`, not normalised."""
        ...


def embed_names(
    names: Sequence[str],
    *,
    encoder: TextEncoder,
    template: str,
    cache_dir: Path | None = None,
) -> TextEmbeddings:
    """Embed a vocabulary, or take it from `cache_dir` if encoder, prompt and names were seen before.

    A cached file that cannot be read or holds something else is rebuilt, never trusted.
    """
    prompt = resolve_prompt(template)
    prompts = class_prompts(names, prompt)
    cached = cache_path(cache_dir, encoder.identity, prompt, names) if cache_dir is not None else None
    if cached is not None and cached.is_file():
        try:
            text = load_text(cached)
            asked = (tuple(names), encoder.identity, prompt, encoder.dim)
            if (text.names, text.encoder, text.prompt, text.dim) == asked:
                return text
        except PsftrError:
            pass
    text = TextEmbeddings(
        names=tuple(names), embeddings=encoder.encode(prompts), encoder=encoder.identity, prompt=prompt
    )
    if cached is not None:
        text.save(cached)
    return text


def cache_path(cache_dir: Path, encoder: str, prompt: str, names: Sequence[str]) -> Path:
    """Where `embed_names` keeps a vocabulary: a hash of encoder, spelled-out prompts, and names in order."""
    # The spelled-out prompts are part of the key, so a change to spell_out cannot revive old embeddings.
    key = json.dumps([FORMAT, VERSION, encoder, class_prompts(names, prompt), list(names)])
    return Path(cache_dir) / f"text-{hashlib.sha256(key.encode()).hexdigest()[:24]}.h5"


def check_compatible(text: TextEmbeddings, store_encoder: str, store_dim: int) -> None:
    """Refuse text embeddings of another space than the feature store's. Raises PsftrError, in one line."""
    if text.encoder != store_encoder:
        raise PsftrError(
            f"text embeddings are of encoder {text.encoder}, the feature store of {store_encoder}: "
            "embed the class names with the store's encoder, or extract the features again"
        )
    if text.dim != store_dim:
        raise PsftrError(
            f"text embeddings have {text.dim} dimensions, the feature store {store_dim}, though both say "
            f"{store_encoder}: one of the two files was not made by the encoder it names"
        )
