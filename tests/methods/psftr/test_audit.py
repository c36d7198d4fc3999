"""What the audit shares between its rows changes none of them."""

import pytest
import torch
from parts import network_config
from torch import nn

from psftr.methods.psftr.audit import remembering
from psftr.methods.psftr.build import build_network
from psftr.methods.psftr.network import Texts


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, value, more=()):
        self.calls += 1
        return value + 1


def test_equal_arguments_are_computed_once_and_others_anew():
    module = Counts()
    with remembering(module):
        for value in (1.0, 1.0, 2.0, 1.0):
            assert module(torch.tensor([value]), (torch.ones(2), 3)).item() == value + 1
        assert module.calls == 2
        module(torch.tensor([1.0]), (torch.ones(3), 3))
        module(torch.tensor([1], dtype=torch.int64), (torch.ones(2), 3))
        assert module.calls == 4
    module(torch.tensor([1.0]))
    module(torch.tensor([1.0]))
    assert module.calls == 6  # afterwards the module is what it was


@pytest.mark.parametrize("curves", [False, True], ids=["paper", "similarity"])
def test_a_network_that_remembers_gives_what_it_gives_otherwise(curves):
    torch.manual_seed(0)
    ours = {"similarity_guidance": True, "spde": "none", "class_head": "similarity"} if curves else {}
    network = build_network(network_config(feature_dim=8, text_dim=8, dim=16, heads=4, queries=6, **ours)).eval()
    features, is_padding = torch.randn(2, 16, 8), torch.zeros(2, 16, dtype=torch.bool)
    own, other = torch.randn(3, 8), torch.zeros(3, 8)
    combinations = [
        Texts(encoder=a, queries=b, classifier=c) for a in (own, other) for b in (own, other) for c in (own, other)
    ]
    with torch.inference_mode():
        plain = [network.read_final(features, is_padding, texts) for texts in combinations]
        with remembering(network.convolution, network.encoder, network.decoder):
            shared = [network.read_final(features, is_padding, texts) for texts in combinations]
    for one, two in zip(plain, shared):
        for name in ("class_logits", "segments_cw", "actionness_logits"):
            assert torch.equal(getattr(one, name), getattr(two, name)), name
