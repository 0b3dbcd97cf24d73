"""The checks of a node, each against pretended tools and libraries; whom a bad report blames."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpc.batch.profile import Floor
from hpc.core.errors import WorkFailed
from hpc.health import checks, clock_skew, exchange, gpus, libraries
from hpc.health.checks import Finding, Need, NodeReport
from hpc.health.exchange import NodeExchange
from hpc.health.gpus import visible_gpus

A100 = {"index": "0", "name": "NVIDIA A100-SXM4-80GB", "memory.total": "81920", "driver_version": "515.65.01",
        "uuid": "GPU-0", "ecc.errors.uncorrected.volatile.total": "0", "memory.used": "4"}  # fmt: skip


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``pretend(name, text)``: a command of that name that prints a text and exits with a code."""

    def put(name: str, text: str, code: int = 0) -> None:
        (tmp_path / f"{name}.txt").write_text(text)
        (tmp_path / name).write_text(f"#!/bin/sh\ncat {tmp_path}/{name}.txt; exit {code}\n")
        (tmp_path / name).chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return put


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {f.what: f for f in findings}


def test_gpus_as_listed(pretend: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f"{i}, NVIDIA A100-SXM4-80GB, 81920, 515.65.01, GPU-{i}, [N/A], 3" for i in range(4)]
    pretend("nvidia-smi", "\n".join(rows))
    found = gpus.query_gpus()
    assert [g["index"] for g in found] == ["0", "1", "2", "3"] and found[0]["driver_version"] == "515.65.01"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert [g["index"] for g in visible_gpus(found)] == ["2", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1")
    assert [g["index"] for g in visible_gpus(found)] == ["1"]
    pretend(
        "nvidia-smi", "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", code=9
    )
    assert gpus.query_gpus() == []


@pytest.mark.parametrize(
    ("change", "need", "what", "found"),
    [
        ({}, {"gpus": 2}, "GPUs", "1 NVIDIA A100-SXM4-80GB"),
        ({"name": "NVIDIA A100-PCIE-40GB", "memory.total": "40960"}, {"gpu_memory": 80 * 10**9}, "GPU memory",
         "40.0 GiB (GPU 0)"),
        ({"driver_version": "515.48.07"}, {"floor": Floor(driver="515.65.01")}, "driver", "515.48.07"),
    ],
)  # fmt: skip
def test_what_a_node_lacks(change: dict[str, str], need: dict[str, Any], what: str, found: str) -> None:
    fine = Need(gpus=1, gpu_memory=80 * 10**9, gpu_type="a100", floor=Floor(driver="515.65.01"))
    assert all(f.ok for f in checks.check_gpus([A100], fine))
    bad = by_name(checks.check_gpus([{**A100, **change}], Need(**{"gpus": 1, **need})))[what]
    assert not bad.ok and bad.found == found and bad.needed and bad.remedy


@pytest.mark.parametrize(
    "kind",
    [
        "a100",
        "a100_80gb",
        "a100-sxm4-80gb",
        "A100-SXM-80GB",
        "a100l",
        "ampere",
        "tesla_a100",
        "hgx",
        "gpu",
        "v100",
    ],
)
def test_a_sites_name_for_its_gpus_is_no_fault_of_a_nodes(kind: str) -> None:
    model = by_name(checks.check_gpus([A100], Need(gpus=1, gpu_type=kind)))["GPU model"]
    assert model.ok and model.found.startswith(A100["name"]) and model.needed == kind
    spelt_alike = kind in ("a100", "a100-sxm4-80gb")
    assert model.found.endswith(f"(Slurm calls them {kind})") is not spelt_alike


def test_ecc_errors_remapped_rows_and_xids(
    pretend: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    up = 1e6  # this machine may have started a minute ago
    monkeypatch.setattr(gpus, "uptime", lambda: up)
    pretend("nvidia-smi", "GPU-0, 1, 0\nGPU-9, 1, 0\n")
    log = (
        f"[ {up - 7200:.3f}] NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', GPU has fallen off the bus.\n"
        f"[ {up - 60:.3f}] NVRM: Xid (PCI:0000:3b:00): 31, pid=7, MMU Fault: a program's own\n"
        f"[{up - 90000:.3f}] NVRM: Xid (PCI:0000:86:00): 48, pid=7, Double Bit ECC, yesterday\n"
    )
    pretend("dmesg", log)
    found = by_name(checks.check_errors([{**A100, "ecc.errors.uncorrected.volatile.total": "7"}]))
    assert found["uncorrected ECC errors"].found == "GPU 0: 7; GPU 0: row remapping pending"
    assert found["XID errors"].found == "XID 79 on 0000:3b:00 2.0 h ago" and not found["XID errors"].ok
    pretend("dmesg", "dmesg: read kernel buffer failed: Operation not permitted", code=1)
    closed = by_name(checks.check_errors([A100]))["XID errors"]
    assert closed.ok and "not known" in closed.found, "what cannot be known blames nobody, and is said"


def test_leftover_processes(pretend: Callable[..., None]) -> None:
    pretend("nvidia-smi", "4711, python, 30517, GPU-0\n12, other, 9, GPU-of-another-job\n")
    assert checks.check_leftovers([A100]).found == "GPU 0: process 4711 (python), 29.8 GiB"
    pretend("nvidia-smi", "")
    assert checks.check_leftovers([A100]).ok
    assert "in use by nobody visible" in checks.check_leftovers([{**A100, "memory.used": "20000"}]).found


@pytest.mark.parametrize(
    ("runtime", "able", "driver", "ok"),
    [
        ("11.7", "11.7", "515.65.01", True), ("11.8", "11.7", "515.65.01", True), ("12.1", "11.7", "515.65.01", False),
        ("12.1", "12.0", "525.60.13", True), ("11.7", "11.0", "450.51.06", False), ("13.0", "12.8", "570.86.10", False),
        ("11.1", "", "515.65.01", True),
    ],
)  # fmt: skip
def test_driver_against_cuda(runtime: str, able: str, driver: str, ok: bool) -> None:
    """By CUDA's table of minor version compatibility."""
    assert checks.check_driver(runtime, able, driver).ok is ok


def test_versions_as_loaded_come_from_the_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch directory with libraries that were compiled here: what they say counts, not their names."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc here to make libraries with")
    site = tmp_path / "site"
    for folder in ("torch/lib", "nvidia/nccl/lib", "nvidia/cudnn/lib", "nvidia/cuda_runtime/lib"):
        (site / folder).mkdir(parents=True)
    (site / "torch/__init__.py").write_text("raise SystemExit('torch was imported')")
    (site / "torch/version.py").write_text("__version__ = '2.0.1+cu117'\ndebug = False\ncuda = '11.7'\n")
    sources = {
        "nvidia/nccl/lib/libnccl.so.2": "int ncclGetVersion(int *v) { *v = 21403; return 0; }",
        "nvidia/cudnn/lib/libcudnn.so.8": "unsigned long cudnnGetVersion(void) { return 8500; }",
        "nvidia/cuda_runtime/lib/libcudart.so.11.0": "int cudaRuntimeGetVersion(int *v) { *v = 11070; return 0; }",
    }
    for name, source in sources.items():
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-xc", "-", "-o", str(site / name)],
            input=source,
            text=True,
            check=True,
        )
    monkeypatch.setenv("PYTHONPATH", str(site))
    found = libraries.loaded()
    assert {k: found.get(k) for k in ("torch", "torch_cuda", "cuda", "nccl", "cudnn")} == {
        "torch": "2.0.1+cu117", "torch_cuda": "11.7", "cuda": "11.7", "nccl": "2.14.3", "cudnn": "8.5.0",
    }  # fmt: skip
    floor = Floor(cuda="11.7", nccl="2.14.3", cudnn="8.8.1.3")
    checked = by_name(checks.check_libraries(found, floor, [A100]))
    assert checked["CUDA as loaded"].ok and checked["NCCL as loaded"].ok
    assert (
        not checked["cuDNN as loaded"].ok
        and checked["cuDNN as loaded"].found == "8.5.0 (nvidia/cudnn/lib/libcudnn.so.8)"
    )


def test_a_library_that_crashes_is_not_this_process_s_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("")
    (tmp_path / "sitecustomize.py").write_text("import os; os.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert libraries.loaded() == {}


def test_without_a_build_for_gpus_it_is_said() -> None:
    found = by_name(checks.check_libraries({"torch": "2.13.0+cpu"}, Floor(), [A100]))["torch"]
    assert not found.ok and found.found == "2.13.0+cpu, CUDA none" and found.blame == "configuration"


def test_scratch_and_run_directory(tmp_path: Path) -> None:
    floor = Floor(scratch=str(tmp_path), scratch_gb=10**6)
    short = checks.check_scratch(tmp_path, floor)
    assert not short.ok and "MB/s" in short.found
    gone = checks.check_scratch(tmp_path / "gone", Floor(scratch_gb=0))
    assert not gone.ok and gone.found == "cannot write: No such file or directory"
    missing, _ = checks.check_run_directory(tmp_path / "gone", Need())
    assert [f.ok for f in missing] == [False] and "every node mounts" in missing[0].remedy
    slow = by_name(checks.check_run_directory(tmp_path, Need(floor=Floor(write_mb_s=1e9)))[0])["run directory"]
    assert not slow.ok and slow.needed == "1,000,000,000 MB/s"
    found, rate = checks.check_run_directory(tmp_path, Need(writers=4, write_most=24 << 20))
    assert all(f.ok for f in found) and f"{rate / 1e6:,.0f} MB/s" in found[0].found
    assert list(tmp_path.iterdir()) == [], "no probe is left behind"


def test_clock_is_asked_over_the_network() -> None:
    server = clock_skew.ClockServer(0)
    try:
        assert abs(clock_skew.offset("127.0.0.1", server.port, patience=5)) < 0.5
        ahead = clock_skew.offset(
            "127.0.0.1", server.port, patience=5, now=lambda: __import__("time").time() + 90
        )
        assert 89.5 < ahead < 90.5
    finally:
        server.stop()
    with pytest.raises(OSError):
        clock_skew.offset("127.0.0.1", server.port, patience=0)
    with socket.create_server(("", server.port)):
        pass  # the port is free for the ranks' own meeting


def report(node: str, *findings: Finding) -> NodeReport:
    return NodeReport(
        node=node, time="", findings=[Finding(what="disk", ok=True, found="1"), *findings], tag="t"
    )


ECC = Finding(what="ECC", ok=False, found="4", needed="0", remedy="report it")
DRIVER = Finding(what="CUDA", ok=False, found="12", needed="11", remedy="another", blame="configuration")
SLOW = Finding(what="all-reduce", ok=False, found="1", needed="2", remedy="look", blame="cluster")


@pytest.mark.parametrize(
    ("reports", "bad", "configuration"),
    [
        ([report("a"), report("b")], [], 0),
        ([report("a", ECC), report("b")], ["a"], 0),
        ([report("a", ECC), report("b", ECC)], [], 1),
        ([report("a", ECC)], ["a"], 0),
        ([report("a", DRIVER)], [], 1),
        ([report("a", DRIVER), report("b")], ["a"], 0),
        ([report("a", SLOW), report("b")], [], 1),
        ([report("a", ECC), report("b", DRIVER), report("c")], ["a", "b"], 0),
    ],
)
def test_whom_to_blame(reports: list[NodeReport], bad: list[str], configuration: int) -> None:
    verdict = exchange.judge(reports)
    assert sorted(verdict.bad) == bad and len(verdict.configuration) == configuration
    assert verdict.fit is (not bad and not configuration)


def test_reports_of_an_earlier_start_count_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_STEP_NODELIST", "gpu[07-08]")
    NodeExchange(tmp_path, 1, 2, tag="7-0-1").hand_in(report("gpu08"))
    now = NodeExchange(tmp_path, 0, 2, tag="7-1-1")
    now.hand_in(NodeReport(node="gpu07", time="", findings=[], tag="7-1-1"))
    found = now.gather(0.2)
    assert [r.node for r in found] == ["gpu07", "gpu08"] and [r.fit for r in found] == [True, False]
    assert exchange.judge(found).bad == {"gpu08": ["report: found none within 0.2 s, needed one"]}


def test_what_node_0_tells_all_hear(tmp_path: Path) -> None:
    first, second = (NodeExchange(tmp_path, rank, 2, tag="7-0-1") for rank in (0, 1))
    heard: list[Any] = []
    thread = threading.Thread(target=lambda: heard.append(second.hear(20)))
    thread.start()
    first.tell("allreduce", port=5)
    thread.join(20)
    assert heard == [{"what": "allreduce", "port": 5}]
    with pytest.raises(WorkFailed, match="decided nothing"):
        NodeExchange(tmp_path, 1, 2, tag="8-0-1").hear(0.1)


def test_the_checks_import_no_torch() -> None:
    names = "hpc.health.checks, hpc.health.exchange, hpc.runtime.exclude_nodes, hpc.health.clock_skew"
    code = f"import sys, {names}; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "False"
