"""Trained networks on disk: Lightning's .ckpt for going on, model.safetensors + config.json for use and sharing.

Both carry the same facts, plain values only: what `training_facts` lists. Facts of format 1 (psftr 0.1) are rewritten
to today's settings when they are read.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import socket
import urllib.request
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from psftr.errors import PsftrError
from psftr.files import read_json, replacing, some, write_json
from psftr.predictions import code_version

FORMAT_VERSION = 2
WEIGHTS, CONFIG = "model.safetensors", "config.json"
CHECKPOINT_KEY = "psftr"
NETWORK_PREFIX = "network."
HUB_SCHEME = "hf://"
# what there was no choice of was not written down: at first in 0.2, and in 0.1, which knew the paper's form only
WHOLE_FRAMES = {"frame_components": 0}
PAPER_MODEL = {"similarity_guidance": False, **WHOLE_FRAMES}
NO_SEEN_NAMES = {"seen_weight": 0.0}
PAPER_SCORES = {"class_temperature": 1.0, "evidence_weight": 0.0, **NO_SEEN_NAMES}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, eq=False)
class Saved:
    """A trained network as it lies on disk: its facts, its weights by parameter name, and where it was found."""

    facts: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    where: str

    def fill(self, network: nn.Module) -> None:
        """Load the weights into `network`, which was built from the facts. Raises PsftrError where they do not fit."""
        wanted = network.state_dict()
        absent, unknown = sorted(wanted.keys() - self.weights.keys()), sorted(self.weights.keys() - wanted.keys())
        if absent or unknown:
            raise PsftrError(
                f"{self.where}: weights do not belong to the network it describes ({len(absent)} absent: "
                f"{some(absent, 3)}; {len(unknown)} unknown: {some(unknown, 3)}); the two were not written together"
            )
        for name, value in wanted.items():
            if self.weights[name].shape != value.shape:
                raise PsftrError(
                    f"{self.where}: weight {name} is {list(self.weights[name].shape)}, the network it describes has "
                    f"{list(value.shape)}; the two were not written together"
                )
        network.load_state_dict(dict(self.weights))

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Write model.safetensors and config.json into `folder`; each replaces an older one only once complete."""
        folder = Path(folder)
        with replacing(folder / WEIGHTS) as temporary:
            save_file(dict(self.weights), temporary, metadata={"format": "pt"})
        write_json(folder / CONFIG, dict(self.facts), indent=2)
        return folder


def training_facts(
    *,
    method: str,
    config: Mapping[str, Any],
    network: Mapping[str, Any],
    train_classes: Sequence[str],
    encoder: str,
    synthetic: bool,
    **recorded: Any,
) -> dict[str, Any]:
    """What a checkpoint says about itself: the arguments, the code version, and whatever else was `recorded`.

    config: all settings of the run. network: what the method needs to build its network again.
    Raises ValueError for anything that is not a plain value.
    """
    facts = {
        "format_version": FORMAT_VERSION,
        "code_version": code_version(),
        "method": method,
        "config": config,
        "network": network,
        "train_classes": list(train_classes),
        "encoder": encoder,
        "synthetic": synthetic,
        **recorded,
    }
    try:
        return json.loads(json.dumps(facts, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"checkpoint facts must be plain values (numbers, strings, lists, dicts): {error}") from None


def check_same_training(saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Refuse to go on with a checkpoint of another training. Raises PsftrError saying what differs."""
    saved = current_facts(saved, "the checkpoint")
    if saved["method"] != current["method"]:
        raise PsftrError(f"the checkpoint is of method {saved['method']}, this training of {current['method']}")
    ours, theirs = set(current["train_classes"]), set(saved["train_classes"])
    if ours != theirs:
        raise PsftrError(
            f"the checkpoint was trained on other seen classes ({some(sorted(theirs - ours), 3)} only there, "
            f"{some(sorted(ours - theirs), 3)} only here), so going on would leak them: resume with its split, "
            "or train from the start"
        )
    network, now = saved["network"], current["network"]
    changed = [
        f"{n} {network.get(n)} there, {now.get(n)} here" for n in {**network, **now} if network.get(n) != now.get(n)
    ]
    if changed:
        raise PsftrError(
            f"the checkpoint's network differs ({'; '.join(changed)}): resume with its settings, "
            "or train from the start"
        )
    if saved["encoder"] != current["encoder"]:
        raise PsftrError(
            f"the checkpoint was trained on features of {saved['encoder']}, these are of {current['encoder']}: "
            "give features and text of the same encoder"
        )


def save_pretrained(folder: str | os.PathLike[str], network: nn.Module, facts: Mapping[str, Any]) -> Path:
    """Write model.safetensors and config.json into `folder`; each replaces an older one only once complete."""
    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    return Saved(facts, weights, str(folder)).write(folder)


def load_saved(path: str | os.PathLike[str], *, revision: str | None = None) -> Saved:
    """A run folder, a folder with model.safetensors and config.json, a .ckpt, or `hf://USER/REPOSITORY[@REVISION]`.

    Of a training that is not finished, its last checkpoint. Nothing but tensors and plain values is unpickled.
    Raises PsftrError.
    """
    found = locate(path, revision=revision)
    if found.name in (WEIGHTS, CONFIG):
        found = found.parent
    if not found.is_dir():
        return _load_checkpoint(found)
    last = found / "checkpoints" / "last.ckpt"
    if (found / WEIGHTS).is_file():
        return _load_folder(found)
    if last.is_file():  # a training that is still going on, or was stopped
        return _load_checkpoint(last)
    if runs := sorted(file.parent for file in found.glob(f"*/{WEIGHTS}")):
        raise PsftrError(f"{found} holds {len(runs)} runs; give one of them, such as {runs[0]}")
    raise PsftrError(f"{found}: no {WEIGHTS}; a trained network is a folder with {WEIGHTS} and {CONFIG}")


def locate(path: str | os.PathLike[str], *, revision: str | None = None) -> Path:
    """A file or folder on this machine: `path` itself, or what `hf://USER/REPOSITORY[@REVISION]` is downloaded to.

    `USER/REPOSITORY` is enough where no such folder exists. Raises PsftrError.
    """
    text = os.fspath(path)
    local = Path(text).expanduser()
    if not text.startswith(HUB_SCHEME) and local.exists():
        return local
    name, _, stated = text.removeprefix(HUB_SCHEME).partition("@")
    if _HUB_ID.fullmatch(name) and not name.endswith((".ckpt", ".safetensors")):
        return _download(name, revision or stated or None, is_certain=text.startswith(HUB_SCHEME))
    if text.startswith(HUB_SCHEME):
        raise PsftrError(f"{text} is not a repository; write hf://USER/REPOSITORY or hf://USER/REPOSITORY@REVISION")
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
                is_cut_off = True  # the client would try for a minute; what was fetched before is still there
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=[WEIGHTS, CONFIG], local_files_only=is_cut_off)
        )
    except Exception as error:  # the client's errors have no common base
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        first = "" if is_certain else f"{name}: no such folder here, and "
        raise PsftrError(
            f"{first}hf://{name} is not available ({reason}); put its {WEIGHTS} and {CONFIG} into a folder "
            "and give that"
        ) from error


def _load_folder(folder: Path) -> Saved:
    facts = read_json(folder / CONFIG, remedy=f"a trained network is a folder with {WEIGHTS} and {CONFIG}")
    try:
        weights = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise PsftrError(f"{folder / WEIGHTS}: not readable as safetensors ({error}); copy the folder again") from None
    return Saved(current_facts(facts, str(folder)), weights, str(folder))


def _load_checkpoint(path: Path) -> Saved:
    if not path.is_file():
        raise PsftrError(f"{path}: no such checkpoint")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol of files that are refused anyway
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError):
        # not PyTorch's own words: they advise to load it unsafely
        raise PsftrError(
            f"{path}: not readable as a checkpoint of tensors and plain values; give a run folder, a model folder or a "
            ".ckpt that `psftr train` wrote"
        ) from None
    if not isinstance(checkpoint, dict) or CHECKPOINT_KEY not in checkpoint or "state_dict" not in checkpoint:
        raise PsftrError(f"{path}: not a checkpoint of psftr; give a .ckpt that `psftr train` wrote")
    weights = {
        name.removeprefix(NETWORK_PREFIX): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith(NETWORK_PREFIX)
    }
    return Saved(current_facts(checkpoint[CHECKPOINT_KEY], str(path)), weights, str(path))


def current_facts(facts: Any, where: str) -> dict[str, Any]:
    """Facts in today's format. Raises PsftrError for facts of another program, or of a later psftr."""
    if not isinstance(facts, Mapping) or not isinstance(facts.get("network"), Mapping):
        raise PsftrError(f"{where}: does not say which network it holds (no 'network' in its facts)")
    version = facts.get("format_version")
    if version == 1:
        return _from_format_1(facts)
    if version != FORMAT_VERSION:
        raise PsftrError(
            f"{where} has format version {version}, this psftr reads 1 and {FORMAT_VERSION}: "
            f"use the psftr that wrote it ({facts.get('code_version', 'version not stated')})"
        )
    made = {**facts, "config": config_of_0_2(facts.get("config") or {}, method=facts.get("method"))}
    return made | ({"network": _model_of_0_2(facts["network"])} if facts.get("method") == "psftr" else {})


def config_of_0_2(config: Mapping[str, Any], *, method: str | None) -> dict[str, Any]:
    """The settings of a run since psftr 0.2, with those that came or went while it grew; other methods' as they are."""
    if method != "psftr":
        return dict(config)
    changed = {"model": _model_of_0_2(config["model"])} if "model" in config else {}
    return {**config, **changed, "postprocess": {**NO_SEEN_NAMES, **config.get("postprocess", {})}}


def _model_of_0_2(model: Mapping[str, Any]) -> dict[str, Any]:
    """Without `references`, which only chose where queries start."""
    return {**WHOLE_FRAMES, **{key: value for key, value in model.items() if key != "references"}}


def _from_format_1(facts: Mapping[str, Any]) -> dict[str, Any]:
    made = {key: value for key, value in facts.items() if key not in ("seen_classes", "data")}
    made |= {
        "format_version": FORMAT_VERSION,
        "method": "psftr",
        "config": config_of_0_2(current_config(facts.get("config") or {}), method="psftr"),
    }
    made["network"] = {**PAPER_MODEL, **facts["network"]}
    made["train_classes"] = list(facts.get("seen_classes") or facts.get("train_classes") or ())
    made.setdefault("encoder", (facts.get("features") or {}).get("encoder"))
    if data := facts.get("data"):
        made["training"] = training_of_format_1(data, made["train_classes"])
    return made


def training_of_format_1(counts: Mapping[str, Any], train_classes: Sequence[str]) -> dict[str, Any]:
    """`Provenance.training` from the counts that psftr 0.1 kept."""
    names = {"videos": "train_videos", "actions": "train_actions", "windows": "train_windows"}
    known = {name: counts[old] for name, old in names.items() if old in counts}
    return {"classes": len(train_classes), "names": list(train_classes), **known}


def current_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run of psftr 0.1 by today's names; others come back as they are."""
    new = copy.deepcopy(dict(config))
    if "decode" in new:
        new["postprocess"] = {**PAPER_SCORES, **new.pop("decode")}
    for group in ("loss", "matcher"):
        if "class" in (weights := new.get(group) or {}):
            weights["classification"] = weights.pop("class")
        if "overlap" in weights:
            if "iou" in weights:
                weights["iou_form"] = weights.pop("iou")
            weights["iou"] = weights.pop("overlap")
    optimizer, trainer = new.get("optimizer") or {}, new.get("trainer") or {}
    if "ema_decay" in optimizer:
        trainer["ema_decay"] = optimizer.pop("ema_decay")
    if isinstance(trainer.get("max_steps"), int) and trainer["max_steps"] < 1:
        trainer["max_steps"] = None
    if "held_out_seed" not in (data := new.get("data") or {}) and "seed" in new and data:
        data["held_out_seed"] = new["seed"]  # one seed was both
    (new.get("dataset") or {}).pop("encoder", None)
    new.pop("paper_names", None)
    if "model" in new:
        new["model"] = {**PAPER_MODEL, **new["model"]}
        new["optimizer"] = {"average_share": 0.0, **(new.get("optimizer") or {})}
    return new
