"""The universal checkpoint holds every parameter as consolidation reads it, for ZeRO-2 and ZeRO-3."""

from __future__ import annotations

import argparse
import collections
import io
import os
import pickle
import select
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from glmjobs.reshard import accumulation
from glmjobs.zero.universal_form import reshard
from hpc.core.errors import BadInput, NotFit, WorkFailed
from tests.support.hostile_pickle import Runs
from tests.support.small_checkpoints import flip, storages

torch = pytest.importorskip("torch")
pytest.importorskip("deepspeed")


CASES = ("z2-fp32-w2", "z3-fp32-w2")
OPTIMIZER = "zero_pp_rank_{}_mp_rank_00_optim_states.pt"
MODEL = {
    "z2-fp32-w2": "mp_rank_00_model_states.pt",
    "z3-fp32-w2": "zero_pp_rank_1_mp_rank_00_model_states.pt",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, repo: Path) -> Path:
    out = tmp_path_factory.mktemp("reshard")
    command = [
        sys.executable,
        str(repo / "tests/support/make_checkpoints.py"),
        str(out),
        "--cases",
        "z2-fp32,z3-fp32",
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=400)
    return out


@pytest.fixture(params=CASES)
def checkpoint(request: pytest.FixtureRequest, made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / request.param, tmp_path / request.param))


def test_universal_form_holds_the_same_values(checkpoint: Path) -> None:
    target = reshard(checkpoint, 3)
    assert (checkpoint / "latest_universal").read_text() == target.name == "global_step2_universal"
    with np.load(checkpoint / "reference.npz") as archive:
        reference = {name: archive[name] for name in archive.files}
    for name in ("embed.weight", "blocks.0.1.weight", "blocks.2.2.bias", "scale"):
        saved = torch.load(target / "zero" / name / "fp32.pt", weights_only=True)
        value = (saved["param"] if isinstance(saved, dict) else saved).detach().numpy()
        assert value.reshape(reference[name].shape).tobytes() == reference[name].tobytes(), name
    assert reshard(checkpoint, 1) == target
    assert not list(checkpoint.glob(".*"))
    victim = target / "zero/scale/fp32.pt"
    victim.unlink()
    with pytest.raises(WorkFailed, match=r"scale/fp32\.pt.*remove it"):
        reshard(checkpoint, 1)
    shutil.rmtree(target)
    target.mkdir()
    with pytest.raises(WorkFailed, match="not a whole universal form"):
        reshard(checkpoint, 1)
    target.rmdir()
    target.symlink_to("/usr")
    with pytest.raises(WorkFailed, match="not a whole universal form"):
        reshard(checkpoint, 1)
    for world_size, workers in ((0, 1), (10**11, 1), (1, 0), (1, 9999)):
        with pytest.raises(BadInput, match=r"world size|workers"):
            reshard(checkpoint, world_size, workers)


def test_a_flipped_bit_is_named_before_deepspeed_reads_it(checkpoint: Path) -> None:
    """Adam's moments count here, and the copies of the weights: all that DeepSpeed may take up."""
    for path in sorted((checkpoint / "global_step2").glob("*.pt")):
        whole = path.read_bytes()
        for member in storages(path)[::3]:
            name = flip(path, member)
            with pytest.raises(WorkFailed) as failure:
                reshard(checkpoint, 1)
            assert str(path) in str(failure.value) and f"{name} do not have the checksum" in str(
                failure.value
            )
            path.write_bytes(whole)
    assert not list(checkpoint.glob("*universal*"))


def test_nothing_of_the_checkpoint_runs(checkpoint: Path) -> None:
    marker = checkpoint.parent / "ran"
    evil = Runs(os.system, f"touch {marker}")
    step = checkpoint / "global_step2"
    for path in (step / MODEL[checkpoint.name], step / OPTIMIZER.format(1)):
        whole = path.read_bytes()
        path.write_bytes(pickle.dumps(evil, 2) + whole)  # torch falls back to its old format, from the start
        with pytest.raises(WorkFailed, match=path.name):
            reshard(checkpoint, 1)
        with zipfile.ZipFile(io.BytesIO(whole)) as source, zipfile.ZipFile(path, "w") as file:
            file.writestr(f"{path.stem}/data.pkl", pickle.dumps(evil, 2))  # torch takes the first of two
            with pytest.warns(UserWarning, match="Duplicate"):
                for name in source.namelist():
                    file.writestr(name, source.read(name))
        with pytest.raises(WorkFailed, match=path.name):
            reshard(checkpoint, 1)
        path.write_bytes(whole)
    # Files that belong to no rank are not among those that the converter gets.
    for name in ("zero_pp_rank_0_mp_rank_01_model_states.pt", "zz_model_states.pt"):
        torch.save(evil, step / name)
    assert reshard(checkpoint, 1).is_dir()
    assert not marker.exists()


def test_calls_of_the_packages_own_functions_are_refused(checkpoint: Path) -> None:
    """What the reader takes for an inert label, unpickling would call."""
    import deepspeed.launcher.runner as runner

    path = checkpoint / "global_step2" / OPTIMIZER.format(0)
    saved = torch.load(path, weights_only=False)
    saved["extra"] = [Runs(runner.parse_args, ["--help"])]
    torch.save(saved, path)
    with pytest.raises(WorkFailed, match=r"runner\.parse_args.*no data"):
        reshard(checkpoint, 1)
    saved["extra"] = [argparse.Namespace(a=np.arange(3)), collections.deque([1]), Path("/x")]
    torch.save(saved, path)
    assert reshard(checkpoint, 1).is_dir()


def test_a_parameter_cannot_leave_the_folder(checkpoint: Path) -> None:
    for path in (checkpoint / "global_step2").glob("*.pt"):
        saved = torch.load(path, weights_only=False)
        noted = saved.get("optimizer_state_dict", {}).get("param_slice_mappings", [])
        for group in (*saved.get("param_shapes", []), *noted, saved.get("module", {})):
            renamed = [("../../../scale" if name == "scale" else name, held) for name, held in group.items()]
            group.clear()
            group.update(renamed)
        torch.save(saved, path)
    with pytest.raises(WorkFailed, match="no folder's name"):
        reshard(checkpoint, 1)


def test_workers_end_when_reshard_is_killed() -> None:
    """The pipe's other end closes once the killed process's child is gone, too."""
    program = """
import os, signal
from glmjobs.zero.universal_form import children_end_with_this
with children_end_with_this():
    if os.fork() == 0:
        os.write(1, b"up")
        signal.pause()
signal.pause()
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.read(2) == b"up"
    process.kill()
    ready, _, _ = select.select([process.stdout], [], [], 30)
    assert ready and process.stdout.read() == b""
    process.stdout.close()
    process.wait()


def test_the_rows_of_a_step_are_kept_or_it_is_refused() -> None:
    assert accumulation(1, 8, 4) == 2
    assert accumulation(4, 2, 8) == 1
    with pytest.raises(BadInput, match="16 micro-batches"):
        accumulation(2, 8, 3)


def test_memory_is_demanded_before_anything_is_written(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glmjobs.zero import universal_form

    needs = [universal_form.memory_needed(sorted(checkpoint.rglob("*.pt")), 1000, n) for n in (1, 2)]
    assert needs[1] - needs[0] >= 8000 and needs[0] >= 8000
    monkeypatch.setattr(universal_form, "available_memory", lambda: 10)
    with pytest.raises(NotFit, match=r"memory with 2 workers.*a node with"):
        reshard(checkpoint, 1)
    assert not list(checkpoint.glob("*universal*"))


def test_files_are_mapped_where_torch_can(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The converter and its workers ask for it; torch.load is itself again afterwards."""
    from glmjobs.zero.universal_form import _maps, mapped_loads

    original, path = torch.load, next(checkpoint.rglob("*optim_states.pt"))
    with mapped_loads():
        saved = torch.load(path, weights_only=False)
        mapped = str(path) in Path("/proc/self/maps").read_text(encoding="utf-8")
    assert saved and mapped == _maps() and torch.load is original
