"""What a method is, and how one is found by its name.

A method is a module or package here, or in an installed package that declares the entry point group `psftr.methods`,
with one object: METHOD, a `Method`. Its name is its identifier everywhere: in configuration, run folders, predictions
files and tables. docs/extending.md adds one step by step.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from psftr.errors import PsftrError
from psftr.files import nearest

if TYPE_CHECKING:
    import pytorch_lightning as pl
    import torch
    from torch import nn

    from psftr.checkpoints import Saved
    from psftr.data.annotations import Action
    from psftr.data.datasets import Dataset
    from psftr.features.text import TextEmbeddings
    from psftr.predictions import Detection, FrameFeatures, Localizer
    from psftr.settings import TrainSettings

GROUP = "psftr.methods"


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """What a training is made of. `own`: the method's settings. `text(names)`: class texts of these names.

    `score(annotations, class_names)` makes the function that turns validation detections by video into figures, of
    which "mAP" is the one that checkpoints and sweeps go by.
    """

    own: Any
    common: TrainSettings
    dataset: Dataset
    text: Callable[[Sequence[str]], TextEmbeddings]
    score: Callable[[Any, Sequence[str]], Callable[[Mapping[str, tuple[Detection, ...]]], Mapping[str, float]]]


@dataclass(frozen=True, kw_only=True)
class Training:
    """What Lightning trains. The module logs val/mAP if it validates; `network` is what is saved for use and sharing.

    data: its loaders give each process of the trainer its part of every batch, as those of ZstalDataModule do.
    facts: `Provenance.training`, the counts of the training itself. summary: further counts for run.json.
    network_facts: what it takes to build the network again, plain values. callbacks: the method's own, for Lightning.
    lines: what to tell the user before the first epoch. text: of the training's class names; None for a method without
    `reads_text`.
    """

    module: pl.LightningModule
    data: pl.LightningDataModule
    network: nn.Module
    train_classes: tuple[str, ...]
    text: TextEmbeddings | None
    facts: Mapping[str, Any]
    network_facts: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    callbacks: tuple[pl.Callback, ...] = ()
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LocalizerSetup:
    """What a localizer is made of. `own`: the method's settings. `saved`: a training's outcome, None without training.

    `text` knows the names that will be looked for; None for a method without `reads_text`. `protocol`: clean or peer.
    `precision(network)`: "32-true" or "bf16-mixed", for a method that can find detections in bfloat16.
    """

    own: Any
    text: TextEmbeddings | None
    saved: Saved | None
    protocol: str
    batch_size: int
    device: torch.device
    precision: Callable[[nn.Module], str]


@dataclass(frozen=True, kw_only=True)
class AuditSetup:
    """What an audit is made of: the localizer, and the videos on which `class_names` are looked for.

    seen_text [S,Dt]: names of the training. training_videos: those the network was trained on. ground_truth: the
    actions of `class_names` by video id.
    """

    localizer: Any
    videos: Sequence[FrameFeatures]
    training_videos: Iterable[FrameFeatures]
    class_names: tuple[str, ...]
    seen_text: torch.Tensor
    ground_truth: Mapping[str, Sequence[Action]]


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method: its name, its settings, and how its localizer and, where it is trained, its training are built.

    settings: a settings class whose fields are groups; each becomes a key of the configuration beside the shared ones.
    reads_text: False for a method that takes no embeddings of names, so that any features do.
    inference_groups: those of them, or dotted keys in them, that a user may change when a trained network is used.
    condition: a word for predictions made under another condition than the network was trained for, such as
    "mismatched", for they get a file of their own; "" for its own condition.
    audit: (row, detections by video) of every question that `psftr evaluate audit=true` asks of a trained network.
    """

    name: str
    settings: type
    localizer: Callable[[LocalizerSetup], Localizer]
    training: Callable[[TrainingSetup], Training] | None = None
    inference_groups: tuple[str, ...] = ()
    reads_text: bool = True
    condition: Callable[[Any], str] = lambda own: ""
    audit: Callable[[AuditSetup], Iterator[tuple[str, Mapping[str, tuple[Detection, ...]]]]] | None = None

    @property
    def is_trained(self) -> bool:
        return self.training is not None


def method_names() -> tuple[str, ...]:
    """The names of all methods, psftr's own first."""
    return tuple(_places())


@cache
def find_method(name: str) -> Method:
    """The method of this name. Raises PsftrError for an unknown one, and for a package that cannot be imported."""
    places = _places()
    if name not in places:
        raise PsftrError(f"no method {name!r}{nearest(name, places)}; there are {', '.join(places)}")
    try:
        method = places[name]()
    except Exception as error:  # whatever somebody else's package does
        raise PsftrError(f"method {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(method, Method):
        raise PsftrError(f"method {name!r}: its entry point is {type(method).__name__}, not a psftr.methods.Method")
    if method.name != name:
        raise PsftrError(f"method {name!r} calls itself {method.name!r}; the entry point must have the same name")
    return method


@cache
def _places() -> dict[str, Callable[[], Any]]:
    places: dict[str, Callable[[], Any]] = {}
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        name = module.name.rpartition(".")[2]
        if name not in WITHOUT_TRAINING_SPLIT:
            places[name] = lambda full=module.name: import_module(full).METHOD  # type: ignore[misc]
    for entry in entry_points(group=GROUP):
        places.setdefault(entry.name, entry.load)
    return places


# CASCADE has a verb of its own, with other inputs: `psftr cascade`
WITHOUT_TRAINING_SPLIT = ("cascade",)
