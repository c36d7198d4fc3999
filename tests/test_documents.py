"""Documents and project files agree with the repository: paths exist, versions are the same everywhere."""

import configparser
import re
import tomllib
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").glob("*.md"))]
FOLDERS = ("psftr", "docs", "conf", "tools", "tests", ".ci", ".github")
SOURCES = [file for folder in FOLDERS for file in sorted((REPOSITORY / folder).rglob("*")) if file.is_file()]
# a path below one of the folders of ours, or the name of a source file anywhere
PATH = re.compile(
    r"(?<![\w/.:$>-])((?:psftr|docs|conf|tools|tests)/[\w./-]*[\w/]|[\w/.-]+\.(?:py|md|css|js|cu?))(?![\w/(*{])"
)
NO_PATHS = {
    "kernel.cu",  # a name given to the CUDA compiler
    "utils.py",  # what no file is called
    *("index.md", "contributing.md", "changelog.md", "data.md"),  # pages of the site
    "psftr/methods/psftr/mean_head.py",  # readers of docs/extending.md
    *("psftr_peaks.py", "conf/dataset/kitchen.yaml", "conf/experiment/queries.yaml"),  # readers of docs/extending.md
}
PLACEHOLDER = re.compile(r"[A-Z][A-Z_]+\.yaml$")  # conf/dataset/NAME.yaml


@pytest.fixture(scope="module")
def known() -> str:
    """Every file and folder as "\\n/path\\n"."""
    paths = {
        file.relative_to(REPOSITORY) for file in [*SOURCES, *REPOSITORY.glob("*.*"), REPOSITORY / "data/README.md"]
    }
    paths |= {parent for path in paths for parent in path.parents}
    return "".join(f"\n/{path.as_posix()}\n" for path in paths)


def missing(text: str, known: str) -> list[str]:
    named = {path for path in PATH.findall(text) if not PLACEHOLDER.search(path)} - NO_PATHS
    return sorted(path for path in named if f"/{path.strip('./')}\n" not in known)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_paths_in_documents_exist(document, known):
    assert not missing(document.read_text(encoding="utf-8"), known)


def test_paths_in_docstrings_comments_and_configuration_exist(known):
    texts = [file for file in SOURCES if file.suffix in (".py", ".yaml", ".c", ".cu") and "tests" not in file.parts]
    texts += [REPOSITORY / "setup.py", REPOSITORY / "setup.cfg", REPOSITORY / "pyproject.toml", REPOSITORY / "Makefile"]
    found = {
        f"{file.relative_to(REPOSITORY)} names {path}" for file in texts for path in missing(file.read_text(), known)
    }
    assert not found


def test_links_between_documents_lead_somewhere():
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
            assert ":" in target or (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_supported_pythons_are_the_same_everywhere():
    config = configparser.RawConfigParser()
    config.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    classifiers = re.findall(r"Python :: (3\.\d+)", config["metadata"]["classifiers"])
    oldest, newest = (tuple(map(int, one.split("."))) for one in (classifiers[0], classifiers[-1]))
    assert config["options"]["python_requires"] == f">={classifiers[0]}, <3.{newest[1] + 1}"
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text())
    assert workflow["jobs"]["ci"]["strategy"]["matrix"]["python"] == classifiers
    tools = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]
    assert tools["ruff"]["target-version"] == f"py{''.join(classifiers[0].split('.'))}"
    assert f"< {oldest}" in (REPOSITORY / "Makefile").read_text()
    for name in ("README.md", "CONTRIBUTING.md"):
        assert f"Python {classifiers[0]} to {classifiers[-1]}" in (REPOSITORY / name).read_text(encoding="utf-8"), name


def test_the_version_is_written_once():
    import psftr

    version = re.compile(rf"(?<![\d.]){re.escape(psftr.__version__)}(?![\d.])")
    for name in ("setup.cfg", "pyproject.toml", "setup.py", "CITATION.cff", "README.md", "psftr/__init__.py"):
        found = [line for line in (REPOSITORY / name).read_text(encoding="utf-8").splitlines() if version.search(line)]
        assert len(found) == (name == "psftr/__init__.py"), f"{name}: {found}"
    assert f"## {psftr.__version__}" in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_workflow_and_the_hooks_run_what_everybody_runs():
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text())
    assert ".ci/run" in [step.get("run") for step in workflow["jobs"]["ci"]["steps"]]
    ran = (REPOSITORY / ".ci/run").read_text()
    assert all(f"make {target}\n" in ran for target in ("lint", "types", "test"))
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    entries = [hook["entry"] for hook in hooks[0]["hooks"]]
    assert all(entry.startswith(".venv/bin/") for entry in entries)
    checked = " ".join(entries)
    assert all(tool in checked for tool in ("ruff check", "ruff format", "mypy", "tools/check_house.py"))


def test_the_citation_file_names_no_version_and_no_doi():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert not {"version", "doi", "date-released"} & citation.keys()


def test_the_map_in_the_readme_shows_every_room():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8").split("## Map of the code")[1].split("```")[1]
    rows = [re.split(r"\s{2,}|\s+(?=[^\s/]+ [a-z])", line.strip())[0] for line in text.splitlines() if line[:2] == "  "]
    shown = {name.split("/")[0] for row in rows for name in row.split()}
    rooms = {path.name for path in (REPOSITORY / "psftr").iterdir() if not path.name.startswith(("_", "."))}
    assert shown == rooms - {"py.typed"}
