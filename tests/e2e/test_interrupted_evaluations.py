"""A training that is killed or stopped in the middle of its evaluations ends as one that was left alone, and as one
that was never evaluated."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from hpc.chain import ledger
from tests.support.small_training import (
    FLOAT16,
    Training,
    differences,
    logged,
    make_run,
    moving_scale,
    shims,
    small_model,
)

IN_EVALUATION = (
    FLOAT16
    + '''
class Breaking:
    """In the second batch of an evaluation, rank 0 sends itself the next signal of the plan."""

    def find_spec(self, name, path=None, target=None):
        import importlib.machinery

        if name != "glmjobs.training.evaluation":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module

        def patched(module):
            run(module)
            batch = module.DevData.batch

            def signalled(self, index):
                import os
                from pathlib import Path

                plan = Path(os.environ["EVALUATION_PLAN"])
                left = plan.read_text().split() if os.environ.get("RANK") == "0" and index > 0 else []
                if left:
                    plan.write_text(" ".join(left[1:]))
                    os.kill(os.getpid(), int(left[0]))
                return batch(self, index)

            module.DevData.batch = signalled

        spec.loader.exec_module = patched
        return spec

sys.meta_path.insert(0, Breaking())
'''
)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_or_stopped_in_an_evaluation(tmp_path: Path) -> None:
    """At the start, at steps that were saved before and at others, and at the last: each evaluation stands in the log
    once, and the training ends as one that was never evaluated at all."""
    environ = shims(tmp_path, IN_EVALUATION)
    model, deepspeed = small_model(tmp_path), moving_scale(tmp_path)
    plan = tmp_path / "plan"
    kinds = [signal.SIGKILL, signal.SIGUSR1] * 3
    names = ("train.max_steps=9", f"train.deepspeed={deepspeed}", "train.save_steps=2")
    evaluated = (*names, "train.eval_steps=4", "data.dev_rows=1-60", "train.per_device_batch_size=2")
    plain = make_run(tmp_path, "plain", model, *evaluated, "train.eval_steps=null")
    whole, broken = (make_run(tmp_path, name, model, *evaluated) for name in ("whole", "broken"))
    for run, signals in ((plain, []), (whole, []), (broken, kinds)):
        plan.write_text(" ".join(str(int(s)) for s in signals))
        with Training(run, limit=9, environ={**environ, "EVALUATION_PLAN": str(plan)}) as training:
            assert training.wait() == 0, training.said()
        assert plan.read_text() == ""
    ended = [e["outcome"] for e in ledger.events(broken.path, event="ended", stage="train")]
    print(f"attempts: {ended}")
    assert len(ended) == len(kinds) + 1
    for run in (plain, broken):
        assert differences(whole.checkpoints / "checkpoint-9", run.checkpoints / "checkpoint-9") == []
    assert logged(whole) == logged(broken)
    assert [row["step"] for row in logged(broken) if "dev_loss" in row] == [0, 4, 8, 9]
    assert [row for row in logged(whole) if "loss" in row] == logged(plain)


@pytest.mark.slow
def test_a_training_that_ended_early_is_finished(tmp_path: Path) -> None:
    """It gets worse, so it ends at the first evaluation that shows it, saved. One that is killed before its marker is
    written takes no further step, and has the same figures."""
    run = make_run(
        tmp_path, "run", small_model(tmp_path), "train.precision=fp32", "train.max_steps=20", "train.learning_rate=0.5",
        "train.scheduler=constant", "train.warmup_ratio=0", "train.save_steps=100", "train.eval_steps=4",
        "train.early_stop=1", "train.keep=best", gpus=1,
    )  # fmt: skip
    figures = []
    for _ in range(2):
        with Training(run, limit=1) as training:
            assert training.wait() == 0, training.said()
        marker = ledger.marker(run.path, "train")
        assert marker is not None
        figures.append(
            {key: marker["figures"][key] for key in ("step", "train_loss", "tokens", "best", "ended_early")}
        )
        (run.path / "stages" / "train.json").unlink()
    assert figures[0] == figures[1] and figures[0]["step"] == 4
    assert figures[0]["ended_early"].startswith("no dev loss better than") and figures[0]["best"]["step"] == 0
    assert "training ends at step 4 of 20: no dev loss better than" in training.log()
    assert [row["step"] for row in logged(run) if "dev_loss" in row] == [0, 4]
    assert [path.name for path in run.checkpoints.glob("checkpoint-*")] == ["checkpoint-4"]
