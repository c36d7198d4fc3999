"""`psftr bench ops`: temporal deformable attention, our paths against grid_sample and gather.

Correctness first: every version against float64, with results that start out as NaN and inputs away from the knots of
the interpolation, where the derivative jumps. Then medians of one run in which the versions take turns: forward, and
forward with backward. The floor is the time to move every input and output once at the bandwidth of a large copy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from psftr.bench.baselines import grid_sample_attn
from psftr.bench.timing import Times, describe_machine, empty_launch, memory_bandwidth, replay_in_turns, take_turns
from psftr.ops import forced_path, selected_path, temporal_deform_attn, temporal_deform_attn_reference

Operator = Callable[[Tensor, Tensor, Tensor, Sequence[int]], Tensor]

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


def versions_on(device: torch.device) -> dict[str, Operator]:
    """What is compared here: baselines first, then our paths, the slowest first."""
    ours = ["torch"]
    selected = selected_path(device).name
    if selected not in ours:
        ours.append(selected)
    return {"grid_sample": grid_sample_attn, "gather": temporal_deform_attn_reference} | {
        name: _on_path(name) for name in ours
    }


BASELINES = ("grid_sample", "gather")


def _on_path(name: str) -> Operator:
    def operator(values: Tensor, locations: Tensor, weights: Tensor, level_lengths: Sequence[int]) -> Tensor:
        return temporal_deform_attn(values, locations, weights, level_lengths)

    operator.__name__ = name
    return operator


def run_forward(name: str, operator: Operator, case: Case, inputs: Inputs) -> Tensor:
    with torch.no_grad(), _path(name):
        return operator(*inputs.leaves, [case.length])


def run_both(name: str, operator: Operator, case: Case, inputs: Inputs) -> tuple[Tensor, ...]:
    with _path(name):
        out = operator(*inputs.leaves, [case.length])
        return out, *torch.autograd.grad(out, inputs.leaves, inputs.grad_out)


def _path(name: str) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext() if name in BASELINES else forced_path(name)


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
    versions: Mapping[str, Operator], case: Case, *, device: torch.device, dtype: torch.dtype
) -> dict[str, tuple[float, float]]:
    """{version: relative error of the result and of the gradient of locations} on a small batch of the case.

    Raises RuntimeError if one of our paths misses its limit: there is no point in timing wrong results.
    """
    small = replace(case, batch=min(case.batch, 2), heads=2)
    inputs = make_inputs(small, device=device, dtype=dtype, seed=1)
    wide = Inputs(*(t.detach().double().requires_grad_() for t in (*inputs.leaves, inputs.grad_out)))
    exact = run_both("gather", temporal_deform_attn_reference, small, wide)
    errors = {}
    for name, operator in versions.items():
        with poisoned_results():
            got = run_both(name, operator, small, inputs)
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

    times: dict[str, dict[str, Times]] = {}
    for what, runner in (("forward", run_forward), ("both", run_both)):
        calls = {
            name: [_bind(runner, name, operator, case, one) for one in inputs] for name, operator in versions.items()
        }
        if device.type == "cuda":
            times[what] = replay_in_turns(calls, rounds=rounds)
        else:
            times[what] = take_turns({name: call for name, (call,) in calls.items()}, rounds=rounds)

    floors_s = [moved / bandwidth for moved in case.bytes_moved(element)]
    return [
        Row(
            case=case.name,
            sizes=f"B{case.batch} T{case.length} Q{case.queries} H{case.heads} D{case.dim} P{case.points}",
            dtype=str(dtype).removeprefix("torch."),
            version=name,
            error_forward=errors[name][0],
            error_grad_locations=errors[name][1],
            forward_us=times["forward"][name].median_s * 1e6,
            both_us=times["both"][name].median_s * 1e6,
            percent_of_floor_forward=100 * floors_s[0] / times["forward"][name].median_s,
            percent_of_floor_backward=100
            * floors_s[1]
            / (times["both"][name].median_s - times["forward"][name].median_s),
            forward_ratio=_ratios(times["forward"], name),
            both_ratio=_ratios(times["both"], name),
        )
        for name in versions
    ]


def _bind(runner: Callable, *arguments: Any) -> Callable[[], object]:
    return lambda: runner(*arguments)


def _ratios(times: Mapping[str, Times], name: str) -> dict[str, float]:
    return {baseline: times[name].times_faster_than(times[baseline]) for baseline in BASELINES}


def run_benchmark(*, device: torch.device, rounds: int | None = None, quick: bool = False) -> dict[str, Any]:
    """The whole benchmark as plain values: the machine, the measured bandwidth and one row per version and case.

    Rounds are 15 on the CPU and 50 on a GPU if not given, and at most 3 if quick.
    """
    rounds = rounds or (50 if device.type == "cuda" else 15)
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
        "empty_launch_us": empty_launch(rounds=rounds) * 1e6 if device.type == "cuda" else None,
        "limits": LIMITS,
        "rows": [asdict(row) for row in rows],
    }


def render(result: Mapping[str, Any]) -> str:
    """The result as a Markdown table."""
    lines = [
        f"{result['machine']}; copies at {result['bandwidth_gb_per_s']:.1f} GB/s; "
        f"medians of {result['rounds']} rounds; our path: {result['path']}"
        + (f"; empty launch {result['empty_launch_us']:.2f} us" if result["empty_launch_us"] else ""),
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
