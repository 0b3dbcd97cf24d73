"""Jobs out, through submitit: to Slurm by its ``SlurmExecutor``, to this machine by its ``LocalExecutor``.

The only file that imports submitit. A job here is a script (:mod:`hpc.batch.script`), not a pickled function: what runs
is what ``--dry-run`` shows and what the run directory keeps, and a rerun years later needs no pickle of today's code.
submitit writes the submission file, calls sbatch, reads the id and keeps its own folder of the job.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
from pathlib import Path
from typing import Any

import submitit
from submitit.core import utils

from hpc.core.errors import NotFit, WorkFailed, of_system
from hpc.slurm.client import (
    SlurmUnreachable,
    SubmitUncertain,
    by_signal,
    joined_lines,
    not_submitted,
    unreachable,
)
from hpc.slurm.records import parse_submitted
from hpc.slurm.variables import clean_env
from hpc.slurm.waiting import waiting

SBATCH_SECONDS = 90
"""Longest wait for sbatch's answer; Slurm's own MessageTimeout is 10 s, a busy site's 60 to 100 s are retried by it."""

TIMED_OUT = (124, 137)
"""Exit codes of timeout(1): the command was ended, and the command had to be killed."""


class ScriptToSlurm(submitit.SlurmExecutor):  # type: ignore[misc]
    """submitit's Slurm executor for jobs that are scripts of our own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder=folder)
        self.text = ""
        self.options: list[str] = []
        self.cluster = ""

    def submit_script(self, text: str, options: list[str]) -> tuple[str, str]:
        """Hand one script to sbatch with further command-line options; the job id, and the cluster that sbatch names.

        Raises:
            WorkFailed: sbatch refused; its own message, in one line.
            SlurmUnreachable: there is no controller; nothing was submitted.
            SubmitUncertain: sbatch ended without an answer, so the job may have been accepted.
        """
        self.text, self.options = text, options
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with waiting("sbatch"), contextlib.redirect_stderr(io.StringIO()):  # submitit says it twice
                return str(self._submit_command("").job_id), self.cluster
        except utils.FailedJobError as error:
            raise self._what_failed(error) from None
        except utils.FailedSubmissionError as error:
            raise SubmitUncertain(f"sbatch printed no job id but {error}") from None
        except OSError as error:
            raise of_system(error, f"{self.folder}: cannot keep the script there: {error.strerror}") from None

    @staticmethod
    def _what_failed(error: utils.FailedJobError) -> WorkFailed | SlurmUnreachable:
        said = sbatch_message(str(error))
        code = getattr(error.__cause__, "returncode", None)
        if code in TIMED_OUT and not said:
            return SubmitUncertain(f"sbatch gave no answer within {SBATCH_SECONDS} s")
        if not said or by_signal(code):
            return SubmitUncertain(f"sbatch ended with exit code {code} and {said or 'no word'}")
        if not unreachable(said):
            return WorkFailed(f"sbatch refused the job: {said}")
        if not_submitted(said):
            return SlurmUnreachable(f"{said} (is slurmctld running? `scontrol ping` tells)")
        return SubmitUncertain(said)

    def _get_job_id_from_submission_command(self, string: bytes | str) -> str:
        """Of ``7;west`` the number; submitit itself would take the first "job N" of a site's banner."""
        said = string if isinstance(string, str) else string.decode(errors="replace")
        answer = parse_submitted(said)
        if answer is None:
            raise utils.FailedSubmissionError(repr(joined_lines(said)[:300]))
        job, self.cluster = answer
        return job

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        return self.text

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        # A job submitted from inside a job would inherit that job's limits through SLURM_* and SBATCH_*.
        inherited = os.environ.keys() - clean_env(os.environ).keys()
        unset = [word for name in sorted(inherited) for word in ("-u", name)]
        bound = ["timeout", "--kill-after=5", str(SBATCH_SECONDS)]
        return ["env", *unset, *bound, "sbatch", "--parsable", *self.options, str(submission_file_path)]


class ScriptHere(submitit.LocalExecutor):  # type: ignore[misc]
    """submitit's local executor for a command that outlives the terminal it was started from."""

    def submit_command(self, command: list[str], log: Path) -> str:
        """Start ``command`` in a session of its own, output appended to ``log``; its process id."""
        self._argv, self._log = command, log
        return str(self._submit_command("").job_id)

    def _submit_command(self, command: str) -> Any:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                self._argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        return submitit.LocalJob(folder=self.folder, job_id=str(process.pid), process=process)


def to_slurm(text: str, options: list[str], folder: Path) -> tuple[str, str]:
    """Submit a script to Slurm; the job id, and the cluster where sbatch names one ("" on most sites).

    Raises:
        NotFit: this machine has no Slurm client, or the controller is away; nothing was submitted.
        SubmitUncertain: no answer; the job may have been accepted.
        WorkFailed: sbatch refused.
    """
    if ScriptToSlurm.affinity() < 0:
        raise NotFit("no Slurm here (srun is not on PATH); use --executor local, or submit from a login node")
    return ScriptToSlurm(folder).submit_script(text, options)


def here(command: list[str], log: Path, folder: Path) -> str:
    """Start a command on this machine, detached; its process id."""
    return ScriptHere(folder).submit_command(command, log)


def sbatch_message(text: str) -> str:
    """sbatch's own words out of an error of submitit's."""
    lines = [line.strip() for line in text.splitlines()]
    said = [
        line.partition("error:")[2].strip() for line in lines if "error:" in line and "stderr" not in line
    ]
    return "; ".join(said) or " ".join(text.split())[-400:]
