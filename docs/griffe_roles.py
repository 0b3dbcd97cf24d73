"""Docstrings as they are written here, for mkdocstrings: Sphinx's roles become links where the site has the name."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:mod|class|func|meth|data|attr|exc):`(~?)([\w.]+)`")
LITERAL = re.compile(r"::(?=\n\n +\S)")


class Roles(griffe.Extension):
    """``:func:`glmjobs.models.load_model` `` and the ``::`` before an indented block, as Markdown."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = LITERAL.sub(":", ROLE.sub(link, obj.docstring.value))


def link(role: re.Match[str]) -> str:
    """Code, linked where there is such a page."""
    name = role[2]
    shown = name.rpartition(".")[2] if role[1] else name
    return f'<autoref identifier="{name}" optional><code>{shown}</code></autoref>'
