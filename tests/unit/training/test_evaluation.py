"""Evaluation while training: its figures are those of the model on the dev examples, at any packing and any number of
ranks, and it leaves nothing behind that training would notice."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from glmjobs.data.collate import ExampleDataset, PaddedCollator
from glmjobs.data.prepared import prepare
from glmjobs.data.sources import MadeSource
from glmjobs.data.tokenised import Tokenised, tokenise
from glmjobs.models import load_model, load_tokenizer
from glmjobs.models.family import family_for
from glmjobs.recipe.schema import TrainSection
from glmjobs.training.evaluation import DevData, EndedEarly, Evaluator
from hpc.runtime.stop import StopRequested
from tests.support.small_families import small_chatglm, small_glm, small_glm4

MADE = {"chatglm": small_chatglm, "glm": small_glm, "glm4": small_glm4}


class Ranks:
    """The agreement of two ranks that are asked one after the other."""

    def __init__(self) -> None:
        self.sum: Any = 0

    def add(self, values: Any) -> Any:
        self.sum = self.sum + values
        return self.sum

    def all_reduce_max(self, value: int) -> int:
        return value

    def broadcast(self, value: Any) -> Any:
        return value


def stand_in(model: Any, folder: Path, ranks: int = 1, rank: int = 0, agreement: Any = None) -> Any:
    """What an evaluator needs of a trainer."""
    return SimpleNamespace(
        model=model, model_wrapped=model, _prepare_inputs=lambda batch: batch,
        args=SimpleNamespace(process_index=rank, world_size=ranks, device="cpu", output_dir=str(folder)),
        state=SimpleNamespace(global_step=0), control=SimpleNamespace(should_training_stop=False),
        heartbeat=SimpleNamespace(report=lambda phase, step: None),
        callback_handler=SimpleNamespace(on_evaluate=lambda *_: None),
        saver=SimpleNamespace(agreement=agreement or Ranks(), folder=folder, first=rank == 0, last=False, best=None),
    )  # fmt: skip


def tokens(model_dir: Path, folder: Path) -> Tokenised:
    """Forty dev examples of a family."""
    prepared = prepare(MadeSource(60, 0), folder, dev_rows="1-40")
    family = family_for(model_dir)
    return tokenise(prepared, "dev", load_tokenizer(model_dir), family, folder / "tokens")


def evaluated(model: Any, data: DevData, folder: Path, ranks: int = 1) -> dict[str, Any]:
    """The figures, as the last of the ranks has them."""
    agreement, found = Ranks(), {}
    for rank in range(ranks):
        trainer = stand_in(model, folder, ranks, rank, agreement)
        evaluator = Evaluator(trainer, data, TrainSection(eval_steps=5), 20, lambda: False)
        assert evaluator.evaluate(0)
        found = dict(evaluator.rows[0])
    del found["dev_seconds"]
    return found


@pytest.mark.parametrize("name", MADE)
def test_the_same_figures_at_any_packing_and_number_of_ranks(name: str, tmp_path: Path) -> None:
    """Against a plain sum over single examples; to the bit, whether training packs, and for one to three ranks.
    Random numbers and training mode are as they were."""
    model_dir = MADE[name](tmp_path / "model")
    examples = tokens(model_dir, tmp_path / "data")
    model: Any = load_model(model_dir, "float32").eval()
    loss = hits = targets = 0
    with torch.no_grad():
        for item in ExampleDataset(examples):
            batch = PaddedCollator(0)([item])
            del batch["target_positions"]
            chosen = batch["labels"] != -100
            out = model(**batch, num_items_in_batch=1)
            shift = int(getattr(model, "shifts_labels", True))
            likeliest = out.logits.argmax(-1)[:, : out.logits.shape[1] - shift]
            loss += float(out.loss)
            hits += int(((likeliest == batch["labels"][:, shift:]) & chosen[:, shift:]).sum())
            targets += int(chosen.sum())

    model.train()
    state = torch.get_rng_state()
    packed, single = (
        DevData.of(examples, TrainSection(packing=packing, pack_length=128, per_device_batch_size=5), 0)
        for packing in (True, False)
    )
    assert len(packed) >= 5, "several batches, and not as many for each rank"
    one = evaluated(model, packed, tmp_path)
    assert one["dev_loss"] == pytest.approx(loss / targets, rel=1e-5)
    assert one["dev_token_accuracy"] == hits / targets and one["dev_tokens"] == targets
    assert one == evaluated(model, single, tmp_path)
    assert one == evaluated(model, packed, tmp_path, ranks=2) == evaluated(model, single, tmp_path, ranks=3)
    assert model.training and torch.equal(torch.get_rng_state(), state)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, DevData]:
    folder = tmp_path_factory.mktemp("small")
    model_dir = small_chatglm(folder / "model")
    return load_model(model_dir, "float32"), DevData.of(
        tokens(model_dir, folder), TrainSection(eval_rows=10), 0
    )


def log(folder: Path, data: DevData, losses: dict[int, float], dev_set: str | None = None) -> None:
    rows = [{"step": s, "dev_loss": x, "dev_set": dev_set or data.digest} for s, x in losses.items()]
    (folder / "train_log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def begun(
    small: tuple[Any, DevData], folder: Path, step: int, told: Any = lambda: False, **train: Any
) -> Evaluator:
    """An evaluator that has taken up a training at a step."""
    trainer = stand_in(small[0], folder)
    trainer.state.global_step = step
    evaluator = Evaluator(trainer, small[1], TrainSection(eval_steps=5, **train), 20, told)
    evaluator.on_train_begin(trainer.args, trainer.state, trainer.control)
    return evaluator


def test_a_resumed_training_makes_up_for_the_missing_evaluation_alone(small: Any, tmp_path: Path) -> None:
    assert [row["step"] for row in begun(small, tmp_path, 0).rows] == [0]
    log(tmp_path, small[1], {0: 5.0, 5: 4.0})
    assert [row["step"] for row in begun(small, tmp_path, 10).rows] == [0, 5, 10]
    assert [row["step"] for row in begun(small, tmp_path, 7).rows] == [0, 5]
    log(tmp_path, small[1], {0: 5.0, 5: 4.0}, "other rows")
    assert [row["step"] for row in begun(small, tmp_path, 5).rows] == [5]


def test_a_stop_signal_ends_an_evaluation_and_saves_what_is_not_saved(small: Any, tmp_path: Path) -> None:
    with pytest.raises(StopRequested):
        begun(small, tmp_path, 0, told=lambda: True)
    log(tmp_path, small[1], {0: 5.0})
    told, saves = [False], []
    for saved in (False, True):
        told[0] = False
        evaluator = begun(small, tmp_path, 3, told=lambda: told[0])
        evaluator.trainer.state.global_step, told[0] = 5, True
        evaluator.after_step(saved, lambda: saves.append(5))
        assert evaluator.pending and evaluator.trainer.control.should_training_stop
        evaluator.after_step(saved, lambda: saves.append(5))  # the epoch's end
        assert len(saves) == 1 and [row["step"] for row in evaluator.rows] == [0]


def test_the_best_is_saved_where_no_save_was_due(small: Any, tmp_path: Path) -> None:
    saves: list[int] = []
    for before, wanted in ((9.0, [5]), (0.1, [])):
        log(tmp_path, small[1], {0: 9.5, 2: before})
        evaluator = begun(small, tmp_path, 3, keep="best")
        evaluator.trainer.state.global_step = 5
        saves.clear()
        evaluator.after_step(False, lambda: saves.append(5))
        assert saves == wanted and not evaluator.trainer.control.should_training_stop
        evaluator.after_step(False, lambda: saves.append(5))
        assert saves == wanted, "evaluated once"


def test_early_stop(small: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saves: list[int] = []
    log(tmp_path, small[1], {0: 9.0, 1: 0.1, 2: 0.2})
    evaluator = begun(small, tmp_path, 3, early_stop=2)
    evaluator.trainer.state.global_step = 5
    evaluator.after_step(False, lambda: saves.append(5))
    assert saves == [5] and evaluator.trainer.control.should_training_stop and not evaluator.pending
    why = "no dev loss better than 0.1 at step 1 in 2 evaluations (train.early_stop)"
    assert evaluator.figures()["ended_early"] == why and evaluator.trainer.saver.last
    assert f"training ends at step 5 of 20: {why}" in capsys.readouterr().err
    log(tmp_path, small[1], {0: 9.0, 1: 0.1, 2: 0.2, 5: 0.3})
    with pytest.raises(EndedEarly):
        begun(small, tmp_path, 5, early_stop=2)
