"""The library in three lines: `psftr.load(path).predict("clip.mp4", labels=["high jump", "pole vault"])`."""

from psftr.api.curves import ScoreCurves
from psftr.api.inputs import Frames
from psftr.api.model import Model, baseline, load
from psftr.api.result import Result
from psftr.features.store import VideoFeatures

__all__ = ["Frames", "Model", "Result", "ScoreCurves", "VideoFeatures", "baseline", "load"]
