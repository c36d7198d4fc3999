"""`psftr describe` against a loopback server: descriptions, resume, dry run, replay, and what goes wrong."""

import json

import pytest
from front_door import psftr
from misbehaving_server import running_server

from psftr.data.descriptions import read_descriptions
from psftr.data.descriptions.ask import MAX_WORDS, parse_description
from psftr.language_models import AnswerError

for needed in ("openai", "diskcache", "tenacity"):
    pytest.importorskip(needed, reason="needs the extra psftr[mllm]")

KEY = "sk-live-0123456789abcdef-very-secret"


def action_of(body):
    """What stands in quotes first in a question."""
    return json.dumps(body["messages"][0]["content"]).split('\\"')[1]


def answer(body):
    """A description that repeats the action's words, which stand in quotes in the question."""
    action = action_of(body)
    return json.dumps({"action": action, "description": f"A person starts, does {action}, and\nends."}), None


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with running_server() as running:
        running.answer = answer
        yield running


def command(server, *more, cache="cache"):
    return [
        "describe", "backend=server", "backend.model=m", f"backend.base_url={server.url}", f"backend.cache={cache}",
        "backend.wait_s=0.001", "backend.max_wait_s=0.01", "backend.attempts=2", *more,
    ]  # fmt: skip


LABELS = "labels=[CleanAndJerk,high jump]"


def test_own_labels_are_described_and_no_question_is_asked_twice(server, tmp_path):
    done = psftr(*command(server, LABELS, "out=d.yaml"), cwd=tmp_path)
    wanted = {
        "CleanAndJerk": "A person starts, does clean and jerk, and ends.",
        "high jump": "A person starts, does high jump, and ends.",
    }
    assert read_descriptions(tmp_path / "d.yaml") == wanted
    assert "d.yaml describes 2 classes" in done.stdout
    assert KEY not in done.stdout + done.stderr
    assert len(server.bodies) == 2
    psftr(*command(server, LABELS, "out=d.yaml"), cwd=tmp_path)  # the file knows them
    psftr(*command(server, LABELS, "out=other.json"), cwd=tmp_path)  # the cache knows them
    assert len(server.bodies) == 2
    assert read_descriptions(tmp_path / "other.json") == wanted
    psftr(*command(server, "labels=[dive,CleanAndJerk]", "out=d.yaml"), cwd=tmp_path)
    assert list(read_descriptions(tmp_path / "d.yaml")) == ["dive", "CleanAndJerk", "high jump"]
    assert len(server.bodies) == 3


def test_a_text_written_by_hand_stays_unless_it_is_redone(server, tmp_path):
    (tmp_path / "d.json").write_text(json.dumps({"high jump": "by hand"}))
    psftr(*command(server, LABELS, "out=d.json"), cwd=tmp_path)
    assert read_descriptions(tmp_path / "d.json")["high jump"] == "by hand"
    psftr(*command(server, LABELS, "out=d.json", "redo=true"), cwd=tmp_path)
    assert read_descriptions(tmp_path / "d.json")["high jump"] == "A person starts, does high jump, and ends."


def test_a_dry_run_counts_and_asks_nothing(server, tmp_path):
    psftr(*command(server, "labels=[dive]", "out=d.json"), cwd=tmp_path)
    psftr(*command(server, "labels=[swim]", "out=e.json"), cwd=tmp_path)
    done = psftr(*command(server, "labels=[dive,swim,run]", "out=d.json", "dry_run=true"), cwd=tmp_path)
    told = "3 classes, 1 described in d.json, 1 answers kept: 1 questions to ask"
    assert told in " ".join(done.stdout.split())
    assert len(server.bodies) == 2
    assert list(read_descriptions(tmp_path / "d.json")) == ["dive"]


def test_the_classes_of_a_data_set_are_described_and_replayed(server, workplace):
    psftr(*command(server, "record=answers.json"), cwd=workplace)
    written = read_descriptions(workplace / "outputs" / "descriptions" / "synthetic.json")
    assert len(written) == 20
    server.mode = "e500"
    replay = ["describe", "backend=replay", "backend.file=answers.json", "out=again.json"]
    psftr(*replay, cwd=workplace)
    assert read_descriptions(workplace / "again.json") == written
    done = psftr(*replay, "labels=[chess]", cwd=workplace, check=False)
    assert done.returncode == 1
    assert "WITHOUT DESCRIPTION: chess" in done.stdout + done.stderr


def test_an_unusable_answer_is_repaired_once_and_then_told(server, tmp_path):
    replies = {"high jump": ["no JSON", json.dumps({"description": "better"})], "dive": ["no JSON", "none still"]}

    def stubborn(body):
        action = action_of(body)
        return replies[action].pop(0), None

    server.answer = stubborn
    done = psftr(*command(server, "labels=[high jump,dive]", "out=d.json"), cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert read_descriptions(tmp_path / "d.json") == {"high jump": "better"}
    told = " ".join((done.stdout + done.stderr).split())
    assert "WITHOUT DESCRIPTION: dive; the same command asks again what failed" in told
    assert "there is no JSON object in it" in told
    server.answer = answer
    psftr(*command(server, "labels=[high jump,dive]", "out=d.json"), cwd=tmp_path)
    assert list(read_descriptions(tmp_path / "d.json")) == ["high jump", "dive"]


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("e401", "the server refused the key (401)"),
        ("e404", "the server knows no such model or address (404)"),
        ("garbage", "3 description questions in a row failed"),
    ],
)
def test_a_server_that_is_not_well_ends_the_run_and_keeps_what_was_there(server, tmp_path, mode, message):
    psftr(*command(server, "labels=[dive]", "out=d.json"), cwd=tmp_path)
    server.mode = mode
    done = psftr(
        *command(server, "labels=[dive,a,b,c,d,e,f,g]", "out=d.json", "backend.give_up_after=3"),
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert KEY not in done.stdout + done.stderr
    assert list(read_descriptions(tmp_path / "d.json")) == ["dive"]


def test_the_budget_holds(server, tmp_path):
    done = psftr(*command(server, "labels=[a,b,c]", "backend.budget=2", "out=d.json"), cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert len(server.bodies) == 2
    assert list(read_descriptions(tmp_path / "d.json")) == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([LABELS], "say what writes the descriptions: backend=server"),
        ([LABELS, "backend=clip"], "backend=clip answers no questions"),
        (["labels=[HighJump,high jump]", "backend=server"], "are the same in words"),
        ([LABELS, "backend=server", "out=d.txt"], "out=d.txt must end with .json or .yaml"),
        ([LABELS, "backend=replay"], "backend=replay needs backend.file=FILE"),
        ([LABELS, "backend=replay", "record=a.json"], "nothing new to record"),
        ([LABELS, "backend=server", "bakend.model=m"], "no config key 'bakend.model', did you mean 'backend.model'?"),
        (["dataset=thumos14", "backend=server"], "run `psftr prepare thumos14`"),
        ([LABELS, "backend=server", "out=broken.json"], "broken.json: not valid JSON"),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, message):
    (tmp_path / "broken.json").write_text("{")
    done = psftr("describe", *arguments, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a leap", "no JSON object"),
        ("{description}", "not valid JSON"),
        ('{"description": 3}', '"description" is not text'),
        ('{"description": "%s"}' % ("leap " * (MAX_WORDS + 1)), f"has {MAX_WORDS + 1} words, more than {MAX_WORDS}"),
    ],
)
def test_what_is_no_description(text, complaint):
    with pytest.raises(AnswerError, match=complaint):
        parse_description(text)
