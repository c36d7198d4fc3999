"""Questions to models: yes/no from logits, cache, budget, repair, recordings, and a server that misbehaves."""

import importlib.util
import json
import math
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from psftr.errors import PsftrError
from psftr.language_models import (
    AnswerCache,
    Budget,
    BudgetExhausted,
    Frame,
    Frames,
    GivenUp,
    MllmError,
    Pictures,
    Recording,
    ReplayMLLM,
    Schema,
    Session,
    Stopped,
    Usage,
    add_to_recording,
    read_recording,
)
from psftr.language_models.cache import question_key
from psftr.language_models.protocol import spells
from psftr.language_models.settings import LocalSettings, ServerSettings

NEED_EXTRA = "needs the extra psftr[mllm]"
KEY = "sk-live-0123456789abcdef-very-secret"


def pictures(count: int, seed: int = 0) -> Frames:
    rng = np.random.default_rng(seed)
    rgb = tuple(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8) for _ in range(count))
    return Frames.of(rgb, [0.5 * i for i in range(count)], size=448)


def alone(frames: Frames) -> list[Frames]:
    """Each frame by itself, as stages are asked about."""
    return [frames.take([t]) for t in range(len(frames))]


def red(frame: Frame) -> int:
    return frame.image().getpixel((0, 0))[0]


def ask_all(model, clips, prompts, options=("Yes", "No")):
    """([T, S, K] of a model's own answers, the errors)."""
    table, errors = np.full((len(clips), len(prompts), len(options)), np.nan), []

    def keep(t, s, shares):
        table[t, s] = math.nan if shares is None else shares

    model.choose(clips, prompts, options, keep=keep, fail=lambda t, s, error: errors.append(error))
    return table, errors


class Counting:
    """p = 0.1 * number of the prompt + 0.01 * red of the frame's corner; NaN for prompts that say 'shrug'."""

    identity, frame_size = "counting", 448

    def __init__(self, *, budget: Budget | None = None, dies_after: int | None = None):
        self.asked, self.calls = [], 0
        self.budget, self.dies_after, self.usage = budget or Budget(), dies_after, Usage()

    def generate(self, frames, prompt, **options):
        self.budget.spend()
        self.calls += 1
        return f"answer {self.calls}"

    def choose(self, clips, prompts, options, *, keep, fail):
        self.asked.append((len(clips), len(prompts)))
        for t, s in np.ndindex(len(clips), len(prompts)):
            self.budget.spend()
            if self.budget.spent == self.dies_after:
                raise KeyboardInterrupt
            p = red(clips[t].frames[0]) / 256
            if prompts[s] == "fail":
                fail(t, s, MllmError("gone"))
            else:
                keep(t, s, None if prompts[s] == "shrug" else (p, 1 - p))


# --- session and cache


def test_nothing_known_is_asked_again_and_frames_are_asked_for_what_they_lack():
    model, frames = Counting(), pictures(3)
    session = Session(model)
    first = session.yes_no(alone(frames), ["a", "b"])
    assert first[:, 0].tolist() == [red(frame) / 256 for frame in frames.frames]
    more = session.yes_no(alone(frames), ["b", "c", "a"])
    assert model.asked == [(3, 2), (3, 1)]  # only c was new
    assert more[:, 2].tolist() == first[:, 0].tolist()
    assert (session.counts.asked, session.counts.from_cache) == ({"yes/no": 9}, {"yes/no": 6})


def test_a_run_that_dies_keeps_every_answer_it_got(tmp_path):
    pytest.importorskip("diskcache", reason=NEED_EXTRA)
    frames = pictures(4)
    dying = Counting(dies_after=7)
    with pytest.raises(KeyboardInterrupt):
        Session(dying, AnswerCache(tmp_path)).yes_no(alone(frames), ["a", "b"])
    again = Counting()
    Session(again, AnswerCache(tmp_path)).yes_no(alone(frames), ["a", "b"])
    assert again.budget.spent == 8 - 6  # the seventh question died unanswered


def test_failures_count_as_a_half_and_are_asked_again_but_shrugs_are_answers():
    model = Counting()
    session = Session(model)
    table = session.yes_no(alone(pictures(2)), ["fail", "shrug"])
    assert table.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert session.counts.failed == {"yes/no": 2}
    assert session.counts.undecided == 2
    session.yes_no(alone(pictures(2)), ["fail", "shrug"])
    assert model.asked == [(2, 2), (2, 1)]


def test_the_key_holds_model_prompt_pixels_and_time_and_no_secret():
    one, other = pictures(1), pictures(1, seed=1)
    late = Frames.of(
        [np.asarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))], [9.0], size=448
    )
    keys = {
        question_key("yes_no", model, prompt, frames)
        for model in ("m", "n")
        for prompt in ("a", "b")
        for frames in (one, other, late)
    }
    assert len(keys) == 12
    assert question_key("yes_no", "m", "a", pictures(1)) in keys
    schemas = {
        question_key("generate", "m", "a", one, schema=Schema("S", {"type": kind})) for kind in ("object", "array")
    }
    assert len(schemas) == 2


def test_budget_stops_before_the_question_and_resuming_goes_on(tmp_path):
    frames, cache = pictures(3), AnswerCache()
    with pytest.raises(BudgetExhausted, match="the budget of 4 requests is spent; answers so far are kept"):
        Session(Counting(budget=Budget(4)), cache).yes_no(alone(frames), ["a", "b"])
    rest = Counting(budget=Budget(2))
    assert Session(rest, cache).yes_no(alone(frames), ["a", "b"]).shape == (3, 2)
    assert rest.budget.spent == 2
    with pytest.raises(PsftrError, match="a budget of -1 requests"):
        Budget(-1)


def test_a_recording_replays_the_run_and_knows_nothing_else(tmp_path):
    session, frames = Session(Counting()), pictures(2)
    table = session.yes_no(alone(frames), ["a", "shrug"])
    text = session.ask(frames, "what?", kind="caption", parse=str.upper)
    answers = {key: session.cache.get(key)[0] for key in session.used}
    models = {"caption": {"identity": "counting", "frame_size": 448}}
    file = tmp_path / "answers.json"
    first, rest = dict(list(answers.items())[:2]), dict(list(answers.items())[2:])
    assert add_to_recording(file, Recording(models, first)) == 2
    assert add_to_recording(file, Recording(models, rest)) == 5  # what was there stays
    replay = Session(ReplayMLLM(read_recording(file), step="caption"))
    assert replay.yes_no(alone(frames), ["a", "shrug"]).tolist() == table.tolist()
    assert replay.ask(frames, "what?", kind="caption", parse=str.upper) == text == "ANSWER 1"
    with pytest.raises(MllmError, match="not among the recorded answers"):
        replay.ask(frames, "who?", kind="caption", parse=str)
    assert replay.counts.failed == {"caption": 1}
    with pytest.raises(PsftrError, match="no model for the step plan"):
        ReplayMLLM(read_recording(file), step="plan")
    with pytest.raises(PsftrError, match="answers of other models"):
        add_to_recording(file, Recording({"caption": {"identity": "another", "frame_size": 448}}, {}))
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(PsftrError, match="is not a recording of answers"):
        read_recording(tmp_path / "other.json")


def test_failures_of_one_kind_in_a_row_end_the_run_and_a_view_shares_the_count():
    session = Session(Counting(), give_up_after=3)
    session.view().yes_no(alone(pictures(2)), ["fail"])
    with pytest.raises(
        GivenUp, match="3 yes/no questions in a row failed, the last with: gone; answers so far are kept"
    ):
        session.view().yes_no(alone(pictures(2)), ["fail"])
    assert session.counts.failed == {"yes/no": 3}
    patient = Session(Counting(), give_up_after=2)
    for _ in range(4):  # an answer in between begins the count anew
        patient.yes_no(alone(pictures(1)), ["fail", "a"])
        patient.cache = AnswerCache()


def test_frames_are_spread_evenly_and_need_their_times():
    assert pictures(10).uniform(5).times_s == (0.5, 1.5, 2.5, 3.5, 4.5)
    assert pictures(3).uniform(5).times_s == (0.0, 0.5, 1.0)
    with pytest.raises(PsftrError, match="1 frames with 2 timestamps"):
        Frames.of([np.zeros((2, 2, 3), np.uint8)], [0.0, 1.0], size=448)


@pytest.mark.parametrize("token", ["Yes", " yes", "▁Yes", "ĠYES", "yes\n"])
def test_spellings_of_yes(token):
    assert spells(token, "Yes")
    assert not spells(token, "No")
    assert not spells("yesterday", "Yes")
    assert spells("Yes", "Yes", literal=True)
    assert not spells("yes", "Yes", literal=True)


def test_slivers_get_edges_and_no_frame_is_larger_than_asked_for():
    sliver = Frame.of(np.full((4, 2000, 3), 200, np.uint8), 0.0, size=448, pictures=Pictures()).image()
    assert sliver.size == (448, 32)
    assert sliver.getpixel((224, 0)) == (0, 0, 0)
    wide = Frame.of(np.zeros((300, 900, 3), np.uint8), 0.0, size=300, pictures=Pictures())
    assert wide.image().size == (300, 100)


# --- transformers


@pytest.fixture(scope="module", params=["qwen", "llava"])
def local(request):
    pytest.importorskip("transformers", reason=NEED_EXTRA)
    from tiny_mllm import TINY

    from psftr.language_models.local import TransformersMLLM

    model, processor = TINY[request.param]()
    settings = LocalSettings(batch_rows=4)
    return TransformersMLLM(settings, model=model, processor=processor, weights=request.param, seed=0)


QUESTIONS = ["Does this frame show that people jump ? Answer Yes or No .", "people are baking cookies ?", "Yes or No"]


def test_yes_no_equals_a_hand_computation_from_the_logits(local):
    frames = pictures(3)
    table = ask_all(local, alone(frames), QUESTIONS)[0][..., 0]
    token = local.processor.tokenizer.convert_tokens_to_ids
    for t, s in np.ndindex(table.shape):
        inputs = local._inputs([local._images(frames.take([t]))], [QUESTIONS[s]])
        with torch.inference_mode():
            logits = local.model(**inputs).logits[0, -1].double()
        p = logits.exp() / logits.exp().sum()
        yes = p[token("Yes")] + p[token("yes")]
        no = p[token("No")] + p[token("no")] + p[token("NO")]
        assert table[t, s] == pytest.approx(float(yes / (yes + no)), abs=2e-5)
    assert np.ptp(table) > 0.01  # frames and prompts matter


@pytest.mark.parametrize("clip_frames", [1, 3])
def test_a_shared_prefix_changes_no_answer_and_encodes_each_frame_once(local, monkeypatch, clip_frames):
    frames = pictures(5 * clip_frames, seed=2)
    clips = [frames.take(range(t, t + clip_frames)) for t in range(0, len(frames), clip_frames)]
    slow = local.choose_one_by_one(clips, QUESTIONS, ("Yes", "No")).numpy()
    encoded = []
    original = type(local.model.model).get_image_features

    def spy(self, pixel_values, *rest, **more):
        grid = more.get("image_grid_thw", rest[0] if rest else None)
        encoded.append(len(pixel_values if grid is None else grid))
        return original(self, pixel_values, *rest, **more)

    monkeypatch.setattr(type(local.model.model), "get_image_features", spy)
    spent = local.budget.spent
    fast, errors = ask_all(local, clips, QUESTIONS)
    assert fast == pytest.approx(slow, abs=1e-4)
    assert not errors
    assert sum(encoded) == 5 * clip_frames
    assert local.budget.spent - spent == 15


@pytest.mark.parametrize("kind", ["qwen", "llava"])
def test_four_stages_take_three_times_fewer_token_steps(kind):
    """On frames of 448 x 336: 192 tokens of Qwen2.5-VL, 576 of LLaVA-1.5."""
    pytest.importorskip("transformers", reason=NEED_EXTRA)
    from tiny_mllm import TINY

    from psftr.language_models.local import TransformersMLLM

    model, processor = TINY[kind](large_images=True)
    local = TransformersMLLM(LocalSettings(), model=model, processor=processor, weights=kind, seed=0)
    rng = np.random.default_rng(0)
    clips = alone(
        Frames.of([rng.integers(0, 256, (336, 448, 3), dtype=np.uint8) for _ in range(2)], [0.0, 0.5], size=448)
    )
    template = "Answer Yes or No. Does this frame show that people are {} ?"
    prompts = [template.format(what) for what in ("jump", "lift weights", "baking cookies", "clean and jerk")]
    slow = local.choose_one_by_one(clips, prompts, ("Yes", "No")).numpy()
    plain, local.usage = local.usage.tokens_in, Usage()
    assert ask_all(local, clips, prompts)[0] == pytest.approx(slow, abs=1e-4)
    assert plain >= 3 * local.usage.tokens_in
    print(f"{kind}: {plain / 8:.1f} token-steps a frame and stage, {local.usage.tokens_in / 8:.1f} shared")


@pytest.mark.parametrize(
    ("how", "package"),
    [
        ({"attention": "eager"}, "transformers"),
        ({"device_map": "auto"}, "accelerate"),
        ({"quantize": "int8"}, "bitsandbytes"),
        ({"quantize": "int4"}, "bitsandbytes"),
    ],
)
def test_a_model_is_loaded_as_asked_for_and_a_missing_package_is_named(how, package, tmp_path):
    pytest.importorskip("transformers", reason=NEED_EXTRA)
    from tiny_mllm import save

    from psftr.language_models.local import TransformersMLLM

    settings = LocalSettings(model=str(save("qwen", tmp_path)), **how)
    if importlib.util.find_spec(package) is None:
        with pytest.raises(PsftrError, match="install the package that is missing, or leave out") as error:
            TransformersMLLM.load(settings, device="cpu", seed=0)
        assert package in str(error.value)
        return
    loaded, clips = TransformersMLLM.load(settings, device="cpu", seed=0), alone(pictures(3))
    answers = ask_all(loaded, clips, QUESTIONS)[0]
    if "quantize" in how:  # of random weights that is another model, whose two ways to answer agree but for rounding
        assert {p.dtype for p in loaded.model.parameters()} & {torch.int8, torch.uint8}
        assert answers == pytest.approx(loaded.choose_one_by_one(clips, QUESTIONS, ("Yes", "No")).numpy(), abs=0.05)
        return
    plain = TransformersMLLM.load(LocalSettings(model=str(tmp_path)), device="cpu", seed=0)
    assert answers == pytest.approx(ask_all(plain, clips, QUESTIONS)[0], abs=1e-4)
    if "attention" in how:
        assert loaded.model.config._attn_implementation == "eager" != plain.model.config._attn_implementation


def test_memory_that_runs_out_makes_batches_smaller(local, monkeypatch):
    frames, whole = alone(pictures(4)), ask_all(local, alone(pictures(4)), QUESTIONS)[0]
    original = local._shared_prefix

    def cramped(images, prompts, options):
        if local._batch_rows > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(images, prompts, options)

    monkeypatch.setattr(local, "_shared_prefix", cramped)
    monkeypatch.setattr(local, "_batch_rows", 4)
    assert ask_all(local, frames, QUESTIONS)[0] == pytest.approx(whole, abs=1e-4)
    assert local._batch_rows == 1
    monkeypatch.setattr(
        local, "_shared_prefix", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("out of memory"))
    )
    with pytest.raises(PsftrError, match="do not fit into the device's memory: set backend"):
        ask_all(local, frames, QUESTIONS)


def test_a_question_longer_than_the_context_is_refused_with_its_length(local, monkeypatch):
    monkeypatch.setattr(local.model.config.get_text_config(), "max_position_embeddings", 40)
    with pytest.raises(
        PsftrError, match=r"a question with 9 frames has \d+ tokens, and .* reads 40: show fewer frames"
    ):
        local.generate(pictures(9), "which ?", answer_tokens=9)


def test_sampled_answers_repeat_with_their_seed(local):
    answers = {local.generate(pictures(1), "people jump", temperature=0.9, answer_tokens=8) for _ in range(3)}
    assert len(answers) == 1


def test_a_square_loses_nothing_of_a_wide_frame(local):
    from dataclasses import replace

    wide = Frames.of([np.full((90, 160, 3), 200, np.uint8)], [0.0], size=448)
    assert local._images(wide)[0].size == (160, 90)
    settings, local.settings = local.settings, replace(local.settings, square=True)
    (image,) = local._images(wide)
    local.settings = settings
    assert image.size == (160, 160)
    assert [image.getpixel((80, y))[0] for y in (10, 80, 150)] == [0, 200, 0]


def test_the_content_of_a_folder_names_a_model_not_the_folder(tmp_path):
    pytest.importorskip("transformers", reason=NEED_EXTRA)
    from tiny_mllm import save

    from psftr.language_models.weights import content_digest

    for name, kind in (("a/final", "qwen"), ("b/final", "llava"), ("c/moved", "qwen")):
        save(kind, tmp_path / name)
    digests = [content_digest(tmp_path / name) for name in ("a/final", "b/final", "c/moved")]
    assert digests[0] == digests[2] != digests[1]
    config = tmp_path / "c" / "moved" / "config.json"
    config.write_text(config.read_text() + " ")
    assert content_digest(tmp_path / "c" / "moved") != digests[0]


def test_what_decides_an_answer_is_in_the_identity():
    from dataclasses import replace

    from psftr.language_models.local import identity

    plain = LocalSettings()
    other = {"dtype": "float16", "quantize": "int8", "frame_size": 224, "square": True, "max_tokens": 9}
    changed = [replace(plain, **{key: value}) for key, value in other.items()]
    names = {identity(one, weights="w", seed=0, literal=False) for one in (plain, *changed)}
    names |= {identity(plain, weights="w", seed=1, literal=False), identity(plain, weights="w", seed=0, literal=True)}
    assert len(names) == 8
    assert identity(replace(plain, batch_rows=1), weights="w", seed=0, literal=False) in names


def test_answers_in_words_need_no_frames_and_stop_at_the_limit(local):
    text = local.generate(pictures(2), "These frames of one video", answer_tokens=3)
    assert len(text.split()) <= 3
    assert isinstance(local.generate(Frames(), "people jump", answer_tokens=2), str)


def test_literal_tokens_only_are_yes_and_no(local):
    from psftr.language_models.local import answer_tokens

    tokenizer = local.processor.tokenizer
    token = tokenizer.convert_tokens_to_ids
    words = ("Yes", "No")
    spellings = [[token("Yes"), token("yes")], [token("No"), token("no"), token("NO")]]
    assert answer_tokens(tokenizer, words, literal=False) == spellings
    assert answer_tokens(tokenizer, words, literal=True) == [[token("Yes")], [token("No")]]


def test_a_tokenizer_without_the_words_answers_in_pieces_or_not_at_all():
    from psftr.language_models.local import answer_tokens

    class Pieces:
        unk_token_id = 0

        def __init__(self, ids):
            self.ids = ids

        def encode(self, word, add_special_tokens):
            return self.ids[word]

        def get_vocab(self):
            return {"Ye": 1, "s": 2, "N": 3, "o": 4}

    words = ("Yes", "No")
    assert answer_tokens(Pieces({"Yes": [1, 2], "No": [3, 4]}), words, literal=False) == [[1], [3]]
    with pytest.raises(PsftrError, match="no tokens that tell Yes from No"):
        answer_tokens(Pieces({"Yes": [0], "No": [0]}), words, literal=False)


def test_weights_that_are_not_available_are_one_line(tmp_path):
    pytest.importorskip("transformers", reason=NEED_EXTRA)
    from psftr.language_models.local import TransformersMLLM

    with pytest.raises(PsftrError, match="cannot load the model") as error:
        TransformersMLLM.load(LocalSettings(model=str(tmp_path)), device="cpu", seed=0)
    assert "\n" not in str(error.value)


def test_an_unknown_hub_name_takes_seconds_where_the_hub_is_out_of_reach(monkeypatch):
    from psftr.language_models.weights import find_weights

    started = time.monotonic()
    with pytest.raises(PsftrError, match="neither a folder nor kept on this machine"):
        find_weights("nobody/no-such-model")
    assert time.monotonic() - started < 15
    with pytest.raises(PsftrError, match="no such folder, and not a hub name"):
        find_weights("./no/such/folder")


# --- server


class Talker(BaseHTTPRequestHandler):
    """Hands every request to `server.answer(body, headers)` -> (status, headers, bytes)."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        status, headers, content = self.server.answer(json.loads(body), self.headers)
        self.send_response(status)
        for name, value in {"content-type": "application/json", "content-length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        if int(headers.get("content-length", len(content))) != len(content):
            self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.fixture
def talker():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Talker)
    server.daemon_threads = True
    server.socket.listen(128)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    yield server
    server.shutdown()
    server.server_close()


def reply(content="Yes", top=(("Yes", 0.6), ("No", 0.2)), **changes) -> tuple[int, dict, bytes]:
    tokens = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in top]
    choice = {
        "index": 0,
        "finish_reason": "length",
        "message": {"role": "assistant", "content": content},
        "logprobs": {"content": [{**tokens[0], "top_logprobs": tokens}], "refusal": None} if tokens else None,
    }
    whole = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], **changes}
    return 200, {}, json.dumps(whole).encode()


def server_model(talker, **options):
    pytest.importorskip("openai", reason=NEED_EXTRA)
    pytest.importorskip("tenacity", reason=NEED_EXTRA)
    from psftr.language_models.server import OpenAiServer

    budget, settings = options.pop("budget", None), {"wait_s": 0.001, "max_wait_s": 0.01, "timeout_s": 5.0, **options}
    return OpenAiServer(ServerSettings(model="m", base_url=talker.url, **settings), api_key=KEY, budget=budget)


def test_yes_share_is_over_all_spellings_of_the_first_token(talker):
    talker.answer = lambda body, headers: reply(top=(("Yes", 0.3), (" yes", 0.1), ("No", 0.2), ("Maybe", 0.1)))
    assert Session(server_model(talker)).yes_no(alone(pictures(1)), ["a?"])[0, 0] == pytest.approx(0.4 / 0.6)


def test_neither_yes_nor_no_is_a_kept_answer_of_one_half(talker):
    talker.answer = lambda body, headers: reply(top=(("Maybe", 0.9),))
    session = Session(server_model(talker))
    assert session.yes_no(alone(pictures(1)), ["a?"])[0, 0] == 0.5
    assert session.counts.undecided == 1
    assert not session.counts.failed


def test_what_is_sent(talker):
    sent = []

    def answer(body, headers):
        sent.append((body, headers["authorization"]))
        return reply('{"actions": []}')

    talker.answer = answer
    schema = Schema("ActionFilter", {"type": "object"})
    server_model(talker).generate(pictures(2), "which?", schema=schema, temperature=0.5, answer_tokens=9)
    server_model(talker, structured="json_object").generate(Frames(), "which?", schema=schema, answer_tokens=9)
    ask_all(server_model(talker), alone(pictures(1)), ["a?"])
    (seen, key), (words, _), (asked, _) = sent
    assert key == f"Bearer {KEY}"
    assert KEY not in json.dumps([body for body, _ in sent])
    assert [part["type"] for part in seen["messages"][0]["content"]] == ["image_url", "image_url", "text"]
    assert seen["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert seen["response_format"]["json_schema"]["name"] == "ActionFilter"
    assert (seen["temperature"], seen["max_tokens"]) == (0.5, 9)
    assert words["response_format"] == {"type": "json_object"}
    assert words["messages"][0]["content"] == 'which?\nJSON schema: {"type": "object"}'
    assert (asked["max_tokens"], asked["logprobs"], asked["top_logprobs"]) == (1, True, 20)


def test_a_refused_key_ends_the_run_in_one_line_without_the_key(talker):
    told = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}, not {KEY[:12]}"}}).encode()
    talker.answer = lambda body, headers: (401, {}, told)
    with pytest.raises(PsftrError, match=r"the server refused the key \(401\)") as error:
        ask_all(server_model(talker), alone(pictures(2)), ["a?", "b?"])
    assert "\n" not in str(error.value)
    assert KEY[:8] not in str(error.value)


def test_a_request_the_server_rejects_fails_alone_and_is_not_tried_again(talker):
    asked = []
    talker.answer = lambda body, headers: asked.append(1) or (400, {}, b'{"error": {"message": "too long"}}')
    with pytest.raises(MllmError, match="the server answered 400: too long"):
        server_model(talker).generate(Frames(), "x", answer_tokens=9)
    assert len(asked) == 1


def test_a_dead_server_ends_the_run_after_so_many_failures(talker):
    talker.answer = lambda body, headers: (503, {}, b"{}")
    model = server_model(talker, attempts=2, concurrency=1)
    with pytest.raises(PsftrError, match=r"3 yes/no questions in a row failed, the last with: the server answered 503"):
        Session(model, give_up_after=3).yes_no(alone(pictures(10)), ["a?"])
    assert model.budget.spent == 6


@pytest.mark.parametrize("concurrency", [7, 40])
def test_questions_under_way_are_as_many_as_allowed_and_stop_when_the_model_is_closed(talker, concurrency):
    now, most, lock, full, gone = [0], [0], threading.Lock(), threading.Event(), threading.Event()

    def answer(body, headers):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
            if now[0] == concurrency:
                full.set()
        full.wait(4)  # nobody gets an answer before so many have asked
        gone.wait(0.1)
        with lock:
            now[0] -= 1
        return reply()

    talker.answer = answer
    model = server_model(talker, concurrency=concurrency)
    table, _ = ask_all(model, alone(pictures(30)), ["a?", "b?"])
    assert np.isfinite(table).all()
    assert most[0] == concurrency
    talker.answer = lambda body, headers: gone.wait(20) or reply()
    threading.Timer(0.2, model.close).start()
    started = time.monotonic()
    with pytest.raises(Stopped):
        ask_all(model, alone(pictures(2)), ["a?"])
    assert time.monotonic() - started < 5
    gone.set()


def test_retry_after_is_obeyed_up_to_the_limit(talker):
    answers = [(429, {"retry-after": "30"}, b"{}"), reply("fine")]
    talker.answer = lambda body, headers: answers.pop(0)
    started = time.monotonic()
    assert server_model(talker, max_wait_s=0.2).generate(Frames(), "x", answer_tokens=9) == "fine"
    assert 0.2 <= time.monotonic() - started < 5


def test_retries_count_against_the_budget(talker):
    talker.answer = lambda body, headers: (500, {}, b"{}")
    with pytest.raises(BudgetExhausted, match="the budget of 3 requests"):
        server_model(talker, budget=Budget(3)).generate(Frames(), "x", answer_tokens=9)


def test_addresses_with_secrets_are_refused(talker):
    pytest.importorskip("openai", reason=NEED_EXTRA)
    from psftr.language_models.server import OpenAiServer

    with pytest.raises(PsftrError, match="base_url holds a user name, password or query") as error:
        OpenAiServer(ServerSettings(base_url="http://me:hunter2@127.0.0.1/v1"))
    assert "hunter2" not in str(error.value)
