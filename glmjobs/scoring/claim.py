"""Whose scores a folder holds: one model's answers on one data file, noted there before the first row."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from glmjobs.data.rows import Columns
from glmjobs.data.sources import open_source
from glmjobs.scoring.predictions import MERGED, model_fingerprint
from hpc.core.errors import BadInput
from hpc.core.files import read_json, write_json

NOTE = "scored.json"


def claim(folder: Path, model: Path, data: Path) -> None:
    """Note in ``folder`` whose scores it holds from now on.

    The same path or the same content is the same model (or data): one that was trained further is scored anew in its
    place, one that was moved goes on.

    Raises:
        BadInput: it holds another model's, or another data file's, or files under the names of scores that are none;
            or it cannot be written.
    """
    own = {
        "model": {"path": str(model.resolve()), "digest": model_fingerprint(model)},
        "data": {"path": str(data.resolve()), "digest": open_source(data, split="test").digest(Columns())},
    }
    held = _held(folder)
    if next(folder.glob("predictions*"), None) is not None:
        for what, holder in held.items():
            if holder["path"] != own[what]["path"] and holder["digest"] != own[what]["digest"]:
                raise BadInput(
                    f"{folder}: holds scores of another {what}, {holder['path']}; name another folder: --out DIR"
                )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / NOTE, own)
    except OSError as error:
        raise BadInput(f"{folder}: predictions cannot be written there: {error.strerror}") from None


def _held(folder: Path) -> dict[str, dict[str, Any]]:
    """Whose scores are there; of folders from before there was a note, the summary names the model.

    Raises:
        BadInput: nothing tells whose the files are that scoring would replace.
    """
    with suppress(KeyError, TypeError, ValueError):  # a file of that name that is none of ours
        if note := read_json(folder / NOTE):
            return {
                what: {key: str(note[what][key]) for key in ("path", "digest")} for what in ("model", "data")
            }
        if (summary := read_json(folder / "summary.json")) and summary["fingerprint"]:
            return {"model": {"path": str(Path(summary["model"]).resolve()), "digest": None}}
    if foreign := [name for name in (NOTE, *MERGED) if (folder / name).exists()]:
        raise BadInput(
            f"{folder / foreign[0]}: is there already, and not of scoring: it would be replaced; name another folder: "
            "--out DIR"
        )
    return {}
