"""The words --judge, --verifier-url and --verifier-model of commands."""

from __future__ import annotations

import argparse
import re
from typing import Any
from urllib.parse import urlsplit

from glmjobs.scoring.judges import JUDGES, Endpoint, Judging
from hpc.core.errors import BadInput


def add_judge(parser: Any) -> None:
    """Add the words to a parser, or a group of one."""
    parser.add_argument(
        "--judge", choices=JUDGES, action="append",
        help="who marks (default: meaning); twice: a second, held against the first",
    )  # fmt: skip
    parser.add_argument("--verifier-url", metavar="URL", help="--judge verifier: http://HOST:PORT/v1")
    parser.add_argument("--verifier-model", metavar="NAME", help="--judge verifier: the model's name there")


def judging_of(args: argparse.Namespace) -> Judging:
    """What was typed.

    Raises:
        BadInput: a judge twice, three, or the verifier's words without it or incomplete.
    """
    names = tuple(args.judge or ["meaning"])
    if why := wrong_names(names):
        raise BadInput(f"--judge: {why}")
    if args.verifier_url is None and args.verifier_model is None:
        if "verifier" in names:
            raise BadInput("--judge verifier asks a model: add --verifier-url URL and --verifier-model NAME")
        return Judging(names)
    if "verifier" not in names or None in (args.verifier_url, args.verifier_model):
        raise BadInput("--judge verifier, --verifier-url and --verifier-model go together")
    if why := wrong_url(args.verifier_url):
        raise BadInput(f"--verifier-url {why}")
    return Judging(names, Endpoint(args.verifier_url, args.verifier_model))


def wrong_names(names: tuple[str, ...]) -> str:
    """What is wrong with a list of judges; "" for nothing."""
    if len(names) not in (1, 2):
        return f"{len(names)} judges; name one, or two to see where they disagree"
    return f"{names[0]} twice; name two that differ" if len(set(names)) < len(names) else ""


def wrong_url(url: str) -> str:
    """What is wrong with an endpoint's address; "" for nothing. A secret in it is not repeated."""
    if not re.fullmatch(r"https?://[^/\s?#]+(/[^\s?#]*)?", url):
        return "is no address: write http://HOST:PORT/v1"
    try:
        _ = urlsplit(url).port
    except ValueError:
        return "has no port from 0 to 65535: write http://HOST:PORT/v1"
    if "@" in url:
        return "holds a user or password: leave them out; a key goes into the environment as GLMJOBS_VERIFIER_KEY"
    return (
        "ends in /chat/completions: leave that out" if url.rstrip("/").endswith("/chat/completions") else ""
    )
