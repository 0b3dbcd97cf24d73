"""One model on one set of questions: answer, keep, judge, sum up. Resumable, in as many parts as there are
processes.

:func:`answer` does one part and can be killed at any moment; :func:`finish` marks and merges once no row is missing.
Both may be called again at any time. Only :func:`answer` imports torch, and only where a row is missing.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from glmjobs.data.framing import fitting_prompt
from glmjobs.models.family import Family
from glmjobs.scoring import predictions as store
from glmjobs.scoring.judges import BY_MEANING, Judge, Judging, mark_all, not_marked
from glmjobs.scoring.predictions import Answer, Shard, Writer
from glmjobs.scoring.statistics import wilson
from glmjobs.scoring.test_sets import Question
from glmjobs.scoring.text_metrics import mean_text_scores
from glmjobs.zero.directories import is_adapter, is_model
from hpc.core import hints
from hpc.core.errors import BadInput, WorkFailed

if TYPE_CHECKING:
    from glmjobs.marking import Verdict

LENGTHS = (40, 80, 160)
"""Upper bounds, in characters of the question, of the length classes; above the last there is one more."""

UNSURE = 0.6
"""Below this a verdict is worth a look (:class:`glmjobs.marking.Verdict`)."""

NEWS_SECONDS = 30.0
"""Between two lines about how far a slow judge is."""

MARKER_FAILURES = 0.001
"""The share of rows on which the marker may raise an error before an accuracy is no longer given out as one."""


@dataclass(frozen=True)
class Settings:
    """How answers are made. All but ``batch_size`` can change an answer, so they are part of a prediction's
    key.

    Attributes:
        max_new_tokens: where an answer is cut.
        dtype: of the weights on a GPU: "float32", "float16" or "bfloat16".
        cpu_dtype: of the weights without a GPU; None: float32 where memory holds it, else bfloat16.
        max_source_length: tokens of a question; of a longer one the end is kept, and it is counted. A model
            with fewer positions lowers it, and max_new_tokens too.
        batch_size: rows at a time, or "auto".
        backend: "built-in", or "vllm" for the models it serves.
    """

    max_new_tokens: int = 512
    dtype: str = "float32"
    cpu_dtype: str | None = None
    max_source_length: int = 1024
    batch_size: int | Literal["auto"] = "auto"
    backend: Literal["built-in", "vllm"] = "built-in"


@dataclass(frozen=True)
class Work:
    """A model, its questions, where the predictions go, and who marks them; ``keys`` tie each row to all that
    decides its answer."""

    model_dir: Path
    questions: Sequence[Question]
    folder: Path
    settings: Settings
    fingerprint: str
    keys: Sequence[str]
    judging: Judging = BY_MEANING
    sources: Mapping[int | str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, model_dir: Path, questions: Sequence[Question], folder: Path, settings: Settings,
        judging: Judging = BY_MEANING, sources: Mapping[int | str, str] | None = None,
    ) -> Work:  # fmt: skip
        """Fingerprint the model.

        Args:
            sources: where rows came from, by their ids; each source's accuracy is then told apart.

        Raises:
            BadInput: there is no model directory.
            BadInput, NotFit: a judge lacks what it needs; said before anything is answered.
        """
        judging.load()
        if not is_model(model_dir):
            raise BadInput(f"{model_dir}: no model directory (a directory with config.json and weights)")
        decisive = {
            name: value for name, value in asdict(settings).items() if name not in ("batch_size", "cpu_dtype")
        }
        if settings.cpu_dtype is not None:  # asked for: another dtype on the CPU is another answer
            decisive["cpu_dtype"] = settings.cpu_dtype
        fingerprint = store.settings_fingerprint(model=store.model_fingerprint(model_dir), **decisive)
        keys = [store.row_key(fingerprint, question._asdict()) for question in questions]
        return cls(model_dir, questions, folder, settings, fingerprint, keys, judging, sources or {})

    def missing(self) -> list[int]:
        """Positions of the rows without a prediction."""
        found = store.collect(self.folder, self.keys)
        return [position for position, key in enumerate(self.keys) if key not in found]


def answer(
    work: Work,
    shard: Shard,
    *,
    stop: Callable[[], bool] = lambda: False,
    on_row: Callable[[int, int], None] = lambda done, of: None,
) -> int:
    """Answer this part's missing rows, appending each as it comes.

    Args:
        stop: asked at every token; True ends early, keeping the rows there are.
        on_row: told rows done and rows to do.

    Returns:
        the number of rows answered now.
    """
    todo = shard.mine(work.missing())
    if not todo:
        return 0
    with Writer(work.folder, shard) as writer:
        answers = _answers(work, todo, stop)
        since = time.monotonic()  # loading the model is not counted
        done = 0
        for position, text, tokens, finish in answers.rows:
            row = work.questions[position]
            given = Answer(row.id, row.question, row.gold, text, tokens, finish)
            now = time.monotonic()
            cut = position in answers.cut
            writer.append(work.keys[position], given, now - since, where=answers.where, cut=cut)
            since = now
            done += 1
            on_row(done, len(todo))
            if stop():
                break
    return done


class _Answers(NamedTuple):
    """What a loaded model gives: ``(position, text, tokens, finish)`` of each row, as they end; where they
    are computed; and the positions of the questions that had to be cut."""

    rows: Iterator[tuple[int, str, int, str]]
    where: str
    cut: frozenset[int]


def _answers(work: Work, todo: Sequence[int], stop: Callable[[], bool]) -> _Answers:
    """Load the model and start."""
    from glmjobs.models import load_tokenizer
    from glmjobs.models.family import families, family_for, read_config

    family, settings = family_for(work.model_dir), work.settings
    if settings.backend == "vllm" and not family.vllm:
        served = ", ".join(known.title for known in families().values() if known.vllm)
        raise BadInput(f"--backend vllm: vLLM serves {served}, not {family.name}; leave the option out")
    if settings.backend == "vllm" and is_adapter(work.model_dir):
        raise BadInput(
            f"--backend vllm: {work.model_dir} is an adapter; merge it first: "
            + hints.command("glmjobs.consolidate", work.model_dir, f"{work.model_dir.name}-merged")
        )
    tokenizer = load_tokenizer(work.model_dir)
    positions = family.positions(read_config(work.model_dir))
    # All rows, whichever of them are left to do: an answer must not depend on that.
    asked = prompts_of(
        family, tokenizer, work.questions, positions, settings.max_source_length, settings.max_new_tokens
    )
    new, prompts = asked.new, [asked.prompts[p] for p in todo]
    from glmjobs.generation import decoder
    from glmjobs.generation.vllm import generate_vllm

    stop_ids = family.stop_ids(tokenizer)
    if settings.backend == "vllm":
        results = generate_vllm(work.model_dir, prompts, new, stop_ids)
        where = "vllm"
    else:
        engine = _engine(work, stop_ids, family.banned_ids(tokenizer))
        results = decoder.generate(engine, prompts, new, settings.batch_size, stop=stop)
        where = f"{engine.device.type} {str(engine.model.dtype).removeprefix('torch.')}"
    if new < settings.max_new_tokens:
        said = f"{work.model_dir} has {positions or 0:,} positions: an answer is cut at {new:,} tokens"
        print(
            f"score: {said}, not at max_new_tokens = {settings.max_new_tokens:,}", file=sys.stderr, flush=True
        )
    rows = (
        (todo[r.index], tokenizer.decode(r.tokens, skip_special_tokens=True).strip(), len(r.tokens), r.finish)
        for r in results
    )
    return _Answers(rows, where, asked.cut & frozenset(todo))


_loaded: dict[str, Any] = {}
"""The model that was loaded last, by its content: one that answers several test sets is loaded once."""


def _engine(work: Work, stop_ids: list[int], banned_ids: list[int]) -> Any:
    """The work's model, ready to decode."""
    if work.fingerprint not in _loaded:
        _loaded.clear()  # before the next is loaded: a GPU may not hold two
        _loaded[work.fingerprint] = load_engine(
            work.model_dir, work.settings.dtype, stop_ids, banned_ids, work.settings.cpu_dtype
        )
    return _loaded[work.fingerprint]


class Asked(NamedTuple):
    """Questions as a model is asked them: token ids of each, which had to be cut, and the tokens of an answer."""

    prompts: list[list[int]]
    cut: frozenset[int]
    new: int


def prompts_of(
    family: Family,
    tokenizer: Any,
    questions: Sequence[Question],
    positions: int | None,
    longest: int,
    new: int,
) -> Asked:
    """Questions in the family's frame, and how long their answers may be, where the model has so many ``positions``.

    Args:
        longest: tokens of a question; of a longer one the end is kept.
        new: tokens of an answer, at most.
    """
    positions = positions or 1 << 30
    room = positions if family.positions_apart else positions // 2
    longest = max(1, min(longest, room - family.frame_tokens))
    asked = [_prompt(family, tokenizer, row, longest) for row in questions]
    frame = len(family.prompt(tokenizer, []))
    taken = (
        1 if family.positions_apart else family.frame_tokens + max(len(prompt) for prompt, _ in asked) - frame
    )
    cut = frozenset(p for p, (_, was_cut) in enumerate(asked) if was_cut)
    return Asked([prompt for prompt, _ in asked], cut, max(1, min(new, positions - taken)))


def _prompt(family: Family, tokenizer: Any, row: Question, longest: int) -> tuple[list[int], bool]:
    """A question's prompt, and whether something of it was cut: the oldest turns of a conversation, then the beginning
    of the question itself, so that at most ``longest`` tokens stand in the frame."""
    talk = bool(row.history or row.system)
    if talk:
        room = longest + len(family.prompt(tokenizer, []))
        prompt, cut = fitting_prompt(family, tokenizer, row.question, row.history, row.system, room)
        if len(prompt) <= room:
            return prompt, cut
    source = tokenizer([family.prompt_text(row.question)], add_special_tokens=False)["input_ids"][0]
    return family.prompt(tokenizer, source[-longest:]), talk or len(source) > longest


def load_engine(
    model_dir: Path, dtype: str, stop_ids: Iterable[int], banned_ids: Iterable[int] = (),
    cpu_dtype: str | None = None,
) -> Any:  # fmt: skip
    """The model on this process's GPU in ``dtype``, or on the CPU, ready to decode.

    Raises:
        BadInput, NotFit: see :func:`glmjobs.generation.cpu_precision.choose`.
    """
    import os

    import torch
    from transformers.utils.logging import disable_progress_bar

    from glmjobs import compat
    from glmjobs.generation.cpu_precision import choose
    from glmjobs.generation.decoder import Engine
    from glmjobs.models import load_model

    device = torch.device("cpu")
    side_by_side = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    if torch.cuda.is_available():
        local = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
        device = torch.device("cuda", local % torch.cuda.device_count())
    elif "OMP_NUM_THREADS" not in os.environ:  # ranks side by side would otherwise take all cores each
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // side_by_side))
    disable_progress_bar()
    compat.without_cudnn_attention()
    if device.type == "cuda":
        model = load_model(model_dir, dtype, device)
    else:
        model = load_model(model_dir, choose(model_dir, cpu_dtype, side_by_side))
    return Engine(model, stop_ids, banned_ids=banned_ids)


def finish(work: Work, *, stop: Callable[[], bool] = lambda: False) -> dict[str, Any] | None:
    """Mark, merge and sum up if every row is there; the summary, or None while rows are missing. Idempotent.

    Args:
        stop: asked at every row; True ends early, leaving what was there before.

    Raises:
        BadInput, NotFit, WorkFailed: a judge cannot mark, see :mod:`glmjobs.scoring.judges`.
    """
    found = store.collect(work.folder, work.keys)
    if any(key not in found for key in work.keys):
        return None
    rows = [dict(found[key]) for key in work.keys]
    if not mark(work, rows, stop):
        return None
    seconds = store.busy_seconds(work.folder, work.keys)
    summary = summarise_rows(work, rows, seconds)
    store.merge(work.folder, dict(zip(work.keys, rows, strict=True)), work.keys, summary)
    return summary


def mark(work: Work, rows: Sequence[dict[str, Any]], stop: Callable[[], bool] = lambda: False) -> bool:
    """Give each row its verdict, and under ``second`` that of a second judge; False where it was stopped.

    A second judge that cannot mark at all leaves the accuracy as it is: its rows are not marked, and a line says so.
    """
    first, *others = work.judging.load(work.folder)
    for row, verdict in zip(rows, _verdicts(first, rows, stop), strict=False):
        row.update({**verdict, "judge": first.name, "second": None})
    for judge in others:
        try:
            for row, verdict in zip(rows, _verdicts(judge, rows, stop), strict=False):
                kept = {k: v for k, v in verdict.items() if k not in ("sure", "trace")}
                row["second"] = {"judge": judge.name, **kept}
        except (BadInput, WorkFailed) as error:
            print(
                f"score: {error}; the accuracy is that of the judge {first.name}", file=sys.stderr, flush=True
            )
            for row in rows:
                row["second"] = row["second"] or {"judge": judge.name, **_said(not_marked(str(error)))}
    return not stop()


def _verdicts(
    judge: Judge, rows: Sequence[Mapping[str, Any]], stop: Callable[[], bool]
) -> Iterator[dict[str, Any]]:
    """A judge's verdicts, as fields of the rows."""
    texts = [(row["question"], row["gold"], row["prediction"]) for row in rows]
    said = time.monotonic()
    for done, verdict in enumerate(mark_all(judge, texts), 1):
        if stop():
            return
        if time.monotonic() - said > NEWS_SECONDS:
            said = time.monotonic()
            print(f"score: judge {judge.name}: {done} of {len(rows)} rows", file=sys.stderr, flush=True)
        yield _said(verdict)


def _said(verdict: Verdict) -> dict[str, Any]:
    """A verdict as fields of a row."""
    return {**vars(verdict), "trace": [list(step) for step in verdict.trace]}


def summarise_rows(work: Work, rows: Sequence[Mapping[str, Any]], seconds: Sequence[float]) -> dict[str, Any]:
    """What ``summary.json`` holds.

    Args:
        seconds: time spent by each part; they ran side by side, so the longest is what it took.
    """
    from glmjobs.marking import answer_type, gold_has_false_equation

    tokens = sum(row["tokens"] for row in rows)
    wall = max(seconds, default=0.0)
    marked = [row for row in rows if row.get("status", "marked") == "marked"]
    noisy = sum(gold_has_false_equation(row["gold"]) for row in rows)
    texts = mean_text_scores((row["prediction"], row["gold"]) for row in rows)
    return {
        "model": str(work.model_dir),
        **accuracy(marked),
        "answers": len(rows),
        "judge": work.judging.names[0],
        "not_marked": sum(row.get("status") == "not marked" for row in rows),
        "second_judge": second_judge(rows),
        "marker_failures": marker_failures(rows),
        "unsure": sum(row.get("sure", 1.0) < UNSURE for row in marked),
        "by_length": _grouped(marked, lambda row: length_class(row["question"]), length_classes()),
        "by_source": _grouped(marked, lambda row: work.sources[row["id"]]) if work.sources else {},
        "by_answer_type": _grouped(marked, lambda row: str(answer_type(row["gold"], row["question"]))),
        **{name: round(value, 4) for name, value in texts.as_dict().items()},
        "gold_false_equations": {"rows": noisy, "share": noisy / len(rows) if rows else 0.0},
        "finish": {kind: sum(row["finish"] == kind for row in rows) for kind in ("stop", "length")},
        "empty": sum(not row["prediction"] for row in rows),
        "taken": sum(bool(row.get("taken")) for row in rows),
        "questions_cut": sum(bool(row.get("cut")) for row in rows),
        "tokens": tokens,
        "seconds": round(wall, 3),
        "tokens_per_s": round(tokens / wall, 2) if wall else None,
        "computed_on": dict(Counter(str(row.get("where")) for row in rows)),
        "settings": asdict(work.settings),
        "fingerprint": work.fingerprint,
    }


def second_judge(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """How a second judge marks the same rows, and where it agrees with the first; None where there is one judge.

    ``pairs``: rows by what both say, where both mark; ``not_marked``: rows that it does not mark itself; ``why``: the
    reason it gives most often, where it marks none.
    """
    if not rows or not rows[0].get("second"):
        return None
    names = {
        (True, True): "both",
        (True, False): "only_first",
        (False, True): "only_second",
        (False, False): "neither",
    }
    seconds = [row["second"] for row in rows]
    marked = [row for row in seconds if row["status"] == "marked"]
    said = [
        (bool(row["correct"]), bool(row["second"]["correct"]))
        for row in rows
        if row["status"] == row["second"]["status"] == "marked"
    ]
    pairs = Counter(names[pair] for pair in said)
    reasons = Counter(str(row["reason"]) for row in seconds)
    return {
        "judge": seconds[0]["judge"],
        **accuracy(marked),
        **({} if marked else {"why": reasons.most_common(1)[0][0]}),
        "not_marked": len(rows) - len(marked),
        "pairs": {name: pairs[name] for name in names.values()},
    }


def marker_failures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows on which a rule of the marker raised an error, their share, and how often each error came."""
    failed = [row["reason"] for row in rows if row.get("status") == "failed"]
    share = len(failed) / len(rows) if rows else 0.0
    return {"rows": len(failed), "share": share, "reasons": dict(Counter(failed).most_common(5))}


def refuse_unreliable(summary: Mapping[str, Any]) -> None:
    """End where an accuracy would be none: the marker failed too often, or no row is marked.

    Raises:
        BadInput: it marked none: no retry would change that, another judge will.
        WorkFailed: it raised an error on more than :data:`MARKER_FAILURES` of the rows.
    """
    if summary["answers"] and not summary["rows"] and not summary["marker_failures"]["rows"]:
        raise BadInput(
            f"{summary['model']}: the judge {summary['judge']} marks none of the {summary['answers']} rows, so there "
            "is no accuracy; the answers are kept: name another judge, then score with --rejudge"
        )
    failures = summary["marker_failures"]
    if failures["share"] > MARKER_FAILURES:
        reasons = "; ".join(f"{count} × {reason}" for reason, count in failures["reasons"].items())
        raise WorkFailed(
            f"{summary['model']}: the marker raised an error on {failures['rows']} of {summary['answers']} rows, "
            f"more than {100 * MARKER_FAILURES:g} %, so there is no accuracy ({reasons}); the answers are kept: "
            "mend the marker, then score with --rejudge"
        )


def length_classes() -> list[str]:
    """Names of the classes of questions by length, shortest first."""
    between = [f"{low + 1} to {high} characters" for low, high in pairwise(LENGTHS)]
    return [f"up to {LENGTHS[0]} characters", *between, f"over {LENGTHS[-1]} characters"]


def length_class(question: str) -> str:
    """The class of one question."""
    return length_classes()[sum(len(question) > bound for bound in LENGTHS)]


def accuracy(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows, correct ones, accuracy (a fraction of 1), and its 95 % Wilson interval; of no rows there is neither."""
    correct = sum(bool(row["correct"]) for row in rows)
    return {
        "rows": len(rows),
        "correct": correct,
        "accuracy": correct / len(rows) if rows else None,
        "interval": list(wilson(correct, len(rows))) if rows else None,
    }


def _grouped(
    rows: Sequence[Mapping[str, Any]], name: Callable[[Mapping[str, Any]], str], order: Sequence[str] = ()
) -> dict[str, Any]:
    groups: dict[str, list[Mapping[str, Any]]] = {label: [] for label in order}
    for row in rows:
        groups.setdefault(name(row), []).append(row)
    found = [(label, members) for label, members in groups.items() if members]
    if not order:
        found.sort(key=lambda item: (-len(item[1]), item[0]))
    return {label: accuracy(members) for label, members in found}
