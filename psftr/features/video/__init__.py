"""Decode frames with exact timestamps; corrupt input is an error or a reported shortfall."""

from psftr.features.video.probe import VideoError, VideoProbe, probe_video
from psftr.features.video.sampling import (
    DECODERS,
    SUFFIXES,
    SampledFrame,
    Shortfall,
    VideoSummary,
    check_decoder,
    num_rows,
    row_frame,
    sample_video,
)

__all__ = [
    "DECODERS",
    "SUFFIXES",
    "SampledFrame",
    "Shortfall",
    "VideoError",
    "VideoProbe",
    "VideoSummary",
    "check_decoder",
    "num_rows",
    "probe_video",
    "row_frame",
    "sample_video",
]
