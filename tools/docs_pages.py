"""For mkdocs (mkdocs.yml): the Markdown files outside docs/ become pages too, and links to them lead there.

A page reads the same on the site and in the repository, so no text is written twice.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {  # file of the repository -> page of the site
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "data/README.md": "data.md",
    "LICENSE": "LICENSE",
}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_files(files: Files, *, config: Any) -> Files:
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=with_addresses(text, source)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Pages of docs/: links that lead out of it."""
    if page.file.src_uri in PAGES.values():
        return markdown
    return with_addresses(markdown, f"docs/{page.file.src_uri}")


def with_addresses(text: str, source: str) -> str:
    return LINK.sub(lambda match: address(match[1], source), text)


def address(target: str, source: str) -> str:
    """Where a link in the repository's file `source` leads on the site."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    return PAGES.get(path) or path.removeprefix("docs/")
