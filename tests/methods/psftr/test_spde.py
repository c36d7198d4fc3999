"""Equations 5 and 6 by hand, and the rows of Table 3."""

import math

import torch

from psftr.methods.psftr.spde import (
    SPDE,
    ConcatMlpFusion,
    LinearResidualFusion,
    NoEnhancement,
    ResidualFusion,
    SemanticPrototype,
)

TEXT = torch.tensor([[5.0, 0.0], [0.0, 2.0]])  # two names along the axes
FEATURES = torch.tensor([[[3.0, 0.0], [0.0, 4.0]]])  # two frames along the axes


def test_prototype_of_two_frames_and_two_names():
    """Cosines are 1 or 0: with scale ln 3 a name's weights are 3/4 and 1/4, and the two names mirror each other."""
    prototype = SemanticPrototype(scale=math.log(3))(FEATURES, TEXT, torch.zeros(1, 2).bool())
    torch.testing.assert_close(prototype, torch.tensor([[[1.5, 2.0]]]))
    only_first = SemanticPrototype(scale=math.log(3))(FEATURES, TEXT[:1], torch.zeros(1, 2).bool())
    torch.testing.assert_close(only_first, torch.tensor([[[2.25, 1.0]]]))


def test_prototype_does_not_read_padding():
    prototype = SemanticPrototype(scale=100.0)(FEATURES, TEXT, torch.tensor([[False, True]]))
    torch.testing.assert_close(prototype, torch.tensor([[[3.0, 0.0]]]))


def test_prototype_is_the_mean_of_the_prototypes_of_equation_5():
    torch.manual_seed(0)
    features, text = torch.randn(3, 7, 4), torch.randn(5, 4)
    cosine = torch.cosine_similarity(text[None, :, None], features[:, None], dim=-1)  # [B,K,T]
    per_name = (10 * cosine).softmax(-1) @ features  # V^ [B,K,D]
    prototype = SemanticPrototype(scale=10.0)(features, text, torch.zeros(3, 7).bool())
    torch.testing.assert_close(prototype, per_name.mean(dim=1, keepdim=True))


def test_weights_do_not_depend_on_feature_scale():
    prototype, is_padding = SemanticPrototype(scale=2.0), torch.zeros(1, 2).bool()
    torch.testing.assert_close(
        prototype(10 * FEATURES, 3 * TEXT, is_padding), 10 * prototype(FEATURES, TEXT, is_padding)
    )


def test_rows_of_table_3():
    queries = torch.randn(3, 1, 4, 2)  # N=3 layers, B=1, Q=4
    prototype = torch.tensor([[[1.5, 2.0]]])
    inputs = (FEATURES, TEXT, torch.zeros(1, 2).bool())
    assert NoEnhancement()(queries, *inputs) is queries

    residual = SPDE(prototype=SemanticPrototype(scale=math.log(3)), fusion=ResidualFusion(feature_dim=2, dim=2))
    torch.testing.assert_close(residual(queries, *inputs), queries + prototype)
    assert not list(residual.parameters())

    linear = LinearResidualFusion(feature_dim=2, dim=2)
    with torch.no_grad():
        linear.linear.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, -1.0]]))
        linear.linear.bias.copy_(torch.tensor([0.0, 10.0]))
    torch.testing.assert_close(linear(queries, prototype), queries + torch.tensor([3.0, 8.0]))

    concat = ConcatMlpFusion(feature_dim=2, dim=2)
    rows = torch.cat((queries.view(12, 2), prototype.view(1, 2).expand(12, 2)), dim=1)
    torch.testing.assert_close(concat(queries, prototype), concat.mlp(rows).view(3, 1, 4, 2))


def test_residual_between_widths_keeps_lengths_and_learns_nothing():
    fusion = ResidualFusion(feature_dim=3, dim=6)
    prototype = torch.tensor([[[1.0, 2.0, 2.0]]])
    added = fusion(torch.zeros(1, 1, 1, 6), prototype)
    torch.testing.assert_close(added.norm(), torch.tensor(3.0))
    assert not list(fusion.parameters())
    assert "projection" in fusion.state_dict()
