"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

# before any test imports torch: threads that wait without spinning, other work being likely beside tests
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real annotations, splits, features, videos and oracles; they live beside the checkout and are never committed."""
    root = REPOSITORY.parent / "shared" / "data"
    if not root.is_dir():
        pytest.skip(f"real data not found beside the checkout ({root.name}/): this test needs it")
    return root


@pytest.fixture(autouse=True)
def _same_random_numbers_every_time() -> None:
    """A test that fails fails again: torch's global stream starts anew for each."""
    import torch

    torch.manual_seed(0)
