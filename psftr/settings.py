"""Every shared setting, once: its name, default, unit, allowed values and one line of meaning.

Hydra's schema, `psftr VERB --help`, run.json, checkpoints and config.json are all made of these classes. A method's own
settings are such classes in its package. A value is checked when its class is built, wherever it comes from.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from psftr.errors import PsftrError
from psftr.files import nearest

Settings = TypeVar("Settings")


def setting(
    default: Any,
    help: str,
    *,
    unit: str = "",
    choices: tuple[str, ...] = (),
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """A field of a settings class. Bounds: least <= value <= most, above < value < below; `choices` are for text."""
    facts: dict[str, Any] = {"help": help, "unit": unit, "choices": choices}
    facts |= {"least": least, "most": most, "above": above, "below": below}
    return field(default=default, metadata=facts)


def group(kind: type) -> Any:
    """A field that holds another settings class with its defaults."""
    return field(default_factory=kind)


class Checked:
    """Checks every field against its declaration when the object is made. Raises PsftrError that names the setting."""

    def __post_init__(self) -> None:
        hints = _hints(type(self))
        for one in dataclasses.fields(self):  # type: ignore[arg-type]
            if one.metadata:
                value = _checked(one.name, getattr(self, one.name), hints[one.name], one.metadata)
                object.__setattr__(self, one.name, value)


@dataclass(frozen=True, kw_only=True)
class DatasetSettings(Checked):
    """Which data set, and where its files are."""

    name: str = setting("synthetic", "the data set: synthetic, thumos14, activitynet13, or the name of your own")
    root: str | None = setting(None, "folder of the prepared data set; null: <data_root>/<name>")
    annotations: str | None = setting(None, "annotations, JSON or CSV; null: annotations.json in the root")
    splits: str | None = setting(None, "folder of the published class splits; null: splits/ in the root")
    features: str | None = setting(None, "feature store; null: features.h5 in the root")
    train_subset: str | None = setting(None, "subset to train on; null: the data set's own")
    test_subset: str | None = setting(None, "subset to test on; null: the data set's own")
    ignore_labels: tuple[str, ...] | None = setting(
        None, "labels that are neither ground truth nor background; null: the data set's own"
    )
    tious: tuple[float, ...] | None = setting(None, "tIoUs to score, rising; null: the data set's own", above=0, most=1)
    exclude: tuple[str, ...] = setting((), "video ids left out of training and test")
    allow_missing: bool = setting(
        False, "go on although more than a tenth of a split's training or test videos have no features"
    )


@dataclass(frozen=True, kw_only=True)
class SplitSettings(Checked):
    """Which classes are seen in training and which are looked for in the test."""

    kind: str = setting(
        "published",
        "where the split comes from; closed: every class is trained on and looked for",
        choices=("published", "random", "file", "closed"),
    )
    ratio: int = setting(75, "share of the classes that is seen; 100 with kind=closed", unit="%", above=0, most=100)
    index: int = setting(0, "which of the splits of this ratio; ten are published", least=0)
    seed: int = setting(0, "of kind=random: names the series of splits", least=0)
    file: str | None = setting(None, "of kind=file: YAML with the lists `seen` and `unseen`")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ratio == 100 and self.kind in ("published", "random"):
            raise PsftrError("ratio must be below 100, got 100 (split=closed trains on every class)")


@dataclass(frozen=True, kw_only=True)
class WindowSettings(Checked):
    """How videos become windows."""

    mode: str = setting("slide", "slide cuts windows, rescale makes one of the video", choices=("slide", "rescale"))
    size: int = setting(128, "length of a window", unit="rows", least=1)
    train_overlap: float = setting(0.75, "overlap of neighbouring training windows", least=0, below=1)
    test_overlap: float = setting(
        0.5, "overlap of neighbouring windows in inference; 0.25: the paper's", least=0, below=1
    )
    min_inside: float = setting(0.75, "share of an action that must lie in a window to be its target", least=0, most=1)
    min_action_s: float = setting(0.0, "an action of this length or less is no training target", unit="s", least=0)


@dataclass(frozen=True, kw_only=True)
class TextSettings(Checked):
    """How class names become vectors."""

    embeddings: str | None = setting(
        None, "psftr-text file; null: text.h5 in the data set's root if it fits, else the encoder of the features"
    )
    prompt: str = setting("prompt3", "none, prompt1, prompt2, prompt3 (Table 4), or any template with {}")
    weights: str | None = setting(None, "local weights file of the encoder, where the features were made with one")


@dataclass(frozen=True, kw_only=True)
class DataSettings(Checked):
    """How training and validation are fed."""

    batch_size: int = setting(16, "windows in a batch, those of all devices together", least=1)
    workers: int = setting(0, "processes that load data beside the main one", least=0)
    val_fraction: float | None = setting(
        None,
        "share of the training videos kept for validation; null: 0.1 where it chooses the checkpoint, else none",
        least=0,
        below=1,
    )
    held_out_classes: int = setting(
        0, "this many seen classes are kept out of training and stand in for unseen ones (tuning)", least=0
    )
    held_out_seed: int = setting(0, "which seen classes, or which validation videos, are held out", least=0)
    cache_mb: float = setting(1024.0, "memory for feature rows", unit="MiB", least=0)


@dataclass(frozen=True, kw_only=True)
class TrainerSettings(Checked):
    """Lightning's trainer."""

    max_epochs: int = setting(30, "passes over the training windows", unit="epochs", least=1)
    max_steps: int | None = setting(None, "stop after this many optimizer steps; null: no limit", least=1)
    accelerator: str = setting("auto", "auto, cpu, gpu, cuda or another of Lightning's")
    devices: Any = setting("auto", "number or list of devices, or auto")
    num_nodes: int = setting(
        1, "machines; each runs the same command with NODE_RANK, MASTER_ADDR and MASTER_PORT set", least=1
    )
    strategy: str = setting("auto", "Lightning's strategy: auto, or a form of ddp")
    threads: int | None = setting(None, "CPU threads of a process; null: PyTorch's choice", least=1)
    precision: str = setting("auto", "auto: bf16-mixed where the device gains from it, else 32-true; or Lightning's")
    accumulate: int = setting(1, "batches whose gradients are added up before a step", least=1)
    gradient_clip: float | None = setting(0.1, "largest norm of the gradient; null: not clipped", above=0)
    ema_decay: float | None = setting(None, "decay of averaged weights, such as 0.999; null: none", above=0, below=1)
    deterministic: bool = setting(False, "only operations that repeat bit for bit")
    progress: str = setting(
        "auto", "auto: bars on a terminal, plain lines elsewhere", choices=("auto", "bars", "lines", "none")
    )
    validate_every: int = setting(1, "validate after every so many epochs", unit="epochs", least=1)


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings(Checked):
    """Which weights are kept."""

    rule: str = setting(
        "last", "last epoch, or best mAP on seen-class validation videos", choices=("last", "best-seen-val")
    )
    every_epochs: int = setting(1, "save after every so many epochs", unit="epochs", least=1)


@dataclass(frozen=True, kw_only=True)
class LoggerSettings(Checked):
    """Where figures of the training go."""

    kind: str = setting("csv", "the logger", choices=("csv", "tensorboard", "wandb", "none"))
    project: str = setting("psftr", "of wandb: the project")
    offline: bool = setting(True, "of wandb: nothing leaves the machine")


PROTOCOLS = ("clean", "peer")


@dataclass(frozen=True, kw_only=True)
class CommonSettings(Checked):
    """What every verb that opens a data set takes."""

    method: str = setting("psftr", "the method; `psftr evaluate` takes training-free ones too")
    seed: int = setting(0, "random numbers of the training", least=0)
    data_root: str = setting("data", "folder of the prepared data sets")
    dataset: DatasetSettings = group(DatasetSettings)
    split: SplitSettings = group(SplitSettings)
    text: TextSettings = group(TextSettings)
    data: DataSettings = group(DataSettings)


@dataclass(frozen=True, kw_only=True)
class TrainSettings(CommonSettings):
    """`psftr train`, beside the groups of the method."""

    protocol: str = setting(
        "clean",
        "clean: no test class touches training or selection; peer: the best epoch on the test classes, and says so",
        choices=PROTOCOLS,
    )
    resume: str | None = setting(
        None, "go on with the run, or the unfinished runs of the multirun, in this folder; all else comes from there"
    )
    paper_table: str | None = setting(None, "of experiments: the number of the paper's table")
    trainer: TrainerSettings = group(TrainerSettings)
    checkpoint: CheckpointSettings = group(CheckpointSettings)
    logger: LoggerSettings = group(LoggerSettings)
    # last: in this class body its name hides the function
    setting: str | None = setting(None, "of experiments: the row of the paper's table")


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(CommonSettings):
    """`psftr evaluate`, beside the groups of the method."""

    run: str | None = setting(None, "a run folder, or a multirun folder: mean and spread over its splits")
    predictions: str | None = setting(None, "predictions of any tool, JSON or CSV, in place of a run")
    annotations: str | None = setting(None, "with predictions: the ground truth, JSON or CSV; null: that of dataset=")
    subset: str | None = setting(None, "with predictions of a data set of your own: the subset to score")
    tious: tuple[float, ...] | None = setting(
        None, "with predictions of a data set of your own: the tIoUs to score", above=0, most=1
    )
    classes: str = setting(
        "unseen",
        "unseen: the test; held-out: seen classes that the run kept out of training, on training videos (tuning)",
        choices=("unseen", "held-out"),
    )
    against: str | None = setting(None, "another run or multirun folder: the difference in pairs, with an interval")
    mismatched: str | None = setting(
        None,
        "predictions of the same model with the descriptions of other classes: LAP, the drop of mAP; with run=DIR a "
        "name without a folder is a file in the folder of every run",
    )
    vision_only: str | None = setting(
        None, "predictions of a model without language: easy, medium and hard classes by its AP"
    )
    ambiguous: str | None = setting(
        None, "clips that only look like an action, JSON or CSV as annotations; null: ignored stretches of the data set"
    )
    audit: bool = setting(False, "does text guide what is found? one table for each run and for their mean")
    baseline: bool = setting(False, "the training-free CLIP baseline beside every run, on the same features")
    protocol: str | None = setting(None, "clean or peer; null: as the run was trained", choices=PROTOCOLS)
    redo: bool = setting(False, "localize again even where predictions.json is there")
    out: str | None = setting(None, "folder for tables and figures; null: evaluation/ in the run or multirun folder")
    figures: bool = setting(True, "draw the figures and the page")
    device: str = setting("auto", "auto, cpu or cuda")
    precision: str = setting(
        "auto",
        "of the network; auto: bf16-mixed where it is large and the CPU gains from it, else 32-true",
        choices=("auto", "32-true", "bf16-mixed"),
    )


def to_dict(settings: Any) -> dict[str, Any]:
    """Plain values by name, groups as dicts, tuples as lists: what run.json and checkpoints hold."""
    plain = {}
    for one in dataclasses.fields(settings):
        value = getattr(settings, one.name)
        if dataclasses.is_dataclass(value):
            value = to_dict(value)
        plain[one.name] = list(value) if isinstance(value, tuple) else value
    return plain


def from_dict(kind: type[Settings], values: Mapping[str, Any], *, where: str = "") -> Settings:
    """The inverse of `to_dict`; what is absent takes its default.

    Raises PsftrError for a key that `kind` does not have, with the nearest it has, and for a value that does not fit.
    """
    hints = _hints(kind)
    known = [one.name for one in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise PsftrError(f"no setting {where + str(key)!r}{nearest(str(key), known)}")
    given: dict[str, Any] = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            if not isinstance(value, Mapping):
                raise PsftrError(f"{where}{name} is a group of settings, got {value!r}")
            given[name] = from_dict(typing.cast(type, hints[name]), value, where=f"{where}{name}.")
        else:
            given[name] = value
    try:
        return kind(**given)
    except PsftrError as error:
        raise PsftrError(f"{where}{error}") from None


@dataclass(frozen=True)
class Described:
    """One setting as people read it: dotted key, default, kind of value, meaning."""

    key: str
    default: str
    values: str
    help: str


def describe(kind: type, prefix: str = "") -> Iterator[Described]:
    """Every setting of a settings class, groups included, in the order of their declaration."""
    hints = _hints(kind)
    for one in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[one.name]):
            yield from describe(typing.cast(type, hints[one.name]), f"{prefix}{one.name}.")
        elif one.metadata:
            facts = one.metadata
            values = "|".join(facts["choices"]) or " ".join(filter(None, (_words(hints[one.name]), facts["unit"])))
            yield Described(f"{prefix}{one.name}", _shown(one.default), values, facts["help"])


def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _checked(name: str, value: Any, hint: Any, facts: Mapping[str, Any]) -> Any:
    allowed = [part for part in (get_args(hint) if _is_union(hint) else (hint,)) if part is not type(None)]
    if value is None:
        if _is_union(hint) or hint is Any:
            return None
        raise PsftrError(f"{name} needs a value, got null")
    if hint is Any:
        return value
    wanted = allowed[0]
    if get_origin(wanted) is tuple:
        item = get_args(wanted)[0]
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            raise PsftrError(f"{name} must be a list of {_words(item)}, got {value!r}: write {name}=[…]")
        return tuple(_checked(name, one, item, facts) for one in value)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise PsftrError(f"{name} must be {_words(wanted)}, got {value!r}")
    if facts["choices"] and value not in facts["choices"]:
        raise PsftrError(
            f"{name}={value} is unknown{nearest(value, facts['choices'])}; choose {', '.join(facts['choices'])}"
        )
    for bound, holds, words in (
        (facts["least"], lambda v, b: v >= b, "at least"),
        (facts["most"], lambda v, b: v <= b, "at most"),
        (facts["above"], lambda v, b: v > b, "above"),
        (facts["below"], lambda v, b: v < b, "below"),
    ):
        if bound is not None and not holds(value, bound):
            raise PsftrError(f"{name} must be {words} {bound:g}, got {value!r}")
    return value


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def _words(hint: Any) -> str:
    if _is_union(hint):
        parts = [part for part in get_args(hint) if part is not type(None)]
        return _words(parts[0]) + (" or null" if len(parts) < len(get_args(hint)) else "")
    if get_origin(hint) is tuple:
        return f"list of {_words(get_args(hint)[0])}"
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", Any: "any value"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _shown(default: Any) -> str:
    if default is None:
        return "null"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return f"[{', '.join(map(str, default))}]"
    return str(default)
