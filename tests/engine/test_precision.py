"""`trainer.precision=auto` on a CPU."""

import pytest
import torch

from psftr.engine import precision, trainer
from psftr.settings import TrainerSettings


@pytest.fixture
def measured(monkeypatch):
    """Set what the processor says and what the measurement gives."""

    def set_to(capabilities, gain):
        precision._known.clear()
        monkeypatch.setattr(precision, "_capabilities", lambda: capabilities)
        monkeypatch.setattr(precision, "_gain", lambda clock: gain)
        monkeypatch.setattr(trainer.torch.cuda, "is_available", lambda: False)

    yield set_to
    precision._known.clear()


@pytest.mark.parametrize(
    ("capabilities", "gain", "expected"),
    [
        ({"avx512_bf16": True, "cpu_name": "x"}, 2.0, "bf16-mixed"),
        ({"amx_bf16": True}, 1.3, "bf16-mixed"),
        ({"avx512_bf16": True}, 1.2, "32-true"),
        ({"avx512_bf16": False, "avx2": True}, 2.0, "32-true"),
        ({}, 2.0, "32-true"),
    ],
)
def test_auto_takes_bf16_where_the_cpu_has_it_and_gains(measured, capabilities, gain, expected):
    measured(capabilities, gain)
    assert trainer.precision_of(TrainerSettings()) == expected


def test_what_is_asked_for_is_not_measured(measured):
    measured({"amx_bf16": True}, 2.0)
    assert trainer.precision_of(TrainerSettings(precision="32-true")) == "32-true"
    assert trainer.precision_of(TrainerSettings(devices=2, accelerator="cpu")) == "32-true"


@pytest.mark.parametrize(
    ("asked", "parameters", "device", "expected"),
    [
        ("auto", 5_000_000, "cpu", "bf16-mixed"),
        ("auto", 4_999_999, "cpu", "32-true"),  # a small network is not worth the measurement
        ("auto", 5_000_000, "cuda", "32-true"),  # not measured on GPUs
        ("bf16-mixed", 1, "cpu", "bf16-mixed"),
        ("32-true", 5_000_000, "cpu", "32-true"),
    ],
)
def test_a_large_network_finds_detections_in_bf16_where_the_cpu_gains(measured, asked, parameters, device, expected):
    measured({"avx512_bf16": True}, 2.0)
    network = torch.nn.Linear(parameters, 1, bias=False, device="meta")
    assert precision.inference_precision(asked, network, torch.device(device)) == expected


def test_the_measurement_takes_about_a_second_of_its_clock(monkeypatch):
    monkeypatch.setattr(precision, "_ROWS", 4)
    monkeypatch.setattr(precision, "_WIDTH", 4)
    now = iter(range(1000))
    # a clock that ticks a tenth of a second a reading: both precisions take one tick
    assert precision._gain(lambda: next(now) / 10) == pytest.approx(1.0)
    assert next(now) < 40
