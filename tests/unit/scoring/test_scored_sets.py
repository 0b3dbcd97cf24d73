"""Further test sets of a run: both models on each, gain and loss side by side, a base model asked once for all runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from glmjobs import report, score
from glmjobs.cli import run_command
from glmjobs.data.synthetic import write_problems
from glmjobs.recipe.loading import parse
from glmjobs.recipe.schema import DataSection, Recipe
from glmjobs.run import scored_sets, submit_checks
from glmjobs.run.directory import Run, Shape, rewrite
from glmjobs.scoring import evaluate
from hpc.batch.profile import Profile
from hpc.core.errors import BadInput
from tests.support.small_families import small_chatglm

CHOICES = "question,A,B,answer\n" + "".join(f"{i}+1=?,{i + 1},{i},A\n" for i in range(5))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base and a "fine-tuned" model."""
    folder = tmp_path_factory.mktemp("models")
    return small_chatglm(folder / "base", seed=3), small_chatglm(folder / "tuned", seed=4)


@pytest.fixture
def runs(tmp_path: Path, models: tuple[Path, Path]) -> Any:
    """Makes runs whose training is over, side by side."""
    write_problems(tmp_path / "problems.jsonl", rows=80)
    (tmp_path / "choices.csv").write_text(CHOICES, encoding="utf-8")
    lines = [
        json.dumps({"question": f"{i}加2是几？", "golden": str(i + 2)}, ensure_ascii=False) for i in range(9)
    ]
    (tmp_path / "cmath.jsonl").write_text("\n".join(lines), encoding="utf-8")
    talk = [("user", "1+1=?"), ("assistant", "2"), ("user", "再加1呢？"), ("assistant", "3")]
    turns = [{"role": role, "content": text} for role, text in talk]
    (tmp_path / "talks.jsonl").write_text(json.dumps({"messages": turns}), encoding="utf-8")

    def make(name: str, **changes: Any) -> Run:
        asked = {"rows": 4, "max_new_tokens": 4, "dtype": "float32", "sets": sets(tmp_path), **changes}
        data = {"path": str(tmp_path / "problems.jsonl"), "dev_rows": "1-20"}
        recipe = parse({"model": {"family": "chatglm", "path": str(models[0])}, "data": data, "score": asked})
        made = Run.create(tmp_path / "runs" / name, recipe, Profile(), Shape(nodes=1, gpus=1))
        shutil.copytree(models[1], made.model)
        return made

    return make


def sets(folder: Path) -> list[dict[str, Any]]:
    return [
        {"name": "cmath", "path": str(folder / "cmath.jsonl"), "rows": 6},
        {"name": "choices", "path": str(folder / "choices.csv")},
        {
            "name": "talks",
            "path": str(folder / "talks.jsonl"),
            "form": "messages",
            "judge": ["exact", "meaning"],
        },
    ]


def summary(run: Run, name: str, which: str) -> Any:
    there = scored_sets.folder(run.scores, name)
    return json.loads((there / which / "summary.json").read_text(encoding="utf-8"))


def test_both_models_on_every_set(runs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = runs("one")
    assert run_command(score.main, [str(run.path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert set(said) == {"base", "finetuned", "comparison", "sets"} and said["base"]["rows"] == 4
    assert list(said["sets"]) == ["cmath", "choices", "talks"]
    assert [said["sets"][n]["finetuned"]["answers"] for n in said["sets"]] == [6, 5, 1]
    judges = {name: summary(run, name, "base")["judge"] for name in scored_sets.names(run.recipe.score)}
    assert judges == {"dev": "meaning", "cmath": "meaning", "choices": "choice", "talks": "exact"}
    assert summary(run, "talks", "base")["second_judge"]["judge"] == "meaning"
    marker = json.loads((run.path / "stages" / "score.json").read_text(encoding="utf-8"))
    assert set(marker["figures"]["sets"]) == {"cmath", "choices", "talks"}
    assert "scores/sets/choices/comparison.json" in [output["path"] for output in marker["outputs"]]
    assert run_command(score.main, [str(run.path)]) == 0
    shown = capsys.readouterr().out
    assert "Test sets" in shown and "difference (95 %)" in shown and "choices" in shown
    assert run_command(report.main, [str(run.path)]) == 0
    markdown = (run.path / "report" / "report.md").read_text(encoding="utf-8")
    rows = [
        line.split(" | ") for line in markdown.splitlines() if line.startswith(("| dev rows", "| choices"))
    ]
    assert [row[0] for row in rows] == ["| dev rows", "| choices"] and rows[1][1] == "choice"
    assert "What was gained, and what was forgotten" in (run.path / "report" / "report.html").read_text(
        "utf-8"
    )
    document = json.loads((run.path / "report" / "report.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in document["sets"]] == ["dev rows", "cmath", "choices", "talks"]
    compared = json.loads((run.scores / "sets" / "cmath" / "comparison.json").read_text(encoding="utf-8"))
    assert document["sets"][1]["difference_interval"] == compared["difference_interval"]


def test_a_base_model_is_asked_once_for_all_runs(runs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has the same key is taken, and counted; more rows, other settings or another model are asked."""
    first, second = runs("first"), runs("second")
    assert run_command(score.main, [str(first.path)]) == 0
    assert summary(first, "dev", "base")["taken"] == 0
    assert (first.path.parent / scored_sets.BASE_CACHE).stat().st_mode & 0o777 == 0o700
    asked: list[tuple[str, int]] = []
    real = evaluate._answers

    def answers(work: Any, todo: Any, stop: Any) -> Any:
        asked.append((work.model_dir.name, len(todo)))
        return real(work, todo, stop)

    monkeypatch.setattr(evaluate, "_answers", answers)
    assert run_command(score.main, [str(second.path)]) == 0
    assert asked == [("model", 4), ("model", 6), ("model", 5), ("model", 1)]
    for name, rows in (("dev", 4), ("cmath", 6), ("choices", 5), ("talks", 1)):
        one, other = (summary(run, name, "base") for run in (first, second))
        assert other["taken"] == rows and other["tokens_per_s"] is None
        for key in ("correct", "rows", "interval", "bleu4", "finish", "fingerprint"):
            assert one[key] == other[key], key
    asked.clear()
    more = runs("more", rows=6, sets=[])
    assert run_command(score.main, [str(more.path)]) == 0
    assert asked == [("base", 2), ("model", 6)] and summary(more, "dev", "base")["taken"] == 4
    asked.clear()
    longer = runs("longer", max_new_tokens=5, sets=[])
    assert run_command(score.main, [str(longer.path)]) == 0
    assert asked == [("base", 4), ("model", 4)]


def test_a_set_that_is_gone_is_named(runs: Any, tmp_path: Path) -> None:
    """With what puts it right: it was there when the run was submitted."""
    run = runs("gone")
    there = Path(run.recipe.score.sets[0].path)
    away = there.rename(tmp_path / "away")
    try:
        with pytest.raises(BadInput, match=r"score\.sets: cmath: .*no such file; put it back .*heal .*gone"):
            scored_sets.work(run, "base", "cmath")
    finally:
        away.rename(there)


def test_a_cache_that_cannot_be_used_costs_only_time(runs: Any) -> None:
    run = runs("one", sets=[])
    (run.path.parent / scored_sets.BASE_CACHE).write_text("no directory")
    assert run_command(score.main, [str(run.path)]) == 0 and run.done("score")


def recipe(**given: Any) -> Recipe:
    return parse({"model": {"make": {}}, "data": {"make": {"rows": 60}, "dev_rows": "1-5"}, "score": given})


def test_what_submit_says_of_the_sets(
    runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is read before anything is queued; its path is made absolute."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cmath.jsonl").write_text('{"question": "1+1=?", "golden": "2"}\n')
    made = recipe(sets=[{"name": "cmath", "path": "cmath.jsonl"}])
    assert submit_checks.check_sets(made.score)[0].path == str(tmp_path / "cmath.jsonl")
    assert "score cmath: 1 questions, form cmath (CMATH), judge meaning" in capsys.readouterr().err
    with pytest.raises(
        BadInput, match=r"cmath\.jsonl: the judge choice can mark none of its answers .*score\.judge=m"
    ):
        submit_checks.check_sets(recipe(sets=[{"name": "a", "path": "cmath.jsonl"}], judge="choice").score)
    (tmp_path / "rows.jsonl").write_text('{"instruction": "1+1=?", "input": "", "output": "2"}\n' * 2)
    data = DataSection(path="rows.jsonl", dev_rows="1")
    assert submit_checks.check_data(data, recipe(judge="meaning").score) == str(tmp_path / "rows.jsonl")
    with pytest.raises(BadInput, match=r"rows\.jsonl: the judge choice can mark none"):
        submit_checks.check_data(data, recipe(judge="choice").score)
    with pytest.raises(BadInput, match=r"none\.csv: no such file"):
        submit_checks.check_sets(recipe(sets=[{"name": "a", "path": "none.csv"}]).score)
    with pytest.raises(BadInput, match=r"it looks like CMATH: form cmath"):
        submit_checks.check_sets(recipe(sets=[{"name": "a", "path": "cmath.jsonl", "form": "math"}]).score)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([{"name": "a", "path": "x"}, {"name": "a", "path": "y"}], "score.sets: two are called 'a'"),
        ([{"name": "dev", "path": "x"}], "score.sets: dev is what the run's own dev rows are called"),
        ([{"name": "a/b", "path": "x"}], "score.sets"),
        ([{"name": "a"}], "path"),
        ([{"name": "a", "path": "x", "form": "foo"}], "none of the forms of test sets (auto, messages"),
        ([{"name": "a", "path": "x", "judge": "nobody"}], "one of meaning, exact, choice"),
        ([{"name": "a", "path": "x", "judge": "verifier"}], "score.judge: verifier asks a model"),
        ([{"name": "a", "path": "x", "rows": 0}], "rows"),
        ("cmath.jsonl", "score.sets"),
    ],
)  # fmt: skip
def test_bad_sets_are_one_line(given: Any, said: str) -> None:
    with pytest.raises(BadInput) as error:
        recipe(sets=given)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_set_that_was_replaced_is_noticed(
    runs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What submit read is on record as a digest of the questions: another file of the same name is said, once."""
    run = runs("one")
    found = submit_checks.check_sets(run.recipe.score)
    assert all(given.content for given in found)
    score_section = run.recipe.score.model_copy(update={"sets": found})
    run = rewrite(run, run.recipe.model_copy(update={"score": score_section}), run.cluster)
    capsys.readouterr()
    for name in ("cmath", "choices"):
        scored_sets.work(run, "base", name)
    assert "warning" not in capsys.readouterr().err
    place = tmp_path / "cmath.jsonl"
    place.write_text(place.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    scored_sets.work(run, "base", "cmath")
    assert "warning" not in capsys.readouterr().err, "the same questions"
    place.write_text(place.read_text(encoding="utf-8").replace("加", "减"), encoding="utf-8")
    assert [len(scored_sets.work(run, which, "cmath").questions) for which in scored_sets.MODELS] == [6, 6]
    said = capsys.readouterr().err
    assert said.count("cmath.jsonl is not what it was when the run was submitted; its 6 questions") == 1
    assert submit_checks.check_sets(run.recipe.score)[0].content != found[0].content, "heal takes the new one"
