"""From configuration to built objects: below this file there are plain arguments, never a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psftr.cli.hydra_app import nearest
from psftr.errors import PsftrError

if TYPE_CHECKING:
    from psftr.clip import ClipEncoder
    from psftr.data.annotations import Annotations
    from psftr.data.datamodule import ZstalDataModule
    from psftr.data.features import FeatureStore
    from psftr.data.splits import ClassSplit
    from psftr.data.windows import WindowPolicy
    from psftr.methods.psftr.build import NetworkConfig
    from psftr.methods.psftr.criterion import Criterion
    from psftr.methods.psftr.decode import Decoder
    from psftr.text import TextEmbeddings

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Dataset:
    """What a dataset folder holds, read and checked: `split` is one of its class splits."""

    name: str
    annotations: Annotations
    store: FeatureStore
    split: ClassSplit

    def provenance(self) -> dict[str, Any]:
        """The `split` and `features` entries of a predictions file."""
        split, store = self.split, self.store
        return {
            "split": {
                "dataset": self.name,
                "source": split.source,
                "ratio": split.ratio,
                "index": split.index,
                "seen": list(split.seen),
                "unseen": list(split.unseen),
            },
            "features": {
                "encoder": store.encoder,
                "dim": store.dim,
                "identity": store.identity,
                "synthetic": store.synthetic,
            },
        }


def plain(cfg: Any) -> dict[str, Any]:
    """A resolved configuration as dicts, lists and scalars."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # type: ignore[return-value]


def load_dataset(config: Config) -> Dataset:
    """Read annotations, feature store and split.

    Raises:
        PsftrError: a file is missing or damaged; the message says which `psftr prepare` or `extract` makes it.
    """
    from psftr.data.annotations import read_annotations
    from psftr.data.features import FeatureStore

    dataset = config["dataset"]
    if dataset["name"] == "synthetic":
        from psftr.data.synthetic import ensure_world

        ensure_world(Path(dataset["root"]))
    for key, remedy in (
        ("annotations", f"run `psftr prepare {dataset['name']}`"),
        ("features", "extract them with `psftr extract VIDEOS… --out FILE`, or import them with `psftr prepare`"),
    ):
        if not Path(dataset[key]).exists():
            raise PsftrError(f"no {key} at {dataset[key]}: {remedy}, or set dataset.{key}=FILE")
    annotations = read_annotations(dataset["annotations"], ignore_labels=tuple(dataset["ignore_labels"]))
    split = read_split(config, annotations.classes)
    split.check_against(annotations.classes)
    return Dataset(dataset["name"], annotations, FeatureStore(dataset["features"]), split)


def read_split(config: Config, classes: tuple[str, ...]) -> ClassSplit:
    from psftr.data.splits import random_split, read_published_split, read_split_file

    split = config["split"]
    ratio, index = split["ratio"], split["index"]
    if split["kind"] == "published":
        return read_published_split(config["dataset"]["splits"], ratio=ratio, index=index)
    if split["kind"] == "random":
        return random_split(classes, ratio=ratio, index=index, seed=split["seed"])
    if split["kind"] == "file":
        if not split["file"]:
            raise PsftrError("split.kind=file needs split.file=FILE, YAML with `seen` and `unseen`")
        return read_split_file(split["file"])
    raise choice_error("split.kind", split["kind"], ("published", "random", "file"))


def choice_error(key: str, value: Any, choices: tuple[str, ...]) -> PsftrError:
    return PsftrError(f"{key}={value} is unknown{nearest(str(value), choices)}; choose {', '.join(choices)}")


def choose(key: str, value: Any, table: Mapping[str, Any]) -> Any:
    if value not in table:
        raise choice_error(key, value, tuple(table))
    return table[value]


def load_class_text(config: Config, store: FeatureStore, names: tuple[str, ...]) -> TextEmbeddings:
    """Embeddings of the class names in the space of the store's features.

    A file given by `text.embeddings`, else the dataset folder's text.h5 if its prompt is the one asked for (a
    synthetic one always fits), else the open_clip encoder that the store names, cached in the dataset folder.
    """
    from psftr.text import cache_path, check_compatible, embed_names, load_text, resolve_prompt

    text_config, root = config["text"], Path(config["dataset"]["root"])
    prompt = resolve_prompt(text_config["prompt"])
    given, found = text_config["embeddings"], root / "text.h5"
    if given is not None or found.is_file():
        text = load_text(given or found)
        if given is not None or text.synthetic or text.prompt == prompt:
            check_compatible(text, store.encoder, store.dim)
            text.select(names)
            return text
    if store.synthetic:
        raise PsftrError(
            f"the features of {root} are synthetic and no text.h5 stands beside them: "
            "run `psftr prepare` with --simulate-features again, or set text.embeddings=FILE"
        )
    cache = root / "text_cache"
    cached = cache_path(cache, store.encoder, prompt, names)
    if cached.is_file():  # spares loading the encoder
        text = load_text(cached)
    else:
        encoder = text_encoder(store.encoder, weights=text_config["weights"])
        text = embed_names(names, encoder=encoder, template=prompt, cache_dir=cache)
    check_compatible(text, store.encoder, store.dim)
    return text


def text_encoder(identity: str, *, weights: str | None = None) -> ClipEncoder:
    """The encoder a feature store names, for its text side. `weights`: a local file, where the identity is of one.

    Raises:
        PsftrError: the identity is not of open_clip, names a local file that was not given, or has no text side.
    """
    from psftr.api.encoders import open_encoder

    if not identity.startswith("open_clip:"):
        raise PsftrError(
            f"the features are of encoder {identity!r}, which psftr cannot run: give text.embeddings=FILE, "
            "a psftr-text file of the same encoder"
        )
    if identity.endswith(":pre-projection"):
        raise PsftrError(f"features of {identity} have no text twin: extract them again after CLIP's projection")
    if ":sha256-" in identity and weights is None:
        raise PsftrError(f"the features are of a local weights file ({identity}): give it with text.weights=FILE")
    return open_encoder(identity, pretrained=weights, device="cpu")


def window_policy(config: Config) -> WindowPolicy:
    from psftr.data.windows import WindowPolicy

    policy = WindowPolicy(**config["window"])
    return policy.as_peer() if config["protocol"] == "peer" else policy


def build_datamodule(config: Config, dataset: Dataset) -> ZstalDataModule:
    from psftr.data.datamodule import ZstalDataModule

    data, paths = config["data"], config["dataset"]
    return ZstalDataModule(
        annotations=dataset.annotations,
        store=dataset.store,
        split=dataset.split,
        policy=window_policy(config),
        train_subset=paths["train_subset"],
        test_subset=paths["test_subset"],
        exclude=tuple(paths["exclude"]),
        batch_size=data["batch_size"],
        num_workers=data["workers"],
        val_fraction=data["val_fraction"],
        held_out_classes=data["held_out_classes"],
        held_out_seed=data.get("held_out_seed", config["seed"]),  # older runs held out by their seed
        cache_mb=data["cache_mb"],
        seed=config["seed"],
        protocol=config["protocol"],
    )


def network_config(config: Config, *, feature_dim: int, text_dim: int) -> NetworkConfig:
    from psftr.methods.psftr.build import NetworkConfig

    return NetworkConfig.from_dict({**config["model"], "feature_dim": feature_dim, "text_dim": text_dim})


def build_criterion(config: Config) -> Criterion:
    from psftr import segments
    from psftr.methods.psftr import losses, matcher
    from psftr.methods.psftr.criterion import Criterion, LossWeights

    loss, match = config["loss"], config["matcher"]
    costs = {
        "class": matcher.class_cost,
        "class_probability": matcher.class_probability_cost,
        "actionness": matcher.actionness_cost,
        "both": matcher.class_and_actionness_cost,
    }
    paired, pairwise = choose(
        "loss.iou",
        loss["iou"],
        {
            "tiou": (segments.tiou_paired, segments.tiou_pairwise),
            "giou": (segments.giou_paired, segments.giou_pairwise),
        },
    )
    saliency = {"bce": losses.saliency_bce, "focal": losses.saliency_focal}
    return Criterion(
        matcher=partial(
            matcher.match,
            class_cost=choose("matcher.cost", match["cost"], costs),
            overlap=pairwise,
            class_weight=match["class"],
            l1_weight=match["l1"],
            overlap_weight=match["overlap"],
        ),
        weights=LossWeights(
            class_=loss["class"],
            l1=loss["l1"],
            iou=loss["overlap"],
            actionness=loss["actionness"],
            saliency=loss["saliency"],
        ),
        overlap=paired,
        saliency_loss=choose("loss.saliency_form", loss["saliency_form"], saliency),
    )


def build_decoder(config: Config) -> Decoder:
    from psftr.methods.psftr.decode import Decoder, hard_nms_merge, peer_merge

    decode = config["decode"]
    hard = partial(hard_nms_merge, threshold=decode["nms_threshold"], max_kept=decode["max_per_video"])
    rule = choose("decode.merge", decode["merge"], {"soft_nms": None, "nms": hard})
    return Decoder(
        roi_weight=decode["roi_weight"],
        roi_bins=decode["roi_bins"],
        top_per_window=decode["top_per_window"],
        soft_nms_sigma=decode["soft_nms_sigma"],
        max_per_video=decode["max_per_video"],
        merge_rule=peer_merge if config["protocol"] == "peer" else rule,
    )
