"""Slurm's warning that comes while a job's script still loads its modules: the script does not die of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from hpc.batch.jobs import Chain, Job, Step
from hpc.batch.profile import Environment, Profile
from hpc.batch.script import render
from hpc.chain import ledger
from tests.support.paths import REPO


def test_warned_while_modules_load(tmp_path: Path) -> None:
    run, pipe = tmp_path / "run", tmp_path / "pipe"
    for part in ("jobs/work", "stages"):
        (run / part).mkdir(parents=True)
    (run / "ledger.jsonl").touch()
    os.mkfifo(pipe)
    init = tmp_path / "init.sh"  # a file server that takes its time: it answers when the test says so
    init.write_text(
        f"echo loading >{tmp_path}/loading; read _ <{pipe}\nmodule() {{ export LOADEDMODULES=slow/1; }}\n"
    )
    environment = Environment(module_init=str(init), modules=("slow/1",), python=sys.prefix)
    job = Job(stage="work", steps=(Step(stage="work", command=("true",)),))
    chain = Chain(
        run=run,
        key="k",
        jobs=(job,),
        profile=Profile(environment=environment),
        project=REPO,
        local=True,
        name="t",
    )
    script = tmp_path / "script.sh"
    script.write_text(render(job, chain))
    process = subprocess.Popen(["bash", str(script)], stderr=subprocess.PIPE, text=True, cwd=REPO)
    with pipe.open("w") as answer:  # opened when the script reads it: it is loading
        assert (tmp_path / "loading").exists()
        process.send_signal(signal.SIGUSR1)
        answer.write("go on\n")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert [e["outcome"] for e in ledger.events(run, event="ended")] == ["done"]
