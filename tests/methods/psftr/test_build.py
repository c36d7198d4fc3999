"""From plain values to networks: every variant trains all it has, every mistake is one line."""

import dataclasses
import json

import pytest
import torch
from parts import PAPER, network_config

from psftr.errors import PsftrError
from psftr.methods.psftr import attention, heads, sgqg, spde, ssae
from psftr.methods.psftr.build import NetworkConfig, build_network
from psftr.methods.psftr.settings import ModelSettings, PsftrSettings
from psftr.settings import from_dict, to_dict

VARIANTS = {
    field.name: field.metadata["choices"] for field in dataclasses.fields(ModelSettings) if field.metadata["choices"]
}
SMALL = {
    "feature_dim": 12,
    "text_dim": 12,
    "dim": 16,
    "heads": 4,
    "points": 2,
    "decoder_layers": 3,
    "queries": 6,
} | PAPER

TABLE_2 = [  # text_to_vision, vision_to_text, text_to_query of rows 1 to 7
    (False, False, False),
    (True, False, False),
    (True, True, False),
    (False, False, True),
    (True, False, True),
    (False, True, True),
    (True, True, True),
]
VARIANT_VALUES = [
    {},
    *(dict(zip(("text_to_vision", "vision_to_text", "text_to_query"), row)) for row in TABLE_2[:-1]),
    *({name: value} for name, values in VARIANTS.items() for value in values if value != "similarity"),
    GUIDED := dict.fromkeys(("text_to_vision", "vision_to_text", "text_to_query"), False)
    | {"spde": "none", "class_head": "similarity", "similarity_guidance": True},
    {"similarity_guidance": True},
    {"class_head": "similarity", "spde": "none"},
    {"refine": False},
    {"auxiliary": False},
    {"refine": False, "auxiliary": False},
    {"feature_dim": 24, "text_dim": 24, "spde": "residual"},
    {"feature_dim": 24, "text_dim": 24, "class_head": "clip_adapter"},
    {"feature_dim": 20, "text_dim": 24, "spde": "none"},
    {"encoder_layers": 1, "decoder_layers": 1, "heads": 1, "queries": 2, "class_head": "attention_pool", "roi_bins": 2},
]


@pytest.mark.parametrize("variant", VARIANT_VALUES, ids=str)
def test_gradients_reach_every_parameter(variant):
    torch.manual_seed(0)
    config = NetworkConfig(**SMALL | variant)
    network = build_network(config)
    features, text = torch.randn(4, 20, config.feature_dim), torch.randn(5, config.text_dim)
    outputs = network(features, torch.arange(20) >= torch.tensor([[20], [18], [12], [9]]), text)
    loss = outputs.saliency_logits.square().mean()
    for layer in (outputs.final, *outputs.auxiliary):
        loss = loss + layer.class_logits.log_softmax(-1)[..., 0].mean() + layer.actionness_logits.square().mean()
        loss = loss + (layer.segments_cw - torch.tensor([0.3, 0.5])).square().sum()
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        # above what rounding leaves of a gradient that is zero, such as that of a bias on attention keys
        assert parameter.grad.abs().max() > 1e-6, f"{name} has a gradient of {parameter.grad.abs().max():.1e}"


def test_the_paper_is_the_default():
    config = network_config()
    assert (config.dim, config.heads, config.encoder_layers, config.decoder_layers, config.queries) == (
        512,
        8,
        2,
        5,
        40,
    )
    assert (config.spde, config.class_head) == ("mlp_residual", "cosine")
    assert config.text_to_vision
    assert config.vision_to_text
    assert config.text_to_query


@pytest.mark.parametrize(
    ("variant", "part", "kind"),
    [
        ({"text_to_vision": True}, "encoder.layers.1.text_to_vision", ssae.CrossModalFusion),
        ({"text_to_vision": False}, "encoder.layers.1.text_to_vision", ssae.Unfused),
        ({"vision_to_text": True}, "encoder.layers.1.vision_to_text", ssae.CrossModalFusion),
        ({"vision_to_text": False}, "encoder.layers.1.vision_to_text", ssae.Unfused),
        ({"text_to_query": True}, "decoder.layers.0.infusion", sgqg.SemanticPromptInfusion),
        ({"text_to_query": False}, "decoder.layers.0.infusion", sgqg.NoPromptInfusion),
        ({"query_residual": "literal"}, "decoder.layers.0.infusion", sgqg.LiteralSemanticPromptInfusion),
        ({"refine": True}, "decoder", sgqg.RefiningSGQG),
        ({"refine": True}, "decoder.layers.0.anchoring.attention", attention.SegmentDeformableAttention),
        ({"refine": False}, "decoder", sgqg.SGQG),
        ({"refine": False}, "decoder.layers.0.anchoring.attention", attention.TemporalDeformableAttention),
        ({"spde": "none"}, "spde", spde.NoEnhancement),
        ({"spde": "residual"}, "spde.fusion", spde.ResidualFusion),
        ({"spde": "concat_mlp"}, "spde.fusion", spde.ConcatMlpFusion),
        ({"spde": "mlp_residual"}, "spde.fusion", spde.LinearResidualFusion),
        ({"class_head": "cosine"}, "class_head", heads.CosineClassifier),
        ({"class_head": "clip_adapter"}, "class_head", heads.AdapterClassifier),
        ({"class_head": "attention_pool"}, "class_head", heads.AttentionPoolClassifier),
    ],
    ids=str,
)
def test_a_variant_is_another_module(variant, part, kind):
    assert type(build_network(NetworkConfig(**SMALL | variant)).get_submodule(part)) is kind


def test_sizes_arrive():
    network = build_network(
        NetworkConfig(
            **SMALL | {"encoder_layers": 4, "ffn_expansion": 3, "roi_bins": 5, "class_head": "attention_pool"}
        )
    )
    assert (len(network.encoder.layers), len(network.decoder.layers)) == (4, 3)
    assert network.decoder.queries.shape == (6, 32)
    assert network.encoder.layers[0].visual_synergy.attention.offsets.out_features == 4 * 2
    assert network.decoder.layers[0].anchoring.feed_forward.expand.out_features == 48
    assert network.class_head.attention.out_features == 5


@pytest.mark.parametrize("variant", VARIANT_VALUES, ids=str)
def test_config_round_trips_through_json(variant):
    config = NetworkConfig(**SMALL | variant)
    assert NetworkConfig(**json.loads(json.dumps(to_dict(config)))) == config


def test_weights_round_trip_through_the_config():
    torch.manual_seed(0)
    config = NetworkConfig(**SMALL | {"dim": 8, "spde": "residual", "dropout": 0.0})
    network = build_network(config)
    again = build_network(NetworkConfig(**to_dict(config)))
    again.load_state_dict(network.state_dict())
    inputs = torch.randn(2, 20, 12), torch.zeros(2, 20).bool(), torch.randn(3, 12)
    torch.testing.assert_close(again(*inputs).final.class_logits, network(*inputs).final.class_logits)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"decoder_layer": 5}, "no setting 'model.decoder_layer', did you mean 'decoder_layers'?"),
        ({"querys": 5}, "did you mean 'queries'?"),
        ({"spde": "mlp"}, r"spde=mlp is unknown.* choose none, residual"),
        ({"class_head": "cosin"}, "class_head=cosin is unknown, did you mean 'cosine'?"),
        ({"query_residual": "Literal"}, "query_residual=Literal is unknown, did you mean 'literal'?"),
        ({"dim": 100, "heads": 8}, "dim 100 is not a multiple of heads 8"),
        ({"dim": 7, "heads": 7}, "dim must be even for the sine position encoding, got 7"),
        ({"decoder_layers": 0}, "decoder_layers must be at least 1, got 0"),
        ({"points": 1}, "points must be at least 2, got 1"),
        ({"queries": 2.5}, "queries must be a whole number, got 2.5"),
        ({"heads": True}, "heads must be a whole number, got True"),
        ({"refine": 1}, "refine must be true or false, got 1"),
        ({"dropout": 1.0}, r"dropout must be below 1, got 1.0"),
        ({"adapter_ratio": 0.0}, r"adapter_ratio must be above 0, got 0.0"),
        ({"logit_scale": 0.5}, r"logit_scale must be at least 1, got 0.5"),
        (
            {"vision_to_text": True, "text_to_vision": False, "text_to_query": False},
            "vision_to_text alone changes only text that nothing reads",
        ),
    ],
)
def test_mistakes_are_one_line(values, message):
    with pytest.raises(PsftrError, match=message) as caught:
        from_dict(PsftrSettings, {"model": values})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "spde=mlp_residual compares frames with names .* feature_dim is 512 and text_dim 768"),
        ({"class_head": "clip_adapter"}, "spde=mlp_residual and class_head=clip_adapter compares frames with names"),
        ({"feature_dim": 0}, "feature_dim must be a whole number of at least 1, got 0"),
    ],
)
def test_widths_must_fit(values, message):
    with pytest.raises(PsftrError, match=message):
        network_config(text_dim=768, **values)


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        network_config().dim = 3  # type: ignore[misc]
