"""An untrained PSFTR of 16 dimensions for the features of an untrained CLIP of 16 dimensions."""

from pathlib import Path

import torch
from extraction import clip

from psftr.checkpoints import save_pretrained, training_facts
from psftr.methods.psftr.build import build_network, network_config
from psftr.methods.psftr.settings import ModelSettings
from psftr.settings import to_dict

TINY_CLIP = str(Path(__file__).resolve().parent / "tiny_clip.json")
ENCODER = ["--model", TINY_CLIP, "--pretrained", "random", "--device", "cpu"]


def tiny_identity() -> str:
    """Of the encoder that `ENCODER` names."""

    return clip(TINY_CLIP, "random").identity


def save_tiny(
    folder: Path, encoder: str, *, feature_dim: int = 16, synthetic: bool = False, config=None, **facts
) -> Path:
    """The network as `psftr train` would leave it; `config`: settings of its run that are not the defaults."""
    torch.manual_seed(0)
    sizes = {"dim": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "queries": 6}
    network = network_config(ModelSettings(**sizes), feature_dim=feature_dim, text_dim=feature_dim)
    told = training_facts(
        method="psftr",
        config={**(config or {}), "model": sizes},
        network=to_dict(network),
        train_classes=["run"],
        encoder=encoder,
        synthetic=synthetic,
        **facts,
    )
    return save_pretrained(folder, build_network(network), told)
