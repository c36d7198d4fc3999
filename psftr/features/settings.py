"""Which encoder turns videos into features, and how: every such setting once. Imports nothing heavy, for `--help`."""

from __future__ import annotations

from dataclasses import dataclass

from psftr.settings import Checked, setting


@dataclass(frozen=True, kw_only=True)
class EncoderSettings(Checked):
    """Which CLIP model runs, and where."""

    model: str = setting("ViT-B-16", "any open_clip model, or a JSON layout (paper: ViT-B-32, ViT-B-16, ViT-L-14)")
    pretrained: str = setting("openai", "a tag of the model, a local weights file, or 'random' for untrained weights")
    projection: str = setting("post", "before or after CLIP's image projection", choices=("post", "pre"))
    seed: int = setting(0, "of untrained weights", least=0)
    device: str = setting("auto", "cpu, cuda, cuda:1 …; auto: cuda if there is one")
    precision: str = setting("auto", "auto: bf16 on a GPU, fp32 on the CPU", choices=("auto", "fp32", "bf16"))


@dataclass(frozen=True, kw_only=True)
class ExtractSettings(Checked):
    """How a video becomes rows of features."""

    stride: int = setting(8, "frames per feature row (THUMOS14: 8, ActivityNet: 16)", least=1)
    dtype: str = setting("float16", "of the stored features", choices=("float16", "float32"))
    batch_size: int | None = setting(None, "frames per encoder call; by default 32 on the CPU, 256 on a GPU", least=1)
    workers: int | None = setting(None, "videos decoded at the same time; by default one per core, up to 16", least=1)
    decoder: str = setting("pyav", "what reads the videos", choices=("pyav", "torchcodec"))
