"""One small synthetic world and one tiny sweep, made through the front door and shared by the tests here."""

from pathlib import Path

import pytest
from front_door import TINY, psftr


@pytest.fixture(scope="session")
def workplace(tmp_path_factory) -> Path:
    """A folder with data/synthetic in it."""
    from psftr.data.synthetic import ensure_world

    folder = tmp_path_factory.mktemp("workplace")
    ensure_world(folder / "data" / "synthetic")
    return folder


@pytest.fixture(scope="session")
def sweep(workplace) -> Path:
    """A multirun of splits 0 and 1."""
    psftr("train", "-m", *TINY, "split.index=0,1", "hydra.sweep.dir=sweep", cwd=workplace)
    return workplace / "sweep"
