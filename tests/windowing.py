"""The paper's windows for tests, with what a test changes."""

from psftr.data.windows import WindowPolicy

SLIDING = {
    "mode": "slide", "size": 128, "train_overlap": 0.75, "test_overlap": 0.25, "min_inside": 0.75, "min_action_s": 0.0,
}  # fmt: skip


def policy(**changes) -> WindowPolicy:
    return WindowPolicy(**{**SLIDING, **changes})
