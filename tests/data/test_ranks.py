"""Means over the batches of an epoch; over several processes they are tested in tests/cli/test_devices.py."""

import torch

from psftr.data.ranks import Means


def test_a_batch_counts_as_its_windows_and_taking_begins_anew():
    means = Means()
    means.add({"total": torch.tensor(1.0), "class": torch.tensor(4.0)}, 8)
    means.add({"total": torch.tensor(4.0), "class": torch.tensor(1.0)}, 4)
    assert {name: value.item() for name, value in means.take().items()} == {"total": 2.0, "class": 3.0}
    assert means.take() == {}
    means.add({"total": torch.tensor(5.0)}, 1)
    assert {name: value.item() for name, value in means.take().items()} == {"total": 5.0}


def test_a_name_that_some_batches_lack_is_averaged_over_the_others():
    means = Means()
    means.add({"total": torch.tensor(1.0), "text": torch.tensor(7.0)}, 1)
    means.add({"total": torch.tensor(2.0, dtype=torch.bfloat16)}, 3)
    assert {name: value.item() for name, value in means.take().items()} == {"total": 1.75, "text": 7.0}


def test_nothing_of_a_graph_is_kept():
    means = Means()
    weight = torch.tensor(2.0, requires_grad=True)
    means.add({"total": weight * 3}, 1)
    assert not means.take()["total"].requires_grad
