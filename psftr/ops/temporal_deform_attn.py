"""Temporal (1-D) multi-scale deformable attention, registered with PyTorch as an operator.

Every query reads P points on each of L levels of a feature sequence and sums them with its attention weights:

    out[b,q,h,:] = sum over l,p of  weights[b,q,h,l,p] * level_l[b, locations[b,q,h,l,p], h, :]

where reading level l (T_l rows) at location x in [0,1] interpolates linearly at the row position x*T_l - 0.5:
row i covers [i/T_l, (i+1)/T_l] and is centred on (i+0.5)/T_l. Rows outside the level read as zero.

Shape letters here and in the other files of this package: B batch, T rows of all levels together, H heads,
D channels per head, Q queries, L levels, P points per level.

The operator `torch.ops.psftr.temporal_deform_attn` has fake kernels (torch.compile, torch.export), a backward
operator, and a double backward through the slow twin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from psftr.ops import dispatch
from psftr.ops.reference import check_inputs, temporal_deform_attn_reference

__all__ = ["temporal_deform_attn", "temporal_deform_attn_reference"]


def temporal_deform_attn(values: Tensor, locations: Tensor, weights: Tensor, level_lengths: Sequence[int]) -> Tensor:
    """Weighted sum of linearly interpolated rows, by the fastest path of this machine.

    values         [B,T,H,D]    float; the levels one after the other along T
    locations      [B,Q,H,L,P]  position within each level, [0,1]; outside it the level fades to zero
    weights        [B,Q,H,L,P]  attention weights (not normalised here)
    level_lengths  L integers that sum to T; zero-length levels contribute nothing
    returns        [B,Q,H,D]    in the dtype of `values`

    Under autocast, values are lowered to its dtype, except float64. Locations and weights are always float32 (float64
    for float64 values): half-precision locations are off by up to 4.5 rows at T = 2304.
    Raises ValueError for shapes or dtypes that do not fit together.
    """
    device = values.device.type
    if torch.is_autocast_enabled(device) and values.dtype != torch.float64:
        values = values.to(torch.get_autocast_dtype(device))
    if dispatch.forced() == "reference":
        return temporal_deform_attn_reference(values, locations, weights, level_lengths)
    check_inputs(values, locations, weights, level_lengths)
    dtype = torch.promote_types(values.dtype, torch.float32)
    call = _WithoutDispatcher.apply if _is_plain(values) else torch.ops.psftr.temporal_deform_attn
    return call(values, locations.to(dtype), weights.to(dtype), level_lengths)


def _is_plain(values: Tensor) -> bool:
    """Is this an eager call on the CPU that is neither traced nor intercepted?"""
    return (
        _len_torch_dispatch_stack is not None
        and type(values) in (Tensor, torch.nn.Parameter)
        and values.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and _len_torch_dispatch_stack() == 0
    )


# PyTorch has no public way to ask whether a dispatch mode is active. Without this one, every call takes the operator.
_len_torch_dispatch_stack = getattr(torch._C, "_len_torch_dispatch_stack", None)


class _WithoutDispatcher(torch.autograd.Function):
    """The registered operator without PyTorch's dispatcher. The Python layers that `custom_op` adds take 60 to 120 us
    forward and backward, a fifth of a decoder's call."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, locations: Tensor, weights: Tensor, level_lengths: Sequence[int]) -> Tensor:
        ctx.save_for_backward(values, locations, weights)
        ctx.level_lengths = level_lengths
        return dispatch.implementation(values, locations).forward(values, locations, weights, level_lengths)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_out,) = grads
        inputs = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: the registered operator knows its double backward
            backward = torch.ops.psftr.temporal_deform_attn_backward
        else:
            backward = dispatch.implementation(*inputs[:2]).backward
        return (*backward(grad_out, *inputs, ctx.level_lengths), None)


@torch.library.custom_op("psftr::temporal_deform_attn", mutates_args=())
def _forward(values: Tensor, locations: Tensor, weights: Tensor, level_lengths: Sequence[int]) -> Tensor:
    return dispatch.implementation(values, locations).forward(values, locations, weights, level_lengths)


@torch.library.custom_op("psftr::temporal_deform_attn_backward", mutates_args=())
def _backward(
    grad_out: Tensor, values: Tensor, locations: Tensor, weights: Tensor, level_lengths: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    return dispatch.implementation(values, locations).backward(grad_out, values, locations, weights, level_lengths)


@_forward.register_fake
def _(values: Tensor, locations: Tensor, weights: Tensor, level_lengths: Sequence[int]) -> Tensor:
    batch, _, heads, dim = values.shape
    return values.new_empty(batch, locations.shape[1], heads, dim)


@_backward.register_fake
def _(
    grad_out: Tensor, values: Tensor, locations: Tensor, weights: Tensor, level_lengths: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        values.new_empty(values.shape),
        locations.new_empty(locations.shape),
        weights.new_empty(weights.shape),
    )


def _save_forward(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.level_lengths = inputs
    ctx.save_for_backward(*tensors)


def _differentiate_forward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    grads = torch.ops.psftr.temporal_deform_attn_backward(grad_out, *ctx.saved_tensors, ctx.level_lengths)
    return (*grads, None)


def _save_backward(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.level_lengths = inputs
    ctx.save_for_backward(*tensors)


def _differentiate_backward(ctx: Any, *grad_grads: Tensor) -> tuple[Tensor | None, ...]:
    """Double backward: differentiate the slow twin's own first derivative."""
    inputs = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
    grad_out, *operands = inputs
    with torch.enable_grad():
        out = temporal_deform_attn_reference(operands[0], operands[1], operands[2], ctx.level_lengths)
        if not out.requires_grad:  # no level has a row
            return (None,) * 5
        grads = torch.autograd.grad(out, operands, grad_out, create_graph=True)
        second = torch.autograd.grad(grads, inputs, grad_grads, allow_unused=True)
    return (*second, None)


_forward.register_autograd(_differentiate_forward, setup_context=_save_forward)
_backward.register_autograd(_differentiate_backward, setup_context=_save_backward)
