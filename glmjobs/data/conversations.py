"""Conversations: turns with roles, alpaca's ``history`` and ``system`` prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from glmjobs.data.forms import Form, Unusable, Value, kind_of, listed


class Talk(NamedTuple):
    """A conversation: its system prompt, ``(question, answer)`` turns before the last, the last question and answer."""

    system: str
    history: tuple[tuple[str, str], ...]
    question: str
    answer: str


_ROLES = {
    "system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
    "bot": "assistant", "model": "assistant", "chatgpt": "assistant",
}  # fmt: skip
_TOOL_ROLES = {"tool", "function", "observation", "function_call", "tool_call", "ipython"}
TOOLS = "tools or function calls, which are not read"


def read_turns(form: Form, row: Value, *, open_end: bool = False) -> Talk:
    """A conversation's turns.

    Args:
        open_end: the last question may stand without an answer (a test set has the gold answer beside it).

    Raises:
        Unusable: it has tools, pictures or roles that are not known, or questions and answers don't alternate.
    """
    if any(listed(row.get(name)) for name in ("tools", "functions")):
        raise Unusable(TOOLS)
    turns = listed(row.get(form.turns))
    if not isinstance(turns, list) or not turns:
        found = "an empty list" if turns == [] else kind_of(turns)
        raise Unusable(f"{form.turns!r} is no list of turns", f"found {found}")
    system, question = _text_or_empty(row, "system"), None
    pairs: list[tuple[str, str]] = []
    for role, text in [step for turn in turns for step in _steps(turn)]:
        if role == "system":
            if pairs or question is not None:
                raise Unusable("a system prompt in the middle of a conversation")
            system = f"{system}\n{text}" if system else text
        elif role == "user":
            if question is not None:
                raise Unusable("two questions in a row, without an answer between")
            question = text
        else:
            if question is None:
                raise Unusable(
                    "two answers in a row" if pairs else "a conversation that begins with an answer"
                )
            pairs.append((question, text))
            question = None
    if question is not None:
        if not open_end:
            raise Unusable("a conversation that ends with a question")
        pairs.append((question, ""))
    if not pairs:
        raise Unusable("a conversation without a question")
    return Talk(system, tuple(pairs[:-1]), *pairs[-1])


def _steps(turn: object) -> list[tuple[str, str]]:
    """``(role, text)`` of a turn; XTuner's holds question and answer at once."""
    if not isinstance(turn, Mapping):
        raise Unusable("a turn that is no object", f"found {kind_of(turn)}")
    if turn.get("tool_calls") or turn.get("function_call"):
        raise Unusable(TOOLS)
    if "role" not in turn and "from" not in turn and "input" in turn and "output" in turn:
        said = [("system", turn.get("system")), ("user", turn["input"]), ("assistant", turn["output"])]
        return [(role, _said(text)) for role, text in said if role != "system" or text]
    role = str(turn.get("role", turn.get("from"))).lower()
    if role in _TOOL_ROLES:
        raise Unusable(TOOLS)
    if role not in _ROLES:
        raise Unusable("a turn of an unknown role", f"found {role!r}")
    return [(_ROLES[role], _said(turn.get("content", turn.get("value"))))]


def _said(content: object) -> str:
    """A turn's words; of content in parts (OpenAI's list), the texts."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        if not all(isinstance(part, str) for part in parts):
            raise Unusable("pictures or other parts that are no text")
        return "".join(map(str, parts))
    if content is None:
        return ""
    if not isinstance(content, str):
        raise Unusable("a turn that is not text", f"found {kind_of(content)}")
    return content


def read_history(row: Value) -> tuple[tuple[str, str], ...]:
    """The turns in alpaca's (and THUDM's) ``history``: a list of ``[question, answer]``.

    Raises:
        Unusable: it is no such list.
    """
    given = listed(row.get("history"))
    if not given:
        return ()
    turns = given if isinstance(given, list) else [given]
    pairs = [turn for turn in turns if isinstance(turn, (list, tuple)) and len(turn) == 2]
    if len(pairs) < len(turns) or not all(isinstance(text, str) for pair in pairs for text in pair):
        raise Unusable("'history' is no list of [question, answer]")
    return tuple((asked, answered) for asked, answered in pairs)


def read_system(row: Value) -> str:
    """Alpaca's ``system``.

    Raises:
        Unusable: it is not text.
    """
    return _text_or_empty(row, "system")


def _text_or_empty(row: Value, column: str) -> str:
    text = row.get(column)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise Unusable(f"{column!r} is not text", f"found {kind_of(text)}")
    return text
