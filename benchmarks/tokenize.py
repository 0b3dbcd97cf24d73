"""Rows/s of ChatGLM-6B's tokenizer: ours, the original's way in Python, and Rust ``tokenizers`` alone.

    python benchmarks/tokenize.py [--model DIR] [--quick] [--json FILE]

The measurement is in tokenizer_rates.py. This file has a name of the standard library's: Python puts the
folder of a script first on its path, so in every benchmark ``inspect`` would import it as ``tokenize``.
"""

from __future__ import annotations

import os
import sys

if __name__ == "tokenize":  # not us: hand over the standard library's module
    from importlib.util import module_from_spec, spec_from_file_location

    _file = os.path.join(os.path.dirname(os.__file__), "tokenize.py")  # noqa: PTH118, PTH120
    _spec = spec_from_file_location(__name__, _file)
    assert _spec is not None and _spec.loader is not None
    sys.modules[__name__] = module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[__name__])

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120

    from benchmarks.tokenizer_rates import main
    from glmjobs.cli import run_command

    raise SystemExit(run_command(main))
