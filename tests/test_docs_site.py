"""`make docs`: the pages are built from the Markdown of the repository, without a warning."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert "WARNING" not in told
    return folder


def test_every_document_is_a_page_that_the_menu_names(site):
    menu = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8").partition("nav:")[2]
    for document in sorted((REPOSITORY / "docs").glob("*.md")):
        assert (site / document.name).with_suffix(".html").is_file()
        assert f" {document.name}\n" in menu
    assert "Two commands" in (site / "index.html").read_text(encoding="utf-8")
    assert (site / "images" / "timeline.png").is_file()


def test_no_link_of_a_page_leads_nowhere(site):
    for page in sorted(site.glob("*.html")):
        if page.name == "404.html":  # its links are of a server's root
            continue
        for target in re.findall(r'(?:href|src)="(?![a-z]+:)([^"#?]+)', page.read_text(encoding="utf-8")):
            assert (site / target).exists(), f"{page.name} links to {target}"


def test_the_api_page_has_signatures_and_docstrings(site):
    page = re.sub("<[^>]+>", "", (site / "api.html").read_text(encoding="utf-8"))
    for words in ("psftr.api.load", "revision: str | None", "A trained model: a run folder", "psftr.predictions"):
        assert words in page


def test_make_and_the_workflow_build_the_same():
    import yaml

    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert "mkdocs build --strict" in makefile.partition("\ndocs:")[2].partition("\n\n")[0]
    steps = yaml.safe_load((REPOSITORY / ".github/workflows/docs.yml").read_text())["jobs"]["build"]["steps"]
    assert "make docs" in [step.get("run") for step in steps]
    assert "site" in [step.get("with", {}).get("path") for step in steps]
