"""Lines of progress by hand: within a video, what is left is told from the share of bytes and questions done."""

from types import SimpleNamespace

import pytest

from psftr.language_models import Counts, Usage
from psftr.methods.cascade import run
from psftr.methods.cascade.run import Progress, duration


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(run.time, "monotonic", lambda: now[0])
    return now


def test_within_a_video_it_tells_questions_tokens_money_and_the_time_left(clock, caplog):
    caplog.set_level("INFO", logger="psftr")
    session = SimpleNamespace(counts=Counts(), model=SimpleNamespace(usage=Usage(price_in=2.0)))
    progress = Progress([session], {"long": 300, "short": 100})
    tick = progress.of("long", 100)
    tick(1)
    assert not caplog.messages  # nothing within 15 s
    progress.share["long"] = 0.0
    session.counts.asked["yes/no"] = 600
    session.model.usage.add(1_000_000, 500_000)
    clock[0] += 30
    tick(400)  # of 100 frames with four stages: half of what may come, 3/8 of all bytes, so 5/8 take 50 s
    assert caplog.messages == ["0 of 2 videos, 600 questions (20 a second), 1.50 M tokens, $2.00, 50 s left"]
    clock[0] += 20
    progress.done("long")  # 3/4 in 50 s
    clock[0] += 10
    progress.done("short")
    assert caplog.messages[1:] == [
        "1 of 2 videos, 600 questions (12 a second), 1.50 M tokens, $2.00, 17 s left",
        "2 of 2 videos, 600 questions (10 a second), 1.50 M tokens, $2.00, in 1 min 0 s",
    ]


def test_durations_in_words():
    assert [duration(s) for s in (45.4, 200, 3780)] == ["45 s", "3 min 20 s", "1 h 3 min"]
