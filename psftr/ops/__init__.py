"""Compute kernels; this package imports nothing else of psftr."""

from psftr.ops.temporal_deform_attn import temporal_deform_attn, temporal_deform_attn_reference

__all__ = ["temporal_deform_attn", "temporal_deform_attn_reference"]
