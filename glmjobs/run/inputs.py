"""What training starts from, put in place: prepared data, and the base model where it is made for the run.

Idempotent and safe to call from several processes: one does the work under a lock, the others wait and find it done.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from glmjobs.data.mixing import Mixed, prepare_mixed
from glmjobs.data.prepared import Prepared, prepare
from glmjobs.data.sources import Source
from glmjobs.recipe.schema import DataSection, Recipe
from glmjobs.run import start_from
from glmjobs.run.directory import Run
from glmjobs.zero.directories import with_bases
from hpc.core.files import exclusive


def ensure(run: Run) -> Prepared:
    """Data (``RUN/data``) and base model (``RUN/base`` where it is made), whole and ready."""
    with exclusive(run.path / ".inputs.lock", patience=None):
        prepared = ensure_data(run)
        start_from.record(run)
        ensure_base(run)
        return prepared


def ensure_data(run: Run) -> Prepared:
    """Read, check and split the recipe's data into ``RUN/data``; nothing is done where that has happened."""
    data = run.recipe.data
    if data.sources:
        return prepare_sources(run.recipe, run.data)
    if data.make is not None:
        from glmjobs.data.synthetic import write_problems

        source = run.data / "problems.jsonl"
        if not source.is_file():
            source.parent.mkdir(parents=True, exist_ok=True)
            write_problems(source, rows=data.make.rows, seed=data.make.seed)
    else:
        source = Path(str(data.path))
    return prepare_data(data, source, run.data)


def prepare_sources(recipe: Recipe, out: Path) -> Prepared:
    """The recipe's several sources, prepared in ``out``; where not all rows are read, ``train.seed`` decides which."""
    data = recipe.data
    sources = [
        Mixed(one.name, one.path, one.form, one.dev_rows, one.weight, one.rows) for one in data.sources
    ]
    return prepare_mixed(
        sources, out, seed=recipe.train.seed, prompt_column=data.prompt_column, query_column=data.query_column,
        response_column=data.response_column, deduplicate=data.deduplicate, allow_dropped=data.allow_dropped,
    )  # fmt: skip


def prepare_data(data: DataSection, source: str | Path | Source, out: Path) -> Prepared:
    """``source`` prepared in ``out`` as the recipe's data section says."""
    return prepare(
        source, out, prompt_column=data.prompt_column, query_column=data.query_column,
        response_column=data.response_column, dev_rows=data.dev_rows, train_rows=data.train_rows,
        deduplicate=data.deduplicate, allow_dropped=data.allow_dropped, form=data.form,
    )  # fmt: skip


def ensure_base(run: Run) -> None:
    """The base model under ``RUN/base``, where that is not the recipe's: a small model and its tokenizer, from the
    recipe's seed and the train rows' text; or an adapter's base with the adapter merged in, in the base's own type.

    From there on it is a whole model like any other: what is trained on it can be merged, kept and loaded.
    """
    spec = run.recipe.model.make
    if run.base_model.parent != run.path or (run.base_model / "config.json").is_file():
        return
    if spec is None:
        from glmjobs.zero.consolidate import Options, consolidate, weights_type  # numpy

        adapter = Path(str(run.recipe.model.path))
        consolidate(adapter, run.base_model, Options(dtype=weights_type(with_bases(adapter)[-1])))
        return
    from glmjobs.data.prepared import read_rows
    from glmjobs.models.family import family_for

    building = run.path / ".base"
    shutil.rmtree(building, ignore_errors=True)
    texts = (text for row in read_rows(run.data / "train.jsonl") for text in (row.instruction, row.output))
    family_for(spec.family).make_small(building, texts, spec.model_dump(exclude={"family"}))
    building.rename(run.base_model)
