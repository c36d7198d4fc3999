"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

# before any test imports torch: threads that wait without spinning, other work being likely beside tests
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

REPOSITORY = Path(__file__).resolve().parents[1]


# Beside the checkout, unless said otherwise; data/README.md lists what belongs there and who publishes it.
SHARED_DATA = Path(os.environ.get("PSFTR_TEST_DATA") or REPOSITORY.parent / "shared" / "data")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Published annotations, splits, features, videos and scored detections, which psftr may not ship."""
    if not SHARED_DATA.is_dir():
        pytest.skip(
            f"compares with published files, which psftr may not ship and which are not in {SHARED_DATA}: "
            "data/README.md says who publishes them (section 'Published files for the tests')"
        )
    return SHARED_DATA


@pytest.fixture(autouse=True)
def _same_random_numbers_every_time() -> None:
    """A test that fails fails again: torch's global stream starts anew for each."""
    import torch

    torch.manual_seed(0)
