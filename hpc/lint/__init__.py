"""`python -m hpc.lint FILE.sh …`: what will bite in a batch script, before it does.

The script is read as bash reads it (:mod:`hpc.lint.shell`); the rules, in the modules beside this one, are explained in
``docs/lint.md``. A line can be excused: ``# hpc-lint: allow RULE`` at its end or on the line above.
"""

from __future__ import annotations

import re

from hpc.core.errors import BadInput
from hpc.lint import directives, exitcodes, steps  # noqa: F401  (each registers its rules)
from hpc.lint.batch import RULES, Batch, Finding
from hpc.lint.shell import Script, parse


def lint(text: str) -> list[Finding]:
    """All findings in a script, by line.

    Raises:
        BadInput: it allows a rule that does not exist, or is nested hundreds deep.
    """
    try:
        script = parse(text)
    except RecursionError:
        raise BadInput("commands are nested too deeply to be read") from None
    batch = Batch(script)
    allowed = allowances(script)
    found = [
        Finding(line, name, what, right)
        for name, check in RULES.items()
        for line, what, right in check(batch)
    ]
    return sorted({f for f in found if not {(f.line, f.rule), (f.line - 1, f.rule)} & allowed})


def allowances(script: Script) -> set[tuple[int, str]]:
    """(line, rule) of every ``# hpc-lint: allow RULE …``.

    Raises:
        BadInput: a rule there does not exist.
    """
    found = set()
    for line, comment in script.comments:
        if match := re.match(r"#\s*hpc-lint:\s*allow\s+([a-z, -]+)", comment):
            for name in re.split(r"[, ]+", match[1].strip()):
                if name not in RULES:
                    raise BadInput(f"line {line}: {name!r} is no rule; rules: {', '.join(sorted(RULES))}")
                found.add((line, name))
    return found
