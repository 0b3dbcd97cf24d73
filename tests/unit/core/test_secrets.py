"""hpc.core.secrets: secrets by name and by look."""

from __future__ import annotations

import pytest

from hpc.core.secrets import could_be_secret, is_secret_name, looks_like_secret


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "TOKEN", "hf_token", "GITHUB_TOKEN2", "WANDB_API_KEY", "WANDB_KEY",
        "APIKEY", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "DB_PASSWORD", "MYSQL_PASSWD", "CLIENT_SECRET",
        "PGPASSWORD",
        "OPENAI_APIKEY", "SSH_PRIVATE_KEY", "GITHUB_PAT",
    ],
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "TOKENIZERS_PARALLELISM", "TOKENIZER_NAME_OR_PATH", "MAX_NEW_TOKENS", "NUM_TOKENS", "TOKENS_PER_BATCH",
        "PAD_TOKEN", "EOS_TOKEN", "TIME_PER_TOKEN", "HF_TOKEN_PATH", "WANDB_API_KEY_FILE", "TOKEN_COUNT", "SORT_KEY",
        "KEYS", "PATH",
        "DETOKENIZE", "SECRETARY", "PASSWORD_FILE", "", "_",
    ],
)  # fmt: skip
def test_names_of_other_things(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("value", "by_look", "under_a_secret_name"),
    [
        ("hf_abcdefGHIJKLmnop1234", True, True), ("https://me:s3cretpw9@host/x", True, True),
        ("0123456789abcdef0123", False, True), ("hunter2-long", False, True),
        ("<your-key-here>", False, False), ("YOUR_WANDB_API_KEY_HERE", False, False), ("xxxxxxxxxxxx", False, False),
        ("/home/me/.token", False, False), ("$(cat key)", False, False), ("false", False, False),
        ("https://host/x:y@z", False, True), ("hf_xxxxxxxxxxxxxxxxxxxx", False, False), ("16384000", False, False),
    ],
)  # fmt: skip
def test_values(value: str, by_look: bool, under_a_secret_name: bool) -> None:
    assert looks_like_secret(value) is by_look
    assert could_be_secret(value) is under_a_secret_name
