"""PSFTR as a whole: vocabularies as input, padding, other samples, precision, refusals."""

import dataclasses

import pytest
import torch
from parts import network_config

from psftr.errors import PsftrError
from psftr.methods.psftr.build import build_network
from psftr.methods.psftr.network import Texts

CONFIG = network_config(feature_dim=12, text_dim=12, dim=16, heads=4, points=2, decoder_layers=3, queries=6)
CLASS_HEADS = ("cosine", "clip_adapter", "attention_pool", "similarity")


def _network(**changes):
    torch.manual_seed(0)
    if changes.get("class_head") == "similarity":
        changes |= {"spde": "none", "similarity_guidance": True}
    network = build_network(dataclasses.replace(CONFIG, **changes)).eval()
    with torch.no_grad():  # away from the special values of a fresh network
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


def _batch(*, valid=(20, 13, 1), length=20, width=12, names=5):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(len(valid), length, width, generator=generator)
    is_padding = torch.arange(length) >= torch.tensor(valid)[:, None]
    return features, is_padding, torch.randn(names, width, generator=generator)


def _tensors(outputs):
    """All outputs by name; class logits divided by the logit scale, as the cosines they are."""
    tensors = {"saliency_logits": outputs.saliency_logits}
    for index, layer in enumerate((*outputs.auxiliary, outputs.final)):
        tensors |= {f"{name}/{index}": value for name, value in vars(layer).items() if value is not None}
        tensors[f"class_logits/{index}"] = layer.class_logits / CONFIG.logit_scale
    return tensors


def _assert_same(left, right):
    left, right = _tensors(left), _tensors(right)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_outputs_of_every_layer():
    outputs = _network()(*_batch())
    assert len(outputs.auxiliary) == 2
    for layer in (*outputs.auxiliary, outputs.final):
        assert layer.class_logits.shape == (3, 6, 5)
        assert layer.segments_cw.shape == (3, 6, 2)
        assert layer.actionness_logits.shape == (3, 6)
        assert ((layer.segments_cw > 0) & (layer.segments_cw < 1)).all()
    assert outputs.saliency_logits.shape == (3, 20)
    assert _network(auxiliary=False)(*_batch()).auxiliary == ()


def test_auxiliary_outputs_change_nothing_else():
    with_auxiliary, without = _network()(*_batch()), _network(auxiliary=False)(*_batch())
    _assert_same(dataclasses.replace(with_auxiliary, auxiliary=()), without)


@pytest.mark.parametrize("class_head", CLASS_HEADS)
def test_the_final_outputs_alone_are_those_of_forward(class_head):
    network, batch = _network(class_head=class_head), _batch()
    expected, alone = network(*batch).final, network.forward_final(*batch)
    for name in ("class_logits", "segments_cw", "actionness_logits"):
        torch.testing.assert_close(getattr(alone, name), getattr(expected, name), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("class_head", CLASS_HEADS)
def test_reordering_names_permutes_class_logits_and_changes_nothing_else(class_head):
    network, (features, is_padding, text) = _network(class_head=class_head), _batch()
    order = torch.tensor([3, 0, 4, 1, 2])
    expected = network(features, is_padding, text)
    expected = dataclasses.replace(
        expected,
        final=dataclasses.replace(expected.final, class_logits=expected.final.class_logits[..., order]),
        auxiliary=tuple(
            dataclasses.replace(layer, class_logits=layer.class_logits[..., order]) for layer in expected.auxiliary
        ),
    )
    assert expected.final.class_logits.std(dim=-1).mean() > 1  # distinct logits: the permutation is seen
    _assert_same(network(features, is_padding, text[order]), expected)


def test_the_same_weights_serve_any_number_of_names():
    network, (features, is_padding, text) = _network(), _batch(names=40)
    for names in (1, 2, 40):
        assert network(features, is_padding, text[:names]).final.class_logits.shape == (3, 6, names)


@pytest.mark.parametrize("class_head", CLASS_HEADS)
def test_names_of_training_get_logits_beside_those_asked_for_and_change_nothing_else(class_head):
    network, (features, is_padding, text) = _network(class_head=class_head), _batch()
    asked, trained_on = text[:2], torch.cat((text[3:], 3 * text[1:2]))  # the last is one that is asked for
    alone = network(features, is_padding, asked)
    assert alone.final.seen_logits is None
    network.remember_seen(trained_on)
    outputs = network(features, is_padding, asked)
    for layer, before in zip((*outputs.auxiliary, outputs.final), (*alone.auxiliary, alone.final)):
        torch.testing.assert_close(layer.segments_cw, before.segments_cw)
        torch.testing.assert_close(layer.actionness_logits, before.actionness_logits)
        assert layer.class_logits.shape == (3, 6, 2)
        assert layer.seen_logits.shape == (3, 6, 3)
        assert layer.seen_logits[..., :2].isfinite().all()
        assert (layer.seen_logits[..., 2] == -torch.inf).all()  # no evidence against itself
        torch.testing.assert_close(layer.class_logits, before.class_logits, rtol=1e-5, atol=1e-4)
    given = network.read_final(features, is_padding, Texts(encoder=asked, queries=asked, classifier=text[3:]))
    if class_head == "similarity":  # of the others, SPDE has fused the queries with the names asked for
        network.remember_seen(text[3:])
        known = network(features, is_padding, asked).final.seen_logits
        torch.testing.assert_close(known, given.class_logits, rtol=1e-5, atol=1e-4)
    assert network.train()(features, is_padding, asked).final.seen_logits is None  # training has no use for them


@pytest.mark.parametrize("class_head", CLASS_HEADS)
def test_the_content_of_padding_is_ignored(class_head):
    network, (features, is_padding, text) = _network(class_head=class_head), _batch()
    expected = network(features, is_padding, text)
    for garbage in (1e4, float("nan")):
        _assert_same(network(features.masked_fill(is_padding[..., None], garbage), is_padding, text), expected)


@pytest.mark.parametrize("refine", [True, False])
def test_a_sample_does_not_depend_on_the_others(refine):
    network, (features, is_padding, text) = _network(refine=refine), _batch()
    together = network(features, is_padding, text)
    for sample in range(3):
        alone = network(features[sample : sample + 1], is_padding[sample : sample + 1], text)
        for name, tensor in _tensors(alone).items():
            torch.testing.assert_close(
                tensor[0], _tensors(together)[name][sample], atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_one_frame_among_padding_stays_finite():
    network, (features, is_padding, text) = _network().train(), _batch(valid=(1, 1))
    outputs = network(features, is_padding, text)
    tensors = _tensors(outputs).values()
    assert all(tensor.isfinite().all() for tensor in tensors)
    sum(tensor.square().mean() for tensor in tensors).backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize("class_head", CLASS_HEADS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_float32_outputs_near_the_full_precision_ones(class_head, dtype):
    network, batch = _network(class_head=class_head), _batch()
    expected = _tensors(network(*batch))
    with torch.autocast("cpu", dtype=dtype):
        outputs = _tensors(network(*batch))
    for name, tensor in outputs.items():
        assert tensor.dtype == torch.float32, name
    for name in ("saliency_logits", "segments_cw/2", "actionness_logits/2"):
        torch.testing.assert_close(outputs[name], expected[name], atol=0.08, rtol=0.05)
    torch.testing.assert_close(outputs["class_logits/2"], expected["class_logits/2"], atol=0.08, rtol=0.05)


def test_compiles_without_graph_breaks():
    network, batch = _network(), _batch()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    _assert_same(compiled(*batch), network(*batch))


def test_backbone_parameters_are_the_temporal_convolution():
    network = _network()
    assert [tuple(p.shape) for p in network.backbone_parameters()] == [(16, 12, 3), (16,)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.zeros(3, 20, 9)}, r"features must be \[B,T,12\] for this network, got \[3, 20, 9\]"),
        ({"is_padding": torch.zeros(3, 20)}, r"is_padding must be bool \[3, 20\] like the features, got torch.float32"),
        ({"is_padding": torch.zeros(3, 9).bool()}, r"is_padding must be bool \[3, 20\].*got torch.bool \[3, 9\]"),
        ({"text": torch.zeros(5, 9)}, r"text must be \[K,12\] with at least one name for this network, got \[5, 9\]"),
        ({"text": torch.zeros(0, 12)}, r"with at least one name for this network, got \[0, 12\]"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change, message):
    batch = dict(zip(("features", "is_padding", "text"), _batch(), strict=True)) | change
    with pytest.raises(PsftrError, match=message):
        _network()(**batch)


@pytest.mark.parametrize("class_head", ["cosine", "similarity"])
def test_the_encoder_can_be_given_text_of_its_own(class_head):
    """The segments follow the encoder's text, whatever the classifier reads; the classes follow the classifier's."""
    network, (features, is_padding, text) = _network(class_head=class_head), _batch()
    nothing = torch.zeros_like(text)

    def read(encoder, classifier):
        return network.read(features, is_padding, Texts(encoder=encoder, queries=encoder, classifier=classifier))

    own, silent = network(features, is_padding, text), read(nothing, text)
    assert (own.final.segments_cw - silent.final.segments_cw).abs().max() > 1e-4
    other = read(nothing, text.flip(0))
    torch.testing.assert_close(other.final.segments_cw, silent.final.segments_cw)
    torch.testing.assert_close(other.final.class_logits, silent.final.class_logits.flip(-1), atol=1e-3, rtol=1e-4)
    _assert_same(read(text, text), own)
