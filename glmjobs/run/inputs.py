"""What training starts from, put in place: prepared data, and a small model where the recipe makes one.

Idempotent and safe to call from several processes: one does the work under a lock, the others wait and find it done.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from glmjobs.data.prepared import Prepared, prepare
from glmjobs.data.sources import Source
from glmjobs.recipe.schema import DataSection
from glmjobs.run.directory import Run
from hpc.core.files import exclusive


def ensure(run: Run) -> Prepared:
    """Data (``RUN/data``) and base model (``RUN/base`` where made), whole and ready."""
    with exclusive(run.path / ".inputs.lock", patience=None):
        prepared = ensure_data(run)
        if run.recipe.model.make is not None:
            ensure_base(run)
        return prepared


def ensure_data(run: Run) -> Prepared:
    """Read, check and split the recipe's data into ``RUN/data``; nothing is done where that has happened."""
    data = run.recipe.data
    if data.make is not None:
        from glmjobs.data.synthetic import write_problems

        source = run.data / "problems.jsonl"
        if not source.is_file():
            source.parent.mkdir(parents=True, exist_ok=True)
            write_problems(source, rows=data.make.rows, seed=data.make.seed)
    else:
        source = Path(str(data.path))
    return prepare_data(data, source, run.data)


def prepare_data(data: DataSection, source: str | Path | Source, out: Path) -> Prepared:
    """``source`` prepared in ``out`` as the recipe's data section says."""
    return prepare(
        source, out, prompt_column=data.prompt_column, query_column=data.query_column,
        response_column=data.response_column, dev_rows=data.dev_rows, train_rows=data.train_rows,
        deduplicate=data.deduplicate, allow_dropped=data.allow_dropped,
    )  # fmt: skip


def ensure_base(run: Run) -> None:
    """A small model and its tokenizer under ``RUN/base``, from the recipe's seed and the train rows' text."""
    spec = run.recipe.model.make
    assert spec is not None
    if (run.base_model / "config.json").is_file():
        return
    from glmjobs.data.prepared import read_rows
    from glmjobs.models.family import family_for

    building = run.path / ".base"
    shutil.rmtree(building, ignore_errors=True)
    texts = (text for row in read_rows(run.data / "train.jsonl") for text in (row.instruction, row.output))
    family_for(spec.family).make_small(building, texts, spec.model_dump(exclude={"family"}))
    building.rename(run.base_model)
