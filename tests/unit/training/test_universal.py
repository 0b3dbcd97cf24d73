"""What DeepSpeed's ZeRO-3 loader of universal checkpoints leaves wrong is set right."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


def test_each_state_counts_for_itself_and_each_group_has_its_own_settings(tmp_path: Path) -> None:
    from glmjobs.training.universal import correct_optimizer

    first, second = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = torch.optim.AdamW(
        [{"params": [first], "weight_decay": 0.1}, {"params": [second], "weight_decay": 0.0}]
    )
    file = tmp_path / "optimizer_state.pt"
    torch.save({"param_groups": optimizer.state_dict()["param_groups"]}, file)
    step = torch.tensor(12.0)
    for parameter in (first, second):
        parameter.grad = torch.ones(3)
        optimizer.state[parameter] = {
            "step": step,
            "exp_avg": torch.zeros(3),
            "exp_avg_sq": torch.zeros(3),
        }
    optimizer.param_groups[1]["weight_decay"] = 0.1
    for group in optimizer.param_groups:  # as the recipe says now
        group["lr"] = group["initial_lr"] = 1e-7
    correct_optimizer(optimizer, file)
    optimizer.step()
    assert [float(optimizer.state[p]["step"]) for p in (first, second)] == [13.0, 13.0]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert [group["lr"] for group in optimizer.param_groups] == [1e-7, 1e-7]
    correct_optimizer(optimizer, tmp_path / "none.pt")


def test_a_fused_optimizer_counts_where_its_parameters_are(tmp_path: Path) -> None:
    """The file's counters are on the CPU, where fused Adam on a GPU refuses them. Which kernel is not the file's."""
    from glmjobs.training.universal import correct_optimizer
    from tests.support.pretended_gpus import fake_cuda

    file = tmp_path / "optimizer_state.pt"
    torch.save({"param_groups": [{"weight_decay": 0.1, "fused": False, "params": [0]}]}, file)
    with fake_cuda():
        weight = torch.ones(3, device="cuda:0")
        step = torch.tensor(12.0)
        for fused, device in ((True, "cuda"), (False, "cpu")):
            # ZeRO-3 lends a group its parameters for a step only.
            group = {"params": [], "fused": fused, "weight_decay": 0.0}
            optimizer = SimpleNamespace(state={weight: {"step": step}}, param_groups=[group])
            correct_optimizer(optimizer, file)
            assert optimizer.state[weight]["step"].device.type == device
            assert (group["weight_decay"], group["fused"]) == (0.1, fused)
