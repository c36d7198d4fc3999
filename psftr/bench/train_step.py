"""`psftr bench train-step`: one training step of the paper's THUMOS14 network, our attention against grid_sample.

Forward, matching, losses, backward and AdamW on random features (Table 6: dim 512, 2 encoder and 5 decoder layers,
40 queries; windows of 128 rows, batches of 16). All versions train the same network on the same batch in turns. The
third version attends to nothing: no attention can make the step faster than that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from psftr.bench.baselines import Attention, attend_to_nothing, grid_sample_attn
from psftr.bench.timing import describe_machine, take_turns
from psftr.data.batches import Batch, Target
from psftr.methods.psftr.attention import TemporalDeformableAttention
from psftr.methods.psftr.build import build_criterion, build_network, network_config
from psftr.methods.psftr.settings import LossSettings, MatcherSettings, ModelSettings
from psftr.ops import selected_path, temporal_deform_attn

CLASSES = 15  # seen classes of a 75/25 split of THUMOS14
DIM = 512  # CLIP ViT-B/16


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


def run_benchmark(*, rounds: int, device: torch.device, precision: str) -> dict[str, Any]:
    """Seconds per step with each attention, and the ratios, measured in turns; precision "bf16" is autocast."""
    torch.manual_seed(0)
    network = build_network(network_config(ModelSettings(), feature_dim=DIM, text_dim=DIM)).to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    criterion = build_criterion(LossSettings(), MatcherSettings())
    batch = make_batch(windows=16, length=128, dim=DIM).to(device)
    text = torch.randn(CLASSES, DIM).to(device)

    layers = [layer for layer in network.modules() if isinstance(layer, TemporalDeformableAttention)]

    def step(attend: Attention) -> Callable[[], None]:
        def run() -> None:
            for layer in layers:
                layer.attend = attend
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                outputs = network(batch.features, batch.is_padding, text)
            loss = criterion(outputs, batch)["total"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return run

    ours = selected_path(device)
    versions = {"grid_sample": grid_sample_attn, "ours": temporal_deform_attn, "nothing": attend_to_nothing}
    times = take_turns({name: step(attend) for name, attend in versions.items()}, rounds=rounds)
    return {
        "machine": describe_machine(device),
        "path": str(ours),
        "precision": precision,
        "rounds": rounds,
        "grid_sample_s": times["grid_sample"].median_s,
        "ours_s": times["ours"].median_s,
        "ratio": times["ours"].times_faster_than(times["grid_sample"]),
        "nothing_s": times["nothing"].median_s,
        "largest_ratio": times["nothing"].times_faster_than(times["grid_sample"]),
    }


def render(result: dict[str, Any]) -> str:
    return (
        f"{result['machine']}\n"
        f"training step, THUMOS14 configuration, batch 16, {result['precision']}: "
        f"{result['grid_sample_s']:.3f} s with grid_sample, "
        f"{result['ours_s']:.3f} s with ours ({result['path']}): {result['ratio']:.2f} times faster "
        f"(median of {result['rounds']} rounds in turns)\n"
        f"with no attention at all it takes {result['nothing_s']:.3f} s: {result['largest_ratio']:.2f} times faster is "
        "about the most that any attention could reach here"
    )
