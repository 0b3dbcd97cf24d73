"""The universal form is what DeepSpeed's own converter makes, in constant memory; what cannot be right is refused."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glmjobs.cli import run_command
from glmjobs.recipe.loading import load
from glmjobs.reshard import accumulation, check_newest, check_run, main
from glmjobs.run.directory import Run, Shape
from glmjobs.zero import committed, universal_form
from glmjobs.zero.torch_file import TorchFile
from glmjobs.zero.universal_form import STATES, reshard
from hpc.batch.profile import Profile
from hpc.chain import ledger
from hpc.core import timestamps
from hpc.core.errors import BadInput, HpcError, NotFit, WorkFailed
from tests.support.hostile_pickle import Runs
from tests.support.paths import CONFIGS
from tests.support.small_checkpoints import flip, resave, storages
from tests.support.sparse_models import sparse_checkpoint

torch = pytest.importorskip("torch")
pytest.importorskip("deepspeed")

OLD = not hasattr(torch, "get_default_device")
"""gloo of torch 2.0 sends no bfloat16; DeepSpeed 0.16 trains no float16 on a CPU, and loads no universal ZeRO-3."""
LIKE_DEEPSPEED = (
    ("z1-fp32", "z2-fp32", "z2-fp32-frozen", "z1-fp32-adapter")
    if OLD
    else ("z1-bf16", "z2-fp32", "z2-fp16-frozen", "z2-bf16-adapter", "z3-fp32", "z3-fp16-frozen", "z3-bf16-adapter")
)  # fmt: skip
DAMAGED = ("z2-fp32",) if OLD else ("z2-fp32", "z3-fp32")
REFUSED = ("z2-fp32-rr", "z3-fp32") if OLD else ("z2-fp32-rr",)
OPTIMIZER = "zero_pp_rank_{}_mp_rank_00_optim_states.pt"
MODEL = {"z2-fp32": "mp_rank_00_model_states.pt", "z3-fp32": "zero_pp_rank_1_mp_rank_00_model_states.pt"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, repo: Path) -> Path:
    out = tmp_path_factory.mktemp("reshard")
    cases = ",".join(dict.fromkeys((*LIKE_DEEPSPEED, *REFUSED)))
    command = [sys.executable, str(repo / "tests/support/make_checkpoints.py"), str(out), "--cases", cases]
    subprocess.run(
        [*command, "--emulate"] if OLD else command, check=True, capture_output=True, timeout=400
    )
    return out


@pytest.fixture
def take(made: Path, tmp_path: Path) -> Callable[[str], Path]:
    return lambda case: Path(shutil.copytree(made / f"{case}-w2", tmp_path / case))


@pytest.fixture(params=DAMAGED)
def checkpoint(request: pytest.FixtureRequest, take: Callable[[str], Path]) -> Path:
    return take(request.param)


@pytest.mark.parametrize("case", LIKE_DEEPSPEED)
def test_it_is_what_deepspeed_makes(case: str, take: Callable[[str], Path]) -> None:
    """Bit for bit, but for what no loader of DeepSpeed reads."""
    checkpoint = take(case)
    reference = by_deepspeed(checkpoint)
    target = reshard(checkpoint, 3)
    assert (checkpoint / "latest_universal").read_text() == target.name == "global_step2_universal"
    trained = {
        name
        for group in TorchFile(next(target.glob("*model_states.pt"))).value["param_shapes"]
        for name in group
    }
    assert "scale" in trained and ("blocks.1.1.weight" in trained) == ("frozen" not in case and "adapter" not in case)
    ours, theirs = (
        {str(file.relative_to(folder)) for file in folder.rglob("*.pt")} for folder in (target, reference)
    )
    # From 0.18 on a copy of all that is in the model state and not trained: buffers, frozen and tied parameters.
    extra = {name for name in theirs if re.fullmatch(r"zero/(.*)/fp32\.pt", name)} - {
        f"zero/{name}/fp32.pt" for name in trained
    }
    assert ours == theirs - extra
    for name in sorted(ours):
        file, other = target / name, reference / name
        if name.endswith("model_states.pt"):
            assert file.read_bytes() == other.read_bytes()
            continue
        with zipfile.ZipFile(file) as archive:
            assert archive.testzip() is None
        saved, expected = (torch.load(path, weights_only=False) for path in (file, other))
        if name == "zero/optimizer_state.pt" and case.startswith("z3"):
            del expected["fp32_flat_groups"]  # of rank 0 alone
            for held in expected["optimizer_state_dict"]["state"].values():
                del held["exp_avg"], held["exp_avg_sq"]
        assert same(saved, expected), name
    for what in STATES:
        torch.load(target / f"zero/scale/{what}.pt", weights_only=True)


def by_deepspeed(checkpoint: Path) -> Path:
    """What the converter of the DeepSpeed that is here makes."""
    from deepspeed.checkpoint import ds_to_universal

    into = checkpoint / "by_deepspeed"
    options = argparse.Namespace(
        input_folder=str(checkpoint / "global_step2"), output_folder=str(into), num_extract_workers=1,
        num_merge_workers=1, keep_temp_folder=False, strict=True, inject_missing_state=True,
    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        ds_to_universal.main(options)
    (checkpoint / "latest_universal").unlink()
    return into


def same(one: Any, other: Any) -> bool:
    """Types and values, of tensors every bit."""
    if torch.is_tensor(one):
        return torch.is_tensor(other) and describe(one) == describe(other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if type(one).__module__.startswith("deepspeed") and hasattr(one, "__dict__"):
        return type(one) is type(other) and same(vars(one), vars(other))
    return bool(type(one) is type(other) and one == other)


def describe(tensor: Any) -> tuple[Any, ...]:
    return tensor.dtype, tensor.shape, tensor.detach().contiguous().numpy().tobytes()


def test_done_already_is_looked_at(checkpoint: Path) -> None:
    target = reshard(checkpoint, 3)
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


def test_a_universal_form_that_was_damaged_since_is_not_taken_for_whole(checkpoint: Path) -> None:
    """Its numbers, and what the model states have: of the right size, and not as they were written."""
    target = reshard(checkpoint, 1)
    for path in (target / "zero/scale/exp_avg.pt", *target.glob("*model_states.pt")):
        whole = path.read_bytes()
        name = flip(path, storages(path)[0])
        with pytest.raises(WorkFailed, match=r"checksum.*or remove .*_universal and run this again") as failure:
            reshard(checkpoint, 1)
        assert str(path) in str(failure.value) and name in str(failure.value)
        path.write_bytes(whole)
    assert reshard(checkpoint, 1) == target


def test_on_a_disk_that_takes_nothing_a_whole_one_will_do(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = reshard(checkpoint, 1)

    def refused(path: Path, *_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path.with_name("a name of its own")))

    monkeypatch.setattr(universal_form, "write_atomic", refused)
    assert reshard(checkpoint, 1) == target
    (checkpoint / "latest_universal").write_text("another")
    with pytest.raises(HpcError) as failure:
        reshard(checkpoint, 1)
    said = f"{checkpoint / 'latest_universal'}: cannot be written: Read-only file system; it has to hold the word"
    assert str(failure.value) == f"{said} {target.name}"


def test_what_is_no_checkpoint_is_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLMJOBS_RUNS", str(tmp_path))
    run, newest = tmp_path / "first", tmp_path / "first/checkpoints/checkpoint-20"
    for step in (10, 20):
        (run / f"checkpoints/checkpoint-{step}").mkdir(parents=True)
        committed.commit(run / f"checkpoints/checkpoint-{step}")
    (run / "run.yaml").write_text("name: first")
    (run / "empty").write_text("")
    for given, said in (
        (str(run), f"a run; name one of its checkpoints, the newest by: .*reshard {newest} --world-size 1"),
        ("first", f"a run; name one of its checkpoints, the newest by: .*reshard {newest} --world-size 1"),
        (str(run / "empty"), "empty: a file; a checkpoint is a folder"),
        (str(run / "nothing"), "nothing: no such directory; a checkpoint is a folder"),
    ):
        assert run_command(main, [given, "--world-size", "1"]) == 2
        assert re.search(said, capsys.readouterr().err), given
    shutil.rmtree(run / "checkpoints")
    assert run_command(main, [str(run), "--world-size", "1"]) == 2
    assert "a run, and without a checkpoint that could be resharded" in capsys.readouterr().err


def test_a_training_that_is_done_is_made_longer_first(tmp_path: Path) -> None:
    recipe = load(CONFIGS / "tiny.yaml", ["data.make.rows=60", "data.dev_rows=1-5"])
    run = Run.create(tmp_path / "run", recipe, Profile(name="x"), Shape(nodes=1, gpus=2))
    run.mark("train", started=timestamps.now(), figures={"step": 20})
    with pytest.raises(BadInput, match=r"training is done.*\.heal .*max_steps=N.*\.cancel .*reshard then"):
        check_run(run, 1)
    ledger.reopen(run.path, "train", "made longer")
    check_run(run, 1)


def test_an_older_checkpoint_is_not_what_training_goes_on_from(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "r", load(CONFIGS / "tiny.yaml"), Profile(name="test"), Shape(nodes=1, gpus=2))
    for step in (3, 6):
        folder = run.checkpoints / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "weights").write_text("x")
        committed.commit(folder)
    check_newest(run, run.checkpoints / "checkpoint-6", 4)
    with pytest.raises(BadInput, match=r"newer one, checkpoint-6; reshard that: .*checkpoint-6 --world-size 4"):
        check_newest(run, run.checkpoints / "checkpoint-3", 4)


def test_a_flipped_bit_is_named(checkpoint: Path) -> None:
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
    # Files that belong to no rank are not among those that are carried over.
    for name in ("zero_pp_rank_0_mp_rank_01_model_states.pt", "zz_model_states.pt"):
        torch.save(evil, step / name)
    files = {path.name for path in reshard(checkpoint, 1).iterdir()}
    assert MODEL[checkpoint.name] in files and not {"zz_model_states.pt", OPTIMIZER.format(1)} & files
    assert not marker.exists()


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


def test_what_deepspeed_would_load_wrong_is_refused(take: Callable[[str], Path]) -> None:
    refused: dict[str, tuple[type[HpcError], str]] = {"z2-fp32-rr": (NotFit, "round_robin_gradients")}
    if OLD:
        refused["z3-fp32"] = NotFit, "one parameter group"
    for case, (kind, words) in refused.items():
        with pytest.raises(kind, match=words):
            reshard(take(case), 1)
    checkpoint = take("z2-fp32")
    model = checkpoint / "global_step2" / MODEL["z2-fp32"]
    resave(model, lambda saved: saved.update(universal_checkpoint_info={"universal_checkpoint_version": 0.2}))
    shutil.rmtree(reshard(checkpoint, 1))
    resave(model, lambda saved: saved["universal_checkpoint_info"].update(vocabulary_parameter_patterns=["e"]))
    with pytest.raises(WorkFailed, match="universal_checkpoint_info"):
        reshard(checkpoint, 1)


def test_only_adams_states_are_written(checkpoint: Path) -> None:
    path = checkpoint / "global_step2" / OPTIMIZER.format(1)

    def forget(saved: dict[str, Any]) -> None:
        state = saved["optimizer_state_dict"]
        del state.get("base_optimizer_state", state.get("optimizer_state_dict"))["state"][0]["exp_avg_sq"]

    resave(path, forget)
    with pytest.raises(WorkFailed, match="no whole exp_avg_sq"):
        reshard(checkpoint, 1)


def test_the_disk_is_asked_first(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For what is written, and little more."""
    from glmjobs.zero import write

    target = reshard(checkpoint, 1)
    files = [file for file in target.rglob("*") if file.is_file()]
    written = sum(file.stat().st_size for file in files)
    shutil.rmtree(target)
    allowed = written + 4096 * len(files)
    allowed += allowed // 200 + (1 << 20)
    monkeypatch.setattr(write, "free_bytes", lambda _: allowed)
    shutil.rmtree(reshard(checkpoint, 1))
    monkeypatch.setattr(write, "free_bytes", lambda _: written + (1 << 20))
    with pytest.raises(NotFit, match="MB are needed here"):
        reshard(checkpoint, 1)
    assert not target.exists() and not list(checkpoint.glob(".*"))


def test_memory_does_not_depend_on_the_largest_parameter(tmp_path: Path) -> None:
    """Of 8 MB and of 400 MB; the kernel's count of the most pages that were the process's own or mapped."""
    program = """
import re, sys
from pathlib import Path
from glmjobs.zero.universal_form import reshard
reshard(Path(sys.argv[1]), 1)
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""
    peaks = []
    for megabytes in (8, 400):
        checkpoint = tmp_path / str(megabytes)
        sparse_checkpoint(checkpoint, {"large": (megabytes, 250_000), "small": (7,)}, 2, moments=True)
        done = subprocess.run([sys.executable, "-c", program, checkpoint], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) >> 10)
        sizes = [f.stat().st_size for f in checkpoint.glob("*_universal/zero/large/*.pt")]
        assert max(sizes) > megabytes * 1_000_000 and len(sizes) == 4
        shutil.rmtree(checkpoint)
    assert abs(peaks[1] - peaks[0]) <= 4, peaks


def test_the_rows_of_a_step_are_kept_or_it_is_refused() -> None:
    assert accumulation(1, 8, 4) == 2
    assert accumulation(4, 2, 8) == 1
    with pytest.raises(BadInput, match="16 micro-batches"):
        accumulation(2, 8, 3)
