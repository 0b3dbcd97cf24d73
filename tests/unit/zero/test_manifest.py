"""`--verify`: a model directory against its manifest."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from glmjobs import consolidate as stage
from glmjobs.cli import run_command
from glmjobs.zero import manifest
from glmjobs.zero.consolidate import Options, consolidate
from hpc.core.errors import BadInput, WorkFailed

pytest.importorskip("torch", reason="checkpoints to read are made with torch")


def test_verify(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = checkpoint.parent / "out"
    consolidate(checkpoint, out, Options(shard_size="300", fsync=False))
    assert len(list(out.glob("model-*.safetensors"))) > 1
    assert run_command(stage.main, ["--verify", str(out)]) == 0
    victim = sorted(out.glob("*.safetensors"))[1]
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    assert run_command(stage.main, ["--verify", str(out)]) == 1
    assert victim.name in capsys.readouterr().err
    with pytest.raises(BadInput, match="no manifest"):
        manifest.verify(checkpoint)


def test_the_hash_is_the_manifests_own(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """XXH128 or SHA-256, as asked, in the form that other programs print; manifests of old have SHA-256."""
    import xxhash

    for kind, of in (("xxh128", xxhash.xxh3_128), ("sha256", hashlib.sha256)):
        out = checkpoint.parent / kind
        words = [str(checkpoint), str(out), "--hash", kind, "--shard-size", "300"]
        assert run_command(stage.main, words) == 0
        entries = manifest.read_manifest(out)["files"]
        assert len(entries) > 2
        for entry in entries:
            content = (out / entry["path"]).read_bytes()
            assert entry == {"path": entry["path"], "bytes": len(content), kind: of(content).hexdigest()}
        assert run_command(stage.main, ["--verify", str(out)]) == 0
        victim = out / "model.safetensors.index.json"
        victim.write_bytes(victim.read_bytes().replace(b"0", b"1"))
        assert run_command(stage.main, ["--verify", str(out)]) == 1
        assert f"its content changed ({kind} " in capsys.readouterr().err
    with pytest.raises(BadInput, match="xxh128, sha256"):
        consolidate(checkpoint, checkpoint.parent / "md5", Options(hash_kind="md5"))


def test_verify_holds_all_weights_against_the_manifest(checkpoint: Path) -> None:
    out = checkpoint.parent / "out"
    consolidate(checkpoint, out, Options(fsync=False))
    extra = out / "model-00002-of-00002.safetensors"
    extra.write_bytes(b"x")
    with pytest.raises(WorkFailed, match=r"00002.*not in the manifest"):
        manifest.verify(out)
    extra.unlink()
    real = out / "model.safetensors"
    real.rename(out.parent / "elsewhere")
    real.symlink_to(out.parent / "elsewhere")
    with pytest.raises(WorkFailed, match=r"model\.safetensors: a link"):
        manifest.verify(out)
    (out / "manifest.json").write_text('{"files": []}')
    with pytest.raises(WorkFailed, match="lists no weights"):
        manifest.verify(out)
    for text in (
        "[" * 100_000,
        '{"files": [{"path": "a", "bytes": "1", "sha256": ""}]}',
        "[]",
        '{"files": [{"path": "a", "bytes": 1, "md5": ""}]}',
    ):
        (out / "manifest.json").write_text(text)
        with pytest.raises(BadInput, match="manifest"):
            manifest.verify(out)
