"""Answers from vLLM, for the families that it serves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from glmjobs.generation.decoder import Generated
from hpc.core.errors import NotFit


def generate_vllm(
    model_dir: Path, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop_ids: Iterable[int]
) -> Iterator[Generated]:
    """The same answers from vLLM, for the models it serves (GLM-4; not ChatGLM-6B, not GLM-10B).

    Raises:
        NotFit: vLLM is not installed here.
    """
    try:
        from vllm import LLM, SamplingParams
    except ImportError:
        raise NotFit(
            "--backend vllm: vLLM is not installed here; leave the option out to use the built-in one"
        ) from None
    engine = LLM(model=str(model_dir), skip_tokenizer_init=True)
    settings = SamplingParams(
        temperature=0.0, max_tokens=max_new_tokens, stop_token_ids=sorted(stop_ids), detokenize=False
    )
    outputs = engine.generate([{"prompt_token_ids": list(p)} for p in prompts], settings)
    stops = frozenset(stop_ids)
    for index, output in enumerate(outputs):
        answer = output.outputs[0]
        tokens = list(answer.token_ids)
        if tokens and tokens[-1] in stops:
            tokens.pop()
        yield Generated(index, tokens, "stop" if answer.finish_reason == "stop" else "length")
