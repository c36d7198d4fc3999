"""The open_clip wrapper: equal to open_clip itself, honest about its weights, clear when it has none."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from extraction import clip
from open_clip import pretrained as open_clip_pretrained
from open_clip.transformer import QuickGELU
from PIL import Image
from safetensors.torch import save_file

from psftr.errors import PsftrError
from psftr.features import clip as clip_module
from psftr.features.clip import PRESETS, ClipEncoder
from psftr.features.text import TextEncoder, embed_names

TINY = str(Path(__file__).resolve().parents[1] / "tiny_clip.json")


def smooth_frames(count: int, height: int, width: int) -> np.ndarray:
    """Moving colour gradients with some noise: `[count, height, width, 3]` uint8."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    frames = [
        np.stack([128 + 100 * np.sin(x / 17 + t), 128 + 100 * np.cos(y / 11 - t), 2 * t + (x + y) % 200], -1)
        for t in range(count)
    ]
    return np.clip(np.stack(frames) + generator.normal(0, 8, (count, height, width, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def vit_b_32() -> ClipEncoder:
    return clip("ViT-B/32", "random", seed=3)


@pytest.fixture(scope="module")
def reference():
    """The same untrained ViT-B/32 from open_clip alone: model and inference transform."""
    torch.manual_seed(3)
    model, _, transform = open_clip.create_model_and_transforms("ViT-B-32")
    return model.eval(), transform


def test_table_7_presets_are_models_open_clip_has():
    for preset, dim in PRESETS.items():
        assert open_clip.get_model_config(preset.replace("/", "-"))["embed_dim"] == dim


def test_features_equal_open_clip_to_1e_5(vit_b_32, reference):
    frames = smooth_frames(3, 90, 160)
    model, transform = reference
    with torch.no_grad():
        expected = model.encode_image(torch.stack([transform(Image.fromarray(f)) for f in frames]))
    shrunk = torch.from_numpy(np.stack([vit_b_32.preprocessing.shrink(f) for f in frames]))
    features = vit_b_32.encode_frames(shrunk)
    assert features.shape == (3, vit_b_32.dim) == (3, 512)
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)
    assert features.norm(dim=-1).min() > 2  # raw features: nobody normalised them
    slow = vit_b_32.encode_image(torch.stack([vit_b_32.preprocess(Image.fromarray(f)) for f in frames]))
    torch.testing.assert_close(features, slow, rtol=0, atol=1e-5)


def test_text_features_equal_open_clip(vit_b_32, reference, monkeypatch):
    prompts = ["a video of a person doing high jump", "clean and jerk", "diving"]
    with torch.no_grad():
        expected = reference[0].encode_text(open_clip.get_tokenizer("ViT-B-32")(prompts))
    torch.testing.assert_close(vit_b_32.encode(prompts), expected, rtol=0, atol=1e-5)
    monkeypatch.setattr(clip_module, "PROMPTS_PER_CALL", 2)
    torch.testing.assert_close(vit_b_32.encode(prompts), expected, rtol=0, atol=1e-5)
    assert vit_b_32.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)


@pytest.mark.parametrize(("height", "width"), [(240, 320), (350, 622), (640, 360), (31, 200), (224, 224), (17, 13)])
@pytest.mark.parametrize("model", ["tiny", "ViT-B-32", "squash"])
def test_fast_preprocessing_equals_its_slow_twin(height, width, model):
    from psftr.features.clip import _transforms

    size, mode = {"tiny": (32, "shortest"), "ViT-B-32": (224, "shortest"), "squash": (224, "squash")}[model]
    visual = type("Visual", (), {"preprocess_cfg": {"size": (size, size), "resize_mode": mode}})
    slow, fast = _transforms(type("Network", (), {"visual": visual}))
    frames = smooth_frames(2, height, width)
    batch = fast.normalise(torch.from_numpy(np.stack([fast.shrink(frame) for frame in frames])))
    expected = torch.stack([slow(Image.fromarray(frame)) for frame in frames])
    assert batch.shape == (2, 3, size, size)
    torch.testing.assert_close(batch, expected, rtol=0, atol=1e-5)


def test_identity_of_untrained_weights_says_so_and_the_seed_decides_them():
    one, same, other = (clip(TINY, "random", seed=seed) for seed in (1, 1, 2))
    assert one.identity.startswith("open_clip:tiny_clip@")
    assert one.identity.endswith(":random-seed1")
    image = torch.zeros(1, 3, 32, 32)
    assert torch.equal(one.encode_image(image), same.encode_image(image))
    assert not torch.allclose(one.encode_image(image), other.encode_image(image))
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    clip(TINY, "random", seed=9)
    assert torch.equal(torch.rand(1), before), "building untrained weights must not move the global generator"


def test_it_is_a_text_encoder(tmp_path):
    encoder: TextEncoder = clip(TINY, "random")
    text = embed_names(["CleanAndJerk", "Diving"], encoder=encoder, template="prompt3", cache_dir=tmp_path)
    assert text.encoder == encoder.identity
    expected = encoder.encode(["a video of a person doing clean and jerk"])[0]
    torch.testing.assert_close(text.embeddings[0], expected)


def test_features_may_enter_a_training_step():
    encoder = clip(TINY, "random")
    weight = torch.ones(16, requires_grad=True)
    for features in (encoder.encode(["diving"]), encoder.encode_image(torch.zeros(1, 3, 32, 32))):
        (features * weight).sum().backward()
    assert weight.grad is not None


def test_a_prompt_beyond_the_context_is_cut_with_a_warning(caplog):
    encoder = clip(TINY, "random")
    encoder.encode(["a short one", "jump " * 75])  # 75 tokens, start and end: 77
    assert "are cut" not in caplog.text
    features = encoder.encode(["jump " * 75, "jump " * 200])
    assert "1 prompts are cut to 77 tokens, the first: jump jump" in caplog.text
    assert torch.equal(features[0], features[1])


def test_bf16_is_close_and_returns_float32():
    full, half = clip(TINY, "random"), clip(TINY, "random", precision="bf16")
    images = torch.randn(4, 3, 32, 32)
    features = half.encode_image(images)
    assert features.dtype == torch.float32
    cosine = torch.nn.functional.cosine_similarity(features, full.encode_image(images))
    assert cosine.min() > 0.999
    assert not torch.equal(features, full.encode_image(images))
    assert half.identity == full.identity  # the same space


def test_pre_projection_is_what_the_projection_is_applied_to():
    post, pre = clip(TINY, "random"), clip(TINY, "random", projection="pre")
    assert (post.dim, pre.dim) == (16, 32)
    assert pre.identity == post.identity + ":pre-projection"
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(pre.encode_image(images) @ post._network.visual.proj, post.encode_image(images))
    with pytest.raises(PsftrError, match="pre-projection has no text features"):
        pre.encode(["a"])


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_local_weights_file(tmp_path, suffix):
    state = clip(TINY, "random", seed=7)._network.state_dict()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    loaded = clip(TINY, str(path))
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.encode_image(images), clip(TINY, "random", seed=7).encode_image(images))
    from hashlib import sha256

    assert loaded.identity.endswith(f":sha256-{sha256(path.read_bytes()).hexdigest()[:12]}")


class Spy:
    """Unpickling this runs code; a weights file must not."""

    ran = False

    def __reduce__(self):
        return (setattr, (Spy, "ran", True))


def test_unfit_weights_files_are_refused(tmp_path):
    noise = tmp_path / "noise.pt"
    noise.write_bytes(b"not weights")
    with pytest.raises(PsftrError, match=r"noise\.pt do not load into tiny_clip"):
        clip(TINY, str(noise))
    torch.save({"a": Spy()}, tmp_path / "code.pt")
    with pytest.raises(PsftrError, match=r"code\.pt do not load"):
        clip(TINY, str(tmp_path / "code.pt"))
    assert not Spy.ran
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(PsftrError, match="Missing key") as raised:
        clip(TINY, str(tmp_path / "other.safetensors"))
    assert "\n" not in str(raised.value)


# The original archives are TorchScript, which torch no longer recommends for new ones.
old_archives = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")


@pytest.fixture
def published_tag(monkeypatch, tmp_path):
    """A tag `openai` of the tiny model whose file is a TorchScript archive in the URL cache, as the original ones."""
    from hashlib import sha256

    weights = clip(TINY, "random", seed=7)._network
    archive = tmp_path / "cache" / "Tiny.pt"
    archive.parent.mkdir()
    torch.jit.save(torch.jit.trace_module(weights, {"encode_image": torch.zeros(1, 3, 32, 32)}), archive)
    digest = sha256(archive.read_bytes()).hexdigest()
    tag = {"url": f"https://openaipublic.example/{digest}/Tiny.pt", "hf_hub": "timm/tiny/", "quick_gelu": True}
    monkeypatch.setitem(open_clip_pretrained._PRETRAINED, "tiny_clip", {"openai": tag})
    monkeypatch.setattr("psftr.features.clip.URL_CACHE", archive.parent)
    return archive


@old_archives
def test_a_published_tag_is_taken_from_the_cache_with_its_own_activation(published_tag):
    encoder = clip(TINY, "openai")
    assert encoder.identity.endswith(":openai")
    activations = [type(m) for m in encoder._network.modules() if isinstance(m, QuickGELU | torch.nn.GELU)]
    assert activations == [QuickGELU, QuickGELU]  # one layer in each tower
    plain = clip(TINY, "random", seed=7)
    assert torch.equal(encoder._network.visual.proj, plain._network.visual.proj)


@old_archives
def test_a_local_file_with_a_published_checksum_is_that_tag(published_tag, tmp_path):
    copy = tmp_path / "downloaded.pt"
    copy.write_bytes(published_tag.read_bytes())
    assert clip(TINY, str(copy)).identity == clip(TINY, "openai").identity
    changed = tmp_path / "changed.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), changed)
    with pytest.raises(PsftrError, match=r"changed\.pt is a TorchScript program"):
        clip(TINY, str(changed))


def test_without_network_the_error_says_which_file_and_where_to_put_it(monkeypatch):
    def offline(*_):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr("psftr.features.clip.URL_CACHE", Path("nowhere"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    with pytest.raises(PsftrError) as raised:
        clip("ViT-B-16", "openai")
    message = str(raised.value)
    assert "\n" not in message
    for part in (
        "weights open_clip:ViT-B-16:openai are not on this machine and cannot be downloaded",
        "/ViT-B-16.pt (keep it as nowhere/ViT-B-16.pt, or pass --pretrained FILE)",
        "open_clip_model.safetensors of timm/vit_base_patch16_clip_224.openai",
        "pass --model ViT-B-16-quickgelu --pretrained FILE",
        "--pretrained random",
    ):
        assert part in message
    with pytest.raises(PsftrError, match=r"get open_clip_model.* \(pass --model ViT-B-32 --pretrained FILE\)"):
        clip("ViT-B-32", "laion2b_s34b_b79k")  # not trained with QuickGELU: the plain name is right


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ViT-B/15", "openai"), r"no model 'ViT-B/15'; nearest: .*ViT-B-16.*presets of the paper: ViT-B/32"),
        (("ViT-B-16", "opnai"), "'opnai' is neither 'random', nor a file, nor a tag of ViT-B-16; its tags: openai"),
        (("ViT-B-16-quickgelu", "laion2b_s34b_b88k"), r"quickgelu \(ViT-B-16 has that tag\)"),
    ],
)
def test_unknown_names(arguments, message):
    with pytest.raises(PsftrError, match=message):
        clip(*arguments)


def test_layout_file_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model layout absent\.json not found"):
        clip("absent.json", "random")
    (tmp_path / "odd.json").write_text('{"embed_dim": 4}')
    with pytest.raises(PsftrError, match=r"odd\.json is not an open_clip model layout"):
        clip(str(tmp_path / "odd.json"), "random")
    with pytest.raises(PsftrError, match="projection 'both' is unknown"):
        clip(TINY, "random", projection="both")
    with pytest.raises(PsftrError, match="precision 'fp8' is unknown; choose one of fp32, bf16"):
        clip(TINY, "random", precision="fp8")
