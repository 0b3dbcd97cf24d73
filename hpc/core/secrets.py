"""What is a secret: a variable by its name, a value by its look. One judgement for profiles and batch scripts.

Names are read by their words: HF_TOKEN is a secret, TOKENIZERS_PARALLELISM, MAX_NEW_TOKENS and HF_TOKEN_PATH are not.
"""

from __future__ import annotations

import re

_KINDS = frozenset({"TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "PAT", "APIKEY"})
_KEYS = frozenset({"API", "ACCESS", "SECRET", "PRIVATE", "AUTH", "ENCRYPTION", "SIGNING", "WANDB", "COMET", "NEPTUNE",
                   "OPENAI", "ANTHROPIC", "AZURE", "AWS", "S3", "HF", "NGC"})  # fmt: skip
_OF_TEXT = frozenset({
    "PAD", "EOS", "BOS", "SEP", "CLS", "MASK", "UNK", "IMAGE", "IMG", "VIDEO", "AUDIO", "SPECIAL", "STOP", "END",
    "START", "BEGIN", "EOT", "PER", "EACH", "NEXT", "FIRST", "LAST", "MAX", "MIN", "NUM", "NEW", "PREFIX", "SYSTEM",
    "USER", "ASSISTANT", "THINK", "ADD", "BY", "EVERY",
})  # fmt: skip
"""Before TOKEN they make it a piece of text (PAD_TOKEN, TIME_PER_TOKEN)."""

_SHAPES = re.compile(
    r"(?<![A-Za-z0-9])("
    r"hf_[A-Za-z0-9]{16,}|api_org_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}"
    r"|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}|AKIA[0-9A-Z]{16}|xox[abprs]-[A-Za-z0-9-]{16,}"
    r"|nvapi-[A-Za-z0-9_-]{16,}|AIza[A-Za-z0-9_-]{30,}|eyJ[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+"
    r")(?![A-Za-z0-9])"
)
"""Keys that carry their maker's mark: Hugging Face, OpenAI, GitHub, GitLab, AWS, Slack, NVIDIA, Google, JWT."""

_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s:@]*:([^/\s:@$<{]{4,})@")
_PLACEHOLDER = re.compile(
    r"your|xxx|\.\.\.|<|>|change|replace|insert|example|dummy|fake|todo|fixme|secret_?here|placeholder|redacted"
    r"|^(.)\1+$|^(none|null|true|false|yes|no|test|empty|password|token|secret|key|api_?key|wandb_api_key)$",
    re.I,
)


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name holds a secret."""
    words = [word.rstrip("0123456789") or word for word in name.upper().strip("_").split("_") if word]
    if words[-2:] in (["KEY", "ID"], ["ACCESS", "ID"]):  # AWS_ACCESS_KEY_ID: half of a pair
        words = words[:-1]
    if not words:
        return False
    last, before = words[-1], words[-2:-1]
    if last == "TOKEN":
        return not _OF_TEXT & set(before)
    if last == "KEY":
        return bool(_KEYS & set(before))
    return last in _KINDS or last.endswith(("APIKEY", "PASSWORD"))


def looks_like_secret(value: str) -> bool:
    """Whether a text has a key of a known make in it, or a password in a URL."""
    shaped, url = _SHAPES.search(value), _URL.search(value)
    return bool(shaped and not _PLACEHOLDER.search(shaped[0])) or bool(
        url and not _PLACEHOLDER.search(url[1])
    )


def could_be_secret(value: str) -> bool:
    """Whether a secret's variable or option, set to this, gives it away: no path, no placeholder, nothing to expand."""
    if looks_like_secret(value):
        return True
    plain = re.fullmatch(r"[A-Za-z0-9_.+=/@!#%^*~:-]{8,}", value)
    return bool(plain) and value[0] not in "/.~" and not value.isdigit() and not _PLACEHOLDER.search(value)
