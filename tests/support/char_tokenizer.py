"""A tokenizer without a vocabulary file, that every family's frame can be built with."""

from __future__ import annotations

from typing import Any

SPECIAL = (
    "[gMASK]",
    "<sop>",
    "<eop>",
    "[CLS]",
    "[sMASK]",
    "<|endoftext|>",
    "<|startofpiece|>",
    "<|endofpiece|>",
    "sop",
    "</s>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
)


class CharTokenizer:
    """One token a character; the ids after that are the special tokens of every family."""

    eos_token_id = 70_000
    newline_ids = (10,)

    def __init__(self, shift: int = 0) -> None:
        self.shift = shift

    def __call__(self, texts: str | list[str], **options: Any) -> dict[str, Any]:
        assert options["add_special_tokens"] is False
        if isinstance(texts, str):
            return {"input_ids": [ord(c) + self.shift for c in texts]}
        return {"input_ids": [[ord(c) + self.shift for c in text] for text in texts]}

    def convert_tokens_to_ids(self, token: str) -> int:
        return 60_000 + SPECIAL.index(token)

    def message(self, role: str, text: str) -> list[int]:
        """As the tokenizers of models whose roles are tokens."""
        return [self.convert_tokens_to_ids(f"<|{role}|>"), *self.newline_ids, *(ord(c) for c in text)]

    def get_vocab(self) -> dict[str, int]:
        return {}

    def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> str:
        return "".join(f"<{m['role'][0]}>{m['content']}" for m in messages) + "<a>"
