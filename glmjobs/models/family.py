"""What the rest of the code needs to know of a model family, behind one interface. No torch, no transformers.

A family says which directories are its own, how they are loaded, how an example becomes tokens and labels, what
generation starts from and stops at, and what a chat prompt looks like. Each is a folder beside this file with a
``family.py`` that ends with ``FAMILY = Name()``: adding one changes nothing else (docs/add-a-model.md).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from hpc.core.errors import BadInput

NO_LABEL = -100


class Framed(NamedTuple):
    """One example as the model takes it; both lists have the same length, and the first label is -100."""

    input_ids: list[int]
    labels: list[int]


class Family:
    """One model family.

    Attributes:
        name: as a recipe writes it.
        shifts_labels: the model compares the prediction at a token with the *next* label (the usual
            convention); else labels stand where their prediction stands.
        lora_targets: names of the linear maps that LoRA adapts by default.
        frame_tokens: tokens that a frame adds to source and target.
        owns_config: its configuration class is ours and reads config.json as it is; else transformers reads it.
    """

    name: ClassVar[str]
    shifts_labels: ClassVar[bool] = True
    lora_targets: ClassVar[tuple[str, ...]]
    frame_tokens: ClassVar[int]
    owns_config: ClassVar[bool] = False

    def recognises(self, config: dict[str, Any]) -> bool:
        """Whether a directory with this config.json is of the family."""
        raise NotImplementedError

    def model_class(self) -> Any:
        """The class whose ``from_pretrained`` loads a directory; imported here, not before.

        Its forward takes ``segment_ids``, ``labels``, ``num_items_in_batch`` and ``target_positions`` as
        :class:`glmjobs.models.chatglm.modeling.ChatGLMForCausalLM` does;
        :func:`glmjobs.models.common.packed.packed` gives that to transformers' own decoders.
        """
        raise NotImplementedError

    def load_tokenizer(self, directory: Path) -> Any:
        """The tokenizer of a directory: transformers' own, without remote code."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(directory, local_files_only=True)

    def frame(
        self, tokenizer: Any, source_ids: Sequence[int], target_ids: Sequence[int], *, label_sop: bool = False
    ) -> Framed:
        """An example from its question's and its answer's plain token ids.

        Args:
            tokenizer: of the family; only its special tokens' ids are asked for.
            source_ids: the question, without any frame.
            target_ids: the answer, without any frame.
            label_sop: the original's labels of ChatGLM-6B, where ``<sop>`` is a target too.
        """
        prompt, stop = self.prompt(tokenizer, source_ids), self.stop_id(tokenizer)
        answer = [*target_ids, stop]
        return Framed(prompt + answer, [NO_LABEL] * len(prompt) + answer)

    def prompt(self, tokenizer: Any, source_ids: Sequence[int]) -> list[int]:
        """What generation starts from."""
        raise NotImplementedError

    def prompt_text(self, query: str, history: Sequence[tuple[str, str]] = ()) -> str:
        """A query, with what was said before, as the text that becomes ``source_ids``."""
        raise NotImplementedError

    def stop_id(self, tokenizer: Any) -> int:
        """The token that ends an answer: the last target in training, the stop of generation."""
        raise NotImplementedError

    def banned_ids(self, tokenizer: Any) -> list[int]:
        """Tokens that generation must not give, because the model can't tell them from others."""
        return []


class Templated(Family):
    """A family whose prompt is one turn of its tokenizer's chat template.

    Attributes:
        between: the template's words after a question and after an answer, where another turn follows.
    """

    between: ClassVar[tuple[str, str]]

    def prompt(self, tokenizer: Any, source_ids: Sequence[int]) -> list[int]:
        before, after = template_frame(tokenizer)
        return [*before, *source_ids, *after]

    def prompt_text(self, query: str, history: Sequence[tuple[str, str]] = ()) -> str:
        """Earlier turns in the template's words; the frame opens the first turn and closes the last."""
        after_question, after_answer = self.between
        return "".join(f"{q}{after_question}{a}{after_answer}" for q, a in history) + query

    def stop_id(self, tokenizer: Any) -> int:
        return int(tokenizer.eos_token_id)


@cache
def families() -> dict[str, Family]:
    """The families of the folders beside this file, by name."""
    folders = sorted(file.parent.name for file in Path(__file__).parent.glob("*/family.py"))
    found = [import_module(f"glmjobs.models.{folder}.family").FAMILY for folder in folders]
    return {family.name: family for family in found}


def family_for(name_or_dir: str | Path) -> Family:
    """The family of a name ("chatglm", "glm", "glm4") or of a model directory.

    Raises:
        BadInput: an unknown name, or a directory whose config.json is missing, broken or of another
            architecture.
    """
    known = families()
    if str(name_or_dir) in known:
        return known[str(name_or_dir)]
    directory = Path(name_or_dir)
    if not directory.is_dir():
        raise BadInput(f"{name_or_dir}: neither a family ({', '.join(known)}) nor a model directory")
    return known[family_name(read_config(directory), directory / "config.json")]


def read_config(directory: Path) -> dict[str, Any]:
    """A model directory's config.json.

    Raises:
        BadInput: it is missing, unreadable or not a JSON object.
    """
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path}: missing; a model directory has a config.json") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot read this configuration: {error}") from None
    if not isinstance(config, dict):
        raise BadInput(f"{path}: a configuration is a JSON object, not {type(config).__name__}")
    return config


def family_name(config: dict[str, Any], where: str | Path) -> str:
    """Which family a configuration describes.

    ``model_type`` alone doesn't tell: "glm" is both THUDM's GLM-10B and transformers' name for GLM-4,
    "chatglm" is also ChatGLM2, ChatGLM3 and GLM-4 with remote code.
    """
    for name, family in families().items():
        if family.recognises(config):
            return name
    kind = config.get("model_type")
    if kind == "chatglm":
        raise BadInput(
            f"{where}: this is ChatGLM2, ChatGLM3 or GLM-4 with remote code; supported are ChatGLM-6B of the "
            "first generation, GLM-10B, and GLM-4 in transformers' own format (-hf)"
        )
    raise BadInput(f"{where}: model_type = {kind!r} is none of the families here ({', '.join(families())})")


def special_id(tokenizer: Any, token: str) -> int:
    """The id of a special token, which the tokenizer must have as one."""
    found = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(found, int) or (found == getattr(tokenizer, "unk_token_id", None)):
        raise BadInput(f"{getattr(tokenizer, 'name_or_path', 'tokenizer')}: the vocabulary has no {token}")
    return found


def template_frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The tokens that a chat template puts before and after one user's words, up to where the answer
    starts."""
    words = "\u2402words\u2403"  # in no template
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": words}], tokenize=False, add_generation_prompt=True
    )
    before, found, after = text.partition(words)
    if not found:
        raise BadInput(
            f"{getattr(tokenizer, 'name_or_path', 'tokenizer')}: its chat template drops the user's words"
        )
    ids = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, after)]
    return list(ids[0]), list(ids[1])
