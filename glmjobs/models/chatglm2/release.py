"""Which release a config.json of the second architecture is of: ChatGLM2, ChatGLM3 or GLM-4. No torch, no transformers.

All three have ``"model_type": "chatglm"`` and the same fields. They differ in their prompts, and ChatGLM2-6B-32k in its
positions too, so a wrong guess would cost the answers' quality without a word: what does not say is not guessed.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

Release = Literal["chatglm2", "chatglm3", "glm4"]
RELEASES: tuple[str, ...] = get_args(Release)

FIELD = "chatglm_release"
"""Our own field: written into what is saved here, and by a person where a config.json doesn't say."""

_WORDS: dict[str, Release] = {"chatglm2": "chatglm2", "chatglm3": "chatglm3", "glm-4": "glm4", "glm4": "glm4"}
_GLM4_ENDS = 151329  # <|endoftext|> of GLM-4's vocabulary


def has_architecture(config: dict[str, Any]) -> bool:
    """Whether it is ChatGLM2's architecture, whichever of the three."""
    return config.get("model_type") == "chatglm" and bool(
        {"multi_query_attention", "padded_vocab_size"} & config.keys()
    )


def release_of(config: dict[str, Any]) -> str | None:
    """The release: as our field says, by GLM-4's end token, or by the name under which it was published.

    None: another architecture, or nothing says.
    """
    if not has_architecture(config):
        return None
    if config.get(FIELD) is not None:
        return str(config[FIELD])
    ends = config.get("eos_token_id")
    if _GLM4_ENDS in (ends if isinstance(ends, list) else [ends]):
        return "glm4"
    name = str(config.get("_name_or_path") or "").rstrip("/").rpartition("/")[2].lower()
    return next((release for word, release in _WORDS.items() if word in name), None)
