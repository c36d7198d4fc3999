"""Questions, tokens and seconds of one THUMOS14 split by setting, against a fake server of a stated latency.

    python tools/count_questions.py --annotations annotations.json --splits splits [--latency 1] [--http] [--videos N]

There are no videos: frames are small pictures whose colour says which annotated action is on and how far it is, and the
server, which knows the stage plans, answers from it. Tokens are counted as Qwen2.5-VL counts 448 x 336 pixels (192 a
frame) plus a quarter of the characters. Such answers are right far more often than a model's; the figures say what a
run costs, not how good it is.

The clock: the server is in this process and latency is added up, not slept: seconds are requests * latency / requests
at once, or those of the longest chain of requests that wait for each other. --http runs the same videos once more
against a server in a process of its own that sleeps for each request; its seconds are by the clock on the wall.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import math
import multiprocessing
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from psftr.cli.hydra_app import conf_dir
from psftr.data.annotations import Video
from psftr.data.datasets import open_annotations
from psftr.features.text import spell_out
from psftr.language_models import Frames, Schema, Session, Usage
from psftr.language_models.protocol import Fail, Keep, shares
from psftr.language_models.server import OpenAiServer
from psftr.methods.cascade.frames import VideoFrames
from psftr.methods.cascade.journal import Journal
from psftr.methods.cascade.mllm_cascade import MllmCascade, Steps
from psftr.methods.cascade.run import Outcome, duration, look_at_videos
from psftr.methods.cascade.settings import CascadeSettings, cascade_settings
from psftr.methods.cascade.stages import StagePlan, read_stage_file
from psftr.settings import DatasetSettings, SplitSettings

FRAME_TOKENS = 192
SETTINGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("one video and 8 requests at once", {"workers": 1, "backend": {"concurrency": 8}}),
    ("defaults: 8 videos, 32 requests at once", {}),
    ("64 requests at once", {"backend": {"concurrency": 64}}),
    ("frames.clip_frames=3", {"frames": {"clip_frames": 3}}),
    ("frames.clip_frames=5", {"frames": {"clip_frames": 5}}),
    ("calibrate=both", {"questions": {"calibrate": "both"}}),
    ("questions.coarse_s=2", {"questions": {"coarse_s": 2.0}}),
    ("questions.coarse_s=4", {"questions": {"coarse_s": 4.0}}),
    ("questions.stages=together", {"questions": {"stages": "together"}}),
    ("together and coarse_s=2", {"questions": {"stages": "together", "coarse_s": 2.0}}),
    ("all: together, calibrate=both, coarse_s=2, clips of 3", {
        "questions": {"stages": "together", "calibrate": "both", "coarse_s": 2.0}, "frames": {"clip_frames": 3},
    }),
)  # fmt: skip


def tokens_of(num_frames: int, text: str) -> int:
    return FRAME_TOKENS * num_frames + len(text) // 4


class Fake(BaseHTTPRequestHandler):
    """Answers from the colour of the pictures: red 200 while an action is on, green its class, blue its progress."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server: Any = self.server
        time.sleep(server.latency_s)
        content, top = server.answer(body)
        logprobs = {"content": [{"token": "x", "top_logprobs": [{"token": t, "logprob": math.log(p)} for t, p in top]}]}
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "logprobs": logprobs}
        parts = body["messages"][0]["content"]
        images, text = (len(parts) - 1, parts[-1]["text"]) if isinstance(parts, list) else (0, parts)
        usage = {
            "prompt_tokens": FRAME_TOKENS * images + len(text) // 4,
            "completion_tokens": max(1, len(content) // 4),
        }
        whole = json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(whole)))
        self.end_headers()
        self.wfile.write(whole)

    def log_message(self, *arguments: Any) -> None:
        pass


class InProcess:
    """`MLLM` that answers like the server, without HTTP. serial_s: latencies of requests that wait for each other."""

    identity, frame_size = "fake", 64

    def __init__(self, answer: Answers, *, latency_s: float, concurrency: int) -> None:
        self.answer, self.latency_s, self.concurrency = answer, latency_s, concurrency
        self.usage, self.serial_s = Usage(), 0.0

    def generate(
        self, frames: Frames, prompt: str, *, schema: Schema | None = None, temperature: float = 0.0, answer_tokens: int
    ) -> str:
        seen = [self.answer.seen(frame.image()) for frame in frames.frames]
        content, _ = self.answer.of(seen, prompt, is_choice=False)
        self._count(len(frames), prompt, content, 1)
        return content

    def choose(
        self, clips: Sequence[Frames], prompts: Sequence[str], options: Sequence[str], *, keep: Keep, fail: Fail
    ) -> None:
        for t, clip in enumerate(clips):
            seen = [self.answer.seen(frame.image()) for frame in clip.frames]
            for s, prompt in enumerate(prompts):
                top = dict(self.answer.of(seen, prompt, is_choice=True)[1])
                keep(t, s, shares([top.get(option, 0.0) for option in options]))
                self._count(len(clip), prompt, "x", 0)
        self.serial_s += self.latency_s * math.ceil(len(clips) * len(prompts) / self.concurrency)

    def _count(self, num_frames: int, prompt: str, content: str, waits: int) -> None:
        self.usage.add(tokens_of(num_frames, prompt), max(1, len(content) // 4))
        self.serial_s += waits * self.latency_s

    def impatient(self) -> AbstractContextManager[None]:
        return nullcontext()

    def close(self) -> None:
        """Nothing is open."""


class Answers:
    """names: class names; plans: of these, by name."""

    def __init__(self, names: tuple[str, ...], plans: Mapping[str, StagePlan]) -> None:
        self.names, self.plans = names, plans
        self.stages = {
            sentence: (names.index(name), place / len(plan.stages), (place + 1) / len(plan.stages))
            for name, plan in plans.items() if name in names
            for place, sentence in enumerate(plan.descriptions)
        }  # fmt: skip

    def __call__(self, body: Mapping[str, Any]) -> tuple[str, list[tuple[str, float]]]:
        parts = body["messages"][0]["content"]
        urls = [p["image_url"]["url"] for p in parts if p["type"] == "image_url"]
        pictures = [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]
        return self.of([self.seen(p) for p in pictures], parts[-1]["text"], is_choice=bool(body.get("logprobs")))

    def of(
        self, shown: Sequence[tuple[int | None, float]], text: str, *, is_choice: bool
    ) -> tuple[str, list[tuple[str, float]]]:
        """(words, probabilities of first words)."""
        if not is_choice:
            classes = sorted({number for number, _ in shown if number is not None})
            actions = [{"name": spell_out(self.names[number]), "confidence": 0.9} for number in classes]
            return json.dumps({"actions": actions}), [("x", 1.0)]
        number, progress = shown[len(shown) // 2]
        if text.startswith("These are the stages"):
            sentences = [line.partition(". ")[2] for line in text.splitlines() if line[:1].isdecimal()]
            on = [place for place, s in enumerate(sentences, 1) if self.is_on(s, number, progress)]
            return "x", [(str(k), 0.85 if k == (on or [0])[0] else 0.03) for k in range(len(sentences) + 1)]
        sentence = text.partition(" show that ")[2].rstrip("?")
        p = 0.9 if self.is_on(sentence, number, progress) else 0.1
        return "x", [("Yes", p), ("No", 1 - p)]

    def is_on(self, sentence: str, number: int | None, progress: float) -> bool:
        own, start, end = self.stages.get(sentence, (None, 0.0, 0.0))
        return number is not None and number == own and start <= progress <= end

    @staticmethod
    def seen(picture: Image.Image) -> tuple[int | None, float]:
        """(class that is on, its progress)."""
        red, green, blue = picture.getpixel((picture.width // 2, picture.height // 2))  # type: ignore[misc]
        return (round(green / 12) if red > 160 else None), blue / 255


def frames_of(video: Video, names: tuple[str, ...], *, fps: float) -> VideoFrames:
    times_s = np.arange(0.5 / fps, video.duration_s, 1 / fps)
    pictures = np.zeros((len(times_s), 36, 64, 3), dtype=np.uint8)
    for action in video.actions:
        if action.label in names:
            on = (times_s >= action.start_s) & (times_s <= action.end_s)
            progress = 255 * (times_s[on] - action.start_s) / max(1e-6, action.end_s - action.start_s)
            pictures[on, ..., 0], pictures[on, ..., 1] = 200, 12 * names.index(action.label)
            pictures[on, ..., 2] = progress[:, None, None].astype(np.uint8)
    # no two videos share a picture, or the answer about one would be kept for the other
    pictures[:, 0, 0] = list(hashlib.sha256(video.video_id.encode()).digest()[:3])
    frames = Frames.of(list(pictures), times_s.tolist(), size=64)
    return VideoFrames(video.video_id, frames, 1 / fps, video.duration_s)


def run(
    settings: CascadeSettings,
    steps: Steps,
    videos: Mapping[str, Video],
    names: tuple[str, ...],
    plans: Any,
    folder: Path,
    workers: int,
) -> int:
    """Look at the videos; returns the number of questions asked."""
    cascade = MllmCascade(
        steps=steps, frames=settings.frames, questions=settings.questions, reconstruction=settings.reconstruction,
        plans=plans, compat=False,
    )  # fmt: skip
    files = {video_id: folder / video_id for video_id in videos}
    for file in files.values():
        file.write_bytes(b"x")
    outcome = Outcome()
    look_at_videos(
        cascade, files, names, journal=Journal(folder / "finished", {}), workers=workers, outcome=outcome,
        read=lambda video_id, file: frames_of(videos[video_id], names, fps=settings.frames.fps),
    )  # fmt: skip
    assert not outcome.failures, outcome.failures
    return steps.confidence.counts.asked.total()


def by_the_clock(settings: CascadeSettings, answer: Answers, latency_s: float, **what: Any) -> tuple[int, float, float]:
    """(questions, million tokens, seconds), the server in this process and its latency added up."""
    model = InProcess(answer, latency_s=latency_s, concurrency=settings.backend.concurrency)
    session: Any = Session(model)
    with tempfile.TemporaryDirectory() as folder:
        asked = run(settings, Steps(session, session, session, session), folder=Path(folder), workers=1, **what)
    at_once = min(settings.num_workers, len(what["videos"]))
    seconds = max(model.serial_s / at_once, asked * latency_s / settings.backend.concurrency)
    return asked, model.usage.tokens_in / 1e6, seconds


def over_http(settings: CascadeSettings, answer: Answers, latency_s: float, **what: Any) -> tuple[int, float, float]:
    """(questions, million tokens, seconds) with a server in a process of its own that sleeps for each request."""
    port: Any = multiprocessing.SimpleQueue()
    server = multiprocessing.Process(target=serve, args=(answer, latency_s, port), daemon=True)
    server.start()
    model = OpenAiServer(replace(settings.backend, base_url=f"http://127.0.0.1:{port.get()}/v1"))
    session = Session(model)
    steps = Steps(session, session, session, session)
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        asked = run(settings, steps, folder=Path(folder), workers=settings.num_workers, **what)
        took_s = time.monotonic() - started
    model.close()
    server.terminate()
    return asked, model.usage.tokens_in / 1e6, took_s


def serve(answer: Answers, latency_s: float, port: Any) -> None:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Fake)
    server.daemon_threads, server.request_queue_size = True, 512
    server.latency_s, server.answer = latency_s, answer
    port.put(server.server_port)
    server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", required=True)
    parser.add_argument("--splits", required=True)
    parser.add_argument("--latency", type=float, default=1.0)
    parser.add_argument("--http", action="store_true")
    parser.add_argument("--videos", type=int, help="the N shortest videos only")
    parser.add_argument("--only", action="append", help="settings with this in their title only; may be given again")
    args = parser.parse_args()
    where = DatasetSettings(name="thumos14", annotations=args.annotations, splits=args.splits)
    spec, _, annotations, split = open_annotations(where, SplitSettings(), data_root=".")
    names = split.unseen
    plans = read_stage_file(conf_dir() / "plans" / "thumos14.yaml")
    tested = [v for v in annotations.subset(spec.test_subset) if any(a.label in names for a in v.actions)]
    tested = sorted(tested, key=lambda v: v.duration_s)[: args.videos]
    answer = Answers(names, plans)
    what = {"videos": {v.video_id: v for v in tested}, "names": names, "plans": plans}
    print(f"{len(tested)} test videos, {sum(v.duration_s for v in tested) / 3600:.1f} h; latency {args.latency:g} s")
    for title, changed in SETTINGS:
        if args.only and not any(part in title for part in args.only):
            continue
        backend = {"kind": "server", **(changed.get("backend") or {})}
        settings = cascade_settings({**changed, "backend": backend})
        for how, count in (("clock", by_the_clock), ("HTTP", over_http))[: 1 + args.http]:
            asked, tokens, seconds = count(settings, answer, args.latency, **what)
            took = duration(seconds) if seconds >= 60 else f"{seconds:.1f} s"
            print(f"{title:52s} {how:5s} {asked:8d} questions {tokens:7.2f} M tokens {took:>12s}", flush=True)


if __name__ == "__main__":
    main()
