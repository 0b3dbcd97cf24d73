"""`python -m glmjobs.logs RUN`: what a run's stages wrote, the newest lines of each file, or all as they come."""

from __future__ import annotations

import argparse
import sys
import time
from io import BufferedReader
from pathlib import Path

from glmjobs.cli import run_command
from glmjobs.run import locate
from glmjobs.run.locate import RunPath
from glmjobs.run.log_files import choose, first_failed, logs, rank_of
from glmjobs.run.read_state import read_state
from glmjobs.run.state import ENDED, STAGES
from hpc.core.errors import BadInput

POLL_SECONDS = 0.5
STATE_SECONDS = 5.0  # how often --follow asks whether the stage has ended
BLOCK = 1 << 16


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m glmjobs.logs", description="What a run's stages wrote.")
    p.add_argument("run", help="run directory, or its name under runs/")
    p.add_argument("--stage", choices=STAGES, help="default: the stage that runs, or failed, or was last")
    p.add_argument("--rank", type=int, metavar="R", help="only this rank (or element of the scoring array)")
    p.add_argument(
        "--lines", type=int, default=50, metavar="N", help="last N lines of each file, 0: all (default 50)"
    )
    p.add_argument("--follow", action="store_true", help="stay and print what is added, until the stage ends")
    return p


def main(argv: list[str] | None = None) -> int:
    """Print the logs."""
    args = parser().parse_args(argv)
    run = locate.locate(args.run)
    if args.lines < 0:
        raise BadInput(f"--lines {args.lines}: a number of lines, 0 for all")
    stage = args.stage or choose(read_state(run, ask_slurm=False))
    files = logs(run.path, stage, args.rank)
    if not files and not args.follow:
        raise BadInput(nothing(run.path, stage, args.rank))
    first = first_failed(run.path, stage) if args.rank is None and not args.follow else None
    if first is not None and any(p.suffix == ".log" and rank_of(p) == first for p in files):
        # The others were pulled down by it: 63 more tracebacks would hide the one that says why.
        files = [p for p in files if p.suffix != ".log" or rank_of(p) == first]
        print(f"rank {first} failed first; --rank N shows another")
    shown = {path: print_tail(path, args.lines, run.path) for path in files}
    if args.follow:
        follow(run, stage, args.rank, shown)
    return 0


def nothing(run: Path, stage: str, rank: int | None) -> str:
    """Why there is nothing to show, in one line."""
    have = [s for s in STAGES if logs(run, s, None)]
    ranks = sorted({r for p in logs(run, stage, None) if (r := rank_of(p)) is not None})
    if rank is not None and ranks:
        return f"--rank {rank}: {stage} has logs of ranks {ranks[0]} to {ranks[-1]}"
    if rank is not None and stage in have:
        return f"--rank {rank}: {stage} is one process and has no ranks; leave --rank out"
    hint = f"stages with logs: {', '.join(have)}" if have else "no stage has written anything yet"
    return f"{run}: {stage} has no logs; {hint}"


def print_tail(path: Path, lines: int, run: Path) -> int:
    """Print a heading and the last lines; the size read up to (bytes)."""
    print(f"==> {path.relative_to(run)} <==")
    try:
        with path.open("rb") as file:
            data = _last(file, lines)
            size = file.tell()
    except OSError as error:
        print(f"cannot be read: {error.strerror}")
        return 0
    _write(data)
    if data and not data.endswith(b"\n"):
        print()
    sys.stdout.flush()
    return size


def _last(file: BufferedReader, lines: int) -> bytes:
    """The last lines of an open file, read backwards in blocks; its position is then the end."""
    end = file.seek(0, 2)
    if lines == 0:
        file.seek(0)
        return file.read()
    data, position = b"", end
    while position > 0 and data.count(b"\n") <= lines:
        size = min(BLOCK, position)
        position -= size
        file.seek(position)
        data = file.read(size) + data
    file.seek(end)
    return b"".join(data.splitlines(keepends=True)[-lines:])


def _write(data: bytes) -> None:
    sys.stdout.write(data.decode("utf-8", errors="replace"))


def follow(run: RunPath, stage: str, rank: int | None, shown: dict[Path, int]) -> None:
    """Print what is added to the files, each block under its file's name, until the stage has ended."""
    last: Path | None = list(shown)[-1] if shown else None
    checked = 0.0
    while True:
        over = False
        if time.monotonic() - checked > STATE_SECONDS:
            state = read_state(run)
            over = state.get(stage).state in ENDED or state.ended
            checked = time.monotonic()
        for path in logs(
            run.path, stage, rank
        ):  # after the question, so that an end's last words are printed
            data = _new(path, shown)
            if data:
                if path != last:
                    print(f"==> {path.relative_to(run.path)} <==")
                    last = path
                _write(data)
                sys.stdout.flush()
        if over:
            return
        time.sleep(POLL_SECONDS)


def _new(path: Path, shown: dict[Path, int]) -> bytes:
    """Bytes added since the last look; a file that shrank (truncated by a requeue) is read from its start."""
    before = shown.get(path, 0)
    try:
        size = path.stat().st_size
        start = before if size >= before else 0
        if size == start:
            return b""
        with path.open("rb") as file:
            file.seek(start)
            data = file.read()
    except OSError:
        return b""
    shown[path] = start + len(data)
    return data


if __name__ == "__main__":
    raise SystemExit(run_command(main))
