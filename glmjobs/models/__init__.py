"""ChatGLM, GLM-10B and GLM-4 as ordinary transformers models, with one interface per family.

Importing this package imports neither torch nor transformers: the names below are loaded when they are first used.
What needs no torch at all, such as :mod:`glmjobs.models.family`, is imported from its own module.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glmjobs.models.chatglm.configuration import ChatGLMConfig
    from glmjobs.models.chatglm.modeling import ChatGLMForCausalLM
    from glmjobs.models.glm10b.configuration import GLMConfig
    from glmjobs.models.glm10b.modeling import GLMForCausalLM
    from glmjobs.models.loading import load_model, load_tokenizer

_HOME = {
    "ChatGLMConfig": "chatglm.configuration",
    "ChatGLMForCausalLM": "chatglm.modeling",
    "GLMConfig": "glm10b.configuration",
    "GLMForCausalLM": "glm10b.modeling",
    "load_model": "loading",
    "load_tokenizer": "loading",
    "main": "__main__",
    "parser": "__main__",
}

__all__ = [
    "ChatGLMConfig",
    "ChatGLMForCausalLM",
    "GLMConfig",
    "GLMForCausalLM",
    "load_model",
    "load_tokenizer",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
