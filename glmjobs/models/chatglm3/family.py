"""ChatGLM3-6B, -base, -32k and -128k."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from glmjobs.models.chatglm2.family import ChatGLM2
from glmjobs.models.family import Framed, special_id, turn_ids


class ChatGLM3(ChatGLM2):
    """ChatGLM3-6B: ``[gMASK] sop <|user|> question <|assistant|> answer </s>``, a new line behind each role.

    As in the original's fine-tuning, the new line behind ``<|assistant|>`` is the answer's: generation starts
    before it.
    """

    name = "chatglm3"
    title = "ChatGLM3-6B"
    frame_tokens = 9
    published = ("ChatGLM3-6B", ChatGLM2.published[1])
    directories: ClassVar[tuple[str, ...]] = (
        "chatglm3-6b",
        "chatglm3-6b-base",
        "chatglm3-6b-32k",
        "chatglm3-6b-128k",
    )
    roles = True

    def mistaken(self, config: dict[str, Any]) -> str | None:
        return None  # ChatGLM2 says it for both

    def prompt(self, tokenizer: Any, source_ids: Sequence[int]) -> list[int]:
        user = [special_id(tokenizer, "<|user|>"), *tokenizer.newline_ids]
        return [*super().prompt(tokenizer, user), *source_ids, special_id(tokenizer, "<|assistant|>")]

    def prompt_text(self, query: str, history: Sequence[tuple[str, str]] = ()) -> str:
        """The query alone: what was said before is in :meth:`chat_prompt`."""
        return query

    def frame(
        self, tokenizer: Any, source_ids: Sequence[int], target_ids: Sequence[int], *, label_sop: bool = False
    ) -> Framed:
        return super().frame(tokenizer, source_ids, [*tokenizer.newline_ids, *target_ids])

    def chat_prompt(
        self, tokenizer: Any, query: str, history: Sequence[tuple[str, str]] = (), system: str = ""
    ) -> list[int]:
        said = [("system", system)] if system else []
        for asked, answered in history:
            said += [("user", asked), ("assistant", answered)]
        turns = [token for role, text in [*said, ("user", query)] for token in tokenizer.message(role, text)]
        return [*super().prompt(tokenizer, turns), special_id(tokenizer, "<|assistant|>")]

    def stop_ids(self, tokenizer: Any) -> list[int]:
        """The end, or another's turn."""
        return [self.stop_id(tokenizer), *turn_ids(tokenizer)]


FAMILY = ChatGLM3()
