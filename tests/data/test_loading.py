"""How the processes of one training share batches."""

import pytest

from psftr.data.loading import SharedBatches
from psftr.errors import PsftrError


def parts(count: int, *, batch_size: int, num_ranks: int) -> list[list[list[int]]]:
    """[rank][batch] -> windows, of windows 0 to count - 1 in order."""
    found = [
        SharedBatches(range(count), batch_size=batch_size, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)
    ]
    assert [len(one) for one in found] == [len(list(one)) for one in found]
    return [list(one) for one in found]


def test_together_they_are_the_batches_of_one():
    assert parts(7, batch_size=4, num_ranks=1) == [[[0, 1, 2, 3], [4, 5, 6]]]
    assert parts(7, batch_size=4, num_ranks=2) == [[[0, 2], [4, 6]], [[1, 3], [5]]]


def test_a_rest_too_small_for_all_joins_the_last_batch():
    assert parts(9, batch_size=4, num_ranks=2) == [[[0, 2], [4, 6, 8]], [[1, 3], [5, 7]]]
    assert parts(3, batch_size=4, num_ranks=3) == [[[0]], [[1]], [[2]]]


@pytest.mark.parametrize("count", range(3, 40))
def test_every_window_comes_once_and_every_process_has_as_many_batches(count):
    shared = parts(count, batch_size=5, num_ranks=3)
    assert sorted(window for rank in shared for batch in rank for window in batch) == list(range(count))
    assert len({len(rank) for rank in shared}) == 1
    assert all(batch for rank in shared for batch in rank)


def test_more_processes_than_windows_are_refused():
    with pytest.raises(PsftrError, match="2 windows for 3 devices"):
        parts(2, batch_size=4, num_ranks=3)
    with pytest.raises(PsftrError, match=r"data\.batch_size=2 for 3 devices"):
        parts(9, batch_size=2, num_ranks=3)
