"""BLEU-4 and ROUGE: the classical numbers, and no text that makes them fail."""

from __future__ import annotations

import random

import pytest

from glmjobs.scoring.text_metrics import TextScores, mean_text_scores, text_scores


def test_bleu_is_nltks_over_characters() -> None:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    prediction, reference = "所以小明一共有8个苹果。", "小明一共有8个苹果。"
    expected = sentence_bleu(
        [list(reference)], list(prediction), smoothing_function=SmoothingFunction().method3
    )
    assert text_scores(prediction, reference).bleu4 == pytest.approx(100 * expected)


def test_rouge_counts_words() -> None:
    """Words 苹果 | 和 | 香蕉 against 苹果 | 和 | 西瓜: two of three shared; one of two pairs."""
    found = text_scores("苹果和香蕉", "苹果和西瓜")
    assert found.rouge1 == pytest.approx(200 / 3, abs=1e-4)
    assert found.rouge2 == pytest.approx(50, abs=1e-4)
    assert found.rougeL == pytest.approx(200 / 3, abs=1e-4)


def test_equal_texts_and_width() -> None:
    assert text_scores("一共有１２个，对吗？", "一共有12个,对吗?").bleu4 == pytest.approx(100)


@pytest.mark.parametrize("text", ["", " ", "\n\t", "。", "...", "\u0000", "\ud800", "😀", "a", "．．．", "1"])
def test_nothing_crashes(text: str) -> None:
    for pair in [(text, "答案是3。"), ("答案是3。", text), (text, text)]:
        assert all(0.0 <= value <= 100.0 + 1e-9 for value in text_scores(*pair).as_dict().values())


def test_random_texts_do_not_crash() -> None:
    rng = random.Random(0)
    alphabet = "一二三的是，。.!? \n\t0123456789abc<>[]😀\u3000\u200b"
    for _ in range(60):
        pair = ["".join(rng.choices(alphabet, k=rng.randrange(0, 30))) for _ in range(2)]
        scores = text_scores(*pair).as_dict().values()
        assert scores and all(0.0 <= value <= 100.0 + 1e-9 for value in scores), pair


def test_means() -> None:
    assert mean_text_scores([]) == TextScores()
    both = mean_text_scores([("一共有12个苹果", "一共有12个苹果"), ("", "一共有12个苹果")])
    assert both.bleu4 == pytest.approx(50)
    assert both.rouge1 == pytest.approx(50, abs=1e-4)


def test_words_added_to_jiebas_global_dictionary_do_not_count() -> None:
    import jieba

    before = text_scores("小明有三个苹果", "小明有三个香蕉")
    jieba.add_word("小明有三个", freq=10**7)
    try:
        assert text_scores("小明有三个苹果", "小明有三个香蕉") == before
    finally:
        jieba.del_word("小明有三个")
