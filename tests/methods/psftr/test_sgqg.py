"""The decoder: references, the two residuals of equation 3, refinement."""

import torch
from parts import network_config

from psftr.methods.psftr.build import build_network

SMALL = {"feature_dim": 8, "text_dim": 8, "dim": 8, "heads": 2, "points": 2, "encoder_layers": 1}


def _decoder(*, queries=5, decoder_layers=3, **variant):
    torch.manual_seed(0)
    config = network_config(**SMALL, queries=queries, decoder_layers=decoder_layers, **variant)
    return build_network(config).eval().decoder


def test_references_start_spread_over_the_window():
    decoder = _decoder(queries=400)
    position, _ = decoder.queries.chunk(2, dim=-1)
    centre, width = decoder.reference(position).sigmoid().unbind(-1)
    counts = torch.histc(centre, bins=4, min=0, max=1)
    assert counts.min() > 50  # each quarter of the window has at least half its share of 400 queries
    assert 0.08 < width.median() < 0.18
    assert width.quantile(0.9) > 4 * width.quantile(0.1)


def test_segments_start_on_their_references():
    decoder = _decoder(refine=False)
    position, _ = decoder.queries.chunk(2, dim=-1)
    references_cw = decoder.reference(position).sigmoid()
    _, segments_cw = decoder(torch.randn(2, 6, 8), torch.randn(1, 3, 8), torch.zeros(2, 6).bool())
    assert segments_cw.shape == (3, 2, 5, 2)
    torch.testing.assert_close(segments_cw, references_cw.expand_as(segments_cw), atol=0.05, rtol=0)


def test_refinement_starts_a_layer_from_the_segments_of_the_one_before():
    visual, text, is_padding = torch.randn(2, 6, 8), torch.randn(1, 3, 8), torch.zeros(2, 6).bool()
    seen = {}
    for refine in (False, True):
        decoder = _decoder(refine=refine)
        given = []
        decoder.segment_head.register_forward_pre_hook(lambda _, inputs, given=given: given.append(inputs[1]))
        _, segments_cw = decoder(visual, text, is_padding)
        seen[refine] = given, segments_cw
    fixed, _ = seen[False]
    assert all(references is fixed[0] for references in fixed)
    refined, segments_cw = seen[True]
    torch.testing.assert_close(refined[2], segments_cw[1], atol=0, rtol=0)
    assert refined[0].requires_grad
    assert not refined[1].requires_grad


def test_residual_of_equation_3():
    """With attention and feed-forward silenced, Q~ is the twice normalised residual: of Q_bar, or of Q itself."""
    torch.manual_seed(0)
    attended, content, text = torch.randn(1, 5, 8), torch.randn(1, 5, 8), torch.randn(1, 3, 8)
    for residual, expected in (("attended", attended), ("literal", content)):
        infusion = _decoder(query_residual=residual).layers[0].infusion
        for silenced in (infusion.attention.output.weight, infusion.feed_forward.contract.weight):
            torch.nn.init.zeros_(silenced)
        expected = torch.nn.functional.layer_norm(expected, (8,))
        torch.testing.assert_close(infusion(attended, content, text), expected, atol=1e-4, rtol=0)


def test_queries_do_not_see_the_order_of_names():
    decoder = _decoder()
    visual, text, is_padding = torch.randn(2, 6, 8), torch.randn(2, 4, 8), torch.zeros(2, 6).bool()
    queries, segments_cw = decoder(visual, text, is_padding)
    same_queries, same_segments_cw = decoder(visual, text[:, [3, 1, 0, 2]], is_padding)
    torch.testing.assert_close(same_queries, queries, atol=1e-5, rtol=0)
    torch.testing.assert_close(same_segments_cw, segments_cw, atol=1e-5, rtol=0)


def test_a_layer_reads_the_same_frames_in_a_longer_window():
    """References are shares of the window: twice the rows, half the reference, the same frames."""
    layer = _decoder(refine=False).layers[0]
    content, position, text = torch.randn(1, 5, 8), torch.randn(5, 8), torch.randn(1, 3, 8)
    visual, references_cw = torch.randn(2, 6, 8), torch.rand(1, 5, 2)
    longer = torch.cat((visual, torch.full_like(visual, 7.0)), dim=1)
    is_padding = torch.arange(12)[None].expand(2, -1) >= 6
    short = layer(content, position, references_cw, visual, text, is_padding[:, :6])
    long = layer(content, position, references_cw / 2, longer, text, is_padding)
    torch.testing.assert_close(long, short, atol=1e-5, rtol=0)


def test_text_to_query_off_reads_no_text():
    decoder = _decoder(text_to_query=False)
    visual, is_padding = torch.randn(2, 6, 8), torch.zeros(2, 6).bool()
    queries, _ = decoder(visual, torch.randn(1, 4, 8), is_padding)
    other_queries, _ = decoder(visual, torch.randn(1, 9, 8), is_padding)
    torch.testing.assert_close(queries, other_queries, atol=0, rtol=0)
