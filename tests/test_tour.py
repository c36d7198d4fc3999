"""docs/tour.ipynb: its cells run one after the other, as in a notebook, and give the tables and files they promise."""

import ast
import json

import pandas as pd
from conftest import REPOSITORY

NOTEBOOK = REPOSITORY / "docs" / "tour.ipynb"
QUICKER = {"trainer.max_epochs=4": "trainer.max_epochs=1", "model.dim=64": "model.dim=32"}


def test_every_cell_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert not [cell for cell in notebook["cells"] if cell.get("outputs")]  # none to go stale
    names: dict = {}
    shown = []
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        source = "".join(cell["source"])
        for slow, quick in QUICKER.items():
            source = source.replace(slow, quick)
        tree = ast.parse(source)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, cell["id"], "exec"), names)
        if last is not None:
            shown.append(eval(compile(ast.Expression(last.value), cell["id"], "eval"), names))
    trained, evaluated, scores, result, detections, truth, free, _ = shown
    assert (trained, evaluated) == (0, 0)
    assert "[SYNTHETIC]" in capsys.readouterr().out
    assert all(isinstance(table, pd.DataFrame) and len(table) for table in (scores, detections, truth, free))
    assert "SYNTHETIC" in result._repr_html_()
    assert not set(names["unseen"]) & set(names["model"].facts["train_classes"])
    assert names["elsewhere"].name not in names["names"].names
    assert set(free["label"]) == set(names["free"])
    written = {path.name for path in (tmp_path / "outputs" / "tour").iterdir()}
    assert {"timeline.png", "video.srt", "report.html"} <= written
