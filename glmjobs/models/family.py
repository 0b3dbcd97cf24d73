"""What the rest of the code needs to know of a model family, behind one interface. No torch, no transformers.

A family says which directories are its own, how they are loaded and how large their models are, how an example becomes
tokens and labels, what generation starts from and stops at, and what is read and shown in a chat. Each is a folder
beside this file with a ``family.py`` that ends with ``FAMILY = Name()``: adding one changes nothing else
(docs/add-a-model.md).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from glmjobs.models.architecture import Architecture, Config, llama
from glmjobs.zero.directories import base_of, holder, with_bases
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
        title: as people say it.
        shifts_labels: the model compares the prediction at a token with the *next* label (the usual
            convention); else labels stand where their prediction stands.
        lora_targets: names of the linear maps that LoRA adapts by default.
        tokenizer_files: sets of files, one of which a directory has whole for its tokenizer.
        frame_tokens: tokens that a frame adds to source and target.
        positions_apart: an answer's positions are counted anew (GLM's 2D positions), not on from its question's.
        owns_config: its configuration class is ours and reads config.json as it is; else transformers reads it.
        vllm: vLLM serves it.
        half: the half precision that its weights were published in, and that it is run in where none is named.
        directories: the names under which its models are published, at https://huggingface.co/zai-org (once THUDM).
        published: a published model whose sizes are known without its directory: name, and sizes as in its config.json.
        tutorial: accuracy before and after fine-tuning on BELLE's school_math, from the table of the tutorial that
            this project's recipe follows; fractions of 1.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    shifts_labels: ClassVar[bool] = True
    lora_targets: ClassVar[tuple[str, ...]]
    tokenizer_files: ClassVar[tuple[tuple[str, ...], ...]] = (("tokenizer.json",), ("tokenizer.model",))
    frame_tokens: ClassVar[int]
    positions_apart: ClassVar[bool] = False
    owns_config: ClassVar[bool] = False
    vllm: ClassVar[bool] = False
    half: ClassVar[str] = "float16"
    directories: ClassVar[tuple[str, ...]] = ()
    published: ClassVar[tuple[str, Config] | None] = None
    tutorial: ClassVar[tuple[float, float] | None] = None

    def recognises(self, config: dict[str, Any]) -> bool:
        """Whether a directory with this config.json is of the family."""
        raise NotImplementedError

    def unavailable(self) -> str | None:
        """Why this environment cannot load the family's models; None: it can, or has no transformers to tell by."""
        return None

    def mistaken(self, config: dict[str, Any]) -> str | None:
        """Why a directory that looks like the family's and isn't cannot be used; None: it doesn't look like it."""
        return None

    def check(self, directory: Path) -> None:
        """What a directory's configuration and files rule out, found without torch: before a job waits for its GPUs.

        Raises:
            BadInput: quantised, P-tuned or without sizes; weights or tokenizer missing, truncated, of other sizes, or
                Git LFS pointers; of an adapter, its base likewise.
        """
        from glmjobs.models.weight_files import (
            check_adapter,
            check_sizes,
            check_weight_files,
            refuse_pointer,
        )

        if (why := self.unavailable()) is not None:
            raise BadInput(why)
        config = read_config(directory)
        refuse_unusual(config, directory / "config.json")
        try:
            architecture = self.architecture(config)
        except BadInput as error:
            raise BadInput(
                f"{directory / 'config.json'}: {str(error).removeprefix('config.json: ')}"
            ) from None
        if (base := base_of(directory)) is not None:
            check_adapter(directory)
            self._check_base(directory, base, architecture)
        else:
            check_weight_files(directory)
            check_sizes(directory, architecture)
        home = self.tokenizer_home(directory)
        if (there := self._tokenizer_in(home)) is None:
            files = " or ".join(" and ".join(names) for names in self.tokenizer_files)
            raise BadInput(
                f"{directory}: {self.title}'s tokenizer is missing ({files}); copy it from where the model came from"
            )
        for name in {*there, "tokenizer_config.json"}:
            if (home / name).is_file():
                refuse_pointer(home / name)

    def _check_base(self, directory: Path, base: Path, architecture: Architecture) -> None:
        """An adapter's base is a model of this family and of these sizes."""
        if (found := family_for(base)) is not self:
            raise BadInput(
                f"{directory}: an adapter of {self.title}, but the base it names, {base}, is {found.title}"
            )
        found.check(base)
        if self.architecture(read_config(base)) != architecture:
            raise BadInput(
                f"{directory}: an adapter of a model of other sizes than the base it names, {base}; name the one it "
                "was made for"
            )

    def tokenizer_home(self, directory: Path) -> Path:
        """Where a model's tokenizer is: its directory; that of its base, where an adapter has none of its own."""
        if self._tokenizer_in(directory) is not None:
            return directory
        return next((d for d in with_bases(directory) if self._tokenizer_in(d) is not None), directory)

    def _tokenizer_in(self, directory: Path) -> tuple[str, ...] | None:
        """The set of tokenizer files that a directory has whole."""
        return next((s for s in self.tokenizer_files if all((directory / n).is_file() for n in s)), None)

    def architecture(self, config: Config) -> Architecture:
        """The sizes that a config.json tells; those of transformers' usual decoders where a family says no other.

        Raises:
            BadInput: a size is missing or no whole number above 0.
        """
        return llama(config, self.lora_targets)

    def positions(self, config: Config) -> int | None:
        """How many positions a model with this config.json has; None: it does not say."""
        found = (config.get(n) for n in ("max_position_embeddings", "max_sequence_length", "seq_length"))
        return next((n for n in found if isinstance(n, int) and n > 0), None)

    def model_class(self) -> Any:
        """The class whose ``from_pretrained`` loads a directory; imported here, not before.

        Its forward takes ``segment_ids``, ``labels``, ``num_items_in_batch`` and ``target_positions`` as
        :class:`glmjobs.models.common.causal_lm.CausalLM` does;
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

    def chat_prompt(
        self, tokenizer: Any, query: str, history: Sequence[tuple[str, str]] = (), system: str = ""
    ) -> list[int]:
        """What generation starts from in a conversation, in the model's own format.

        Args:
            history: what was said before, ``(question, answer)`` turns.
            system: a system prompt; a family that has no role for it has it in front, on lines of its own.
        """
        text = self.prompt_text(query, history)
        return self.prompt(tokenizer, text_ids(tokenizer, [f"{system}\n{text}" if system else text])[0])

    def stop_id(self, tokenizer: Any) -> int:
        """The token that ends an answer: the last target in training, a stop of generation."""
        raise NotImplementedError

    def stop_ids(self, tokenizer: Any) -> list[int]:
        """All tokens that generation stops at."""
        return [self.stop_id(tokenizer)]

    def banned_ids(self, tokenizer: Any) -> list[int]:
        """Tokens that generation must not give, because the model can't tell them from others."""
        return []

    def answer_text(self, text: str) -> str:
        """A decoded answer, or the start of one, as a chat shows it."""
        return text.lstrip()

    def settled(self, text: str) -> str:
        """The part of a growing :meth:`answer_text` that further tokens cannot change: without a half-decoded
        character, or blanks that may turn out to be the last."""
        return text.rstrip(" \n\t\ufffd")

    def make_small(self, directory: Path, texts: Iterable[str], sizes: Mapping[str, Any]) -> None:
        """Write a small model with random weights, and a tokenizer trained on ``texts``: for demos and tests.

        Args:
            directory: made if absent.
            sizes: the fields of :class:`glmjobs.recipe.schema.TinyModel`, without the family.
        """
        raise NotImplementedError

    @property
    def makes_small(self) -> bool:
        """Whether the family has a :meth:`make_small`."""
        return type(self).make_small is not Family.make_small


class Templated(Family):
    """One of transformers' own decoders, whose prompt is its tokenizer's chat template."""

    vllm = True

    def check(self, directory: Path) -> None:
        super().check(directory)
        if not has_chat_template(self.tokenizer_home(directory)):
            raise BadInput(
                f"{directory}: no chat template (chat_template.jinja, or chat_template in tokenizer_config.json); "
                f"{self.title} is asked in its words: copy it from where the model came from"
            )

    def prompt(self, tokenizer: Any, source_ids: Sequence[int]) -> list[int]:
        before, after = template_frame(tokenizer)
        return [*before, *source_ids, *after]

    def chat_prompt(
        self, tokenizer: Any, query: str, history: Sequence[tuple[str, str]] = (), system: str = ""
    ) -> list[int]:
        """The template's words around each text, each tokenised on its own, as question and answer are in training."""
        turns = [("system", system)] if system else []
        for asked, answered in history:
            turns += [("user", asked), ("assistant", answered)]
        return template_prompt(tokenizer, [*turns, ("user", query)])

    def prompt_text(self, query: str, history: Sequence[tuple[str, str]] = ()) -> str:
        """The query alone: what was said before is in :meth:`chat_prompt`."""
        return query

    def stop_id(self, tokenizer: Any) -> int:
        return int(tokenizer.eos_token_id)


@cache
def families() -> dict[str, Family]:
    """The families of the folders beside this file, by name."""
    folders = sorted(file.parent.name for file in Path(__file__).parent.glob("*/family.py"))
    found = [import_module(f"glmjobs.models.{folder}.family").FAMILY for folder in folders]
    return {family.name: family for family in found}


def family_for(name_or_dir: str | Path) -> Family:
    """The family of a name, as recipes write it, or of a model directory.

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


def declared(directory: Path, family: str) -> Family:
    """The family that a recipe names, which the model in its directory is of.

    Raises:
        BadInput: it is of another, or :func:`family_for` says why it is of none.
    """
    wanted, found = family_for(family), family_for(directory)
    if wanted != found:
        raise BadInput(
            f"{directory}: this is a model of the family {found.name}, the recipe says model.family = {wanted.name}"
        )
    return found


def read_config(directory: Path) -> dict[str, Any]:
    """A model directory's config.json; its base's, where an adapter has none of its own.

    Raises:
        BadInput: it is missing, unreadable or not a JSON object; or an adapter's base is missing.
    """
    path = holder(directory, "config.json") / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path}: missing; a model directory has a config.json") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(
            f"{path}: no JSON in UTF-8, without a byte order mark ({error}); copy it from where the model came from"
        ) from None
    if not isinstance(config, dict):
        raise BadInput(f"{path}: a configuration is a JSON object, not {type(config).__name__}")
    return config


def family_name(config: dict[str, Any], where: str | Path) -> str:
    """Which family a configuration describes.

    ``model_type`` alone doesn't tell: "glm" is both THUDM's GLM-10B and transformers' name for GLM-4.

    Raises:
        BadInput: none of the families here.
    """
    for name, family in families().items():
        if family.recognises(config):
            return name
    for family in families().values():
        if (why := family.mistaken(config)) is not None:
            raise BadInput(f"{where}: {why}")
    raise BadInput(
        f"{where}: model_type = {config.get('model_type')!r} with these fields is no model that is known here; the "
        f"nearest is {nearest(config).title} (all: python -m glmjobs.models)"
    )


def nearest(config: dict[str, Any]) -> Family:
    """The family whose configuration has most of a config.json's fields."""

    def shared(family: Family) -> float:
        fields = set(family.published[1]) if family.published else set()
        return len(fields & config.keys()) / max(len(fields), 1)

    return max(families().values(), key=shared)


def refuse_unusual(config: dict[str, Any], where: Path | None = None) -> None:
    """Refuse weights that are not a base model's own, whatever the family.

    Raises:
        BadInput: they are quantised, or a P-tuning prefix belongs to them.
    """
    at = f"{where}: " if where else ""
    method = config.get("quantization_config")
    bits = config.get("quantization_bit")
    if method or bits:
        how = method.get("quant_method", "") if isinstance(method, dict) else ""
        said = f"quantization_config{f' ({how})' if how else ''}" if method else f"quantization_bit = {bits}"
        raise BadInput(f"{at}{said}: quantised weights are not supported; use the float16 model")
    if config.get("pre_seq_len") is not None:
        raise BadInput(
            f"{at}pre_seq_len = {config['pre_seq_len']}: P-tuning prefixes are not supported; use the base model"
        )


def has_chat_template(directory: Path) -> bool:
    """Whether a tokenizer's directory holds a chat template, in any of transformers' places for it."""
    if any((directory / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    try:
        settings = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(settings, dict) and bool(settings.get("chat_template"))


def special_id(tokenizer: Any, token: str) -> int:
    """The id of a special token, which the tokenizer must have as one."""
    found = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(found, int) or (found == getattr(tokenizer, "unk_token_id", None)):
        raise BadInput(f"{getattr(tokenizer, 'name_or_path', 'tokenizer')}: the vocabulary has no {token}")
    return found


def text_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Plain token ids of each text."""
    found: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return found


def template_prompt(tokenizer: Any, turns: Sequence[tuple[str, str]]) -> list[int]:
    """A conversation's token ids in a chat template's words, up to where the next answer starts.

    Args:
        turns: ``(role, text)``, the last of them a user's.

    Raises:
        BadInput: the template has no place for a role.
    """
    words = [f"\u2402{at}\u2403" for at in range(len(turns))]  # in no template
    messages = [{"role": role, "content": word} for (role, _), word in zip(turns, words, strict=True)]
    name = getattr(tokenizer, "name_or_path", "tokenizer")
    try:
        rest = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # whatever a template raises
        why = " ".join(str(error).split())[:200]
        raise BadInput(f"{name}: its chat template refuses the conversation: {why}") from None
    pieces: list[str] = []
    for (role, text), word in zip(turns, words, strict=True):
        before, found, rest = rest.partition(word)
        if not found:
            raise BadInput(f"{name}: its chat template drops the {role}'s words")
        pieces += [before, text]
    return [token for ids in text_ids(tokenizer, [*pieces, rest]) for token in ids]


def turn_ids(tokenizer: Any) -> list[int]:
    """GLM's tokens by which another begins to speak, as far as the vocabulary has them."""
    ids = tokenizer.convert_tokens_to_ids(["<|user|>", "<|observation|>"])
    return [i for i in ids if i not in (None, tokenizer.unk_token_id)]


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
