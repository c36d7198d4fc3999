"""tools/teach_language_model.py: what it refuses, before anything is taught."""

import importlib.util
import sys
from pathlib import Path

TOOL = Path(__file__).parents[1] / "tools" / "teach_language_model.py"


def test_a_folder_that_holds_no_world_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("teach_language_model", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setattr(sys, "argv", ["teach_language_model.py", str(tmp_path), str(tmp_path / "taught")])
    assert tool.main() == 2
    told = capsys.readouterr().err
    assert told == f"{tmp_path} holds no synthetic world: make one with `psftr prepare synthetic`\n"
    assert not (tmp_path / "taught").exists()
