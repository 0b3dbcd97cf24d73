"""hpc.lint: the rules on the examples of docs/lint.md, bash's grammar, our own scripts, the command line."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hpc.core.errors import BadInput
from hpc.lint import lint
from hpc.lint.__main__ import main
from hpc.lint.batch import RULES, Batch
from hpc.lint.shell import parse
from tests.support.paths import REPO

PAGE = (REPO / "docs/lint.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### ([a-z-]+)\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S))


def examples(name: str, kind: str) -> list[str]:
    """The code blocks of a rule's section, without the comment that says what they are."""
    blocks = re.findall(rf"```bash\n# {kind}\n(.*?)```", SECTIONS[name], re.S)
    return [block.replace("␍", "\r") for block in blocks]


def rules(text: str) -> set[str]:
    return {finding.rule for finding in lint(text)}


def test_the_page_explains_exactly_the_rules_there_are() -> None:
    assert set(SECTIONS) == set(RULES)


@pytest.mark.parametrize("name", sorted(RULES))
def test_examples_of_the_page(name: str) -> None:
    found, right = examples(name, "found"), examples(name, "right")
    assert found and right
    for text in found:
        assert name in rules(text), text
    for text in right:
        assert rules(text) == set(), text


@pytest.mark.parametrize("name", sorted(RULES))
def test_examples_are_bash(name: str) -> None:
    for text in examples(name, "found") + examples(name, "right"):
        bash = subprocess.run(["bash", "-n"], input=text.replace("\r", ""), text=True, capture_output=True)
        assert bash.returncode == 0, bash.stderr


def test_our_own_scripts_pass(capsys: pytest.CaptureFixture[str]) -> None:
    scripts = sorted(str(p) for p in (REPO / "sbatch").glob("*.sh"))
    assert scripts
    assert main(scripts) == 0, capsys.readouterr().out


@pytest.mark.parametrize("cluster", ["centos7-a100", "generic", "devcluster"])
def test_generated_scripts_pass(cluster: str, tmp_path: Path) -> None:
    from glmjobs.recipe.loading import load
    from glmjobs.run.directory import Shape
    from glmjobs.run.jobs import make_chain
    from hpc.batch import profile as profiles
    from hpc.batch.script import render

    profile = profiles.load(REPO / f"configs/clusters/{cluster}.yaml")
    for recipe in sorted((REPO / "configs").glob("*.yaml")):
        chain = make_chain(tmp_path / "run", "key", load(recipe, []), profile, Shape(nodes=2, gpus=8))
        for job in chain.jobs:
            text = render(job, chain)
            assert lint(text) == [], f"{recipe.name}: {job.stage}"
            assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0


@pytest.mark.parametrize(
    "text",
    [
        "# srun a | tee b\nset -e",
        "echo 'srun a | tee b' \"srun a | tee b\"",
        "cat <<EOF\nsrun a | tee b\nEOF\n",
        "cat <<-'E  F' >x\n\tsrun a | tee b\n\tE  F\n",
        "echo a#b srun\\ x",
        "x=$((1 | 2)); y=${z#srun | tee}",
        "set -o pipefail\nsrun \\\n  --ntasks=2 hostname \\\n  | tee b",
        "if srun a; then echo yes; fi",
        "n=$(srun hostname | wc -l)",
        'set -e\ncase $x in a|b) srun a ;; *) echo "no" ;; esac\necho x',
        # compound commands and functions
        "set -e\ndeclare -a A=(\n --x 1\n)\nfunction f() {\n  echo\n}\nsrun a",
        "set -e\nfunction f {\n  srun a\n}\nf",
        "set -o pipefail\n{ srun a; } 2>&1 | tee b",
        "(srun a) || exit 1",
        # names that hold no secret
        "set -x\nTOKENIZER_FILE=/x/tokenizer.json\nexport TOKENIZERS_PARALLELISM=false MAX_NEW_TOKENS=16384000",
        "export WANDB_API_KEY=<your-key-here> HF_TOKEN=YOUR_TOKEN_HERE",
        "export PAD_TOKEN=endoftext1234 HF_TOKEN_PATH=cache/token1",
        'set -x\nunset HF_TOKEN\n[ -n "${HF_TOKEN:+set}" ]',
        # what looks like a mistake and is none
        "set -e\nmodule load cuda/11.7 || exit 1",
        "#!/bin/bash\n#SBATCH --time=1-00:00\n#SBATCH --mem=0\nexec srun python t.py",
        "#!/bin/bash\n#SBATCH --array=0-7\n#SBATCH -o x-%j.out\nexec srun python t.py > out-$SLURM_ARRAY_TASK_ID",
        "#!/bin/bash\n#SBATCH --nodes=2\nexec deepspeed --hostfile hosts --master_port $PORT t.py",
        "#!/bin/bash\n#SBATCH --nodes=2\nset -e\nRUN='srun --kill-on-bad-exit=1'\n$RUN python t.py",
        "#!/bin/bash\n#SBATCH -c 8\nset -e\nhead=$(srun --nodes=1 hostname)\nA='--wait=60 -c 8'\nsrun $A ./a",
        "#!/bin/bash\n#SBATCH -c 8 -n 4\nset -e\nsource site.sh\nsrun $SITE_ARGS python t.py",
        "#!/bin/bash\n#SBATCH --exclusive\nMASTER_PORT=6000\nexec srun python t.py",
        "set -e\nsrun ray start --block &\nsleep 5\nray job submit -- python t.py",
        'set -e\necho "$(sbatch --dependency=singleton next.sh)"',
    ],
)
def test_no_false_alarm(text: str) -> None:
    assert lint(text) == []


@pytest.mark.parametrize(
    ("text", "rule", "line"),
    [
        ("set -e\nsrun \\\n  a \\\n  2>&1 | tee b", "pipe-swallows-exit-code", 2),
        ("cat <<E\n'\nE\nsrun a | tee b", "pipe-swallows-exit-code", 4),
        ("f() {\n  srun a |& tee b\n}\nf", "pipe-swallows-exit-code", 2),
        ("set -o pipefail; set +o pipefail\nsrun a | cat", "pipe-swallows-exit-code", 2),
        ("set -eu\ntime timeout 5m env A=1 srun a || :", "or-true-swallows-exit-code", 2),
        ("set +e\nsrun a\nexit 0", "trailing-command-swallows-exit-code", 2),
        ("python prep.py\nexec srun train", "trailing-command-swallows-exit-code", 1),
        ("set -e\nfor i in 1 2; do\n srun a &\ndone\nwait", "wait-swallows-exit-code", 5),
        ("set -e\nsrun a &", "wait-swallows-exit-code", 2),
        ("#!/bin/bash -x\nexport A=$MY_PASSWORD", "secret-traced", 2),
        ("exec srun deepspeed --num_gpus 8 t.py", "fixed-port", 1),
        ("exec torchrun --master_port=1234 t.py", "fixed-port", 1),
        ("exec srun torchrun --rdzv-endpoint=$H:29400 t.py", "fixed-port", 1),
        ("#!/bin/bash\n# SBATCH --nodes=2\n#SBATCH --time=1", "directive-ignored", 2),
        ("#!/bin/bash\n#SBATCH -c 8\nexec srun -n1 ./a", "srun-loses-cpus-per-task", 3),
        ("#!/bin/bash\n#SBATCH -n 4\nexec python -m hpc.runtime.attempt R --stage t srun -l python t.py",
         "dead-rank-hangs-the-others", 3),
        ("#!/bin/bash\n#SBATCH --signal=B:USR1@60\nset -e\nsrun a", "signal-goes-elsewhere", 2),
        ("#!/bin/bash\n#SBATCH --requeue --open-mode=append\nexec srun -o x.log ./a", "log-truncated-at-requeue", 3),
        ("#!/bin/bash\nset -e\nsrun a\nscontrol requeue $SLURM_JOB_ID", "log-truncated-at-requeue", 4),
        ("set -e\nml cuda", "unchecked-module", 2),
        ("for i in 1 2; do\n srun a\ndone 2>&1 | tee b", "pipe-swallows-exit-code", 2),
        ("( cd x; srun a ) |& tee b", "pipe-swallows-exit-code", 1),
        ("f() { srun a; }\nf | tee b", "pipe-swallows-exit-code", 2),
        ("if true; then srun a; fi | cat", "pipe-swallows-exit-code", 1),
        ("function f {\n echo\n}\nsrun a\necho x", "trailing-command-swallows-exit-code", 4),
        ("set -e\nsrun a || exit 0", "or-true-swallows-exit-code", 2),
        ("set -e\n{ srun a; } &", "wait-swallows-exit-code", 2),
        ("exec srun python -m torch.distributed.launch t.py", "fixed-port", 1),
        ("exec accelerate launch --multi_gpu t.py", "fixed-port", 1),
        ("#!/bin/bash\n#SBATCH --ntasks-per-node=8\nexec srun python -m torch.distributed.run --standalone t.py",
         "launcher-in-every-task", 3),
        ("#!/bin/bash\n#SBATCH -t 48\nsrun a", "time-in-minutes", 2),
        ("#!/bin/bash\n#SBATCH --time 02:00\nsrun a", "time-in-minutes", 2),
        ("#!/bin/bash\n#SBATCH --mem-per-gpu=80\nexec srun python t.py", "memory-in-megabytes", 2),
        ("#!/bin/bash\nexec srun --mem=100M python t.py", "memory-in-megabytes", 2),
        ("#!/bin/bash\n#SBATCH -a 1-9\n#SBATCH -e score-%A.err\nsrun a", "one-log-for-all-elements", 3),
        ("#!/bin/bash\n#SBATCH -a 1-9\nexec srun -o all.log ./a", "one-log-for-all-elements", 3),
        ("#!/bin/bash\n#SBATCH -a 1-9\nexec python a.py > all.log", "one-log-for-all-elements", 3),
        ("#!/bin/bash\n#SBATCH -N 2-4\nexec accelerate launch --main_process_port $P t.py", "tasks-without-srun", 3),
        ("#!/bin/bash\n#SBATCH -n 8 --gpus=8\nset -e\nsrun hostname\npython t.py", "tasks-without-srun", 5),
        ("set -e\nhuggingface-cli login --token hf_abcdefGHIJKLmnop1234", "secret-in-script", 2),
        ("set -e\ngit clone https://me:s3cretpw9@git.example.org/x", "secret-in-script", 2),
        ("set -e\ntoken=hf_abcdefGHIJKLmnop1234", "secret-in-script", 2),
        ("set -e\ncurl -H 'Authorization: Bearer 0123456789abcdef01' x", "secret-in-script", 2),
        ("DB_PASSWORD=hunter2-long python t.py", "secret-in-script", 1),
        ("set -x\nexport HF_TOKEN=$(cat f)", "secret-traced", 2),
    ],
)  # fmt: skip
def test_found_at_its_line(text: str, rule: str, line: int) -> None:
    assert (line, rule) in {(f.line, f.rule) for f in lint(text)}


def test_a_finding_can_be_excused_but_not_by_a_misspelt_rule(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "srun a | tee b  # hpc-lint: allow pipe-swallows-exit-code\n"
    assert lint(text) == []
    assert lint("# hpc-lint: allow pipe-swallows-exit-code\n" + text.partition("#")[0]) == []
    file = tmp_path / "x.sh"
    file.write_text("srun a | tee b  # hpc-lint: allow pipes\n")
    assert main([str(file)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {file}: line 1: 'pipes' is no rule") and said.count("\n") == 1


def test_command_line(tmp_path: Path) -> None:
    bad, good = tmp_path / "bad.sh", tmp_path / "good.sh"
    bad.write_text("#!/bin/bash\nsrun a | tee b\n")
    good.write_text("#!/bin/bash\nexec srun a\n")
    run = [sys.executable, "-m", "hpc.lint"]
    done = subprocess.run([*run, str(bad), str(good)], capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 1 and done.stderr == ""
    assert (
        done.stdout.startswith(f"{bad}:2: pipe-swallows-exit-code: ")
        and "; right: set -o pipefail" in done.stdout
    )
    done = subprocess.run([*run, "--json", str(bad)], capture_output=True, text=True, cwd=REPO)
    rows = json.loads(done.stdout)["findings"]
    assert done.returncode == 1
    assert [(r["file"], r["line"], r["rule"]) for r in rows] == [(str(bad), 2, "pipe-swallows-exit-code")]
    done = subprocess.run([*run, "-"], input=good.read_text(), capture_output=True, text=True, cwd=REPO)
    assert (done.returncode, done.stdout) == (0, "")
    done = subprocess.run([*run, str(tmp_path / "none.sh")], capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 2 and "No such file" in done.stderr and done.stderr.count("\n") == 1


def test_what_no_bash_would_read_is_read_as_far_as_it_goes() -> None:
    for text in (
        "",
        "'",
        '"$(',
        "`",
        "${",
        "((",
        "case",
        "<<",
        ")",
        "}",
        "$(",
        "a <<E\nb",
        "\\",
        "x=(",
        "for",
        "&&",
    ):
        assert isinstance(parse(text).commands, list)
        lint("srun a | tee b\n" + text)


def corpus() -> list[str]:
    """The scripts that stand in this repository: those of sbatch/ and every example of the page."""
    found = [path.read_text(encoding="utf-8") for path in sorted((REPO / "sbatch").glob("*.sh"))]
    return found + [
        text for name in sorted(RULES) for kind in ("found", "right") for text in examples(name, kind)
    ]


def test_every_beginning_of_every_script_is_read() -> None:
    for text in corpus():
        for end in range(0, len(text), 1 if len(text) < 1000 else 37):
            assert isinstance(lint(text[:end]), list)


def test_mutilated_scripts_are_read() -> None:
    """Characters that mean something to a shell, put, taken or doubled anywhere."""
    chance, texts = random.Random(14), corpus()
    pieces = [
        *"(){}[]<>|&;'\"`$#\\\n =",
        "function ",
        "case x in",
        "esac",
        "$((",
        "<<E\n",
        "()",
        "do\n",
        "fi",
        "; }",
    ]
    for _ in range(1500):
        text = chance.choice(texts)[:1500]
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(text) + 1)
            text = (
                text[:at] + chance.choice(pieces) * chance.randint(0, 2) + text[at + chance.randint(0, 3) :]
            )
        try:
            assert isinstance(lint(text), list)
        except BadInput as error:
            assert "is no rule" in str(error)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        ("pipe-swallows-exit-code", "found", 0), ("pipe-swallows-exit-code", "right", 7),
        ("or-true-swallows-exit-code", "found", 0), ("or-true-swallows-exit-code", "right", 7),
        ("trailing-command-swallows-exit-code", "found", 0), ("trailing-command-swallows-exit-code", "right", 7),
        ("wait-swallows-exit-code", "found", 0), ("wait-swallows-exit-code", "right", 7),
        ("trap-behind-foreground", "right", 7), ("wait-cut-short-by-trap", "right", 7),
        ("signal-goes-elsewhere", "right", 7),
    ],
)  # fmt: skip
def test_the_examples_do_what_the_page_says(name: str, kind: str, code: int, tmp_path: Path) -> None:
    """Run with a srun that exits with 7."""
    (tmp_path / "srun").write_text("#!/bin/sh\nexit 7\n")
    (tmp_path / "srun").chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", examples(name, kind)[0]], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, cwd=tmp_path,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == code


@pytest.mark.parametrize(
    ("text", "said"), [("", "an empty script"), ("\ufeff#!/bin/bash\nsrun a\n", "byte order mark")]
)
def test_what_sbatch_takes_for_no_script(text: str, said: str) -> None:
    [found] = [f for f in lint(text) if f.rule == "missing-shebang"]
    assert said in found.what


def test_nested_hundreds_deep_is_one_line() -> None:
    with pytest.raises(BadInput, match="nested too deeply to be read"):
        lint("#!/bin/bash\n" + "$(" * 3000 + ")" * 3000)


def test_a_long_script_takes_time_in_proportion() -> None:
    """Counted in comparisons of commands, which a search through all of them for each would make."""
    script = parse("#!/bin/bash\n#SBATCH -n 1\nset -eo pipefail\n" + "srun a | tee b\n" * 300)
    looked = 0

    class Counted(type(script.commands[0])):  # type: ignore[misc]
        def __eq__(self, other: object) -> bool:
            nonlocal looked
            looked += 1
            return self is other

    for command in script.commands:
        command.__class__ = Counted
    batch = Batch(script)
    for check in RULES.values():
        list(check(batch))
    assert looked < 10 * len(script.commands)


@pytest.mark.parametrize(
    ("work", "found"),
    [
        ("srun python train.py | tee log\n", True),
        ("srun python train.py 2>&1 | grep -v warn |& tee log\n", True),
        ("{ date; srun python train.py; } | tee log\n", True),
        ("srun python train.py | tee log &\nwait $!\n", False),
        ("srun python train.py | tee $(date +%F).log &\nwait $!\n", False),
        ("{ srun python train.py; date; } | tee log &\nwait $!\n", False),
        ("( srun python train.py | tee log ) &\nwait $!\n", False),
        ("srun python train.py | while read line; do echo $line; done &\nwait $!\n", False),
    ],
)
def test_a_trap_waits_for_a_pipe_in_the_foreground_only(work: str, found: bool) -> None:
    text = f"#!/bin/bash\nset -eo pipefail\ntrap 'touch stop' USR1\n{work}"
    assert ("trap-behind-foreground" in rules(text)) is found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("trap 'scontrol requeue $SLURM_JOB_ID' USR1", True),
        ('trap "touch stop; /usr/bin/scontrol requeue $SLURM_JOB_ID" USR1 TERM', True),
        ("again() { scontrol requeue $SLURM_JOB_ID; }; trap again USR1", True),
        ("bash -c 'scontrol -Q requeue 17'", True),
        ("trap 'scontrol show job $SLURM_JOB_ID' USR1", False),
        ("echo 'scontrol requeue 17'", False),
    ],
)
def test_a_log_is_emptied_however_the_requeue_is_written(line: str, found: bool) -> None:
    text = f"#!/bin/bash\n#SBATCH --output=%x-%j.out\n{line}\nsrun hostname &\nwait $!\n"
    assert ("log-truncated-at-requeue" in rules(text)) is found
    right = text.replace("#SBATCH", "#SBATCH --open-mode=append\n#SBATCH", 1)
    assert "log-truncated-at-requeue" not in rules(right)
