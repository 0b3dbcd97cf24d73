"""Talk to a model directory: a conversation at the terminal, or one question for a script.

    python -m glmjobs.chat DIR
    python -m glmjobs.chat DIR --once "小明有3个苹果，又买了5个，一共有几个？"

DIR is a model directory, or a run (then its fine-tuned model). Greedy, so the answers are those of the
original's ``model.chat(tokenizer, query, history, do_sample=False)``, history included.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glmjobs.cli import run_command
from glmjobs.models.family import Family, family_for, read_config
from glmjobs.run import locate
from glmjobs.text import visible
from glmjobs.zero.directories import is_model
from hpc.core import hints
from hpc.core.errors import BadInput

MAX_LENGTH = 2048
"""Tokens of question, history and answer together; the original's default."""
HELP = "/clear forgets the conversation, /exit or Ctrl-D ends it, Ctrl-C cuts an answer short"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m glmjobs.chat", description="talk to a model")
    p.add_argument("dir", type=Path, metavar="DIR", help="a model directory, or a run directory")
    p.add_argument("--once", metavar="TEXT", help="answer this and end")
    p.add_argument("--system", metavar="TEXT", default="", help="a system prompt")
    p.add_argument("--json", action="store_true", help="with --once: print one JSON document")
    p.add_argument(
        "--max-length", type=int, default=MAX_LENGTH, metavar="N", help="tokens in all, at most the model's positions"
    )  # fmt: skip
    p.add_argument(
        "--dtype", choices=["float16", "bfloat16", "float32"],
        help="default: the model's own half precision; without a GPU float32 where memory holds it, else bfloat16",
    )  # fmt: skip
    return p


def main(argv: list[str] | None = None) -> int:
    """The command; see the module's text."""
    args = parser().parse_args(argv)
    if args.json and args.once is None:
        raise BadInput("--json: only with --once")
    if args.once is not None and not args.once.strip():
        raise BadInput("--once: an empty question")
    if args.max_length < 2:
        raise BadInput(f"--max-length {args.max_length}: at least 2")
    if args.once is None and not sys.stdin.isatty():
        raise BadInput("stdin is not a terminal; for scripts: --once TEXT")
    chat = Chat.load(model_directory(args.dir), args.dtype, args.max_length, args.system)
    if args.once is None:
        return converse(chat)
    answer = chat.ask(args.once)
    print(json.dumps({"query": args.once, "answer": answer}, ensure_ascii=False) if args.json else answer)
    return 0


def model_directory(given: Path) -> Path:
    """The model directory that a person means: itself, or a run's ``model/``.

    Raises:
        BadInput: there is none.
    """
    if is_model(given):
        return given
    run = given if (given / "run.yaml").is_file() else locate.parent() / given
    if is_model(run / "model"):
        return run / "model"
    if (run / "run.yaml").is_file():
        raise BadInput(
            f"{run}: this run has no model yet; first: {hints.command('glmjobs.consolidate', run)}"
        )
    if elsewhere := locate.sent_to(str(given)):
        raise BadInput(elsewhere)
    raise BadInput(f"{given}: no model directory (with config.json and weights) and no run")


@dataclass
class Chat:
    """A model, its tokenizer and family, what it is told first, and what was said so far as ``(query, answer)``."""

    engine: Any
    tokenizer: Any
    family: Family
    max_length: int = MAX_LENGTH
    system: str = ""
    history: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def load(
        cls,
        directory: Path,
        dtype: str | None = None,
        max_length: int = MAX_LENGTH,
        system: str = "",
    ) -> Chat:
        """Load a model directory onto the GPU, or the CPU where there is none.

        Args:
            max_length: tokens of question, history and answer; said and lowered where the model has fewer positions.
            system: a system prompt.

        Raises:
            BadInput: it is not one, its chat template has no system prompts, or ``dtype`` is none of this CPU's.
            NotFit: there is no GPU, and this machine's memory does not hold it.
        """
        from glmjobs.models import load_tokenizer
        from glmjobs.scoring.evaluate import load_engine

        family = family_for(directory)
        positions = family.positions(read_config(directory))
        if positions is not None and positions < max_length:
            print(
                f"the model has {positions:,} positions: --max-length is {positions:,}, not {max_length:,}",
                file=sys.stderr,
            )
            max_length = positions
        tokenizer = load_tokenizer(directory)
        if system:
            family.chat_prompt(tokenizer, "", (), system)  # refused before the weights are read
        stop, banned = family.stop_ids(tokenizer), family.banned_ids(tokenizer)
        engine = load_engine(directory, dtype or family.half, stop, banned, dtype)
        return cls(engine, tokenizer, family, max_length, system)

    def ask(self, query: str, on_text: Callable[[str], None] = lambda text: None) -> str:
        """Answer, and remember both.

        Args:
            on_text: is given the answer in pieces as it grows; together they are the answer.

        Raises:
            BadInput: question and history leave no room for an answer.
        """
        answer = ""
        for piece in self._pieces(query):
            answer += piece
            on_text(piece)
        self.history.append((query, answer))
        return answer

    def _pieces(self, query: str) -> Iterator[str]:
        from glmjobs.generation.decoder import stream

        prompt = self.family.chat_prompt(self.tokenizer, query, self.history, self.system)
        room = self.max_length - len(prompt)
        if room < 1:
            what = [word for word, there in (("history", self.history), ("--system", self.system)) if there]
            way = (
                "/clear forgets the history" if self.history else "shorten it, or give a larger --max-length"
            )
            said_so = " and ".join(["question", *what])
            raise BadInput(f"{said_so} take {len(prompt)} of {self.max_length} tokens; {way}")
        tokens: list[int] = []
        said = ""
        for token in stream(self.engine, prompt, room):
            tokens.append(token)
            ready = self.family.settled(self._text(tokens))
            if ready.startswith(said):
                yield ready[len(said) :]
                said = ready
        whole = self._text(tokens).strip()
        yield whole[len(said) :]

    def _text(self, tokens: list[int]) -> str:
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return self.family.answer_text(text)


def converse(chat: Chat) -> int:
    """Read questions and stream answers until the person leaves."""
    from rich.console import Console

    console = Console(highlight=False)
    console.print(f"[dim]{HELP}[/dim]")
    with contextlib.suppress(ImportError):  # a Python built without it
        import readline  # noqa: F401 - editing and recalling earlier questions with the arrow keys
    while True:
        try:
            query = console.input("[bold cyan]问[/bold cyan] ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return 0
        if query in {"/exit", "/quit"}:
            return 0
        if query == "/clear":
            chat.history.clear()
            console.print("[dim]forgotten[/dim]")
        elif query.startswith("/"):
            console.print(f"[dim]{HELP}[/dim]")
        elif query:
            _answer(chat, query, console)


def _answer(chat: Chat, query: str, console: Any) -> None:
    def show(piece: str) -> None:
        # Untrusted text: no markup, and no control characters that could drive the terminal.
        console.print(visible(piece), end="", markup=False, soft_wrap=True)

    console.print("[bold green]答[/bold green] ", end="")
    try:
        chat.ask(query, show)
    except KeyboardInterrupt:
        console.print(" [dim](cut short, not remembered)[/dim]", end="")
    except BadInput as error:
        console.print(str(error), style="red", markup=False, end="")
    console.print()


if __name__ == "__main__":
    raise SystemExit(run_command(main))
