"""Can this machine or cluster do what the recipe asks? Asked before anything is queued; needs no torch."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from glmjobs.data.mixing import of_source
from glmjobs.data.rows import Columns, Row
from glmjobs.data.sources import open_source
from glmjobs.data.splitting import Split
from glmjobs.data.synthetic import make_problems
from glmjobs.data.validating import Validator
from glmjobs.models.family import declared, family_for
from glmjobs.recipe.deepspeed_config import deepspeed_config
from glmjobs.recipe.schema import DataSection, JobsSection, Recipe, ScoreSection, TestSetSection
from glmjobs.run import lengths, locate, scored_sets, sharing, start_from
from glmjobs.run.directory import Shape
from glmjobs.scoring.judges import Judging
from glmjobs.scoring.judges import load as load_judge
from glmjobs.zero.directories import CONFIG as ADAPTER_CONFIG
from glmjobs.zero.directories import with_bases
from hpc.batch.profile import Profile
from hpc.core import hints
from hpc.core.errors import BadInput, HpcError, NotFit
from hpc.health.checks import query_gpus

FIRST_ROWS = 2000
"""So many rows of the data are read before anything is queued, and as many more as the row ranges name."""


def check(recipe: Recipe, profile: Profile, shape: Shape, stages: tuple[str, ...], executor: str) -> Recipe:
    """Check GPUs, model and data; the recipe with its paths made absolute.

    Raises:
        NotFit: the GPUs asked for are not there.
        BadInput: the model, the data or the DeepSpeed configuration is not there, or not what the recipe says.
    """
    if executor == "slurm":
        if "train" in stages:
            check_warning(recipe.jobs)
        check_sbatch(profile)
        check_slurm_gpus(profile, shape)
        if "score" in stages:
            check_shards(recipe.score, shape)
    elif recipe.train.device == "cuda" and "train" in stages:
        check_local_gpus(shape)
    recipe = start_from.resolve(recipe)
    model, data = recipe.model, recipe.data
    try:
        if model.path is not None:
            model = model.model_copy(update={"path": str(check_model(Path(model.path), model.family))})
        if data.sources:
            paths = []
            for source, one in zip(data.sources, data.apart(), strict=True):
                with of_source(source.name):
                    paths.append(check_data(one, recipe.score))
            pairs = zip(data.sources, paths, strict=True)
            sources = tuple(one.model_copy(update={"path": path}) for one, path in pairs)
            data = data.model_copy(update={"sources": sources})
        elif data.path is not None:
            data = data.model_copy(update={"path": check_data(data, recipe.score)})
        if data.make is None:
            check_lengths(recipe)
        else:
            made = make_problems(min(FIRST_ROWS, data.make.rows), data.make.seed)
            check_golds(
                "data.make", ((row["instruction"], row["output"]) for row in made), recipe.score.judging
            )
    except OSError as error:
        raise BadInput(f"{error.filename}: cannot be read: {error.strerror or error}") from None
    sharing.group_id(recipe.jobs.share, locate.parent())
    train = recipe.train
    if train.deepspeed is not None and Path(train.deepspeed).is_file():
        train = train.model_copy(update={"deepspeed": str(Path(train.deepspeed).absolute())})
    deepspeed_config(train)
    score = recipe.score.model_copy(update={"sets": check_sets(recipe.score)})
    return recipe.model_copy(update={"model": model, "data": data, "train": train, "score": score})


def check_local_gpus(shape: Shape) -> None:
    """This machine has as many GPUs as ranks are wanted."""
    found = len(query_gpus())
    if found < shape.gpus:
        raise NotFit(
            f"--gpus {shape.gpus}: this machine has {found or 'no'} NVIDIA GPUs and no Slurm was asked; "
            "submit from a login node (--executor slurm), or try the CPU-sized recipe: --recipe configs/tiny.yaml"
        )


def check_warning(jobs: JobsSection) -> None:
    """Refuse a time limit of which the warning before it leaves nothing: training would save and start again."""
    if jobs.train.seconds <= jobs.signal_seconds:
        raise BadInput(
            f"jobs.train.time = {jobs.train.time}: {jobs.signal_seconds} s before its end (jobs.signal_seconds) it is "
            f"told to save and stop, so at once; more time, or {hints.setting('jobs.signal_seconds', 'N')}"
        )


def check_sbatch(profile: Profile) -> None:
    """Options of sbatch for one job are under a job's name."""
    from glmjobs.run.jobs import CHAIN

    for name, value in profile.sbatch.items():
        if isinstance(value, dict) and name not in CHAIN:
            raise BadInput(f"cluster.sbatch.{name}: {name!r} is not a job; jobs: {', '.join(CHAIN)}")


def check_slurm_gpus(profile: Profile, shape: Shape) -> None:
    """Slurm knows enough nodes with the GPUs asked for."""
    from hpc.slurm import client as slurm

    if profile.gpu_request == "none":  # Slurm knows of none here
        return
    nodes = slurm.gres(profile.partition, name=profile.gpu_gres)
    wanted = profile.gpu_type
    fitting = {node for node, kind, count in nodes if count >= shape.gpus and wanted in (None, kind)}
    if len(fitting) >= shape.nodes:
        return
    kinds = sorted({f"{kind or profile.gpu_gres}:{count}" for _, kind, count in nodes})
    others = [] if nodes else [n for n in slurm.gres_names(profile.partition) if n != profile.gpu_gres]
    mend = f"its GRES are {', '.join(others)}: cluster.gpu_gres, if one stands for GPUs" if others else ""
    where = f"partition {profile.partition}" if profile.partition else "this cluster"
    raise NotFit(
        f"--nodes {shape.nodes} --gpus {shape.gpus}: {where} has {len(fitting)} nodes with {shape.gpus} or more "
        f"{wanted or ''} GPUs (its GPUs: {', '.join(kinds) or 'none'}); "
        f"{mend or 'set cluster.gpu_type and cluster.partition to fit'}"
    )


def check_shards(score: ScoreSection, shape: Shape) -> None:
    """Slurm takes an array of as many jobs as scoring is shared between.

    Raises:
        NotFit: it does not.
    """
    from hpc.slurm.request_limits import array_limit

    shards = shape.world_size if score.shards == "auto" else score.shards
    try:
        most = array_limit()
    except HpcError:
        return  # sbatch will say
    if most is not None and shards > most:
        raise NotFit(
            f"score.shards = {score.shards}: an array of {shards} jobs, and this cluster takes {most} at most "
            f"(MaxArraySize); {hints.setting('score.shards', str(min(most, shape.world_size)))}"
        )


def check_model(path: Path, family: str) -> Path:
    """The base model's directory is there, of the recipe's family, and has what the family needs.

    Raises:
        BadInput: it is not.
    """
    if not path.is_dir():
        raise BadInput(
            f"{path}: no such model directory (model.path); copy {family_for(family).title} there, or name yours: "
            + hints.setting("model.path", "DIRECTORY")
        )
    declared(path, family).check(path)
    if relative := [base for base in with_bases(path.absolute()) if not base.is_absolute()]:
        raise BadInput(
            f"{path}: an adapter that names its base by a relative path, {relative[0]}, which the jobs would look up "
            f"elsewhere; write {relative[0].absolute()} in {ADAPTER_CONFIG}"
        )
    return path.absolute()


def check_there(path: Path) -> None:
    """The data are there.

    Raises:
        BadInput: they are not.
    """
    if not path.exists():
        raise BadInput(
            f"{path}: no such data (data.path); name your file: {hints.setting('data.path', 'FILE')}"
        )


def check_data(data: DataSection, score: ScoreSection | None = None) -> str:
    """The data are there, and what the first rows rule out is said now; the run itself checks all of them.

    Args:
        score: whose judge marks the dev rows.

    Raises:
        BadInput: there is no such file, its form or columns are not the recipe's, too many of the first rows cannot
            be used or are too long, or the judge can mark no dev row.
    """
    path = Path(str(data.path))
    check_there(path)
    columns = Columns(data.prompt_column, data.query_column, data.response_column)
    split = Split.parse(data.dev_rows, data.train_rows)
    limit = max(FIRST_ROWS, split.highest + 1)
    validator = Validator(open_source(path), columns, data.allow_dropped, data.form)
    rows = [row for row in validator.rows_and_problems(limit) if isinstance(row, Row)]
    if validator.rows < limit:  # that was all of it
        split.check(validator.rows, str(path))
        for part in ("train", *(["dev"] if data.dev_rows is not None else [])):
            if not any(split.part(row.id) == part for row in rows):
                raise BadInput(
                    f"{path}: no {part} row is left of its {validator.rows} rows; change data.dev_rows"
                )
    if score is not None:
        dev = (row for row in rows if split.part(row.id) == "dev")
        check_golds(str(path), ((row.question, row.output) for row in dev), score.judging)
    if validator.form.name != "belle":
        print(f"data  {path}: form {validator.form.name}, {validator.form.title}", file=sys.stderr)
    return str(path.absolute())


def check_golds(place: str, asked: Iterable[tuple[str, str]], judging: Judging) -> None:
    """The judge that decides the accuracy can mark some of the rows: of that it only has to read their gold answers.

    Args:
        asked: questions and their gold answers.

    Raises:
        BadInput: it can mark none.
    """
    name, reason = judging.names[0], ""
    if name == "verifier":
        return  # a server's word, which is asked for when there are answers
    try:
        judge = load_judge(name)
    except NotFit:
        return  # where it runs, preflight looks for what it needs
    for question, gold in asked:
        verdict = judge.mark(question, gold, gold)
        if verdict.status != "not marked":
            return
        reason = reason or verdict.reason
    if reason:
        raise BadInput(
            f"{place}: the judge {name} can mark none of its answers ({reason}): name another judge, for all with "
            f"{hints.setting('score.judge', 'meaning')}, for a test set in score.sets"
        )


def check_sets(score: ScoreSection) -> tuple[TestSetSection, ...]:
    """Every test set can be read; they are said, and their paths made absolute.

    Raises:
        BadInput: one is not there, or of another form, or its judge can mark none of it.
    """
    checked = []
    for given in score.sets:
        found = scored_sets.read(given)
        judging = score.judging_of(given, found.form.judge)
        check_golds(given.path, ((one.question, one.gold) for one in found.questions), judging)
        judges = ", ".join(judging.names)
        print(
            f"score {given.name}: {len(found.questions):,} questions, form {found.form.name} ({found.form.title}), "
            f"judge {judges}",
            file=sys.stderr,
        )  # fmt: skip
        place = {"path": str(Path(given.path).absolute()), "content": scored_sets.content(found)}
        checked.append(given.model_copy(update=place))
    return tuple(checked)


def check_lengths(recipe: Recipe) -> None:
    """Say how many train rows are too long, and refuse too many of them, as training would.

    Raises:
        BadInput: clearly more of them than ``data.allow_dropped`` allows; or the tokenizer does not fit the model.
    """
    found = lengths.estimate(recipe)
    if found is None:
        return
    lengths.check_estimate(recipe.data, found)
    if words := found.words():
        print(f"data  {words}", file=sys.stderr)
