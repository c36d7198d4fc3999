"""Questions to models: yes/no from logits, cache, budget, repair, recordings, and a server that misbehaves."""

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
    Frames,
    MllmError,
    ReplayMLLM,
    Schema,
    Session,
    is_no,
    is_yes,
)
from psftr.language_models.cache import question_key

NEED_EXTRA = "needs the extra psftr[mllm]"
KEY = "sk-live-0123456789abcdef-very-secret"


def pictures(count: int, seed: int = 0) -> Frames:
    rng = np.random.default_rng(seed)
    rgb = tuple(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8) for _ in range(count))
    return Frames(rgb, tuple(0.5 * i for i in range(count)))


class Counting:
    """p = 0.1 * number of the prompt + 0.01 * red of the frame's corner; NaN for prompts that say 'shrug'."""

    identity = "counting"

    def __init__(self, *, budget: Budget | None = None, dies_after: int | None = None):
        self.asked, self.calls = [], 0
        self.budget, self.dies_after = budget or Budget(), dies_after

    def generate(self, frames, prompt, **options):
        self.budget.spend()
        self.calls += 1
        return f"answer {self.calls}"

    def yes_no(self, frames, prompts, *, keep=None):
        self.asked.append((len(frames), len(prompts)))
        table = np.full((len(frames), len(prompts)), np.nan)
        for t, s in np.ndindex(table.shape):
            self.budget.spend()
            if self.budget.spent == self.dies_after:
                raise KeyboardInterrupt
            if prompts[s] == "fail":
                continue
            table[t, s] = math.nan if prompts[s] == "shrug" else frames.rgb[t][0, 0, 0] / 256
            if keep:
                keep(t, s, table[t, s])
        return table


# --- session and cache


def test_nothing_known_is_asked_again_and_frames_are_asked_for_what_they_lack():
    model, frames = Counting(), pictures(3)
    session = Session(model)
    first = session.yes_no(frames, ["a", "b"])
    assert first[:, 0].tolist() == [frames.rgb[t][0, 0, 0] / 256 for t in range(3)]
    more = session.yes_no(frames, ["b", "c", "a"])
    assert model.asked == [(3, 2), (3, 1)]  # only c was new
    assert more[:, 2].tolist() == first[:, 0].tolist()
    assert (session.counts.asked, session.counts.from_cache) == (9, 6)


def test_a_run_that_dies_keeps_every_answer_it_got(tmp_path):
    pytest.importorskip("diskcache", reason=NEED_EXTRA)
    frames = pictures(4)
    dying = Counting(dies_after=7)
    with pytest.raises(KeyboardInterrupt):
        Session(dying, AnswerCache(tmp_path)).yes_no(frames, ["a", "b"])
    again = Counting()
    Session(again, AnswerCache(tmp_path)).yes_no(frames, ["a", "b"])
    assert again.budget.spent == 8 - 6  # the seventh question died unanswered


def test_failures_count_as_a_half_and_are_asked_again_but_shrugs_are_answers():
    model = Counting()
    session = Session(model)
    table = session.yes_no(pictures(2), ["fail", "shrug"])
    assert table.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert session.counts.failed == {"yes/no": 2}
    assert session.counts.undecided == 2
    session.yes_no(pictures(2), ["fail", "shrug"])
    assert model.asked == [(2, 2), (2, 1)]


def test_the_key_holds_model_prompt_pixels_and_time_and_no_secret():
    one, other = pictures(1), pictures(1, seed=1)
    late = Frames(one.rgb, (9.0,))
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
        Session(Counting(budget=Budget(4)), cache).yes_no(frames, ["a", "b"])
    rest = Counting(budget=Budget(2))
    assert Session(rest, cache).yes_no(frames, ["a", "b"]).shape == (3, 2)
    assert rest.budget.spent == 2
    with pytest.raises(PsftrError, match="a budget of -1 requests"):
        Budget(-1)


def test_a_recording_replays_the_run_and_knows_nothing_else(tmp_path):
    session, frames = Session(Counting()), pictures(2)
    table = session.yes_no(frames, ["a", "shrug"])
    text = session.ask(frames, "what?", kind="caption", parse=str.upper)
    session.write_recording(tmp_path / "answers.json")
    replay = Session(ReplayMLLM(tmp_path / "answers.json"))
    assert replay.yes_no(frames, ["a", "shrug"]).tolist() == table.tolist()
    assert replay.ask(frames, "what?", kind="caption", parse=str.upper) == text == "ANSWER 1"
    assert replay.ask(frames, "who?", kind="caption", parse=str) is None
    assert replay.counts.failed == {"caption": 1}
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(PsftrError, match="is not a recording of answers"):
        ReplayMLLM(tmp_path / "other.json")


def test_frames_are_spread_evenly_and_need_their_times():
    assert pictures(10).uniform(5).times_s == (0.5, 1.5, 2.5, 3.5, 4.5)
    assert pictures(3).uniform(5).times_s == (0.0, 0.5, 1.0)
    with pytest.raises(PsftrError, match="1 frames with 2 timestamps"):
        Frames((np.zeros((2, 2, 3), np.uint8),), (0.0, 1.0))


@pytest.mark.parametrize("token", ["Yes", " yes", "▁Yes", "ĠYES", "yes\n"])
def test_spellings_of_yes(token):
    assert is_yes(token)
    assert not is_no(token)
    assert not is_yes("yesterday")


# --- transformers


@pytest.fixture(scope="module", params=["qwen", "llava"])
def local(request):
    pytest.importorskip("transformers", reason=NEED_EXTRA)
    from tiny_mllm import TINY

    from psftr.language_models.local import TransformersMLLM

    model, processor = TINY[request.param]()
    return TransformersMLLM(model=model, processor=processor, identity=request.param, batch_rows=4)


QUESTIONS = ["Does this frame show that people jump ? Answer Yes or No .", "people are baking cookies ?", "Yes or No"]


def test_yes_no_equals_a_hand_computation_from_the_logits(local):
    frames = pictures(3)
    table = local.yes_no(frames, QUESTIONS)
    token = local.processor.tokenizer.convert_tokens_to_ids
    for t, s in np.ndindex(table.shape):
        inputs = local._inputs([[local._images(frames)[t]]], [QUESTIONS[s]])
        with torch.inference_mode():
            logits = local.model(**inputs).logits[0, -1].double()
        p = logits.exp() / logits.exp().sum()
        yes = p[token("Yes")] + p[token("yes")]
        no = p[token("No")] + p[token("no")] + p[token("NO")]
        assert table[t, s] == pytest.approx(float(yes / (yes + no)), abs=2e-5)
    assert np.ptp(table) > 0.01  # frames and prompts matter


def test_batched_stages_equal_the_slow_twin_and_encode_each_frame_once(local, monkeypatch):
    frames = pictures(5, seed=2)
    slow = local.yes_no_one_by_one(frames, QUESTIONS)
    encoded = []
    original = type(local.model).get_image_features

    def spy(self, pixel_values, **rest):
        encoded.append(len(rest.get("image_grid_thw", pixel_values)))
        return original(self, pixel_values, **rest)

    monkeypatch.setattr(type(local.model), "get_image_features", spy)
    spent = local.budget.spent
    assert local.yes_no(frames, QUESTIONS) == pytest.approx(slow, abs=2e-5)
    assert sum(encoded) == 5
    assert local.budget.spent - spent == 15


def test_answers_in_words_need_no_frames_and_stop_at_the_limit(local):
    text = local.generate(pictures(2), "These frames of one video", max_tokens=3)
    assert len(text.split()) <= 3
    assert isinstance(local.generate(Frames(), "people jump", max_tokens=2), str)


def test_literal_tokens_only_are_yes_and_no(local):
    from psftr.language_models.local import answer_tokens

    tokenizer = local.processor.tokenizer
    token = tokenizer.convert_tokens_to_ids
    assert answer_tokens(tokenizer) == ([token("Yes"), token("yes")], [token("No"), token("no"), token("NO")])
    assert answer_tokens(tokenizer, literal=True) == ([token("Yes")], [token("No")])


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

    assert answer_tokens(Pieces({"Yes": [1, 2], "No": [3, 4]})) == ([1], [3])
    with pytest.raises(PsftrError, match="no tokens that tell Yes from No"):
        answer_tokens(Pieces({"Yes": [0], "No": [0]}))


def test_weights_that_cannot_be_had_are_one_line(tmp_path):
    pytest.importorskip("transformers", reason=NEED_EXTRA)
    from psftr.language_models.local import TransformersMLLM

    with pytest.raises(PsftrError, match="cannot load the model") as error:
        TransformersMLLM.load(str(tmp_path))
    assert "\n" not in str(error.value)


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

    options = {"wait_s": 0.001, "max_wait_s": 0.01, "timeout_s": 5.0, "api_key": KEY, **options}
    return OpenAiServer(model="m", base_url=talker.url, **options)


def test_yes_share_is_over_all_spellings_of_the_first_token(talker):
    talker.answer = lambda body, headers: reply(top=(("Yes", 0.3), (" yes", 0.1), ("No", 0.2), ("Maybe", 0.1)))
    assert server_model(talker).yes_no(pictures(1), ["a?"])[0, 0] == pytest.approx(0.4 / 0.6)


def test_neither_yes_nor_no_is_a_kept_answer_of_one_half(talker):
    talker.answer = lambda body, headers: reply(top=(("Maybe", 0.9),))
    session = Session(server_model(talker))
    assert session.yes_no(pictures(1), ["a?"])[0, 0] == 0.5
    assert session.counts.undecided == 1
    assert not session.counts.failed


def test_what_is_sent(talker):
    sent = []

    def answer(body, headers):
        sent.append((body, headers["authorization"]))
        return reply('{"actions": []}')

    talker.answer = answer
    schema = Schema("ActionFilter", {"type": "object"})
    server_model(talker).generate(pictures(2), "which?", schema=schema, temperature=0.5, max_tokens=9)
    server_model(talker, structured="json_object").generate(Frames(), "which?", schema=schema)
    server_model(talker).yes_no(pictures(1), ["a?"])
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
        server_model(talker).yes_no(pictures(2), ["a?", "b?"])
    assert "\n" not in str(error.value)
    assert KEY[:8] not in str(error.value)


def test_a_request_the_server_rejects_fails_alone_and_is_not_tried_again(talker):
    asked = []
    talker.answer = lambda body, headers: asked.append(1) or (400, {}, b'{"error": {"message": "too long"}}')
    with pytest.raises(MllmError, match=r"no usable answer \(BadRequestError 400\)"):
        server_model(talker).generate(Frames(), "x")
    assert len(asked) == 1


def test_a_dead_server_ends_the_run_after_so_many_failures(talker):
    talker.answer = lambda body, headers: (503, {}, b"{}")
    model = server_model(talker, attempts=2, give_up_after=3, concurrency=1)
    with pytest.raises(PsftrError, match=r"3 questions in a row failed, the last with: InternalServerError 503"):
        model.yes_no(pictures(10), ["a?"])
    assert model.budget.spent == 6


def test_retry_after_is_obeyed_up_to_the_limit(talker):
    answers = [(429, {"retry-after": "30"}, b"{}"), reply("fine")]
    talker.answer = lambda body, headers: answers.pop(0)
    started = time.monotonic()
    assert server_model(talker, max_wait_s=0.2).generate(Frames(), "x") == "fine"
    assert 0.2 <= time.monotonic() - started < 5


def test_retries_count_against_the_budget(talker):
    talker.answer = lambda body, headers: (500, {}, b"{}")
    with pytest.raises(BudgetExhausted, match="the budget of 3 requests"):
        server_model(talker, budget=Budget(3)).generate(Frames(), "x")


def test_addresses_with_secrets_are_refused(talker):
    pytest.importorskip("openai", reason=NEED_EXTRA)
    from psftr.language_models.server import OpenAiServer

    with pytest.raises(PsftrError, match="base_url holds a user name, password or query") as error:
        OpenAiServer(model="m", base_url="http://me:hunter2@127.0.0.1/v1")
    assert "hunter2" not in str(error.value)
