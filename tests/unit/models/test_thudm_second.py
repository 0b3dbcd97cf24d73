"""ChatGLM2-6B and ChatGLM3-6B against THUDM's own code, which reads the model directories that we write.

Runs where environment variables are set, else skips: GLMJOBS_CHATGLM2_CODE and GLMJOBS_CHATGLM3_CODE are directories
with a release's Python files, config.json and tokenizer.model; GLMJOBS_THUDM_PYTHON the python of an environment made
from configs/stacks/thudm.txt. GLMJOBS_THUDM_FUZZ: how many texts the tokenizers are compared on (4,000).
"""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from glmjobs.chat import Chat
from glmjobs.models import load_model, load_tokenizer
from glmjobs.models.family import family_for
from glmjobs.zero.consolidate import Options, consolidate
from tests.support.fuzz_texts import fuzz_texts
from tests.support.thudm import NEW_TOKENS, run_driver, spread

pytestmark = pytest.mark.slow

#: hidden size, layers, heads, groups, width of a head, inner size, spread of the weights.
SIZES = [
    (32, 2, 2, 1, 16, 56, 0.3),
    (64, 5, 4, 2, 16, 96, 0.25),
    (96, 12, 8, 2, 16, 200, 0.2),
    (128, 3, 8, 4, 32, 300, 0.2),
]
RELEASES = ("chatglm2", "chatglm3")
ASKED, ANSWERED = "小明有3个苹果，又买了5个，一共有几个？", "8个。\n他有8个苹果。"
SYSTEM = "You are ChatGLM3.\n<|user|> 只说中文。"
END = {2, 64795, 64797}


@pytest.fixture(params=RELEASES)
def original(request: pytest.FixtureRequest) -> tuple[str, Path, str]:
    """A release, the directory of its code, and the python that runs it."""
    variable = f"GLMJOBS_{request.param.upper()}_CODE"
    code, python = os.environ.get(variable), os.environ.get("GLMJOBS_THUDM_PYTHON")
    if not code or not python:
        pytest.skip(f"{variable} and GLMJOBS_THUDM_PYTHON are not set: THUDM's own code is not run")
    return request.param, Path(code), python


def write_base(base: Path, size: tuple[int, int, int, int, int, int, float], code: Path) -> None:
    """A small model as the release is: its code, its tokenizer, its config.json, .bin weights in half precision."""
    hidden, layers, heads, groups, width, inner, deviation = size
    base.mkdir()
    for path in [*code.glob("*.py"), *code.glob("*.json"), code / "tokenizer.model"]:
        if not path.name.endswith("index.json"):
            shutil.copyfile(path, base / path.name)
    released = json.loads((base / "config.json").read_text(encoding="utf-8"))
    sizes = {
        "hidden_size": hidden, "num_layers": layers, "num_attention_heads": heads, "multi_query_group_num": groups,
        "kv_channels": width, "ffn_hidden_size": inner,
    }  # fmt: skip
    (base / "config.json").write_text(json.dumps({**released, **sizes}), encoding="utf-8")
    family = family_for(base)
    torch.manual_seed(layers)
    kind = family.model_class()
    model = kind(kind.config_class(**{**released, **sizes, "initializer_range": deviation}))
    weights = {"transformer.rotary_pos_emb.inv_freq": torch.ones(width // 4), **model.state_dict()}
    torch.save({name: tensor.half() for name, tensor in weights.items()}, base / "pytorch_model.bin")


def chats(release: str) -> list[tuple[str, list[Any]]]:
    """Questions, each with what was said before, as the release's chat takes it."""
    if release == "chatglm2":
        return [(ASKED, []), ("再给他2个呢？", [(ASKED, ANSWERED)])]
    turns = [{"role": "user", "content": ASKED}, {"role": "assistant", "metadata": "", "content": ANSWERED}]
    return [(ASKED, []), ("再给他2个呢？", turns), (ASKED, [{"role": "system", "content": SYSTEM}, *turns])]


def said(answer: Any) -> str:
    """ChatGLM3's chat takes a first line that is not empty for a tool's name."""
    return answer if isinstance(answer, str) else f"{answer['name']}\n{answer['content']}"


@pytest.mark.parametrize("size", SIZES, ids=str)
@torch.no_grad()
def test_as_thudms_code(
    size: tuple[int, int, int, int, int, int, float], original: tuple[str, Path, str], tmp_path: Path
) -> None:
    """Logits alone and right-padded, greedy tokens alone and left-padded, and chat's answers."""
    release, code, python = original
    base, checkpoint, directory = tmp_path / "base", tmp_path / "checkpoint-7", tmp_path / "model"
    write_base(base, size, code)
    trained: Any = load_model(base, "float32")
    spread(trained, size[1], 1)
    trained.save_pretrained(checkpoint)
    consolidate(checkpoint, directory, Options(dtype="float32", fsync=False), base)
    assert (directory / "modeling_chatglm.py").is_file()
    generator = torch.Generator().manual_seed(size[0])
    rows = [
        [64790, 64792, *torch.randint(3, 64789, (n,), generator=generator).tolist()] for n in (1, 6, 23, 140)
    ]
    asked = {"rows": rows, "chats": chats(release), "max_length": 96}
    (tmp_path / "prompts.json").write_text(json.dumps(asked), encoding="utf-8")
    theirs = run_driver("thudm_driver.py", python, directory, tmp_path)

    family, model, tokenizer = (
        family_for(directory),
        load_model(directory, "float32"),
        load_tokenizer(directory),
    )
    assert family.name == release
    longest = max(map(len, rows))
    left, mask = (
        torch.zeros(len(rows), longest, dtype=torch.long),
        torch.zeros(len(rows), longest, dtype=torch.long),
    )
    right = left.clone()
    for i, row in enumerate(rows):
        left[i, longest - len(row) :], mask[i, longest - len(row) :] = torch.tensor(row), 1
        right[i, : len(row)] = torch.tensor(row)
    right_logits = model(right, attention_mask=mask.flip(1)).logits
    worst = largest = 0.0
    for i, row in enumerate(rows):
        ours = (model(torch.tensor([row])).logits[0], right_logits[i, : len(row)])
        for found, wanted in zip(ours, (theirs["logits"][i], theirs["right"][i]), strict=True):
            worst, largest = (
                max(worst, float((found - wanted).abs().max())),
                max(largest, float(wanted.abs().max())),
            )
        assert cut(generate(model, torch.tensor([row]))[0].tolist()) == cut(theirs["alone"][i])
    print(f"\nparity {release} {size}: max difference {worst:.1e}, largest logit {largest:.1f}")
    assert worst < 1e-4
    batch = generate(model, left, mask)
    assert len(set(batch.flatten().tolist())) > 10  # the model does more than repeat itself
    assert [cut(row.tolist()) for row in batch] == [cut(row) for row in theirs["batch"]]

    for (query, history), answer in zip(chats(release), theirs["chat"], strict=True):
        system = SYSTEM if history and history[0] == {"role": "system", "content": SYSTEM} else ""
        chat = Chat.load(directory, "float32", max_length=96, system=system)
        chat.history = [(ASKED, ANSWERED)] if history else []
        ours, wanted = chat.ask(query), said(answer).strip()
        if release == "chatglm3":  # its chat cuts the last token, also where the length ended the answer
            ids = tokenizer(ours, add_special_tokens=False)["input_ids"]
            wanted = wanted.rstrip("\ufffd")
            assert (
                ours.startswith(wanted)
                and len(ids) - len(tokenizer(wanted, add_special_tokens=False)["input_ids"]) < 4
            )
        else:
            assert ours == wanted


def generate(model: Any, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    out: torch.Tensor = model.generate(ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False)
    return out[:, ids.shape[1] :]


def cut(tokens: list[int]) -> list[int]:
    """Up to the end of the answer: what follows is padding."""
    return tokens[: tokens.index(2)] if 2 in tokens else tokens


def test_ids_are_the_originals(original: tuple[str, Path, str], tmp_path: Path) -> None:
    """Fuzzed texts to ids, and fuzzed ids, control tokens among them, to text."""
    release, code, python = original
    directory = tmp_path / "model"
    write_base(directory, SIZES[0], code)
    tokenizer = load_tokenizer(directory)
    texts = [
        *fuzz_texts(int(os.environ.get("GLMJOBS_THUDM_FUZZ", "4000")), seed=7),
        "sop",
        "<|user|>\n 你好<|assistant|>",
    ]
    chance = random.Random(3)
    ids = [
        [chance.randrange(len(tokenizer)) for _ in range(chance.randint(0, 12))]
        for _ in range(len(texts) // 4)
    ]
    ids += [[64790, 64792, 13, 30910, 2, 0, 1], [*range(64789, len(tokenizer)), 3, 200, 36474]]
    asked = {"rows": [[64790, 64792, 5]], "chats": [], "texts": texts, "ids": ids}
    (tmp_path / "prompts.json").write_text(json.dumps(asked), encoding="utf-8")
    theirs = run_driver("thudm_driver.py", python, directory, tmp_path)
    ours = tokenizer(texts)["input_ids"]
    odd = [
        text for text, one, other in zip(texts, ours, theirs["ids"], strict=True) if list(one) != list(other)
    ]
    assert not odd, (len(odd), odd[:3])
    read = [tokenizer.decode(row) for row in ids]
    odd_rows = [row for row, one, other in zip(ids, read, theirs["decoded"], strict=True) if one != other]
    assert not odd_rows, (len(odd_rows), odd_rows[0], tokenizer.decode(odd_rows[0]))
    print(f"\nfuzz {release}: {len(texts):,} texts, {len(ids):,} rows of ids, no difference")
