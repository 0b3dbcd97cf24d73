"""docs/design.md shows the house as it stands: every room, top to bottom, and files that exist."""

from __future__ import annotations

import re

import pytest

from tests.support.paths import REPO

PAGE = (REPO / "docs" / "design.md").read_text(encoding="utf-8")


def rooms_shown(package: str) -> list[str]:
    """The rooms in a package's table, in its order."""
    table = PAGE.partition(f"| `{package}/` | holds |")[2].partition("\n\n")[0]
    return re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)


@pytest.mark.parametrize("package", ["glmjobs", "hpc"])
def test_the_tables_have_every_room_in_the_order_of_the_layers(package: str) -> None:
    tomllib = pytest.importorskip("tomllib")
    shown = rooms_shown(package)
    assert sorted(shown) == sorted(file.parent.name for file in (REPO / package).glob("*/__init__.py"))
    settings = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    (layers,) = [c["layers"] for c in contracts if c["type"] == "layers" and c["containers"] == [package]]
    level = {room: number for number, layer in enumerate(layers) for room in layer.split(" | ")}
    assert [level[room] for room in shown] == sorted(level[room] for room in shown)


def test_the_files_of_the_walk_exist() -> None:
    walk = PAGE.partition("## A walk")[2].partition("\n## ")[0]
    files = re.findall(r"^\| `((?:glmjobs|hpc)/[\w/]+\.py)` \|", walk, re.MULTILINE)
    assert len(files) == 12
    assert [file for file in files if not (REPO / file).is_file()] == []


def test_files_named_anywhere_on_the_page_exist() -> None:
    files = re.findall(r"`((?:glmjobs|hpc)/[\w/]+\.py)`", PAGE)
    assert files and [file for file in files if not (REPO / file).exists()] == []
