"""A loopback server that speaks the OpenAI API, well or in one of the ways in which real ones go wrong."""

import base64
import hashlib
import io
import json
import math
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ALWAYS = (
    "schema_refused", "images_limited", "no_logprobs", "e401", "e404", "e429", "e500", "hang", "garbage", "wrong_types",
    "slow",
)  # fmt: skip
PASSING = ("busy", "error", "unavailable", "silence", "truncated", "garbled", "hollow", "odd_types", "nonsense")
WORDS = {
    "schema_refused": "response_format json_schema is not supported by this model",
    "images_limited": "At most 1 image(s) may be provided in one prompt.",
    "e401": "Incorrect API key provided",
    "e404": "The model `m` does not exist.",
    "e429": "Rate limit reached, slow down",
    "e500": "CUDA error: device-side assert triggered",
}


class Server(ThreadingHTTPServer):
    """mode: None (well) or one of ALWAYS. `faults(question, attempt)`: one of PASSING, or None, for each attempt."""

    daemon_threads, request_queue_size = True, 256

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.mode, self.faults, self.latency_s, self.silence_s = None, lambda question, attempt: None, 0.0, 1.5
        self.answer = answer
        self.lock, self.ended = threading.Lock(), threading.Event()
        self.bodies, self.keys, self.asked, self.injected = [], set(), Counter(), Counter()
        self.keeps_bodies = True
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        """A client that hangs up is nothing to talk about here."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        raw = self.rfile.read(int(self.headers["content-length"]))
        server, body = self.server, json.loads(raw)
        question = hashlib.sha256(raw).digest()
        with server.lock:
            if server.keeps_bodies:
                server.bodies.append(raw)
            server.keys.add(self.headers["authorization"])
            server.asked[question] += 1
            attempt = server.asked[question]
        kind = server.mode or server.faults(question, attempt)
        if kind == "nonsense" and (b"Your last answer was" in raw or "logprobs" in body):
            kind = "garbled"  # a well-formed reply that is no answer is for first questions in words
        with server.lock:
            server.injected[kind] += 1
        if server.latency_s:
            time.sleep(server.latency_s)
        getattr(self, f"_{kind}" if kind else "_well")(body)

    def _send(self, status, content, headers=(), length=None):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        sizes = {"content-type": "application/json", "content-length": str(length or len(content))}
        for name, value in {**sizes, **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _error_of(self, kind, status):
        self._send(status, {"error": {"message": WORDS[kind], "type": "invalid_request_error", "code": None}})

    def _well(self, body):
        self._send(200, completion(body, *self.server.answer(body)))

    # always

    def _schema_refused(self, body):
        self._error_of("schema_refused", 400) if "response_format" in body else self._well(body)

    def _images_limited(self, body):
        self._error_of("images_limited", 400) if len(images_of(body)) > 1 else self._well(body)

    def _no_logprobs(self, body):
        whole = completion(body, *self.server.answer(body))
        whole["choices"][0]["logprobs"] = None
        self._send(200, whole)

    def _e401(self, body):
        key = self.headers["authorization"].removeprefix("Bearer ")
        self._send(401, {"error": {"message": f"{WORDS['e401']}: {key}, not {key[:12]}"}})

    def _e404(self, body):
        self._error_of("e404", 404)

    def _e429(self, body):
        self._error_of("e429", 429)

    def _e500(self, body):
        self._error_of("e500", 500)

    def _hang(self, body):
        self.server.ended.wait(600)
        self.close_connection = True

    def _garbage(self, body):
        self._send(200, b"<html>welcome</html>", {"content-type": "text/html"})

    def _wrong_types(self, body):
        whole = completion(body, *self.server.answer(body))
        whole["choices"][0]["message"]["content"] = {"text": 7}
        whole["choices"][0]["logprobs"] = {"content": [{"top_logprobs": [{"token": 5, "logprob": "high"}]}]}
        self._send(200, whole)

    def _slow(self, body):
        time.sleep(0.5)
        self._well(body)

    # in passing

    def _busy(self, body):
        self._send(429, {"error": {"message": "slow down"}}, {"retry-after": "0.001"})

    def _error(self, body):
        self._send(500, b"<html>oops</html>")

    def _unavailable(self, body):
        self._send(503, b"")

    def _silence(self, body):
        self.server.ended.wait(self.server.silence_s)
        self.close_connection = True

    def _truncated(self, body):
        whole = json.dumps(completion(body, *self.server.answer(body))).encode()
        self._send(200, whole[: len(whole) // 2], length=len(whole))
        self.close_connection = True

    def _garbled(self, body):
        self._send(200, json.dumps(completion(body, *self.server.answer(body))).encode().replace(b'"', b"'", 9))

    def _hollow(self, body):
        whole = completion(body, *self.server.answer(body))
        whole["choices"][0]["logprobs"] = None
        whole["choices"][0]["message"]["content"] = None
        self._send(200, whole)

    def _odd_types(self, body):
        whole = completion(body, *self.server.answer(body))
        whole["choices"] = {"0": whole["choices"]}
        self._send(200, whole)

    def _nonsense(self, body):
        self._send(200, completion(body, '{"stages": ["people', None))

    def log_message(self, *arguments):
        pass


def schema_of(body):
    return body.get("response_format", {}).get("json_schema", {}).get("name")


def images_of(body):
    content = body["messages"][0]["content"]
    parts = content if isinstance(content, list) else []
    return [part["image_url"]["url"].partition(",")[2] for part in parts if part["type"] == "image_url"]


def picture(data):
    from PIL import Image

    return Image.open(io.BytesIO(base64.b64decode(data)))


def answer(body):
    """(text, shares of the words Yes, No and of numbers): yes for bright pictures, no for dark ones."""
    answers = {
        "ActionFilter": {"actions": [{"name": "clean and jerk", "confidence": 0.8}]},
        "Caption": {"action": "clean and jerk", "caption": "a person lifts a weight"},
        "StagePlan": {
            "action": "clean and jerk",
            "stages": [{"index": n, "description": f"people do part {n}", "is_key": n > 1} for n in (1, 2, 3, 4)],
        },
    }
    name = schema_of(body)
    if not body.get("logprobs"):
        return (json.dumps(answers[name]) if name else "Yes"), None
    level = picture(images_of(body)[0]).convert("L").resize((1, 1)).getpixel((0, 0)) / 255
    chance = hashlib.sha256(json.dumps(body["messages"]).encode()).digest()[0] / 2550
    p = 0.05 + 0.8 * level + chance
    return "Yes", {" Yes": 0.9 * p, "No": 0.9 * (1 - p)}


def completion(body, content, shares):
    logprobs = None
    if body.get("logprobs") and shares:
        top = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in shares.items()]
        logprobs = {"content": [{**top[0], "top_logprobs": top}], "refusal": None}
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "finish_reason": "stop", "message": message, "logprobs": logprobs}
    tokens = 192 * len(images_of(body)) + len(json.dumps(body["messages"][0]["content"][-1])) // 4
    usage = {"prompt_tokens": tokens, "completion_tokens": max(1, len(content) // 4), "total_tokens": tokens + 1}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}


@contextmanager
def running_server():
    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()
