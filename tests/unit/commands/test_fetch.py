"""Staging models and data: from a path, and from a hub that these tests serve on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from glmjobs import fetch
from glmjobs.cli import run_command
from tests.support.hub import COMMIT, Hub, serve
from tests.support.paths import REPO

FILES = {
    "config.json": b'{"model_type": "chatglm"}', "model.safetensors": bytes(range(256)) * 4000, "more/LICENSE": b"free",
}  # fmt: skip


@pytest.fixture
def hub() -> Iterator[str]:
    """The hub's address."""
    with serve({"models/THUDM/small": FILES}) as address:
        yield address


def environ(hub: str, tmp_path: Path) -> dict[str, str]:
    """A login node's, where the hub's library thinks itself offline."""
    given = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    return {k: v for k, v in given.items() if k.lower() not in ("http_proxy", "https_proxy", "all_proxy")}


def command(hub: str, tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command, as typed on a login node."""
    return subprocess.run(
        [sys.executable, "-m", "glmjobs.fetch", *words], cwd=REPO, env=environ(hub, tmp_path), capture_output=True,
        text=True, check=False, timeout=120,
    )  # fmt: skip


def small_model(folder: Path) -> Path:
    """The hub's model, in a directory."""
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_from_a_mirror_with_checksums_twice(hub: str, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    into = tmp_path / "model"
    done = command(hub, tmp_path, "model", "THUDM/small", "--into", str(into))
    assert done.returncode == 0, done.stderr
    for name, content in FILES.items():
        assert (into / name).read_bytes() == content
    record = json.loads((into / fetch.LIST).read_text())
    assert record["revision"] == COMMIT and [f["path"] for f in record["files"]] == sorted(FILES)
    downloads = len([1 for path, _ in Hub.asked if "/resolve/" in path])
    again = command(hub, tmp_path, "model", "THUDM/small", "--into", str(into))
    assert again.returncode == 0, again.stderr
    assert len([1 for path, _ in Hub.asked if "/resolve/" in path]) == downloads, (
        "what is there is not fetched again"
    )
    assert run_command(fetch.main, ["model", "--into", str(into), "--verify"]) == 0


def test_ctrl_c_ends_it_at_once_and_it_goes_on(hub: str, tmp_path: Path) -> None:
    """In the middle of a large file, for which the hub's own library would wait."""
    pytest.importorskip("huggingface_hub")
    Hub.held = threading.Event()
    into = tmp_path / "model"
    words = ["model", "THUDM/small", "--into", str(into)]
    with subprocess.Popen(
        [sys.executable, "-m", "glmjobs.fetch", *words], cwd=REPO, env=environ(hub, tmp_path), stderr=subprocess.PIPE,
        text=True,
    ) as begun:  # fmt: skip
        assert Hub.reached.wait(60)
        begun.send_signal(signal.SIGINT)
        _, said = begun.communicate(timeout=20)
    Hub.held.set()
    for left in into.rglob("*.incomplete"):
        os.utime(left, (0, 0))  # long ago
    assert begun.returncode == 130 and said.endswith("interrupted; the same command, given again, goes on\n")
    for noted in into.rglob("config.json.metadata"):
        noted.unlink()  # as where it came between the library's file and its note of it
    done = command(hub, tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert not list(into.rglob("*.incomplete")), "nothing is left that looks unfinished"
    assert not (into / fetch.BEGUN).exists()
    assert run_command(fetch.main, ["model", "--into", str(into), "--verify"]) == 0


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (("notes.txt",), "no configuration (config.json or adapter_config.json)"),
        (("model.safetensors",), "no configuration (config.json or adapter_config.json)"),
        (("config.json", "global_step4/mp_rank_00_model_states.pt"), "no weights (model.safetensors or "),
    ],
)
def test_what_is_no_model_is_not_fetched_as_one(
    files: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("huggingface_hub")
    source, into = tmp_path / "source", tmp_path / "into"
    for name in files:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("{}")
    assert run_command(fetch.main, ["model", str(source), "--into", str(into)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {source}: no model, it has {said}") and err.count("\n") == 1
    with serve({"models/THUDM/small": dict.fromkeys(files, b"{}")}) as address:
        done = command(address, tmp_path, "model", "THUDM/small", "--into", str(into))
    assert done.returncode == 2 and done.stderr.startswith(f"error: THUDM/small: no model, it has {said}")
    assert not into.exists()
    assert run_command(fetch.main, ["data", str(source), "--into", str(into)]) == 0, "data may be anything"


@pytest.mark.parametrize("broken_off", [False, True])
def test_two_sources_do_not_share_a_directory(
    broken_off: bool,
    hub: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("huggingface_hub")
    one, other, into = small_model(tmp_path / "one"), small_model(tmp_path / "other"), tmp_path / "into"
    (other / "config.json").write_text("another")
    words = ["model", str(one), "--into", str(into)]
    with monkeypatch.context() as patch:
        if broken_off:
            patch.setattr(fetch, "finish", lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                run_command(fetch.main, words)
        else:
            assert run_command(fetch.main, words) == 0
    capsys.readouterr()
    refused = (
        f"error: --into {into}: was fetched from {one}; name another directory for {{}}, or move it away\n"
    )
    assert run_command(fetch.main, ["model", str(other), "--into", str(into)]) == 2
    assert capsys.readouterr().err == refused.format(other)
    done = command(hub, tmp_path, "model", "THUDM/small", "--into", str(into))
    assert done.returncode == 2 and done.stderr == refused.format("THUDM/small")
    assert (into / "config.json").read_bytes() == FILES["config.json"]
    assert run_command(fetch.main, ["model", "--into", str(into), "--verify"]) == (2 if broken_off else 0)
    assert run_command(fetch.main, words) == 0, "the first one's goes on"
    assert run_command(fetch.main, ["model", "--into", str(into), "--verify"]) == 0


def test_another_mirror_is_no_other_source(hub: str, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    words = ["model", "THUDM/small", "--into", str(tmp_path / "model")]
    assert command(hub, tmp_path, *words).returncode == 0
    done = command(hub.replace("127.0.0.1", "localhost"), tmp_path, *words)
    assert done.returncode == 0, done.stderr


def test_a_file_that_is_not_the_hubs_is_refused(hub: str, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    Hub.wrong = True
    into = tmp_path / "model"
    done = command(hub, tmp_path, "model", "THUDM/small", "--into", str(into))
    assert done.returncode == 1 and "SHA-256 is not the hub's" in done.stderr
    assert "Traceback" not in done.stderr and not (into / fetch.LIST).exists()
    Hub.wrong = False
    assert command(hub, tmp_path, "model", "THUDM/small", "--into", str(into)).returncode == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("model", "THUDM/none"), 2, "has no such model"),
        (("model", "THUDM/small", "--revision", "nope"), 2, "no such revision"),
        (("model", "no/such/path"), 2, "neither a path that exists nor a hub id"),
        (("model", "nowhere/"), 2, "neither a path that exists nor a hub id"),
        (("model",), 2, "name the SOURCE"),
    ],
)
def test_what_is_wrong_is_one_line(
    words: tuple[str, ...], code: int, said: str, hub: str, tmp_path: Path
) -> None:
    pytest.importorskip("huggingface_hub")
    done = command(hub, tmp_path, *words, "--into", str(tmp_path / "x"))
    assert done.returncode == code, done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr


def test_no_network_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    done = command("http://127.0.0.1:9", tmp_path, "model", "THUDM/small", "--into", str(tmp_path / "x"))
    assert done.returncode == 3 and "127.0.0.1:9" in done.stderr and "Traceback" not in done.stderr


def test_room_is_looked_for_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Disk:
        f_bavail = 100
        f_frsize = 1000

    small_model(tmp_path / "model")
    monkeypatch.setattr("os.statvfs", lambda path: Disk)
    assert run_command(fetch.main, ["model", str(tmp_path / "model"), "--into", str(tmp_path / "there")]) == 3
    assert (
        capsys.readouterr().err
        == f"error: --into {tmp_path}/there: 2.1 MB are needed here, 0.1 MB are free\n"
    )
    assert not list((tmp_path / "there").iterdir())


def test_what_was_not_fetched_stays(
    hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, into = small_model(tmp_path / "source"), tmp_path / "into"
    into.mkdir()
    (into / "config.json").write_text("mine")
    assert run_command(fetch.main, ["model", str(source), "--into", str(into)]) == 2
    assert capsys.readouterr().err == (
        f"error: {into}/config.json: is there already and was not fetched; name another directory with --into\n"
    )
    pytest.importorskip("huggingface_hub")
    done = command(hub, tmp_path, "model", "THUDM/small", "--into", str(into))
    assert done.returncode == 2 and "was not fetched" in done.stderr
    assert [p.read_text() for p in into.iterdir()] == ["mine"]
    monkeypatch.chdir(into)
    assert run_command(fetch.main, ["model", str(source), "--into", ""]) == 2
    assert capsys.readouterr().err == "error: an empty path; name a directory\n"


def test_from_a_path_resumes_and_verifies(tmp_path: Path) -> None:
    source, into = small_model(tmp_path / "source"), tmp_path / "into"
    (source / ".cache").mkdir()
    (source / ".cache" / "x").write_text("x")
    assert run_command(fetch.main, ["model", str(source), "--into", str(into)]) == 0
    assert (into / "config.json").read_bytes() == FILES["config.json"] and not (into / ".cache").exists()
    untouched = (into / "config.json").stat().st_mtime_ns
    big = into / "model.safetensors"
    big.write_bytes(b"\1" * len(FILES["model.safetensors"]))
    assert run_command(fetch.main, ["model", "--into", str(into), "--verify"]) == 1
    assert run_command(fetch.main, ["model", str(source), "--into", str(into)]) == 0
    assert run_command(fetch.main, ["model", "--into", str(into), "--verify"]) == 0
    assert (into / "config.json").stat().st_mtime_ns == untouched
    assert (
        run_command(fetch.main, ["data", str(source / "config.json"), "--into", str(tmp_path / "one")]) == 0
    )
    assert run_command(fetch.main, ["model", str(source), "--into", str(source / "inside")]) == 2
    assert run_command(fetch.main, ["model", "--into", str(tmp_path / "nothing"), "--verify"]) == 2


def bin_model(folder: Path, seed: int) -> dict[str, torch.Tensor]:
    """A model as THUDM publishes it: two .bin files with an index, an output matrix, a buffer of another type."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        "transformer.word_embeddings.weight": torch.randn(40, 8, generator=generator).half(),
        "transformer.layers.0.attention.rotary_emb.inv_freq": torch.arange(4).float(),
        "lm_head.weight": torch.randn(40, 8, generator=generator).half(),
    }
    folder.mkdir(exist_ok=True)
    names = list(tensors)
    files = {"pytorch_model-00001-of-00002.bin": names[:2], "pytorch_model-00002-of-00002.bin": names[2:]}
    for file, part in files.items():
        torch.save({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in files.items() for name in part}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_bytes(FILES["config.json"])
    return tensors


def formed(into: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = load_file(into / "model.safetensors")
    return loaded


def names(into: Path) -> list[str]:
    return sorted(path.name for path in into.iterdir())


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def test_bin_weights_become_safetensors(tmp_path: Path) -> None:
    source, into = tmp_path / "source", tmp_path / "into"
    tensors = bin_model(source, seed=1)
    fetching = ["model", str(source), "--into", str(into)]
    assert run_command(fetch.main, fetching) == 0
    assert names(into) == ["config.json", fetch.LIST, "model.safetensors"]
    assert same(formed(into), tensors)
    record = json.loads((into / fetch.LIST).read_text())
    originals = {entry["path"]: entry["sha256"] for entry in record["formed"]["originals"]}
    assert originals == {f.name: fetch.sha256_file(f) for f in source.glob("pytorch_model*")}
    assert run_command(fetch.main, ["model", "--into", str(into), "--verify"]) == 0
    # again: nothing is copied or formed anew; with --keep-bin the originals come back
    untouched = (into / "model.safetensors").stat().st_mtime_ns
    assert run_command(fetch.main, fetching) == 0
    assert names(into) == ["config.json", fetch.LIST, "model.safetensors"]
    assert run_command(fetch.main, [*fetching, "--keep-bin"]) == 0
    assert len(list(into.glob("pytorch_model*"))) == 3
    assert (into / "model.safetensors").stat().st_mtime_ns == untouched
    assert run_command(fetch.main, ["model", "--into", str(into), "--verify"]) == 0
    # another revision: what was formed of the one before goes
    tensors = bin_model(source, seed=2)
    assert run_command(fetch.main, fetching) == 0
    assert same(formed(into), tensors) and not list(into.glob("pytorch_model*"))


def test_an_output_matrix_that_is_the_embedding_is_written_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, into = tmp_path / "source", tmp_path / "into"
    tensors = bin_model(source, seed=1)
    embedding, output = "transformer.word_embeddings.weight", "lm_head.weight"
    file = source / "pytorch_model-00002-of-00002.bin"
    torch.save({output: tensors[embedding].clone()}, file)
    assert run_command(fetch.main, ["model", str(source), "--into", str(into)]) == 0
    assert same(formed(into), {name: tensor for name, tensor in tensors.items() if name != output})
    assert json.loads((into / fetch.LIST).read_text())["formed"]["tied"] == {output: embedding}
    assert f"{output} is {embedding} again, and written once" in capsys.readouterr().err
    # not where its last bit differs, nor where the configuration does not tie
    last = tensors[embedding].clone()
    last.view(torch.int16)[-1, -1] ^= 1
    torch.save({output: last}, file)
    assert run_command(fetch.main, ["model", str(source), "--into", str(into)]) == 0
    assert same(formed(into), {**tensors, output: last})
    torch.save({output: tensors[embedding].clone()}, file)
    (source / "config.json").write_text('{"model_type": "chatglm", "tie_word_embeddings": false}')
    assert run_command(fetch.main, ["model", str(source), "--into", str(into)]) == 0
    assert same(formed(into), {**tensors, output: tensors[embedding]})


def test_a_damaged_bin_file_forms_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, into = tmp_path / "source", tmp_path / "into"
    bin_model(source, seed=1)
    file = source / "pytorch_model-00002-of-00002.bin"
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1  # a bit of the weights
    file.write_bytes(raw)
    assert run_command(fetch.main, ["model", str(source), "--into", str(into)]) == 1
    assert "pytorch_model-00002-of-00002.bin" in capsys.readouterr().err
    assert not list(into.glob("*.safetensors")) and not (into / fetch.LIST).exists()
    assert len(list(into.glob("pytorch_model*"))) == 3


def test_a_fetch_killed_after_its_list_goes_on(tmp_path: Path) -> None:
    source, into = tmp_path / "source", tmp_path / "into"
    tensors = bin_model(source, seed=1)
    assert run_command(fetch.main, ["model", str(source), "--into", str(into)]) == 0
    for file in source.glob("pytorch_model*"):
        (into / file.name).write_bytes(file.read_bytes())  # was not removed yet
    assert run_command(fetch.main, ["model", str(source), "--into", str(into)]) == 0
    assert not list(into.glob("pytorch_model*")) and same(formed(into), tensors)
