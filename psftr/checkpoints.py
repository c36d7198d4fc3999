"""Trained networks on disk: Lightning's .ckpt for going on, model.safetensors + config.json for use and sharing.

Both carry the same facts, plain values only: "format_version", "code_version", "network" (NetworkConfig),
"seen_classes", "encoder", and whatever else the training recorded (config, split).
"""

from __future__ import annotations

import json
import os
import pickle
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from psftr.errors import PsftrError
from psftr.methods.psftr.build import NetworkConfig, build_network
from psftr.methods.psftr.network import PSFTR
from psftr.predictions import code_version

FORMAT_VERSION = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"
CHECKPOINT_KEY = "psftr"
NETWORK_PREFIX = "network."


def training_facts(
    recorded: Mapping[str, Any], *, seen_classes: Sequence[str], encoder: str, synthetic: bool
) -> dict[str, Any]:
    """What a checkpoint says about itself. `recorded` must hold "network" and only plain values."""
    facts = {
        **recorded,
        "format_version": FORMAT_VERSION,
        "code_version": code_version(),
        "seen_classes": list(seen_classes),
        "encoder": encoder,
        "synthetic": synthetic,
    }
    if "network" not in facts:
        raise ValueError("checkpoint facts lack 'network', the NetworkConfig as a dict: nobody could rebuild it")
    try:
        return json.loads(json.dumps(facts, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"checkpoint facts must be plain values (numbers, strings, lists, dicts): {error}") from None


def check_same_training(saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Refuse to go on with a checkpoint of another training. Raises PsftrError saying what differs."""
    _check_version(saved, "the checkpoint")
    ours, theirs = set(current["seen_classes"]), set(saved.get("seen_classes", ()))
    if ours != theirs:
        raise PsftrError(
            f"the checkpoint was trained on other seen classes ({_some(theirs - ours)} only there, "
            f"{_some(ours - theirs)} only here), so going on would leak them: resume with its split, "
            "or train from the start"
        )
    theirs_config = NetworkConfig.from_dict(saved["network"]).to_dict()
    ours_config = NetworkConfig.from_dict(current["network"]).to_dict()
    changed = [
        f"{name} {theirs_config[name]} there, {ours_config[name]} here"
        for name in ours_config
        if theirs_config[name] != ours_config[name]
    ]
    if changed:
        raise PsftrError(
            f"the checkpoint's network differs ({'; '.join(changed)}): resume with its settings, "
            "or train from the start"
        )
    if saved.get("encoder") != current["encoder"]:
        raise PsftrError(
            f"the checkpoint was trained on features of {saved.get('encoder')}, these are of {current['encoder']}: "
            "give features and text of the same encoder"
        )


def save_pretrained(folder: str | os.PathLike[str], network: nn.Module, facts: Mapping[str, Any]) -> Path:
    """Write model.safetensors and config.json into `folder`; each replaces an older one only once complete."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    _replace(folder / WEIGHTS, lambda path: save_file(weights, path, metadata={"format": "pt"}))
    text = json.dumps(dict(facts), indent=2, allow_nan=False) + "\n"
    _replace(folder / CONFIG, lambda path: path.write_text(text, encoding="utf-8"))
    return folder


def load_pretrained(folder: str | os.PathLike[str]) -> tuple[PSFTR, dict[str, Any]]:
    """(network in eval mode, facts) of a folder that `save_pretrained` wrote. Raises PsftrError."""
    folder = Path(folder)
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise PsftrError(f"{folder}: no {name}; a trained network is a folder with {WEIGHTS} and {CONFIG}")
    try:
        facts = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise PsftrError(f"{folder / CONFIG}: not JSON ({error})") from None
    try:
        weights = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise PsftrError(f"{folder / WEIGHTS}: not readable as safetensors ({error}); copy the folder again") from None
    return _rebuild(facts, weights, str(folder)), facts


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[PSFTR, dict[str, Any]]:
    """(network in eval mode, facts) of a Lightning .ckpt of PSFTR, averaged weights if it has them.

    Nothing but tensors and plain values is unpickled. Raises PsftrError.
    """
    path = Path(path)
    if not path.is_file():
        raise PsftrError(f"{path}: no such checkpoint")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PsftrError(f"{path}: not readable as a checkpoint of plain values and tensors ({reason})") from None
    if not isinstance(checkpoint, dict) or CHECKPOINT_KEY not in checkpoint or "state_dict" not in checkpoint:
        raise PsftrError(f"{path}: not a checkpoint of PSFTR; give a .ckpt that `psftr train` wrote")
    weights = {
        name.removeprefix(NETWORK_PREFIX): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith(NETWORK_PREFIX)
    }
    facts = checkpoint[CHECKPOINT_KEY]
    return _rebuild(facts, weights, str(path)), facts


def load_trained(path: str | os.PathLike[str]) -> tuple[PSFTR, dict[str, Any]]:
    """`load_pretrained` for a folder or its model.safetensors, `load_checkpoint` for a file."""
    path = Path(path)
    if path.is_dir() or path.name in (WEIGHTS, CONFIG):
        return load_pretrained(path if path.is_dir() else path.parent)
    return load_checkpoint(path)


def _rebuild(facts: Any, weights: Mapping[str, Tensor], where: str) -> PSFTR:
    if not isinstance(facts, dict) or not isinstance(facts.get("network"), dict):
        raise PsftrError(f"{where}: does not say which network it holds (no 'network' in its facts)")
    _check_version(facts, where)
    try:
        network = build_network(NetworkConfig.from_dict(facts["network"]))
    except PsftrError as error:
        raise PsftrError(f"{where}: {error}") from None
    wanted = network.state_dict()
    absent, unknown = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
    if absent or unknown:
        raise PsftrError(
            f"{where}: weights do not belong to the network it describes ({len(absent)} absent: {_some(absent)}; "
            f"{len(unknown)} unknown: {_some(unknown)}); the two were not written together"
        )
    for name, value in wanted.items():
        if weights[name].shape != value.shape:
            raise PsftrError(
                f"{where}: weight {name} is {list(weights[name].shape)}, the network it describes has "
                f"{list(value.shape)}; the two were not written together"
            )
    network.load_state_dict(dict(weights))
    return network.eval()


def _check_version(facts: Mapping[str, Any], where: str) -> None:
    version = facts.get("format_version")
    if version != FORMAT_VERSION:
        raise PsftrError(
            f"{where} has format version {version}, this psftr reads {FORMAT_VERSION}: "
            f"use the psftr that wrote it ({facts.get('code_version', 'version not stated')})"
        )


def _some(names: Any) -> str:
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "none"


def _replace(path: Path, write: Any) -> None:
    """write(temporary path), then rename: a reader sees the old file or the whole new one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would keep a shared folder's other users out
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
