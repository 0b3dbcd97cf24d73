"""A bash script as a list of simple commands: enough of bash's grammar for :mod:`hpc.lint` to know what runs.

Comments, quotes, here-documents, continuation lines, substitutions, arithmetic and pipes are told apart as bash does
(Bash Reference Manual, 3.1 and 3.2); compound commands are flattened, each command keeping the keywords before it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

OPERATORS = (";;&", "<<<", "<<-", ";;", ";&", "&&", "||", "|&", "&>>", "&>", "<<", ">>", ">&", "<&", ">|", "<>",
             ";", "&", "|", "(", ")", "<", ">")  # fmt: skip
REDIRECTIONS = frozenset({"<<<", "<<-", "&>>", "&>", "<<", ">>", ">&", "<&", ">|", "<>", "<", ">"})
KEYWORDS = frozenset(
    {"if", "then", "else", "elif", "fi", "do", "done", "while", "until", "{", "}", "!", "time", "esac"}
)
WRAPPERS = frozenset(
    {"exec", "command", "env", "nohup", "time", "builtin", "stdbuf", "numactl", "timeout", "nice"}
)


@dataclass(frozen=True)
class Word:
    """One word: its text as written and without quotes, and the scripts of its command substitutions."""

    raw: str
    text: str
    line: int
    scripts: tuple[tuple[int, str], ...] = ()
    operator: bool = False


@dataclass
class Command:
    """One simple command."""

    line: int
    words: list[Word] = field(default_factory=list)
    assignments: list[Word] = field(default_factory=list)
    redirections: list[tuple[str, Word]] = field(default_factory=list)
    keywords: list[str] = field(default_factory=list)
    before: str = ""
    """The operator in front: ``|``, ``&&``, ``||``, ``(`` or ""."""
    after: str = ""
    """The operator behind: ``|``, ``&&``, ``||``, ``&``, ``;``, newline."""
    function: str = ""
    loop: int = 0
    substituted: bool = False
    """Inside ``$(…)``: what it prints is used."""
    groups_after: list[str] = field(default_factory=list)
    """The operators behind the compound commands it is in, innermost first: ``{ srun a; } | tee`` → ``["|"]``."""

    @property
    def program(self) -> list[str]:
        """The words from the program on: ``exec env A=1 timeout 5 srun x`` → ``srun x``."""
        words = [word.text for word in self.words]
        while words and words[0] in WRAPPERS:
            wrapper = words.pop(0)
            while words and (words[0].startswith("-") or (wrapper == "env" and "=" in words[0])):
                words.pop(0)
            if wrapper == "timeout" and words:
                words.pop(0)
        return words

    @property
    def name(self) -> str:
        """The program's name without its directory."""
        words = self.program
        return words[0].rsplit("/", 1)[-1] if words else ""

    @property
    def is_exec(self) -> bool:
        """Takes the shell's place."""
        return bool(self.words) and self.words[0].text == "exec" and len(self.words) > 1

    @property
    def tested(self) -> bool:
        """Its exit code decides what runs next."""
        behind = (self.after, *self.groups_after)
        return bool({"if", "elif", "while", "until", "!"} & set(self.keywords)) or bool(
            {"&&", "||"} & set(behind)
        )

    @property
    def piped(self) -> bool:
        """Its exit code, or that of a compound command it is in, is replaced by that of a pipe's last command."""
        return any(operator in ("|", "|&") for operator in (self.after, *self.groups_after))

    @property
    def background(self) -> bool:
        """Runs beside the script, alone or with a compound command it is in."""
        return "&" in (self.after, *self.groups_after)


@dataclass(frozen=True)
class Directive:
    """One ``#SBATCH`` line; ``heeded``: sbatch stops looking at the first command."""

    line: int
    text: str
    heeded: bool


@dataclass
class Script:
    """What a batch script says."""

    shebang: str
    commands: list[Command]
    directives: list[Directive]
    comments: list[tuple[int, str]]
    text: str


def parse(text: str) -> Script:
    """Read a script. Never fails: what bash would refuse is read as far as it goes."""
    tokens, comments = _Scanner(text).scan()
    commands = _commands(tokens)
    first = min((word.line for word in tokens if word.raw != "\n"), default=len(text))
    directives = [
        Directive(line, comment.removeprefix("#SBATCH").strip(), line < first)
        for line, comment in comments
        if re.match(r"#SBATCH\s", comment)
    ]
    shebang = text.splitlines()[0] if text.startswith("#!") else ""
    return Script(shebang, commands, directives, comments, text)


class _Scanner:
    def __init__(self, text: str, line: int = 1) -> None:
        self.text, self.at, self.line = text, 0, line
        self.tokens: list[Word] = []
        self.comments: list[tuple[int, str]] = []
        self.heredocs: list[tuple[str, bool]] = []

    def scan(self) -> tuple[list[Word], list[tuple[int, str]]]:
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == "\n":
                self.tokens.append(Word("\n", "\n", self.line, operator=True))
                self._advance(1)
                self._skip_heredocs()
            elif self.text.startswith("\\\n", self.at):
                self._advance(2)
            elif char in " \t\r":
                self._advance(1)
            elif char == "#":
                end = self._end_of_line()
                self.comments.append((self.line, self.text[self.at : end]))
                self._advance(end - self.at)
            elif self.text.startswith("((", self.at) and (end := self.text.find("))", self.at)) > 0:
                self.tokens.append(Word(self.text[self.at : end + 2], "((", self.line))
                self._advance(end + 2 - self.at)
            elif (operator := self._operator()) is not None:
                self.tokens.append(Word(operator, operator, self.line, operator=True))
                self._advance(len(operator))
            else:
                self._word()
        return self.tokens, self.comments

    def _advance(self, count: int) -> None:
        self.line += self.text.count("\n", self.at, self.at + count)
        self.at += count

    def _end_of_line(self) -> int:
        end = self.text.find("\n", self.at)
        return len(self.text) if end < 0 else end

    def _operator(self) -> str | None:
        if self.text.startswith(("<(", ">("), self.at):
            return None
        return next((o for o in OPERATORS if self.text.startswith(o, self.at)), None)

    def _word(self) -> None:
        start, line, plain = self.at, self.line, ""
        scripts: list[tuple[int, str]] = []
        while self.at < len(self.text):
            char = self.text[self.at]
            if char in " \t\r\n" or (self._operator() is not None and char in ";&|()<>"):
                if char in "<>" and plain.isdigit() and self.at - start == len(plain):
                    return  # a descriptor number, part of the redirection
                if char == "(" and plain.endswith("="):  # an array assignment
                    plain += self._skip_balanced("(", ")")
                    continue
                break
            plain += self._piece(char, scripts)
        self.tokens.append(Word(self.text[start : self.at], plain, line, tuple(scripts)))
        if len(self.tokens) > 1 and self.tokens[-2].raw in ("<<", "<<-"):
            self.heredocs.append((plain, self.tokens[-2].raw == "<<-"))

    def _piece(self, char: str, scripts: list[tuple[int, str]]) -> str:
        """Take one character, quoted string or substitution; its text without quotes."""
        if char == "\\":
            taken = self.text[self.at + 1 : self.at + 2]
            self._advance(2)
            return "" if taken == "\n" else taken
        if char == "'" or self.text.startswith("$'", self.at):
            self._advance(1 if char == "'" else 2)
            end = self.text.find("'", self.at)
            end = len(self.text) if end < 0 else end
            taken = self.text[self.at : end]
            self._advance(len(taken) + 1)
            return taken
        if char == '"':
            return self._double(scripts)
        if self.text.startswith(("$(", "<(", ">("), self.at) and not self.text.startswith("$((", self.at):
            line, start = self.line, self.at
            self._advance(1)
            inside = self._skip_balanced("(", ")")
            scripts.append((line, inside[1:-1]))
            return self.text[start : self.at]
        if self.text.startswith("$((", self.at):
            self._advance(1)
            return "$" + self._skip_balanced("(", ")")
        if self.text.startswith("${", self.at):
            self._advance(1)
            return "$" + self._skip_balanced("{", "}")
        if char == "`":
            line = self.line
            end = self.text.find("`", self.at + 1)
            end = len(self.text) if end < 0 else end
            taken = self.text[self.at : end + 1]
            scripts.append((line, taken[1:-1]))
            self._advance(len(taken))
            return taken
        self._advance(1)
        return char

    def _double(self, scripts: list[tuple[int, str]]) -> str:
        self._advance(1)
        plain = ""
        while self.at < len(self.text) and self.text[self.at] != '"':
            char = self.text[self.at]
            if char == "'":
                plain += char
                self._advance(1)
            else:
                plain += self._piece(char, scripts)
        self._advance(1)
        return plain

    def _skip_balanced(self, opening: str, closing: str) -> str:
        """From an opening bracket to its closing one, quotes honoured."""
        start, depth = self.at, 0
        while self.at < len(self.text):
            char = self.text[self.at]
            if char in "'\"\\":
                self._piece(char, [])
                continue
            depth += (char == opening) - (char == closing)
            self._advance(1)
            if depth == 0:
                break
        return self.text[start : self.at]

    def _skip_heredocs(self) -> None:
        for word, stripped in self.heredocs:
            while self.at < len(self.text):
                end = self._end_of_line()
                body = self.text[self.at : end]
                self._advance(end + 1 - self.at)
                if (body.lstrip("\t") if stripped else body) == word:
                    break
        self.heredocs.clear()


def _commands(tokens: list[Word]) -> list[Command]:
    """Simple commands in the order of the script; those inside ``$(…)`` come right before the command they serve."""
    return _Assembler(tokens).assemble()


_OPENS = {"{": "}", "if": "fi", "do": "done", "case": "esac", "(": ")"}
_CLOSES = frozenset(_OPENS.values())
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\[[^]]*\])?\+?=")


class _Assembler:
    """Words into commands. ``opened``: the compound commands around, each by its end and its first command's index."""

    def __init__(self, tokens: list[Word]) -> None:
        self.tokens = tokens
        self.found: list[Command] = []
        self.current: Command | None = None
        self.opened: list[tuple[str, int]] = []
        self.closed: list[int] = []
        """First commands of compound commands that ended and whose operator is still to come."""
        self.function, self.depth, self.loop, self.before = "", 0, 0, ""
        self.redirection, self.header, self.empty = "", "", False

    def assemble(self) -> list[Command]:
        for at, token in enumerate(self.tokens):
            following = self.tokens[at + 1].raw if at + 1 < len(self.tokens) else ""
            if not token.operator:
                self._word(token, self.tokens[at - 1].raw if at else "")
            elif token.raw in REDIRECTIONS:
                self.redirection = token.raw
                self.current = self.current or self._new(token.line)
            else:
                self._operator(token.raw, following)
        if self.current is not None:
            self.found.append(self.current)
        return [c for c in self.found if c.words or c.assignments]

    def _new(self, line: int, keywords: list[str] | None = None) -> Command:
        command = Command(
            line, keywords=keywords or [], before=self.before, function=self.function, loop=self.loop
        )
        self.before = ""
        return command

    def _operator(self, raw: str, following: str) -> None:
        self.header = ""
        if raw == "(" and following == ")" and (self.current is None or len(self.current.words) <= 1):
            if self.current is not None and self.current.words:  # name() { … }
                self._enter(self.current.words[-1].text)
            self.current, self.empty = None, True
            return
        if raw == ")" and self.empty:
            self.empty = False
            return
        if raw == ")" and (not self.opened or self.opened[-1][0] != ")"):  # `a)` in a case
            self.current = None
            return
        ended, self.current = self.current, None
        if ended is not None:
            ended.after = raw
            self.found.append(ended)
        if raw == ")":
            self._close(")")
            return
        if ended is not None or self.closed:
            self.before = raw if raw in ("|", "|&", "&&", "||") else ""
        elif raw in ("(", ";", ";;", "&"):
            self.before = ""
        if raw == "(":
            self.opened.append((")", len(self.found)))
        for first in self.closed:
            for command in self.found[first:]:
                command.groups_after.append(raw)
        self.closed.clear()

    def _enter(self, name: str) -> None:
        self.function, self.depth = name, len(self.opened)

    def _close(self, end: str) -> None:
        if not any(closing == end for closing, _ in self.opened):
            return
        while self.opened:
            closing, first = self.opened.pop()
            if closing == end:
                self.closed.append(first)
                break
        if self.function and end in ("}", ")") and len(self.opened) <= self.depth:
            self.function = ""

    def _word(self, token: Word, previous: str) -> None:
        if self.current is None:
            self.current = self._new(token.line)
        current = self.current
        if self.redirection:
            current.redirections.append((self.redirection, token))
            self.redirection = ""
        elif self.header == "function":
            self._enter(token.text)
            self.header, self.current = "", None
        elif self.header:
            pass  # the words of `for x in …`, `case x in`
        elif not current.words and token.raw in KEYWORDS:
            self._keyword(token, current)
        elif not current.words and token.raw in ("for", "case", "select", "function"):
            self.header = token.raw
            if token.raw == "case":
                self.opened.append(("esac", len(self.found)))
        elif not current.words and _NAME.match(token.raw):
            current.assignments.append(token)
        else:
            if not current.words:
                current.line = token.line
            current.words.append(token)
        for line, script in token.scripts:
            for inner in _commands(_Scanner(script, line).scan()[0]):
                inner.substituted = True
                self.found.append(inner)

    def _keyword(self, token: Word, current: Command) -> None:
        self.loop = max(0, self.loop + (token.raw == "do") - (token.raw == "done"))
        current.keywords.append(token.raw)
        current.loop = self.loop + (token.raw in ("while", "until"))
        if token.raw in _OPENS:
            self.opened.append((_OPENS[token.raw], len(self.found)))
        elif token.raw in _CLOSES:
            self._close(token.raw)
            current.function = self.function
        if token.raw in ("{", "then", "do", "else"):
            self.before, keep = current.before or self.before, current.keywords
            self.current = self._new(token.line, keep)
