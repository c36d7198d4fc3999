"""The library in three lines: `psftr.load(path).predict("clip.mp4", labels=["high jump", "pole vault"])`."""

from psftr.api.curves import ScoreCurves
from psftr.api.model import Model, baseline, load
from psftr.api.result import Result

__all__ = ["Model", "Result", "ScoreCurves", "baseline", "load"]
