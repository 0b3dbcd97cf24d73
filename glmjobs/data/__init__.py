"""Data: reading, checking, splitting, tokenising, packing, collating. Works in a notebook, without Slurm.

``prepare`` makes a data directory; then :mod:`glmjobs.data.tokenised`, :mod:`glmjobs.data.packing` and
:mod:`glmjobs.data.collate` (the only module here that imports torch) turn it into batches.
"""

from glmjobs.data.prepared import Prepared, prepare
from glmjobs.data.rows import Row, question_text
from glmjobs.data.sources import MadeSource

__all__ = ["MadeSource", "Prepared", "Row", "prepare", "question_text"]
