"""`psftr cascade` through the front door: the synthetic world, a hostile server, tiny models on a real video."""

import hashlib
import json
import math
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from front_door import psftr

from psftr.methods.cascade.decomposition import parse_caption, parse_stages
from psftr.methods.cascade.filtering import parse_actions
from psftr.predictions import read_predictions

NEED_EXTRA = "needs the extra psftr[mllm]"
KEY = "sk-live-0123456789abcdef-very-secret"


def stages_of(folder):
    return json.loads((folder / "stages.json").read_text())


# --- CLIP backend


@pytest.fixture(scope="module")
def clip_run(workplace):
    done = psftr("cascade", "split.index=1", "out=cascade-1", "figures=false", cwd=workplace)
    return done, workplace / "cascade-1"


def test_cascade_stands_above_the_baseline_in_one_table_under_both_ways_of_scoring(clip_run):
    done, folder = clip_run
    ours = json.loads((folder / "evaluation.json").read_text())["mAP"]["average"]["mean"]
    baseline = json.loads((folder / "baseline" / "evaluation.json").read_text())["mAP"]["average"]["mean"]
    assert ours > 1.1 * baseline > 0
    table = done.stdout.split("mean over splits, %")[1]
    assert table.index("\ncascade ") < table.index("\nclip_baseline ")
    assert "NOT COMPARABLE" in done.stdout
    own = json.loads((folder / "per_video.json").read_text())
    assert set(own) == {"cascade", "clip_baseline"}


def test_predictions_say_where_they_come_from_and_every_detection_has_its_trace(clip_run):
    _, folder = clip_run
    predictions, stages = read_predictions(folder / "predictions.json"), stages_of(folder)
    assert (predictions.provenance.method, predictions.provenance.checkpoint_rule) == (
        "cascade",
        "none (training-free)",
    )
    assert stages["version"] == "psftr-stages-1"
    assert set(stages["videos"]) == set(predictions.detections)
    for video_id, found in predictions.detections.items():
        video = stages["videos"][video_id]
        assert [(d.label, d.score) for d in found] == [(t["label"], t["score"]) for t in video["detections"]]
        plans = {c["label"]: c for c in video["classes"]}
        for d, traced in zip(found, video["detections"]):
            assert traced["segment"] == pytest.approx([d.start_s, d.end_s], abs=1e-3)
            assert traced["runs"][0]["segment"][0] == traced["segment"][0]
            assert len(traced["stages"]) == len(plans[d.label]["stages"]) == len(plans[d.label]["curves"])
            for stretch in (row for stage in traced["stages"] for row in stage):
                assert stretch["confidence"] >= stages["threshold"] - 1e-3
                assert d.start_s - 1e-3 <= stretch["segment"][0] < stretch["segment"][1] <= d.end_s + 0.3


def test_the_stage_file_it_wrote_gives_the_same_predictions(clip_run, workplace):
    _, folder = clip_run
    files = [f"stages={folder / 'stages.yaml'}", f"stages_text={folder / 'stages.h5'}"]
    psftr("cascade", "split.index=1", "out=again", "baseline=false", *files, cwd=workplace)
    again = read_predictions(workplace / "again" / "predictions.json")
    assert again.detections == read_predictions(folder / "predictions.json").detections


def test_observed_behaviour_finds_all_classes_and_scores_nothing(workplace):
    psftr("cascade", "split.index=1", "out=compat", "compat=true", "baseline=false", cwd=workplace)
    predictions = read_predictions(workplace / "compat" / "predictions.json")
    found = [d for rows in predictions.detections.values() for d in rows]
    assert {d.score for d in found} == {1.0}
    assert {d.label for d in found} - set(predictions.provenance.split["unseen"])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["backend=clop"], "did you mean 'clip'?"),
        (["backend=server"], "give videos_dir=DIR with <video id>.mp4, or backend=clip"),
        (["videos=[a.mp4]"], "belong together"),
        (["videos=[a.mp4]", "labels=[jump]"], "a.mp4: no such video file"),
        (["candidates=some"], "candidates=some is unknown"),
        (["stages=none.yaml"], "stage file none.yaml not found"),
        (["reconstruction.threshold=7"], "threshold 7 must lie in (0, 1]"),
        (["reconstruction.treshold=0.7"], "did you mean 'reconstruction.threshold'?"),
    ],
)
def test_bad_input_is_one_line(workplace, arguments, complaint):
    done = psftr("cascade", *arguments, cwd=workplace, check=False)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def test_help_has_an_example(workplace):
    done = psftr("cascade", "--help", cwd=workplace)
    assert "usage: psftr cascade" in done.stdout
    assert "backend=clip" in done.stdout


# --- a server that misbehaves


class Hostile(BaseHTTPRequestHandler):
    """Speaks the API. A question is refused in some way `faults(question)` times before it is answered."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        raw = self.rfile.read(int(self.headers["content-length"]))
        server, body = self.server, json.loads(raw)
        with server.lock:
            server.bodies.append(raw)
            server.keys.add(self.headers["authorization"])
            question = hashlib.sha256(raw).digest()
            server.asked[question] += 1
            attempt = server.asked[question]
            is_fault = server.is_hostile and attempt <= faults(question, is_choice="logprobs" in body)
            kind = FAULTS[(question[1] + attempt) % len(FAULTS)] if is_fault else None
            if kind == "nonsense" and b"Your last answer was" in raw:
                kind = "garbled"  # the repair request is answered in the end
            server.injected[kind] += 1
        getattr(self, f"_{kind}")(body) if kind else self._send(200, completion(body))

    def _send(self, status, content, headers=(), length=None):
        self.send_response(status)
        sizes = {"content-type": "application/json", "content-length": str(length or len(content))}
        for name, value in {**sizes, **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _busy(self, body):
        self._send(429, b'{"error": {"message": "slow down"}}', {"retry-after": "0.001"})

    def _error(self, body):
        self._send(500, b"<html>oops</html>")

    def _unavailable(self, body):
        self._send(503, b"")

    def _silence(self, body):
        time.sleep(TIMEOUT_S * 1.5)
        self.close_connection = True

    def _truncated(self, body):
        whole = completion(body)
        self._send(200, whole[: len(whole) // 2], length=len(whole))
        self.close_connection = True

    def _garbled(self, body):
        self._send(200, completion(body).replace(b'"', b"'", 9))

    def _hollow(self, body):
        whole = json.loads(completion(body))
        whole["choices"][0]["logprobs"] = None
        whole["choices"][0]["message"]["content"] = None
        self._send(200, json.dumps(whole).encode())

    def _nonsense(self, body):
        """A well-formed reply that is no answer: the repair request and the fallbacks are for these."""
        self._send(200, completion(body, content='{"stages": ["people'))

    def log_message(self, *arguments):
        pass


FAULTS = ("busy", "error", "unavailable", "truncated", "garbled", "hollow", "nonsense") * 2 + ("silence",)
TIMEOUT_S = 1.0
ATTEMPTS = 6


def faults(question: bytes, *, is_choice: bool) -> int:
    """2 to 4; one yes/no question in sixteen is never answered."""
    return 1000 if is_choice and question[0] % 16 == 0 else 2 + question[0] % 3


def completion(body, content=None) -> bytes:
    name = body.get("response_format", {}).get("json_schema", {}).get("name")
    answers = {
        "ActionFilter": {"actions": [{"name": "clean and jerk", "confidence": 0.8}]},
        "Caption": {"action": "clean and jerk", "caption": "a person lifts a weight"},
        "StagePlan": {
            "action": "clean and jerk",
            "stages": [{"index": n, "description": f"people do part {n}", "is_key": n > 1} for n in (1, 2, 3, 4)],
        },
    }
    logprobs = None
    if body.get("logprobs") and content is None:
        top = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in ((" Yes", 0.72), ("No", 0.18))]
        logprobs = {"content": [{**top[0], "top_logprobs": top}], "refusal": None}
    message = {"role": "assistant", "content": content or (json.dumps(answers[name]) if name else "Yes")}
    choice = {"index": 0, "finish_reason": "stop", "message": message, "logprobs": logprobs}
    whole = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    return json.dumps(whole).encode()


@pytest.fixture
def hostile():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hostile)
    server.daemon_threads, server.request_queue_size = True, 128
    server.lock, server.bodies, server.keys = threading.Lock(), [], set()
    server.asked, server.injected, server.is_hostile = Counter(), Counter(), True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_thousand_faults_end_as_valid_results_or_counted_fallbacks(hostile, tmp_path, monkeypatch):
    pytest.importorskip("openai", reason=NEED_EXTRA)
    pytest.importorskip("diskcache", reason=NEED_EXTRA)
    pytest.importorskip("tenacity", reason=NEED_EXTRA)
    pytest.importorskip("av", reason="needs the extra psftr[video]")
    from clips import write_clip

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(90)]
    secret = tmp_path / "v_HammerThrow_secret_g01.mp4"  # a file name that tells a label
    write_clip(secret, pictures, times_s=[k / 10 for k in range(90)])
    run = [
        "cascade", f"videos=[{secret.name}]", "labels=[CleanAndJerk]", "backend=server", "backend.model=m",
        f"backend.base_url=http://127.0.0.1:{hostile.server_port}/v1", f"backend.timeout_s={TIMEOUT_S}",
        f"backend.attempts={ATTEMPTS}", "backend.wait_s=0.001", "backend.max_wait_s=0.005", "backend.concurrency=24",
        "backend.give_up_after=null", "backend.cache=cache", "frames.fps=10", "out=out",
    ]  # fmt: skip
    first = psftr(*run, cwd=tmp_path)
    injected = sum(n for kind, n in hostile.injected.items() if kind)
    assert injected >= 1000
    assert set(hostile.injected) >= set(FAULTS)

    stages = stages_of(tmp_path / "out")
    (video,) = stages["videos"].values()
    (counts,) = stages["counts"].values()
    (one,) = video["classes"]
    assert len(one["stages"]) == 4
    assert all(0 <= p <= 1 for curve in one["curves"] for p in curve)
    failed = counts["failed"].get("yes/no", 0)
    halves = sum(p == 0.5 for curve in one["curves"] for p in curve)
    assert failed == halves > 0  # every question without an answer is there, as a half, and is counted
    assert not one["is_fallback"]
    assert set(counts["failed"]) == {"yes/no"}
    answered = {round(p, 3) for curve in one["curves"] for p in curve} - {0.5}
    assert answered == {0.8}  # 0.72 / (0.72 + 0.18)
    (detections,) = read_predictions(tmp_path / "out" / "predictions.json").detections.values()
    assert {d.label for d in detections} == {"CleanAndJerk"}

    # a finished run asks nothing again, whatever had failed in it
    before = len(hostile.bodies)
    again = psftr(*run, cwd=tmp_path)
    assert len(hostile.bodies) == before
    assert stages_of(tmp_path / "out")["videos"] == stages["videos"]
    # made anew, it asks what was never answered, and nothing else
    hostile.is_hostile = False
    redone = psftr(*run, "redo=true", cwd=tmp_path)
    assert len(hostile.bodies) - before == sum(counts["failed"].values())
    assert "failed" not in redone.stdout
    before = len(hostile.bodies)
    psftr(*run, "redo=true", cwd=tmp_path)
    assert len(hostile.bodies) == before

    # neither file name nor path nor key is in anything sent, and the key is in nothing written or printed
    assert hostile.keys == {f"Bearer {KEY}"}
    sent = b"".join(hostile.bodies)
    for secret_word in (b"HammerThrow", b"secret", b"g01", b".mp4", str(tmp_path).encode(), KEY.encode()):
        assert secret_word not in sent
    printed = "".join(done.stdout + done.stderr for done in (first, again, redone))
    assert KEY not in printed
    warnings = [line for line in first.stdout.splitlines() if "failed" in line]
    assert warnings
    assert "HammerThrow" not in "".join(warnings)
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert KEY.encode() not in file.read_bytes()
    for file in (tmp_path / "cache").rglob("*"):
        if file.is_file():
            assert b"HammerThrow" not in file.read_bytes()


def test_a_dry_run_says_how_much_and_asks_nothing(hostile, shared_data, tmp_path):
    pytest.importorskip("av", reason="needs the extra psftr[video]")
    video = shared_data / "videos" / "v_GGSY1Qvo990.mp4"  # 18.16 s at 29.97 per second -> every 14th of 544 frames
    arguments = [f"videos=[{video}]", "labels=[clean and jerk,chess]", "backend=server", "dry_run=true"]
    done = psftr("cascade", *arguments, f"backend.base_url=http://127.0.0.1:{hostile.server_port}/v1", cwd=tmp_path)
    frames = int(done.stdout.split("stage plans, ")[1].split(" yes/no")[0]) // (2 * 5)
    assert 36 <= frames <= 42
    total = 1 + 2 + 2 + frames * 5 * 2
    assert f"1 videos: at most {total} questions" in done.stdout
    assert not hostile.bodies
    assert not (tmp_path / "outputs").exists()


# --- tiny models on a real video


@pytest.mark.parametrize("kind", ["qwen", "llava"])
def test_tiny_models_run_end_to_end_on_a_real_video_and_replay(kind, shared_data, tmp_path):
    pytest.importorskip("transformers", reason=NEED_EXTRA)
    pytest.importorskip("diskcache", reason=NEED_EXTRA)
    pytest.importorskip("av", reason="needs the extra psftr[video]")
    from tiny_mllm import save

    save(kind, tmp_path / "weights")
    video = shared_data / "videos" / "v_GGSY1Qvo990.mp4"
    common = [f"videos=[{video}]", "labels=[clean and jerk]", "frames.filter_frames=2", "frames.caption_frames=2"]
    model = [
        "backend.model=weights",
        "backend.max_tokens=4",
        "backend.cache=cache",
        "device=cpu",
        "record=answers.json",
    ]
    done = psftr("cascade", *common, f"backend={kind}", *model, "out=run", cwd=tmp_path)
    stages = stages_of(tmp_path / "run")
    (trace,) = stages["videos"].values()
    (one,) = trace["classes"]
    # random weights know no JSON: repaired once, then one stage, and both are counted
    (counts,) = stages["counts"].values()
    assert counts["failed"] == {"caption": 1, "filter": 1, "stages": 1}
    assert one["is_fallback"]
    assert one["stages"] == [{"description": "people are clean and jerk", "is_key": True}]
    assert 36 <= len(one["curves"][0]) <= 42
    assert len({round(p, 2) for p in one["curves"][0]}) > 2
    assert "failed: caption 1, filter 1, stages 1" in done.stdout
    replayed = ["backend=replay", "backend.file=answers.json", "out=replayed"]
    psftr("cascade", *common, *replayed, cwd=tmp_path)
    assert stages_of(tmp_path / "replayed")["videos"] == stages["videos"]
    answer = json.loads((tmp_path / "answers.json").read_text())
    assert video.stem not in json.dumps(answer)


def test_own_videos_with_untrained_clip(shared_data, tmp_path):
    pytest.importorskip("av", reason="needs the extra psftr[video]")
    video = shared_data / "videos" / "v_GGSY1Qvo990.mp4"
    (tmp_path / "plans.yaml").write_text(
        "clean and jerk:\n  stages:\n    - {description: people lift a bar, is_key: true}\n"
        "    - {description: people drop a bar, is_key: false}\n"
    )
    arguments = [f"videos=[{video}]", "labels=[clean and jerk,chess]", "stages=plans.yaml", "encoder.fps=1", "out=run"]
    tiny = Path(__file__).resolve().parents[1] / "tiny_clip.json"
    psftr("cascade", *arguments, f"encoder.model={tiny}", "encoder.pretrained=random", "device=cpu", cwd=tmp_path)
    provenance = read_predictions(tmp_path / "run" / "predictions.json").provenance
    assert provenance.features["encoder"].endswith(":random-seed0")
    (trace,) = stages_of(tmp_path / "run")["videos"].values()
    counts = {c["label"]: len(c["stages"]) for c in trace["classes"]}
    assert counts.items() <= {"clean and jerk": 2, "chess": 1}.items()
    assert counts


def test_a_name_that_is_no_candidate_goes_to_the_nearest_by_text_embedding():
    from psftr.cli.cascade_models import nearest_candidate

    tiny = str(Path(__file__).resolve().parents[1] / "tiny_clip.json")
    settings = {"model": tiny, "pretrained": "random", "min_cosine": 0.999}
    nearest = nearest_candidate({"nearest": settings}, ("HighJump", "Diving"))
    assert nearest("high jump") == "HighJump"  # the same sentence, so cosine 1
    assert nearest_candidate({"nearest": {**settings, "model": None}}, ("HighJump",)) is None


def test_answers_asked_for_are_what_the_parsers_take():
    """The server above gives model answers; they pass the same checks as a real model's."""

    def said(name):
        body = {"response_format": {"json_schema": {"name": name}}}
        return json.loads(completion(body))["choices"][0]["message"]["content"]

    assert parse_actions(said("ActionFilter")) == [("clean and jerk", 0.8)]
    assert parse_caption(said("Caption")) == "a person lifts a weight"
    assert [stage.is_key for stage in parse_stages(said("StagePlan"))] == [False, True, True, True]


# --- stages for other methods


def test_proposals_of_another_method_are_rescored_beside_the_originals(workplace):
    psftr("evaluate", "method=clip_baseline", "split.index=1", "out=proposals", "figures=false", cwd=workplace)
    file = "proposals=proposals/predictions.json"
    done = psftr("cascade", file, "split.index=1", "out=rescored", "figures=false", cwd=workplace)
    given = read_predictions(workplace / "proposals" / "predictions.json")
    found = read_predictions(workplace / "rescored" / "predictions.json")
    assert found.provenance.method == f"{given.provenance.method}+cascade"
    assert found.provenance.config["rescore"]["blend"] == 0.5
    spans = [{(v, d.label, d.start_s, d.end_s) for v, r in p.detections.items() for d in r} for p in (given, found)]
    assert spans[0] == spans[1]
    assert "clip_baseline+cascade is" in done.stdout
    other = psftr("cascade", file, "split.index=2", "out=wrong", cwd=workplace, check=False)
    assert other.returncode == 2
    assert "not for" in other.stderr or "no stage plan" in other.stderr


def test_class_texts_with_stages_serve_any_verb_that_takes_texts(workplace):
    from psftr.features.text import load_text

    psftr("cascade", "write_text=texts/stages-text.h5", cwd=workplace)
    text = load_text(workplace / "texts" / "stages-text.h5")
    own = load_text(workplace / "data" / "synthetic" / "text.h5")
    assert sorted(text.names) == sorted(own.names)
    assert (text.encoder, text.synthetic) == (own.encoder, True)
    assert text.prompt == "synthetic x 0.25 + stages x 0.75"
    arguments = ["method=clip_baseline", "out=with-stages", "figures=false"]
    psftr("evaluate", *arguments, "text.embeddings=texts/stages-text.h5", cwd=workplace)
    assert read_predictions(workplace / "with-stages" / "predictions.json").provenance.text["prompt"] == text.prompt
