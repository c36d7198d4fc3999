"""docs/library.md: its blocks run one after the other, as a reader would run them."""

import re
from pathlib import Path

from clips import numbered_clip
from parts import save_tiny
from tiny_model import TINY_CLIP, tiny_identity

import psftr

PAGE = Path(__file__).resolve().parents[1] / "docs" / "library.md"


def test_every_block_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    features = {"identity": f"{tiny_identity()} dim=16 stride=4 videos=1 0"}
    save_tiny(tmp_path / "model", tiny_identity(), config={"window": {"size": 16}}, features=features)
    numbered_clip(tmp_path / "clip.mp4", count=50)
    load = psftr.load
    # the tiny encoder is no published one: its place is the one thing that the page does not say
    monkeypatch.setattr(
        psftr, "load", lambda path: load(path, device="cpu", model=TINY_CLIP, pretrained="random"), raising=False
    )
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 4
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert set(names["frame"].columns) == {"video", "label", "start_s", "end_s", "score"}
    written = {path.name for path in tmp_path.iterdir()}
    assert {"predictions.json", "predictions.csv", "clip.srt", "clip.png", "report.html", "network.pt2"} <= written
    assert re.search("^(high jump|pole vault) ", capsys.readouterr().out, flags=re.MULTILINE)
