"""psftr: zero-shot temporal action localization.

import psftr
result = psftr.load("runs/my-run").predict("clip.mp4", labels=["high jump", "pole vault"])
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psftr.api import Frames, Model, Result, VideoFeatures, baseline, load

__version__ = "0.2.0"
__all__ = ["Frames", "Model", "Result", "VideoFeatures", "__version__", "baseline", "load"]


def __getattr__(name: str) -> Any:
    """`load` and its kin are imported at first use, so that `import psftr` costs nothing."""
    if name in __all__:
        from importlib import import_module

        return getattr(import_module("psftr.api"), name)
    raise AttributeError(f"module 'psftr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
