"""`psftr bench ap` through the front door: it checks both ways against each other before it times them."""

import json

from front_door import psftr


def test_bench_ap_prints_a_ratio_and_writes_json(tmp_path):
    done = psftr("bench", "ap", "--quick", "--rounds", "1", "--json", "ap.json", cwd=tmp_path)
    assert "times faster, equal to 1e-9" in done.stdout
    result = json.loads((tmp_path / "ap.json").read_text())
    assert result["ratio"] > 0
    assert result["videos"] == 400
