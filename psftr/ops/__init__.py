"""Compute kernels; this package imports nothing else of psftr."""

from psftr.ops.dispatch import SelectedPath, forced_path, say_path, selected_path
from psftr.ops.temporal_deform_attn import temporal_deform_attn, temporal_deform_attn_reference

__all__ = [
    "SelectedPath",
    "forced_path",
    "say_path",
    "selected_path",
    "temporal_deform_attn",
    "temporal_deform_attn_reference",
]
