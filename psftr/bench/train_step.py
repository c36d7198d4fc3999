"""`psftr bench step`: one training step of the THUMOS14 network, against plain PyTorch and the machine's own speed.

Forward (with denoising queries where the form has them), matching, losses, backward, clipping and AdamW on random
features (Table 6: dim 512, 2 encoder and 5 decoder layers, 40 queries; windows of 128 rows, batches of 16). All
versions train the same network on the same batch in turns:
"plain" has PyTorch's dropout, an AdamW that is not fused, and grid_sample; "grid_sample" only the last of these;
"nothing" attends to nothing, and no attention can make the step faster than that. Between them runs one large matrix
product in the same precision: what the step's own products would take at its rate is what cannot be beaten.
"""

from __future__ import annotations

import copy
import resource
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from psftr.bench.baselines import Attention, attend_to_nothing, grid_sample_attn
from psftr.bench.forms import FORMS, LOSSES
from psftr.bench.timing import describe_machine, take_turns
from psftr.data.batches import Batch, Target
from psftr.methods.psftr.attention import TemporalDeformableAttention
from psftr.methods.psftr.build import build_criterion, build_network, network_config
from psftr.methods.psftr.denoising import Denoising
from psftr.methods.psftr.module import make_optimizer
from psftr.methods.psftr.network import PSFTR, Texts
from psftr.methods.psftr.residual import Residual
from psftr.methods.psftr.settings import LossSettings, MatcherSettings, ModelSettings, OptimizerSettings
from psftr.ops import selected_path, temporal_deform_attn

CLASSES = 15  # seen classes of a 75/25 split of THUMOS14
DIM = 512  # CLIP ViT-B/16
PRODUCT = 2048  # rows, columns and depth of the large matrix product
CLIP = 0.1


class _PlainResidual(nn.Module):
    """`Residual` with PyTorch's dropout."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        return x + self.dropout(branch)


def make_batch(*, windows: int, length: int, dim: int) -> Batch:
    """Random features, one to five actions per window, a few windows padded at the end."""
    generator = torch.Generator().manual_seed(0)
    padded = torch.arange(length) >= length - torch.arange(windows).unsqueeze(1) % 4 * (length // 8)
    targets = []
    for _ in range(windows):
        count = int(torch.randint(1, 6, (), generator=generator))
        segments = torch.rand(count, 2, generator=generator) * torch.tensor([0.6, 0.2]) + torch.tensor([0.2, 0.02])
        targets.append(Target(torch.randint(CLASSES, (count,), generator=generator), segments))
    return Batch(
        features=torch.randn(windows, length, dim, generator=generator),
        is_padding=padded,
        is_action=(torch.rand(windows, length, generator=generator) < 0.3).float(),
        is_ignored=torch.zeros_like(padded),
        targets=tuple(targets),
        windows=(),
    )


def run_benchmark(*, rounds: int, device: torch.device, precision: str, form: str) -> dict[str, Any]:
    """Seconds per step of each version, and the ratios, measured in turns; precision "bf16" is autocast.

    form: of `FORMS`.
    """
    torch.manual_seed(0)
    model = ModelSettings(**FORMS[form])
    network = build_network(network_config(model, feature_dim=DIM, text_dim=DIM)).to(device).train()
    losses = LossSettings(**LOSSES[form])
    denoising = Denoising(dim=model.dim).to(device) if losses.denoising else None  # its few weights stay as they are
    plain = copy.deepcopy(network)
    for layer in plain.modules():
        for name, child in layer.named_children():
            if isinstance(child, Residual):
                setattr(layer, name, _PlainResidual(child.dropout))
    optimizers = {
        net: make_optimizer(net, OptimizerSettings(), fused=net is network and device.type in ("cpu", "cuda"))
        for net in (network, plain)
    }
    criterion = build_criterion(losses, MatcherSettings())
    batch = make_batch(windows=16, length=128, dim=DIM).to(device)
    text = torch.randn(CLASSES, DIM).to(device)
    texts = Texts(encoder=text, queries=text, classifier=text)

    def step(attend: Attention, net: PSFTR = network) -> Callable[[], None]:
        layers = [layer for layer in net.modules() if isinstance(layer, TemporalDeformableAttention)]

        def run() -> None:
            for layer in layers:
                layer.attend = attend
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                beside = denoising.queries(batch.targets) if denoising else None
                outputs, denoised = net.read_beside(batch.features, batch.is_padding, texts, beside)
            total = criterion(outputs, batch)["total"]
            if denoising is not None:
                total = total + losses.denoising * denoising.loss(denoised, batch.targets, criterion)
            total.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP)
            optimizers[net].step()
            optimizers[net].zero_grad()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return run

    ours = selected_path(device)
    product = torch.randn(2, PRODUCT, PRODUCT, device=device, dtype=torch.bfloat16 if precision == "bf16" else None)

    def multiply() -> None:
        torch.mm(*product)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with FlopCounterMode(display=False) as counter:
        step(temporal_deform_attn)()
    versions = {
        "plain": step(grid_sample_attn, plain),
        "grid_sample": step(grid_sample_attn),
        "ours": step(temporal_deform_attn),
        "product": multiply,
        "nothing": step(attend_to_nothing),
    }
    times = take_turns(versions, rounds=rounds)
    least = counter.get_total_flops() / (2 * PRODUCT**3)  # in products
    shares = [least * one / ours for one, ours in zip(times["product"].rounds, times["ours"].rounds, strict=True)]
    return {
        "machine": describe_machine(device),
        "path": str(ours),
        "precision": precision,
        "form": form,
        "parameters": sum(p.numel() for p in network.parameters()),
        "rounds": rounds,
        "grid_sample_s": times["grid_sample"].median_s,
        "ours_s": times["ours"].median_s,
        "ratio": times["ours"].times_faster_than(times["grid_sample"]),
        "nothing_s": times["nothing"].median_s,
        "largest_ratio": times["nothing"].times_faster_than(times["grid_sample"]),
        "plain_s": times["plain"].median_s,
        "plain_ratio": times["ours"].times_faster_than(times["plain"]),
        "gflop": counter.get_total_flops() / 1e9,
        "product_gflop_per_s": 2 * PRODUCT**3 / times["product"].median_s / 1e9,
        "share_of_product_rate": statistics.median(shares),
        "peak_gib": _peak_gib(device),
    }


def render(result: dict[str, Any]) -> str:
    return (
        f"{result['machine']}\n"
        f"training step, THUMOS14 configuration, {result['form']} form "
        f"({result['parameters'] / 1e6:.1f} M parameters), batch 16, {result['precision']}: "
        f"{result['grid_sample_s']:.3f} s with grid_sample, "
        f"{result['ours_s']:.3f} s with ours ({result['path']}): {result['ratio']:.2f} times faster "
        f"(median of {result['rounds']} rounds in turns)\n"
        f"plain PyTorch throughout takes {result['plain_s']:.3f} s: {result['plain_ratio']:.2f} times as long\n"
        f"matrix products of the step: {result['gflop']:.0f} GFLOP; one large product runs at "
        f"{result['product_gflop_per_s']:.0f} GFLOP/s, the step at "
        f"{100 * result['share_of_product_rate']:.0f} % of that"
        f"; most memory of the whole benchmark: {result['peak_gib']:.2f} GiB\n"
        f"with no attention at all it takes {result['nothing_s']:.3f} s: {result['largest_ratio']:.2f} times faster is "
        "about the most that any attention could reach here"
    )


def _peak_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
