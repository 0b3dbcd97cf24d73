"""ChatGLM-6B and GLM-10B against THUDM's own code, which reads the model directories that we write.

Runs where environment variables are set, else skips: GLMJOBS_THUDM_CODE is a directory with the release's
Python files (modeling_chatglm.py, …), GLMJOBS_GLM_CODE one with GLM-10B's (modeling_glm.py,
configuration_glm.py), GLMJOBS_THUDM_PYTHON the python of an environment made from configs/stacks/thudm.txt.
With torch 2.0.1 on the CPU THUDM's code gave NaN in one of four equal runs; with 2.13 six were equal.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from glmjobs.models import (
    ChatGLMConfig,
    ChatGLMForCausalLM,
    GLMConfig,
    GLMForCausalLM,
    load_model,
    load_tokenizer,
)
from glmjobs.models.family import family_for
from glmjobs.zero.consolidate import Options, consolidate
from tests.support.sparse_models import sparse_checkpoint
from tests.support.thudm import NEW_TOKENS, run_driver, spread

pytestmark = pytest.mark.slow

OUTPUT, EMBEDDING = "lm_head.weight", "transformer.word_embeddings.weight"

#: hidden size, layers, heads, spread of the weights, gain of what layers add: enough for attention to matter,
#: and for a model with tied embeddings not to repeat one token for ever.
SIZES = [(32, 2, 2, 0.4, 8), (64, 5, 4, 0.3, 8), (96, 12, 3, 0.2, 1), (128, 3, 8, 0.2, 8)]
CHATS: list[tuple[str, list[tuple[str, str]]]] = [
    ("小明有3个苹果，又买了5个，一共有几个？", []),
    ("再给他2个呢？", [("小明有3个苹果，又买了5个，一共有几个？", "8个。")]),
]


@pytest.fixture(scope="module")
def thudm() -> tuple[Path, str]:
    code, python = os.environ.get("GLMJOBS_THUDM_CODE"), os.environ.get("GLMJOBS_THUDM_PYTHON")
    if not code or not python:
        pytest.skip("GLMJOBS_THUDM_CODE and GLMJOBS_THUDM_PYTHON are not set: THUDM's own code is not run")
    return Path(code), python


def write_directory(
    directory: Path, size: tuple[int, int, int, float, float], shared: Path, code: Path
) -> None:
    """A consolidated model whose base is as the release is: its code, its tokenizer, its config.json, .bin weights."""
    hidden, layers, heads, width, gain = size
    base, checkpoint = directory.with_name("base"), directory.with_name("checkpoint-7")
    base.mkdir()
    for path in [*code.glob("*.py"), *(shared / "chatglm-6b").glob("*")]:
        shutil.copyfile(path, base / path.name)
    released = json.loads((base / "config.json").read_text())
    sizes = {
        "hidden_size": hidden, "num_layers": layers, "num_attention_heads": heads, "inner_hidden_size": 4 * hidden,
    }  # fmt: skip
    (base / "config.json").write_text(json.dumps({**released, **sizes}))
    torch.manual_seed(layers)
    config = ChatGLMConfig(
        hidden_size=hidden, num_layers=layers, num_attention_heads=heads, initializer_range=width
    )
    model = ChatGLMForCausalLM(config).half()
    torch.save(model.state_dict(), base / "pytorch_model.bin")

    trained = load_model(base, "float32")
    spread(trained, layers, gain)
    weights = dict(trained.named_parameters())  # the tied output matrix is not among them
    sparse_checkpoint(checkpoint, {name: tuple(w.shape) for name, w in weights.items()}, 2)
    values = torch.cat([weight.data.flatten() for weight in weights.values()])
    for path in sorted(checkpoint.rglob("*_optim_states.pt")):
        saved = torch.load(path, weights_only=True)
        part = saved["optimizer_state_dict"]["single_partition_of_fp32_groups"][0]
        part.copy_(values[: len(part)])
        values = values[len(part) :]
        torch.save(saved, path)
    found = consolidate(checkpoint, directory, Options(dtype="float16", fsync=False), base)
    assert found["tied"] == {OUTPUT: EMBEDDING} and OUTPUT not in load_file(directory / "model.safetensors")
    assert (directory / "modeling_chatglm.py").is_file()


def prompts(seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = (1, 6, 23, 140)
    return [[*torch.randint(5, 130000, (n,), generator=generator).tolist(), 130001, 130004] for n in lengths]


def generate(model: Any, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    return model.generate(ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False)[
        :, ids.shape[1] :
    ]


@pytest.mark.parametrize("size", SIZES, ids=str)
@torch.no_grad()
def test_as_thudms_code(
    size: tuple[int, int, int, float, float], thudm: tuple[Path, str], shared: Path, tmp_path: Path
) -> None:
    """Logits alone and right-padded, greedy tokens alone and left-padded, and chat's answers."""
    code, python = thudm
    directory = tmp_path / "model"
    write_directory(directory, size, shared, code)
    rows = prompts(size[0])
    (tmp_path / "prompts.json").write_text(json.dumps({"rows": rows, "chats": CHATS}), encoding="utf-8")
    theirs = run_driver("thudm_driver.py", python, directory, tmp_path)

    model = load_model(directory, "float32")
    longest = max(map(len, rows))
    left, mask = torch.full((len(rows), longest), 3), torch.zeros(len(rows), longest, dtype=torch.long)
    right = left.clone()
    for i, row in enumerate(rows):
        left[i, longest - len(row) :], mask[i, longest - len(row) :] = torch.tensor(row), 1
        right[i, : len(row)] = torch.tensor(row)
    right_logits = model(right, attention_mask=mask.flip(1)).logits
    worst = 0.0
    for i, row in enumerate(rows):
        ids = torch.tensor([row])
        logits = model(ids).logits[0]
        scale = theirs["logits"][i].abs().max()
        for ours, wanted in (
            (logits, theirs["logits"][i]),
            (right_logits[i, : len(row)], theirs["right"][i]),
        ):
            worst = max(worst, float((ours - wanted).abs().max() / scale))
        assert cut(generate(model, ids)[0].tolist()) == cut(theirs["alone"][i])
    print(f"\nparity {size}: max difference {worst:.1e} of the largest logit")
    assert worst < 1e-5
    batch = generate(model, left, mask)
    assert len(set(batch.flatten().tolist())) > 10  # the model does more than repeat itself
    assert [cut(row.tolist()) for row in batch] == [cut(row) for row in theirs["batch"]]

    tokenizer, family = load_tokenizer(directory), family_for(directory)
    for (query, history), answer in zip(CHATS, theirs["chat"], strict=True):
        ids = torch.tensor(
            [family.prompt(tokenizer, plain_ids(tokenizer, family.prompt_text(query, history)))]
        )
        out = model.generate(ids, max_length=128, do_sample=False)[0, ids.shape[1] :]
        # chat also repairs punctuation between Chinese characters; the words are compared without any.
        assert words(tokenizer.decode(out.tolist(), skip_special_tokens=True)) == words(answer)


def test_their_code_needs_no_output_matrix(thudm: tuple[Path, str], shared: Path, tmp_path: Path) -> None:
    """What is consolidated holds the tied matrix once, and is to THUDM's code what it is with it: bit by bit."""
    code, python = thudm
    once, twice = tmp_path / "once", tmp_path / "twice"
    write_directory(once, SIZES[1], shared, code)
    shutil.copytree(once, twice)
    weights = load_file(once / "model.safetensors")
    weights[OUTPUT] = weights[EMBEDDING].clone()
    save_file(weights, twice / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "prompts.json").write_text(json.dumps({"rows": prompts(7), "chats": CHATS}), encoding="utf-8")
    without, with_it = (run_driver("thudm_driver.py", python, folder, tmp_path) for folder in (once, twice))
    for name in ("logits", "right"):
        assert all(map(torch.equal, without[name], with_it[name]))
    for name in ("alone", "batch", "chat"):
        assert without[name] == with_it[name]
    assert len({token for row in without["batch"] for token in row}) > 5  # more than one token for ever


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def cut(tokens: list[int]) -> list[int]:
    """Up to the end of the answer: what follows is padding, which differs."""
    return tokens[: tokens.index(130005)] if 130005 in tokens else tokens


def words(text: str) -> str:
    return "".join(c for c in text if c.isalnum())


@pytest.mark.parametrize("vocabulary", [50304, 50048])
@pytest.mark.parametrize("size", [(64, 3, 4, 0.3), (128, 6, 2, 0.15)], ids=str)
@torch.no_grad()
def test_glm_as_the_remote_code(
    size: tuple[int, int, int, float], vocabulary: int, shared: Path, tmp_path: Path
) -> None:
    """Logits and greedy tokens, ours with a cache in a left-padded batch, theirs by whole rows."""
    code, python = os.environ.get("GLMJOBS_GLM_CODE"), os.environ.get("GLMJOBS_THUDM_PYTHON")
    if not code or not python:
        pytest.skip("GLMJOBS_GLM_CODE and GLMJOBS_THUDM_PYTHON are not set: GLM-10B's remote code is not run")
    hidden, layers, heads, width = size
    torch.manual_seed(layers)
    config = GLMConfig(vocabulary, hidden, layers, heads, max_sequence_length=256, initializer_range=width)
    model = GLMForCausalLM(config).eval()
    spread(model, layers, 8)
    directory = tmp_path / "model"
    model.save_pretrained(directory)
    sop, mask, end = config.bos_token_id, config.mask_token_ids[-1], config.pad_token_id
    generator = torch.Generator().manual_seed(hidden)
    rows = [
        [*torch.randint(5, 50000, (n,), generator=generator).tolist(), mask, end, sop]
        for n in (2, 9, 40, 150)
    ]
    (tmp_path / "prompts.json").write_text(
        json.dumps({"rows": rows, "sop": sop, "masks": config.mask_token_ids})
    )
    theirs = run_driver("thudm_glm_driver.py", python, directory, tmp_path, PYTHONPATH=code)
    longest = max(map(len, rows))
    ids, tokens = torch.full((len(rows), longest), end), torch.zeros(len(rows), longest, dtype=torch.long)
    worst = 0.0
    for i, row in enumerate(rows):
        ids[i, longest - len(row) :], tokens[i, longest - len(row) :] = torch.tensor(row), 1
        wanted = theirs["logits"][i]
        worst = max(
            worst, float((model(torch.tensor([row])).logits[0] - wanted).abs().max() / wanted.abs().max())
        )
    print(f"\nparity GLM {size} {vocabulary}: max difference {worst:.1e} of the largest logit")
    assert worst < 1e-5
    options = {
        "max_new_tokens": NEW_TOKENS,
        "do_sample": False,
        "eos_token_id": None,
        "suppress_tokens": None,
    }
    batch = model.generate(ids, attention_mask=tokens, **options)[:, longest:].tolist()
    assert batch == theirs["alone"]
    assert len({token for row in batch for token in row}) > 10
