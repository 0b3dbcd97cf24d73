"""The command line of :mod:`hpc.lint`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from hpc.core.command import run_command
from hpc.core.errors import BadInput, HpcError
from hpc.lint import lint
from hpc.lint.batch import RULES


def read(path: str) -> str:
    """A script's text, line ends as they are; ``-`` is stdin."""
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot read it: {error.strerror}") from None
    if b"\0" in data:
        raise BadInput(f"{path}: not a shell script (it has NUL bytes)")
    return data.decode("utf-8", errors="replace")


def main(argv: list[str] | None = None) -> int:
    """0: nothing found; 1: findings; 2: a file cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m hpc.lint", description="Check batch scripts for what bites on a Slurm cluster.",
        epilog="Rules: " + ", ".join(sorted(RULES)) + ". Each is explained in docs/lint.md.",
    )  # fmt: skip
    parser.add_argument("files", nargs="+", metavar="FILE.sh", help="scripts; - reads one from stdin")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    args = parser.parse_args(argv)
    try:
        found = {}
        for path in args.files:
            try:
                found[path] = lint(read(path))
            except BadInput as error:
                text = str(error)
                raise BadInput(text if text.startswith(path) else f"{path}: {text}") from None
    except HpcError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if args.json:
        rows = [
            {"file": path, "line": f.line, "rule": f.rule, "what": f.what, "right": f.right}
            for path, findings in found.items()
            for f in findings
        ]
        print(json.dumps({"files": args.files, "findings": rows}, ensure_ascii=False, indent=1))
    else:
        for path, findings in found.items():
            for f in findings:
                print(f"{path}:{f.line}: {f.rule}: {f.what}; right: {f.right}")
    return 1 if any(found.values()) else 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
