"""`psftr bench protocol`: one command against several, and the arithmetic of its projection."""

import json
import os

import pytest
from front_door import TINY, psftr

from psftr.bench import protocol
from psftr.errors import PsftrError

LOG = """\
2026-11-21 10:00:00,000 psftr INFO synthetic
2026-11-21 10:00:03,500 psftr INFO epoch 1/3  loss 1.00  1.5 s  left 3 s
2026-11-21 10:00:04,500 psftr INFO epoch 2/3  loss 1.00  val mAP 31.0  1.0 s  left 1 s
2026-11-21 10:00:05,750 psftr INFO epoch 3/3  loss 1.00  1.2 s
2026-11-21 10:00:06,000 psftr INFO run folder  x
"""


def test_it_prints_a_table_and_writes_json(tmp_path, monkeypatch):
    run = protocol.run_benchmark
    monkeypatch.setattr(protocol, "run_benchmark", lambda **given: run(**given, overrides=TINY))
    done = psftr("bench", "protocol", "--splits", "2", "--epochs", "1", "--json", "ten.json", cwd=tmp_path)
    result = json.loads((tmp_path / "ten.json").read_text())
    assert result["plain_s"] == pytest.approx(2 * result["one_s"])
    assert result["ratio"] == pytest.approx(result["plain_s"] / result["sweep_s"])
    assert 0 < result["sweep_cpu_s"] < result["plain_cpu_s"]  # imports are paid for once
    assert f"| one command | {result['sweep_s']:.1f} | {result['sweep_cpu_s']:.1f} |" in done.stdout
    assert os.listdir(tmp_path) == ["ten.json"]


def test_a_command_that_fails_is_one_line(tmp_path):
    with pytest.raises(PsftrError, match=r"psftr trai x=1 failed: .*did you mean 'train'"):
        protocol.ran("trai", "x=1", cwd=tmp_path)


def test_times_come_from_the_log_of_a_run():
    start_s, epochs = protocol.times_of(LOG)
    assert start_s == pytest.approx(2.0)  # 3.5 s, of which 1.5 s were the first epoch
    assert epochs == pytest.approx([1.5, 1.0, 1.25])
    with pytest.raises(PsftrError, match="no two epochs"):
        protocol.times_of(LOG[:120])


def test_a_projection_shares_its_trainings_among_what_runs_at_a_time():
    found = protocol.projected([(10.0, [9.0, 2.0]), (10.0, [9.0, 2.0])], at_a_time=4)
    assert found == {"start_s": 10.0, "epoch_s": 2.0, "whole_s": 20 * (10 + 30 * 2) / 4}


def test_a_projection_needs_a_prepared_data_set(tmp_path):
    done = psftr("bench", "protocol", "--project", "nowhere", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "--project nowhere: no prepared data set there" in done.stderr
