"""What every tokenizer here shares: the frame around a text, and the way from ids back to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

Ids = list[int]


class FramedTokenizerFast(PreTrainedTokenizerFast):  # type: ignore[misc]
    """A fast tokenizer that frames texts with constant ids; a subclass has :meth:`_frame` and :meth:`_text_of`."""

    _files: dict[str, bytes]
    """The vocabulary's files by name, as they were read."""

    @classmethod
    def convert_to_native_format(cls, **kwargs: Any) -> dict[str, Any]:
        """transformers 5 would rebuild the tokenizer here, from ``tokenizer.json`` where there is one; the constructor
        does, from the vocabulary's own files."""
        return kwargs

    def _frame(self, pair: bool) -> tuple[Ids, Ids, Ids]:
        """The ids before a text, behind it, and behind the second text of a pair."""
        raise NotImplementedError

    def build_inputs_with_special_tokens(self, token_ids_0: Ids, token_ids_1: Ids | None = None) -> Ids:
        """The frame of the model family around one or two plain id lists."""
        before, behind, end = self._frame(token_ids_1 is not None)
        return [*before, *token_ids_0, *behind, *(token_ids_1 or ()), *end]

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Number of ids that the frame adds."""
        return sum(map(len, self._frame(pair)))

    def _text_of(self, ids: Ids, skip_special_tokens: bool) -> str:
        """The text of some ids."""
        raise NotImplementedError

    def _decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs: Any,
    ) -> str:
        ids: Ids = [int(token_ids)] if isinstance(token_ids, int) else [int(i) for i in token_ids]
        text = self._text_of(ids, skip_special_tokens)
        if clean_up_tokenization_spaces is None:
            clean_up_tokenization_spaces = self.clean_up_tokenization_spaces
        return str(self.clean_up_tokenization(text)) if clean_up_tokenization_spaces else text

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write the vocabulary files into ``save_directory``."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        paths = {Path(save_directory) / f"{prefix}{name}": data for name, data in self._files.items()}
        for path, data in paths.items():
            path.write_bytes(data)
        return tuple(map(str, paths))

    def _save_release(
        self, save_directory: Any, config: dict[str, Any], filename_prefix: str | None
    ) -> tuple[str, ...]:
        """Write ``tokenizer_config.json``, with what a directory of the release has beside ``config``, and the
        vocabulary."""
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        kept = {
            key: self.init_kwargs[key] for key in ("auto_map", "chat_template") if self.init_kwargs.get(key)
        }
        path = directory / f"{filename_prefix + '-' if filename_prefix else ''}tokenizer_config.json"
        path.write_text(json.dumps({**config, **kept}, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        return (str(path), *self.save_vocabulary(str(directory), filename_prefix))
