"""The benchmark of the operator: its inputs, its checks, its arithmetic and its verb."""

from __future__ import annotations

import json

import pytest
import torch

from psftr.bench import ops, timing, train_step
from psftr.bench.baselines import attend_to_nothing, grid_sample_attn
from psftr.bench.ops import Case, measure_errors
from psftr.bench.timing import Times, take_turns
from psftr.cli import main
from psftr.ops import temporal_deform_attn, temporal_deform_attn_reference

CPU = torch.device("cpu")
SMALL = Case("small", batch=2, length=20, queries=6, reach=None, heads=2, dim=8, points=3)


def inputs_of(case: Case) -> ops.Inputs:
    return ops.make_inputs(case, device=CPU, dtype=torch.float32, seed=0)


def test_grid_sample_computes_the_same() -> None:
    values, locations, weights = inputs_of(SMALL).leaves
    for levels in ([20], [13, 7], [20, 0]):
        where, share = (t.expand(-1, -1, -1, len(levels), -1) for t in (locations, weights))
        expected = temporal_deform_attn_reference(values, where, share, levels)
        torch.testing.assert_close(grid_sample_attn(values, where, share, levels), expected)


@pytest.mark.parametrize("reach", [None, 2.0])
def test_inputs_keep_away_from_knots_and_inside(reach) -> None:
    case = Case("x", batch=2, length=50, queries=25, reach=reach)
    position = inputs_of(case).locations.detach().double() * 50 - 0.5
    assert position.min() > 0
    assert position.max() < 49
    assert (position - position.round()).abs().min() > 0.09
    if reach is not None:  # queries 25 over rows 50: query q is at row 2q
        assert (position - 2 * torch.arange(25).view(-1, 1, 1, 1)).abs().max() < reach + 1


def test_bytes_of_the_floor() -> None:
    # 2*3*1*4 = 24 values, 2*5*1*4 = 40 results, 2*5*1*2 = 20 points
    forward, backward = Case("x", batch=2, length=3, queries=5, reach=None, heads=1, dim=4, points=2).bytes_moved(2)
    assert forward == 24 * 2 + 40 * 2 + 2 * 20 * 4
    assert backward == 2 * 24 * 2 + 40 * 2 + 4 * 20 * 4


def test_a_version_that_leaves_results_unwritten_is_caught() -> None:
    def forgetful(values, locations, weights, level_lengths):
        out = temporal_deform_attn(values, locations, weights, level_lengths)
        return torch.where(torch.arange(out.shape[1]).view(-1, 1, 1) > 0, out, torch.empty_like(out))

    with pytest.raises(RuntimeError, match="torch, small: relative error nan of forward, limit 2e-07"):
        measure_errors({"torch": forgetful}, SMALL, device=CPU, dtype=torch.float32)


def test_a_version_that_rounds_its_locations_is_caught() -> None:
    def rounded(values, locations, weights, level_lengths):
        return temporal_deform_attn(values, locations.bfloat16().float(), weights, level_lengths)

    with pytest.raises(RuntimeError, match=r"relative error .* of forward, limit 2e-07"):
        measure_errors({"torch": rounded}, SMALL, device=CPU, dtype=torch.float32)
    errors = measure_errors({"grid_sample": grid_sample_attn}, SMALL, device=CPU, dtype=torch.float32)
    assert errors["grid_sample"][0] < 1e-5  # baselines are reported, not refused


def test_ratios_compare_times_of_the_same_round() -> None:
    ours, theirs = Times((1.0, 10.0, 2.0)), Times((3.0, 20.0, 10.0))  # ratios 3, 2, 5
    assert ours.times_faster_than(theirs) == 3
    assert ours.median_s == 2


def test_turns_alternate_and_their_first_call_is_not_counted(monkeypatch) -> None:
    calls: list[str] = []
    now = [0.0]

    def version(name: str, seconds: float):
        def call() -> None:
            calls.append(name)
            now[0] += seconds

        return call

    monkeypatch.setattr(timing.time, "thread_time", lambda: now[0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    times = take_turns({"slow": version("s", 1.0), "quick": version("q", 0.008)}, rounds=2)
    assert "".join(calls) == 2 * ("ss" + "qqqq")  # 3 * 8 ms are the first to exceed 20 ms
    assert times["slow"].rounds == pytest.approx((1.0, 1.0))
    assert times["quick"].rounds == pytest.approx((0.008, 0.008))


def test_the_verb_prints_a_table_and_writes_json(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(ops, "CPU_CASES", (SMALL,))
    monkeypatch.setattr(ops, "memory_bandwidth", lambda device, rounds: 1e9)
    assert main(["bench", "ops", "--rounds", "2", "--json", str(tmp_path / "ops.json")]) == 0
    table = capsys.readouterr().out
    result = json.loads((tmp_path / "ops.json").read_text())
    versions = [row["version"] for row in result["rows"]]
    assert versions[:3] == ["grid_sample", "gather", "torch"]
    assert result["rows"][0]["both_ratio"]["grid_sample"] == 1
    floor_us = [moved / 1e9 * 1e6 for moved in SMALL.bytes_moved(4)]
    for row in result["rows"]:
        assert row["percent_of_floor_forward"] == pytest.approx(100 * floor_us[0] / row["forward_us"])
        backward_us = row["both_us"] - row["forward_us"]
        assert row["percent_of_floor_backward"] == pytest.approx(100 * floor_us[1] / backward_us)
        assert f"| small B2 T20 Q6 H2 D8 P3 | float32 | {row['version']} |" in table


@pytest.mark.parametrize("name", ["step", "train-step"])  # the second is its old name
def test_the_training_step_runs_every_way(capsys, monkeypatch, name) -> None:
    small = train_step.ModelSettings(dim=16, heads=2, encoder_layers=1, decoder_layers=1, queries=3, ffn_expansion=1)
    monkeypatch.setattr(train_step, "ModelSettings", lambda **form: small)
    monkeypatch.setattr(train_step, "PRODUCT", 64)
    assert main(["bench", name, "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    assert "plain PyTorch throughout takes" in printed
    assert "% of that; most memory of the whole benchmark: " in printed
    assert "times faster (median of 1 rounds in turns)" in printed
    assert "is about the most that any attention could reach here" in printed


def test_attending_to_nothing_reaches_every_input() -> None:
    """Otherwise the layers before it would be spared their gradients, and the bound would be too high."""
    inputs = ops.make_inputs(SMALL, device=CPU, dtype=torch.float32, seed=0)
    out = attend_to_nothing(*inputs.leaves, [SMALL.length])
    assert out.shape == inputs.grad_out.shape
    assert all(grad.any() for grad in torch.autograd.grad(out, inputs.leaves, inputs.grad_out))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["ops", "--rounds", "0"], "--rounds must be at least 1, got 0"),
        (["ops", "--device", "cuda:7"], "device 'cuda:7': this machine has no such usable CUDA device; use cpu"),
    ],
)
def test_bad_flags_are_one_line(arguments, text, capsys, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", *arguments]) == 2
    assert text in capsys.readouterr().err


def test_the_machine_is_described_by_what_matters_to_speed(monkeypatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    waiting = "OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=1000"
    assert timing.describe_machine(CPU).endswith(f", 2 threads {waiting}, PyTorch {torch.__version__}")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert timing.describe_machine(CPU).endswith(f", 1 thread, PyTorch {torch.__version__}")
