"""`python -m glmjobs` as a cluster has it whose stages are stand-ins (:mod:`small_chain`), for tests over ssh.

A file ``hold`` beside the runs keeps a submission waiting after its first job has gone out.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from glmjobs.__main__ import main
from glmjobs.run import jobs
from hpc.batch.jobs import Chain
from hpc.chain import submission
from tests.support.paths import REPO
from tests.support.small_chain import requests, tell

#: Runs the real Python, except for this project's commands.
PYTHON = f"""#!/bin/bash
if [ "$1 $2" = "-m glmjobs" ]; then
  shift 2
  exec {sys.executable} -m tests.support.small_there "$@"
fi
if [ "$1" = -c ] && [ -f "$0.version" ]; then cat "$0.version"; exit; fi
exec {sys.executable} "$@"
"""


def prefix(folder: Path) -> Path:
    """An environment there: its Python runs commands with stand-ins for stages."""
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    return folder


def profile(folder: Path, python: Path, **fields: str) -> Path:
    """A profile of the rehearsal cluster, which is reached by ssh."""
    raw = yaml.safe_load((REPO / "configs" / "clusters" / "devcluster.yaml").read_text())
    raw["environment"]["python"] = str(python)
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump({**raw, "login": "cluster", "remote_dir": str(REPO), **fields}))
    return file


def there() -> None:
    """Put the stand-ins in the places of the stages, in this process."""
    runs = Path(os.environ["GLMJOBS_RUNS"])
    write, send = submission.write_scripts, submission.send

    def first_tell(chain: Chain, *rest: Any) -> None:
        tell(chain.run, train="wait")
        write(chain, *rest)

    def hold(*given: Any, **named: Any) -> str:
        job = send(*given, **named)
        (runs / f"held-{os.getpid()}").touch()
        while (runs / "hold").exists():
            time.sleep(0.05)
        return job

    jobs.requests = requests  # type: ignore[assignment]
    submission.write_scripts, submission.send = first_tell, hold


if __name__ == "__main__":
    there()
    raise SystemExit(main())
