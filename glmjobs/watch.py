"""`python -m glmjobs.watch [RUN…]`: runs in a browser, live: stages, curves, GPUs, logs, answers as they come.

It reads run directories and changes nothing. Only browsers of this machine reach it, under an address with a token;
from elsewhere through ssh, by the line that it prints. Ctrl-C ends it, and nothing else with it.
"""

from __future__ import annotations

import argparse
import getpass
import os
import shlex
import socket
import sys

from glmjobs.cli import run_command
from glmjobs.live.server import HOST, Server
from glmjobs.live.views import Views
from glmjobs.run import sweeps
from hpc.core.errors import BadInput


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m glmjobs.watch", description=(__doc__ or "").split("\n\n")[0])
    p.add_argument(
        "runs", nargs="*", metavar="RUN", help="run directories, or names under runs/; without: all there"
    )
    p.add_argument("--port", type=int, default=0, metavar="P", help="port on 127.0.0.1 (default: a free one)")
    return p


def main(argv: list[str] | None = None) -> int:
    """Serve until Ctrl-C."""
    args = parser().parse_args(argv)
    if not 0 <= args.port <= 65535:
        raise BadInput(f"--port {args.port}: a number from 1 to 65535, or 0 for a free one")
    views = Views(sweeps.expand(args.runs))
    try:
        server = Server(views, args.port)
    except OSError as error:
        raise BadInput(
            f"--port {args.port}: {error.strerror}; leave --port out to have a free one taken"
        ) from None
    with server:
        print(server.address, flush=True)
        print(
            f"from your own machine: {tunnel(server.server_port)}, then open it there; Ctrl-C ends it",
            file=sys.stderr,
        )
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended; the runs go on", file=sys.stderr)
    return 0


def tunnel(port: int) -> str:
    """The ssh command that makes the port one of the user's own machine."""
    target = f"{getpass.getuser()}@{os.environ.get('HOSTNAME') or socket.gethostname()}"
    return f"`ssh -N -L {port}:{HOST}:{port} {shlex.quote(target)}`"


if __name__ == "__main__":
    raise SystemExit(run_command(main))
