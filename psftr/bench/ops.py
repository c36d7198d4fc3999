"""`psftr bench ops`: temporal deformable attention, our paths against grid_sample and gather.

Correctness first: every version against float64, with results that start out as NaN and inputs away from the knots of
the interpolation, where the derivative jumps. Then medians of one run in which the versions take turns: forward, and
forward with backward. The floor is the time to move every input and output once at the bandwidth of a large copy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from psftr.bench.baselines import Attention, grid_sample_attn
from psftr.bench.timing import Times, describe_machine, least_kernel, memory_bandwidth, replay_in_turns, take_turns
from psftr.ops import forced_path, selected_path, temporal_deform_attn, temporal_deform_attn_reference

BASELINES: dict[str, Attention] = {"grid_sample": grid_sample_attn, "gather": temporal_deform_attn_reference}
#: relative errors to float64 that our paths must keep, in float32
LIMITS = {"forward": 2e-7, "grad of locations": 1e-6}


@dataclass(frozen=True)
class Case:
    """Sizes of one call; `reach` is how many rows around its own time a query reads (None: anywhere)."""

    name: str
    batch: int
    length: int
    queries: int
    reach: float | None
    heads: int = 8
    dim: int = 64
    points: int = 4

    def bytes_moved(self, element: int) -> tuple[int, int]:
        """(forward, backward): every input and output once; `element` is the size of a value."""
        values = self.batch * self.length * self.heads * self.dim * element
        out = self.batch * self.queries * self.heads * self.dim * element
        points = self.batch * self.queries * self.heads * self.points * 4
        return values + out + 2 * points, 2 * values + out + 4 * points


CPU_CASES = (
    Case("encoder", 16, 128, 128, None),
    Case("decoder", 16, 128, 40, None),
    Case("long window", 1, 2304, 2304, 8),
)
GPU_CASES = (
    Case("encoder", 16, 128, 128, 8),
    Case("decoder", 16, 128, 40, None),
    Case("long window", 16, 2304, 2304, 8),
    Case("long window, anywhere", 16, 2304, 2304, None),
    Case("whole video", 4, 16384, 16384, 8),
)


@dataclass(frozen=True)
class Inputs:
    values: Tensor
    locations: Tensor
    weights: Tensor
    grad_out: Tensor

    @property
    def leaves(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.values, self.locations, self.weights


@dataclass(frozen=True)
class Row:
    """One version on one case: microseconds, share of the floor, how much faster than each baseline."""

    case: str
    sizes: str
    dtype: str
    version: str
    error_forward: float
    error_grad_locations: float
    forward_us: float
    both_us: float
    percent_of_floor_forward: float
    percent_of_floor_backward: float
    forward_ratio: dict[str, float]
    both_ratio: dict[str, float]


def make_inputs(case: Case, *, device: torch.device, dtype: torch.dtype, seed: int) -> Inputs:
    """Random inputs whose locations keep a tenth of a row away from every knot."""
    generator = torch.Generator().manual_seed(seed)
    shape = (case.batch, case.queries, case.heads, 1, case.points)
    share = torch.rand(shape, generator=generator, dtype=torch.float64)
    if case.reach is None:
        row = share * (case.length - 1)
    else:
        centre = torch.arange(case.queries).view(1, -1, 1, 1, 1) * case.length / case.queries
        row = (centre + (2 * share - 1) * case.reach).clamp(0, case.length - 2)
    fraction = 0.1 + 0.8 * torch.rand(shape, generator=generator, dtype=torch.float64)
    locations = (row.floor() + fraction + 0.5) / case.length
    values = torch.randn(case.batch, case.length, case.heads, case.dim, generator=generator)
    grad_out = torch.randn(case.batch, case.queries, case.heads, case.dim, generator=generator)
    weights = torch.rand(shape, generator=generator).flatten(3).softmax(-1).view(shape)
    return Inputs(
        values.to(device, dtype).requires_grad_(),
        locations.float().to(device).requires_grad_(),
        weights.to(device).requires_grad_(),
        grad_out.to(device, dtype),
    )


def versions_on(device: torch.device) -> dict[str, Attention]:
    """What is compared here: baselines first, then our paths, the slowest first."""
    ours = dict.fromkeys(("torch", selected_path(device).name), temporal_deform_attn)
    return BASELINES | ours


def call(name: str, attend: Attention, case: Case, inputs: Inputs, *, backward: bool) -> tuple[Tensor, ...]:
    """(result, and if `backward` the gradients of the leaves) of one version; what is no baseline is a path's name."""
    with contextlib.nullcontext() if name in BASELINES else forced_path(name), torch.set_grad_enabled(backward):
        out = attend(*inputs.leaves, [case.length])
        return (out, *torch.autograd.grad(out, inputs.leaves, inputs.grad_out)) if backward else (out,)


@contextlib.contextmanager
def poisoned_results() -> Iterator[None]:
    """Memory that is handed out uninitialised holds NaN: what a kernel forgets to write shows."""
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    filled = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings.fill_uninitialized_memory = True
    try:
        yield
    finally:
        settings.fill_uninitialized_memory = filled
        torch.use_deterministic_algorithms(before, warn_only=warn_only)


def measure_errors(
    versions: Mapping[str, Attention], case: Case, *, device: torch.device, dtype: torch.dtype
) -> dict[str, tuple[float, float]]:
    """{version: relative error of the result and of the gradient of locations} on a small batch of the case.

    Raises RuntimeError if one of our paths misses its limit: there is no point in timing wrong results.
    """
    small = replace(case, batch=min(case.batch, 2), heads=2)
    inputs = make_inputs(small, device=device, dtype=dtype, seed=1)
    wide = Inputs(*(t.detach().double().requires_grad_() for t in (*inputs.leaves, inputs.grad_out)))
    exact = call("gather", temporal_deform_attn_reference, small, wide, backward=True)
    errors = {}
    for name, attend in versions.items():
        with poisoned_results():
            got = call(name, attend, small, inputs, backward=True)
        errors[name] = (_relative(got[0], exact[0]), _relative(got[2], exact[2]))
        rounding = 0.0 if dtype == torch.float32 else torch.finfo(dtype).eps
        for what, error, limit in zip(LIMITS, errors[name], LIMITS.values()):
            if name not in BASELINES and not error <= limit + rounding:  # `not <=` catches NaN
                raise RuntimeError(f"{name}, {small.name}: relative error {error:.1e} of {what}, limit {limit:.0e}")
    return errors


def _relative(got: Tensor, exact: Tensor) -> float:
    return float((got.detach().double() - exact.detach()).norm() / exact.detach().norm())


def measure(case: Case, *, device: torch.device, dtype: torch.dtype, rounds: int, bandwidth: float) -> list[Row]:
    """Errors, then times, of every version on one case."""
    versions = versions_on(device)
    errors = measure_errors(versions, case, device=device, dtype=dtype)
    element = torch.finfo(dtype).bits // 8
    sets = 1
    if device.type == "cuda":
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        sets = max(4, 1 + 2 * cache // case.bytes_moved(element)[0])
    inputs = [make_inputs(case, device=device, dtype=dtype, seed=seed) for seed in range(sets)]

    def timed(*, backward: bool) -> dict[str, Times]:
        calls = {
            name: [partial(call, name, attend, case, one, backward=backward) for one in inputs]
            for name, attend in versions.items()
        }
        if device.type == "cuda":
            return replay_in_turns(calls, rounds=rounds)
        return take_turns({name: one for name, (one,) in calls.items()}, rounds=rounds)

    forward, both = timed(backward=False), timed(backward=True)
    floors_s = [moved / bandwidth for moved in case.bytes_moved(element)]
    return [
        Row(
            case=case.name,
            sizes=f"B{case.batch} T{case.length} Q{case.queries} H{case.heads} D{case.dim} P{case.points}",
            dtype=str(dtype).removeprefix("torch."),
            version=name,
            error_forward=errors[name][0],
            error_grad_locations=errors[name][1],
            forward_us=forward[name].median_s * 1e6,
            both_us=both[name].median_s * 1e6,
            percent_of_floor_forward=100 * floors_s[0] / forward[name].median_s,
            percent_of_floor_backward=100 * floors_s[1] / (both[name].median_s - forward[name].median_s),
            forward_ratio={baseline: forward[name].times_faster_than(forward[baseline]) for baseline in BASELINES},
            both_ratio={baseline: both[name].times_faster_than(both[baseline]) for baseline in BASELINES},
        )
        for name in versions
    ]


def run_benchmark(*, device: torch.device, rounds: int, quick: bool) -> dict[str, Any]:
    """The whole benchmark as plain values: the machine, the measured bandwidth and one row per version and case.

    `quick`: small cases and at most 3 rounds.
    """
    rounds = min(rounds, 3) if quick else rounds
    bandwidth = memory_bandwidth(device, rounds=rounds)
    cases: tuple[Case, ...] = GPU_CASES if device.type == "cuda" else CPU_CASES
    if quick:
        cases = tuple(replace(case, batch=min(case.batch, 2)) for case in cases[:2])
    dtypes = [torch.float32, torch.bfloat16] if device.type == "cuda" else [torch.float32]
    rows = [
        row
        for case in cases
        for dtype in dtypes
        for row in measure(case, device=device, dtype=dtype, rounds=rounds, bandwidth=bandwidth)
    ]
    return {
        "machine": describe_machine(device),
        "path": str(selected_path(device)),
        "rounds": rounds,
        "bandwidth_gb_per_s": bandwidth / 1e9,
        "least_kernel_us": least_kernel(device, rounds=rounds) * 1e6 if device.type == "cuda" else None,
        "limits": LIMITS,
        "rows": [asdict(row) for row in rows],
    }


def render(result: Mapping[str, Any]) -> str:
    """The result as a Markdown table."""
    lines = [
        f"{result['machine']}; copies at {result['bandwidth_gb_per_s']:.1f} GB/s; "
        f"medians of {result['rounds']} rounds; our path: {result['path']}"
        + (f"; least kernel {result['least_kernel_us']:.2f} us" if result["least_kernel_us"] else ""),
        "",
        "| case | values | version | error fwd | error dloc | fwd us | fwd+bwd us | % of floor fwd, bwd "
        "| fwd vs grid_sample | fwd+bwd vs grid_sample | fwd+bwd vs gather |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['case']} {row['sizes']} | {row['dtype']} | {row['version']} "
            f"| {row['error_forward']:.0e} | {row['error_grad_locations']:.0e} "
            f"| {row['forward_us']:.0f} | {row['both_us']:.0f} "
            f"| {row['percent_of_floor_forward']:.0f}, {row['percent_of_floor_backward']:.0f} "
            f"| {row['forward_ratio']['grid_sample']:.1f} | {row['both_ratio']['grid_sample']:.1f} "
            f"| {row['both_ratio']['gather']:.1f} |"
        )
    return "\n".join(lines)
