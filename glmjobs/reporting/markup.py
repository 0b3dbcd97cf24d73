"""HTML that cannot be broken out of: every text is escaped, only :class:`Markup` is taken as it is."""

from __future__ import annotations

import html
import json
from typing import Any

_VOID = frozenset({"meta", "input", "br", "hr", "link", "col", "wbr"})


class Markup(str):
    """Finished HTML or SVG. Made by :func:`tag` and :func:`join`, or from this package's own constants."""

    __slots__ = ()


def tag(element: str, *children: object, **attributes: object) -> Markup:
    """One element. Children that are not :class:`Markup` are text and get escaped; ``None`` is left out.

    Attribute names lose a trailing underscore and get hyphens for the others (``class_``, ``aria_label``);
    values ``None`` and ``False`` leave the attribute out, ``True`` writes it without a value.
    """
    written = [element]
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        name = name.rstrip("_").replace("_", "-")
        written.append(name if value is True else f'{name}="{html.escape(str(value), quote=True)}"')
    opening = f"<{' '.join(written)}>"
    if element in _VOID:
        return Markup(opening)
    return Markup(f"{opening}{join(*children)}</{element}>")


def join(*children: object) -> Markup:
    """Markup as it is and everything else escaped, one after the other."""
    parts = (
        c if isinstance(c, Markup) else html.escape(str(c), quote=True) for c in children if c is not None
    )
    return Markup("".join(parts))


def script_json(value: Any) -> Markup:
    """JSON for a ``<script type="application/json">`` that nothing in it can end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
