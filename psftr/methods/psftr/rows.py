"""What happens to every row [B,T,d] of a window: padding becomes zero, and a row reads its neighbours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["convolve_rows", "without_padding", "zero_padding"]

_LEAST_PADDING = 1 / 8  # of all rows


def zero_padding(rows: Tensor, is_padding: Tensor) -> Tensor:
    """rows [B,T,d], finite also where padded; is_padding [B,T] -> [B,T,d], 0 where padded.

    A product, which takes a fifth to a quarter of the time of `masked_fill`, its slow twin, on a CPU.
    """
    return rows * (~is_padding)[..., None].to(rows.dtype)


def convolve_rows(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """rows [B,T,C], weight [d,C,S] with S odd, bias [d] -> [B,T,d]: the convolution over time, as many rows out as in.

    On a CPU one product of matrices, of every row beside its neighbours. `conv1d` is the slow twin and runs everywhere
    else: in bfloat16 it takes 1.13 times as long, and all that is near it works on transposed memory.
    """
    size, length = weight.shape[-1], rows.shape[1]
    if rows.device.type != "cpu" or torch.compiler.is_compiling():
        return F.conv1d(rows.transpose(1, 2), weight, bias, padding=size // 2).transpose(1, 2)
    if size == 1:  # its gradient in the memory layout of the weight, which several devices want
        return F.linear(rows, weight.squeeze(-1), bias)
    padded = F.pad(rows, (0, 0, size // 2, size // 2))
    beside = torch.cat([padded[:, first : first + length] for first in range(size)], dim=-1)  # [B,T,size*C]
    return F.linear(beside, weight.transpose(1, 2).flatten(1), bias)


def without_padding(part: Callable[[Tensor], Tensor], rows: Tensor, is_padding: Tensor) -> Tensor:
    """`part`, a function of each row by itself, of rows [B,T,d] -> [B,T,e], zero where padded; is_padding [B,T].

    On a CPU padding is left out: it is most of the work where videos are much shorter than windows. The slow twin
    computes it with the rest. It runs where there is little of it, because picking rows takes time too, and everywhere
    else: a GPU would have to be asked how many rows there are.
    """
    if rows.device.type != "cpu" or torch.compiler.is_compiling():
        return zero_padding(part(rows), is_padding)
    padded = int(is_padding.count_nonzero())
    if padded < _LEAST_PADDING * is_padding.numel():
        return zero_padding(part(rows), is_padding) if padded else part(rows)
    index = (~is_padding).flatten().nonzero().squeeze(1)
    picked = _Pick.apply(rows.flatten(0, 1), index)
    return _Put.apply(part(picked), index, is_padding.numel()).unflatten(0, is_padding.shape)


class _Pick(torch.autograd.Function):
    """rows [R,d], index [N] without repetition -> [N,d], and a row of zeros after them if N is odd.

    In bfloat16 products of an odd number of rows take 1.1 to 1.2 times as long. PyTorch's own backward pass of picking
    rows adds one after the other.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.count = len(rows)
        return _pick(rows, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return _put(grads[0], index, ctx.count), None


class _Put(torch.autograd.Function):
    """The transpose of `_Pick`: picked [N,d], or one row more, and index [N] -> [count,d], zero where none is put."""

    @staticmethod
    def forward(ctx: Any, picked: Tensor, index: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(index)
        return _put(picked, index, count)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (index,) = ctx.saved_tensors
        return _pick(grads[0], index), None, None


def _pick(rows: Tensor, index: Tensor) -> Tensor:
    picked = rows.new_empty(len(index) + len(index) % 2, rows.shape[-1])
    picked[len(index) :] = 0
    torch.index_select(rows, 0, index, out=picked[: len(index)])
    return picked


def _put(picked: Tensor, index: Tensor, count: int) -> Tensor:
    return picked.new_zeros(count, picked.shape[-1]).index_copy_(0, index, picked[: len(index)])
