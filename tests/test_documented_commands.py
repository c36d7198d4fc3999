"""Every command of README.md and docs/ is run here on a small synthetic world, or says why not.

A fenced block without a language holds commands. They run in one folder, README first, in the order in which a reader
meets them. A comment on the line before a block says why it is not run:

    <!-- needs: a GPU -->                        what is missing here; its keys and flags are checked all the same
    <!-- run by: tests/test_extending.py -->     another test does it

and `<!-- Python blocks run by: FILE -->` says so of all Python on a page. To the commands that run, ADDED appends the
settings that make them cheap, except where a command sets the same key. PROVIDED is what they read that no earlier
command wrote.
"""

import argparse
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
from clips import numbered_clip
from conftest import REPOSITORY
from front_door import TINY, psftr
from parts import save_tiny
from tiny_model import TINY_CLIP, tiny_identity

import psftr as package
from psftr.cli import VERBS
from psftr.cli.flags import FlagParser
from psftr.cli.hydra_app import check_overrides, config_groups, overrides_among, register_settings

DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:^<!-- (needs|run by): ([^\n]+) -->\n)?^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
PAGE_MARK = re.compile(r"^<!-- Python blocks run by: (.+) -->$", flags=re.MULTILINE)
DATA = {"text", "toml", "yaml", "json", "csv"}
ADDED = {
    "train": [text for text in TINY if not text.startswith("trainer.max_epochs")] + ["trainer.max_epochs=1"],
    "evaluate": ["figures=false"],
    "predict": ["--model", TINY_CLIP, "--pretrained", "random", "--device", "cpu"],
}


@dataclass(frozen=True)
class Block:
    document: Path
    line: int
    language: str
    text: str
    mark: str
    reason: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(REPOSITORY)}:{self.line}"

    def commands(self) -> list[list[str]]:
        """The words of each line that is not empty, its comment left out."""
        return [words for line in self.text.splitlines() if (words := shlex.split(line, comments=True))]


def blocks() -> list[Block]:
    found = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            mark, reason, language, inside = match.groups(default="")
            found.append(Block(document, text[: match.start(4)].count("\n"), language, inside, mark, reason))
        assert text.count("\n```") == 2 * len(list(BLOCK.finditer(text))), f"{document.name}: a fence is not closed"
    return found


def needing(mark: str) -> list[Block]:
    return [block for block in blocks() if block.mark == mark]


def with_added(words: list[str]) -> list[str]:
    given = {word.partition("=")[0] for word in words}
    if "resume" in given:
        return words
    added = ADDED.get(words[0], [])
    return words + [word for word in added if word.partition("=")[0] not in given]


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """PROVIDED: the synthetic world, a clip, a model with a tiny encoder."""
    from psftr.data.synthetic import ensure_world

    ensure_world(tmp_path / "data" / "synthetic", num_train=24, num_test=16)
    numbered_clip(tmp_path / "clip.mp4", count=50)
    actions = [{"segment": [0.2, 0.8], "label": "high jump"}, {"segment": [1.0, 1.6], "label": "pole vault"}]
    clip = {"subset": "test", "duration": 2.0, "annotations": actions}
    (tmp_path / "ground_truth.json").write_text(json.dumps({"database": {"clip": clip}}))
    features = {"identity": f"{tiny_identity()} dim=16 stride=4 videos=1 0"}
    save_tiny(tmp_path / "outputs" / "my-run", tiny_identity(), config={"window": {"size": 16}}, features=features)
    load = package.load
    monkeypatch.setattr(
        package, "load", lambda path: load(path, device="cpu", model=TINY_CLIP, pretrained="random"), raising=False
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_without_a_mark_runs(workplace):
    run = 0
    for block in blocks():
        if block.mark or block.language in DATA or (block.language == "python" and page_of_python(block.document)):
            continue
        if block.language == "python":
            exec(compile(block.text, str(block), "exec"), {})
            continue
        assert not block.language, f"{block}: say what {block.language} is in DATA, or leave the language out"
        for verb, *words in block.commands():
            assert verb == "psftr", f"{block}: `{verb}` is not run here: mark the block (see the top of this file)"
            done = psftr(*with_added(words), cwd=workplace, check=False)
            assert done.returncode == 0, f"{block}: psftr {shlex.join(words)}\n{done.stdout}\n{done.stderr}"
            run += 1
    assert run > 10
    assert (workplace / "page.html").is_file()
    assert (workplace / "clip.srt").is_file()


def test_a_marked_command_has_keys_and_flags_that_exist():
    for block in needing("needs"):
        assert len(block.reason) > 3
        assert block.commands(), f"{block}: no command"
        targets = re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)
        for program, *words in block.commands():
            assert program in ("psftr", "make", "python", "docker"), f"{block}: {program}"
            if program == "make":
                assert words[0] in targets, f"{block}: make {words[0]}"
            elif program == "psftr":
                check(words)


def check(words: list[str]) -> None:
    """What the program checks of a command line before it works."""
    import importlib

    verb, *arguments = words
    module = importlib.import_module(f"psftr.cli.{verb}")
    if VERBS[verb][0] == "hydra":
        register_settings(module)
        is_sweep = bool({"-m", "--multirun"} & set(arguments))
        check_overrides(module, overrides_among(arguments), is_sweep=is_sweep, config_dir=None)
    else:
        parser = FlagParser(prog=verb, formatter_class=argparse.RawDescriptionHelpFormatter)
        module.add_arguments(parser)
        parser.parse_args(arguments)


def page_of_python(document: Path) -> str:
    found = PAGE_MARK.search(document.read_text(encoding="utf-8"))
    return found[1] if found else ""


def test_what_another_test_runs_is_named_there():
    named = {(block.reason, block.document.name) for block in needing("run by")}
    named |= {(page_of_python(document), document.name) for document in DOCUMENTS if page_of_python(document)}
    assert ("tests/test_library_page.py", "library.md") in named
    for test, document in named:
        assert document in (REPOSITORY / test).read_text(encoding="utf-8"), f"{test} does not read {document}"


def test_an_unmarked_command_would_be_found():
    """What this file relies on: the pattern sees blocks with and without a mark."""
    told = [match.groups(default="") for match in BLOCK.finditer("<!-- needs: x -->\n```\na\n```\n\n```sh\nb\n```\n")]
    assert told == [("needs", "x", "", "a\n"), ("", "", "sh", "b\n")]


def test_the_readme_names_every_experiment_and_no_path_that_ends_in_dots():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert not [name for name in config_groups()["experiment"] if not re.search(rf"\b{name}\b", text)]
    for document in [*DOCUMENTS, REPOSITORY / "CONTRIBUTING.md"]:
        cut = re.findall(r"\S*[\w-]/\S*…|\d-…", document.read_text(encoding="utf-8"))
        assert not cut, f"{document.name}: {cut}"
