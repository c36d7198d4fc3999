"""open_clip behind one small class: frames -> image features, strings -> text features, and an identity for the files.

`identity` names the feature space and nothing else (device and precision do not change it):

    open_clip:ViT-B-16:openai                 a pretrained tag, or a local file whose SHA-256 is that tag's
    open_clip:ViT-B-16:sha256-0123456789ab    any other local weights file
    open_clip:ViT-B-32:random-seed0           untrained weights, for trying the pipeline
    ...:pre-projection                        image features before CLIP's projection (no text twin)

Fast path: frames are resized and cropped by open_clip's own transforms to uint8 in the decoding threads and become
normalised floats in one batch on the device. Slow twin: `ClipEncoder.preprocess`, open_clip's transform per image.
"""

from __future__ import annotations

import difflib
import hashlib
import logging
import pickle
import socket
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from psftr.errors import PsftrError
from psftr.features.settings import EncoderSettings
from psftr.files import sha256_of

# Table 7: the paper's names and the dimensions of the joint space.
PRESETS = {"ViT-B/32": 512, "ViT-B/16": 512, "ViT-L/14": 768}
PRECISIONS = ("fp32", "bf16")
PROJECTIONS = ("post", "pre")
QUICK_GELU = "-quickgelu"
PROMPTS_PER_CALL = 256
# Where the original CLIP code and open_clip keep files fetched by URL.
URL_CACHE = Path("~/.cache/clip")
log = logging.getLogger("psftr")


class ClipEncoder:
    """A frozen CLIP model. `model` is an open_clip name (also in Table 7's spelling) or a JSON file of its layout.

    `pretrained`: one of the model's tags, a local weights file (safetensors or a plain state dict), or `random`.
    `projection`: `post` is CLIP's joint space; `pre` the vision transformer's output before the projection.
    `precision`: `fp32`, or `bf16` weights and activations (layer norms stay float32); outputs are float32 always.
    Raises PsftrError for unknown names, files that do not fit, and weights that cannot be fetched; it says where to get
    them and where to put them.
    """

    def __init__(
        self,
        model: str,
        pretrained: str,
        *,
        device: str | torch.device,
        precision: str,
        projection: str = EncoderSettings.projection,
        seed: int = EncoderSettings.seed,
    ) -> None:
        if precision not in PRECISIONS:
            raise PsftrError(f"precision {precision!r} is unknown; choose one of {', '.join(PRECISIONS)}")
        if projection not in PROJECTIONS:
            raise PsftrError(f"projection {projection!r} is unknown; choose one of {', '.join(PROJECTIONS)}")
        name, label = _resolve_model(model)
        network, source = _build(name, pretrained, precision=precision, seed=seed)
        self.dim = _prepare_projection(network, name, projection)
        # A tag settles the activation, so ViT-B-16 and ViT-B-16-quickgelu with tag openai are one encoder.
        architecture = label.removesuffix(QUICK_GELU) if source.is_tag else label
        suffix = ":pre-projection" if projection == "pre" else ""
        self.identity = f"open_clip:{architecture}:{source.name}{suffix}"
        self.precision = precision
        self.projection = projection
        self.device = torch.device(device)
        self._name = name
        self._tokenizer: Any = None
        self._network: Any = network.eval().requires_grad_(False).to(self.device)
        self.logit_scale = float(self._network.logit_scale.float().exp())
        self.preprocess, self.preprocessing = _transforms(network)

    def encode_image(self, images: Tensor) -> Tensor:
        """Preprocessed images `[B, 3, S, S]` -> features `[B, dim]` float32 on `device`, not normalised."""
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        with torch.no_grad():
            return self._network.encode_image(images.to(self.device, dtype)).float()

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Frames from `preprocessing.shrink`, `[B, S, S, 3]` uint8 -> features `[B, dim]` float32 on `device`."""
        with torch.no_grad():
            return self.encode_image(self.preprocessing.normalise(frames.to(self.device, non_blocking=True)))

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> features `[len(prompts), dim]` float32 on the CPU, not normalised."""
        if self.projection == "pre":
            raise PsftrError(f"{self.identity} has no text features: only CLIP's joint space (projection=post) has")
        if self._tokenizer is None:
            self._tokenizer = _open_tokenizer(self._name)
        long = [prompt for prompt in prompts if _num_tokens(self._tokenizer, prompt) > self._tokenizer.context_length]
        if long:
            limit = self._tokenizer.context_length
            log.warning("%d prompts are cut to %d tokens, the first: %.60s…", len(long), limit, long[0])
        rows = []
        for start in range(0, len(prompts), PROMPTS_PER_CALL):
            tokens = self._tokenizer(list(prompts[start : start + PROMPTS_PER_CALL]))
            with torch.no_grad():
                rows.append(self._network.encode_text(tokens.to(self.device)).float().cpu())
        return torch.cat(rows)


class FramePreprocessing:
    """open_clip's inference transform in two halves: `shrink` per frame on the CPU, `normalise` per batch anywhere."""

    def __init__(self, *, geometry: Any, size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        self.size = size
        self._geometry = geometry
        self._mean = torch.tensor(mean).view(3, 1, 1)
        self._std = torch.tensor(std).view(3, 1, 1)

    def shrink(self, rgb: np.ndarray) -> np.ndarray:
        """A frame `[H, W, 3]` uint8 -> `[size, size, 3]` uint8, resized and cropped by open_clip's own transforms."""
        from PIL import Image

        return np.asarray(self._geometry(Image.fromarray(rgb)))

    def normalise(self, frames: Tensor) -> Tensor:
        """`[B, S, S, 3]` uint8 -> `[B, 3, S, S]` float32: the same operations as ToTensor and Normalize, batched."""
        pixels = rearrange(frames, "b h w c -> b c h w").to(torch.float32, memory_format=torch.contiguous_format)
        return pixels.div_(255).sub_(self._mean.to(pixels.device)).div_(self._std.to(pixels.device))


@dataclass(frozen=True)
class _Source:
    """Which weights a model got: `name` for the identity; `is_tag` if QuickGELU was matched to a published tag."""

    name: str
    is_tag: bool


def _resolve_model(model: str) -> tuple[str, str]:
    """-> (name open_clip knows, label for the identity). A JSON file is registered under its stem."""
    import open_clip

    if model.endswith(".json"):
        path = Path(model)
        if not path.is_file():
            raise FileNotFoundError(f"model layout {model} not found")
        open_clip.add_model_config(path)
        if path.stem not in open_clip.list_models():
            raise PsftrError(f"{model} is not an open_clip model layout: it needs embed_dim, vision_cfg and text_cfg")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        return path.stem, f"{path.stem}@{digest}"
    name = model.replace("/", "-")
    known = open_clip.list_models()
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        raise PsftrError(
            f"open_clip has no model {model!r}; nearest: {', '.join(nearest) or 'none'}; "
            f"presets of the paper: {', '.join(PRESETS)}"
        )
    return name, name


def _build(name: str, pretrained: str, *, precision: str, seed: int) -> tuple[Any, _Source]:
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    if pretrained == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _create(name, precision, {}), _Source(f"random-seed{seed}", is_tag=False)
    config = get_pretrained_cfg(name, pretrained)
    if config:
        return _create_tag(name, pretrained, config, precision, _fetch(name, pretrained, config))
    tags = list_pretrained_tags_by_model(name)
    path = Path(pretrained).expanduser()
    if path.is_file():
        digest = sha256_of(path)
        for tag in tags:
            published = _published_digest(get_pretrained_cfg(name, tag))
            if published and digest.startswith(published):
                return _create_tag(name, tag, get_pretrained_cfg(name, tag), precision, path)
        network = _create(name, precision, _shared_preprocessing(name))
        _load(network, name, path, is_published=False)
        return network, _Source(f"sha256-{digest[:12]}", is_tag=False)
    plain = name.removesuffix(QUICK_GELU)
    hint = f" ({plain} has that tag)" if get_pretrained_cfg(plain, pretrained) else ""
    raise PsftrError(
        f"pretrained {pretrained!r} is neither 'random', nor a file, nor a tag of {name}{hint}; "
        f"its tags: {', '.join(tags) or 'none'}"
    )


def _create_tag(name: str, tag: str, config: dict, precision: str, path: Path) -> tuple[nn.Module, _Source]:
    """A tag's weights in the activation they were trained with: the tag decides on QuickGELU, not the name."""
    network = _create(name, precision, config, quick_gelu=bool(config.get("quick_gelu")))
    _load(network, name, path, is_published=True)
    return network, _Source(tag.lower().replace("-", "_"), is_tag=True)


def _create(name: str, precision: str, preprocessing: dict, *, quick_gelu: bool = False) -> nn.Module:
    """An open_clip model on the CPU, as initialised."""
    import open_clip

    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # open_clip warns through the root logger that nothing was loaded: _load follows
    try:
        return open_clip.create_model(
            name,
            precision=precision,
            pretrained_text=False,
            force_quick_gelu=quick_gelu,
            force_preprocess_cfg={key: preprocessing[key] for key in _PREPROCESSING if key in preprocessing},
        )
    except Exception as error:  # a malformed layout, or a text tower that needs files of its own
        raise PsftrError(f"open_clip cannot build {name}: {_named(error)}") from error
    finally:
        logger.setLevel(level)


def _load(network: nn.Module, name: str, path: Path, *, is_published: bool) -> None:
    """Load a weights file, tensors only. A TorchScript archive is a program: run only if it is a published one."""
    from open_clip.factory import load_checkpoint

    is_program = _is_torchscript(path)
    if is_program and not is_published:
        raise PsftrError(
            f"{path} is a TorchScript program, and its SHA-256 is not that of a published tag of {name}: "
            "convert it to safetensors or a plain state dict"
        )
    try:
        if is_program:
            state = torch.jit.load(str(path), map_location="cpu").state_dict()
            network.load_state_dict({key: state[key] for key in state if key not in _TORCHSCRIPT_EXTRAS})
        else:
            load_checkpoint(network, str(path), weights_only=True)
    except pickle.UnpicklingError:  # its words advise to load the file unsafely
        raise PsftrError(
            f"weights {path} do not load into {name}: neither safetensors nor a state dict of tensors alone"
        ) from None
    except Exception as error:  # safetensors, zip and shape errors have no common base
        raise PsftrError(f"weights {path} do not load into {name}: {_named(error)}") from error


_PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")
# What a TorchScript archive keeps beside its weights.
_TORCHSCRIPT_EXTRAS = ("input_resolution", "context_length", "vocab_size", "attn_mask")


def _is_torchscript(path: Path) -> bool:
    import zipfile

    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(entry.endswith("/constants.pkl") for entry in archive.namelist())


def _published_digest(config: dict) -> str:
    """SHA-256 (or its first digits) that open_clip's download URL of a tag carries; empty if it carries none."""
    url = config.get("url", "")
    if "openaipublic" in url:
        return url.split("/")[-2]
    if "mlfoundations" in url:
        return Path(urlparse(url).path).stem.rsplit("-", 1)[-1]
    return ""


def _shared_preprocessing(name: str) -> dict:
    """What all tags of a model agree on (for weights of unknown origin); {} leaves open_clip's defaults."""
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    configs = [get_pretrained_cfg(name, tag) for tag in list_pretrained_tags_by_model(name)]
    return {
        key: configs[0][key]
        for key in _PREPROCESSING
        if configs and key in configs[0] and all(config.get(key) == configs[0][key] for config in configs)
    }


def _fetch(name: str, tag: str, config: dict) -> Path:
    """A tag's weights: from the caches of open_clip and of the hub, else downloaded. Fails fast when offline."""
    from huggingface_hub import constants, try_to_load_from_cache
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
    from open_clip.pretrained import download_pretrained

    digest, url, hub = _published_digest(config), config.get("url", ""), config.get("hf_hub", "")
    if url and digest:
        kept = URL_CACHE.expanduser() / Path(urlparse(url).path).name
        if kept.is_file() and sha256_of(kept).startswith(digest):
            return kept
    repository, _, filename = hub.rpartition("/")
    filenames = [filename] if filename else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]
    for wanted in filenames if hub else []:
        found = try_to_load_from_cache(repository, wanted)
        if isinstance(found, str):
            return Path(found)
    try:
        host = urlparse(constants.ENDPOINT if hub else url).hostname
        if host and not urllib.request.getproxies():
            socket.getaddrinfo(host, 443)  # the hub client would retry for most of a minute before saying so
        return Path(download_pretrained(config))
    except Exception as error:  # every client raises its own kind
        places = []
        if url and digest:
            places.append(f"{url} (keep it as {URL_CACHE / Path(urlparse(url).path).name}, or pass --pretrained FILE)")
        if hub:
            quick = QUICK_GELU if config.get("quick_gelu") and not name.endswith(QUICK_GELU) else ""
            how = f"pass --model {name}{quick} --pretrained FILE"
            places.append(f"{filenames[0]} of {repository} on the Hugging Face hub ({how})")
        elif url and not digest:
            places.append(f"{url} (pass --pretrained FILE)")
        raise PsftrError(
            f"weights open_clip:{name}:{tag} are not on this machine and cannot be downloaded "
            f"({_named(error)}); get {', or '.join(places)}; "
            "--pretrained random tries the pipeline without"
        ) from error


def _prepare_projection(network: Any, name: str, projection: str) -> int:
    """Set the vision tower to the wanted output; returns its dimension."""
    visual = network.visual
    if projection == "post":
        import open_clip

        return int(open_clip.get_model_config(name)["embed_dim"])
    matrix = getattr(visual, "proj", None)
    if not isinstance(matrix, Tensor):
        raise PsftrError(
            f"{name} has no separate projection matrix, so it has no pre-projection features; use projection=post"
        )
    visual.proj = None  # encode_image multiplies by it only if it is there
    return matrix.shape[0]


def _transforms(network: Any) -> tuple[Any, FramePreprocessing]:
    """open_clip's own inference transform, whole and in two halves."""
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from torchvision.transforms import Compose

    config = PreprocessCfg(**network.visual.preprocess_cfg)
    whole = image_transform_v2(config, is_train=False)
    *geometry, _to_tensor, normalise = whole.transforms
    size = config.size if isinstance(config.size, int) else config.size[0]
    halves = FramePreprocessing(geometry=Compose(geometry), size=size, mean=normalise.mean, std=normalise.std)
    return whole, halves


def _open_tokenizer(name: str) -> Any:
    import open_clip

    try:
        return open_clip.get_tokenizer(name)
    except Exception as error:  # tokenizers kept on the hub, when it cannot be reached
        raise PsftrError(f"the tokenizer of {name} is not available: {_named(error)}") from error


def _num_tokens(tokenizer: Any, prompt: str) -> int:
    """With the start and end tokens; 0 for tokenizers that do not say."""
    return len(tokenizer.encode(prompt)) + 2 if hasattr(tokenizer, "encode") else 0


def _named(error: BaseException) -> str:
    """An error of another library on part of one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
