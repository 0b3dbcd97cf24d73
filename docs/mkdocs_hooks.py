"""The site has the checkout's own paths, so that every link of a page works on a git host and in the site alike.

mkdocs knows one folder of pages. Here the README and its like stand at the top, beside docs/, and pages link to
sources: what a page links to becomes part of the site, sources and notebooks as pages.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

PROJECT = Path(__file__).resolve().parent.parent
TOP = ("README.md", "README.zh.md", "CONTRIBUTING.md", "CHANGELOG.md", "hpc/README.md")
SOURCES = {".py": "python", ".yaml": "yaml", ".sh": "bash", ".txt": "text"}
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


class AsPage(File):
    """A file that is no Markdown and becomes a page all the same."""

    def is_documentation_page(self) -> bool:
        return True


def on_files(files: Files, config: Any) -> Files:
    """The theme's own files, the pages under the checkout's paths, and what they link to."""
    docs = Path(config.docs_dir)
    pages = [
        docs.relative_to(PROJECT) / f.src_uri
        for f in files
        if f.src_dir == str(docs) and f.src_uri[-3:] != ".py"
    ]
    pages += [Path(name) for name in TOP if (PROJECT / name).is_file()]
    found = {page.as_posix() for page in pages}
    for page in pages:
        if page.suffix in (".md", ".ipynb"):
            found |= linked(page)
    theirs = [file for file in files if file.src_dir != str(docs)]
    return Files([*theirs, *(site_file(name, config) for name in sorted(found))])


def linked(page: Path) -> set[str]:
    """The checkout's files that a page links to."""
    here = (PROJECT / page).parent
    targets = {
        (here / target).resolve() for target in LINK.findall((PROJECT / page).read_text(encoding="utf-8"))
    }
    return {t.relative_to(PROJECT).as_posix() for t in targets if t.is_file() and t.is_relative_to(PROJECT)}


def site_file(name: str, config: Any) -> File:
    kind = AsPage if Path(name).suffix in (".ipynb", *SOURCES) else File
    return kind(name, str(PROJECT), config.site_dir, config.use_directory_urls)


def on_page_read_source(page: Any, config: Any) -> str | None:
    """The Markdown of what is none."""
    path = PROJECT / page.file.src_uri
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return "\n\n".join(shown(cell["cell_type"], "".join(cell["source"])) for cell in cells)
    if path.suffix in SOURCES:
        text = path.read_text(encoding="utf-8").rstrip()
        return f"# {page.file.src_uri}\n\n````{SOURCES[path.suffix]}\n{text}\n````\n"
    return None


def shown(kind: str, text: str) -> str:
    """A notebook's cell."""
    return text if kind == "markdown" else f"```python\n{text}\n```"
