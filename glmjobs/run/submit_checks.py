"""Can this machine or cluster do what the recipe asks? Asked before anything is queued; needs no torch."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from glmjobs.models.family import family_for
from glmjobs.recipe.schema import Recipe
from glmjobs.run.directory import Shape
from hpc.batch.profile import Profile
from hpc.core.errors import BadInput, NotFit
from hpc.health.checks import query_gpus


def check(recipe: Recipe, profile: Profile, shape: Shape, stages: tuple[str, ...], executor: str) -> Recipe:
    """Check GPUs, model and data; the recipe with its paths made absolute.

    Raises:
        NotFit: one line saying what is not there and what to do.
        BadInput: the data file is there but is not what the recipe says.
    """
    if executor == "slurm":
        check_slurm_gpus(profile, shape)
    elif recipe.train.device == "cuda" and "train" in stages:
        check_local_gpus(shape)
    model, data = recipe.model, recipe.data
    if model.path is not None:
        model = model.model_copy(update={"path": str(check_model(Path(model.path), model.family))})
    if data.path is not None:
        data = data.model_copy(update={"path": check_data(recipe)})
    train = recipe.train
    if train.deepspeed is not None and Path(train.deepspeed).is_file():
        train = train.model_copy(update={"deepspeed": str(Path(train.deepspeed).absolute())})
    return recipe.model_copy(update={"model": model, "data": data, "train": train})


def check_local_gpus(shape: Shape) -> None:
    """This machine has as many GPUs as ranks are wanted."""
    found = len(query_gpus())
    if found < shape.gpus:
        raise NotFit(
            f"--gpus {shape.gpus}: this machine has {found or 'no'} NVIDIA GPUs and no Slurm was asked; "
            "submit from a login node (--executor slurm), or try the CPU-sized recipe: --recipe configs/tiny.yaml"
        )


def check_slurm_gpus(profile: Profile, shape: Shape) -> None:
    """Slurm knows enough nodes with the GPUs asked for."""
    from hpc.slurm import client as slurm

    nodes = slurm.gres(profile.partition)
    wanted = profile.gpu_type
    fitting = {node for node, kind, count in nodes if count >= shape.gpus and wanted in (None, kind)}
    if len(fitting) >= shape.nodes:
        return
    kinds = sorted({f"{kind or 'gpu'}:{count}" for _, kind, count in nodes})
    where = f"partition {profile.partition}" if profile.partition else "this cluster"
    raise NotFit(
        f"--nodes {shape.nodes} --gpus {shape.gpus}: {where} has {len(fitting)} nodes with {shape.gpus} or more "
        f"{wanted or ''} GPUs (its GPUs: {', '.join(kinds) or 'none'}); "
        "set cluster.gpu_type and cluster.partition to fit"
    )


def check_model(path: Path, family: str) -> Path:
    """The base model's directory is there, with its configuration and weights, and of the recipe's family."""
    if not path.is_dir():
        raise NotFit(
            f"{path}: no such model directory (model.path); copy THUDM's model there, or name yours: "
            "--set model.path=DIRECTORY"
        )
    if not (path / "config.json").is_file():
        raise NotFit(f"{path}: no config.json there (model.path); a model directory as on the hub is needed")
    if not any(p.suffix in (".bin", ".safetensors") for p in path.iterdir()):
        raise NotFit(
            f"{path}: no weights (*.safetensors or *.bin) there (model.path); the download is not whole"
        )
    wanted, found = family_for(family).name, family_for(path).name
    if wanted != found:
        raise BadInput(
            f"{path}: this is a model of the family {found}, the recipe says model.family = {wanted}"
        )
    return path.absolute()


def check_data(recipe: Recipe) -> str:
    """The data are there, and the first row has the recipe's columns. Everything else is checked by the run itself."""
    data = recipe.data
    path = Path(str(data.path))
    if not path.exists():
        raise NotFit(
            f"{path}: no such data (data.path); download BELLE's school_math_0.25M, or name your file: "
            "--set data.path=FILE"
        )
    if path.is_file():
        check_first_row(path, [data.prompt_column, data.response_column])
    return str(path.absolute())


def check_first_row(path: Path, columns: list[str]) -> None:
    """A glance at the first row of a JSON lines file."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig") as file:
            first = next((line for line in file if line.strip()), "")
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise BadInput(f"{path}: cannot be read as UTF-8 text: {' '.join(str(error).split())}") from None
    if not first:
        raise BadInput(f"{path}: the file is empty (data.path)")
    try:
        row = json.loads(first)
    except ValueError:
        return  # an array over several lines, or a broken line: the reader tells them apart
    if isinstance(row, dict):
        missing = [c for c in columns if c not in row]
        if missing:
            have = ", ".join(list(row)[:8])
            raise BadInput(
                f"{path}: row 1 has no column {missing[0]!r} (columns there: {have}); "
                "set data.prompt_column and data.response_column"
            )
