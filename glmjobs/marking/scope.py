"""What is not marked, and counted apart: proofs, drawings, explanations, functions, golds that are one of many."""

from __future__ import annotations

import re

from glmjobs.marking.question import Question

_PROOF = re.compile("证明(?!书)|求证|试说明|说明理由|为什么|作图|画[出一]|绘制|编写|举例说明|写一[篇段]")
_VALUE_ASKED = re.compile("多少|几|求(?!证)|计算|是否|吗|谁|哪")
_VALUE_OF_ONE = re.compile("多少|几|[最极值]|是否|吗|谁|哪|角|零点")
_FUNCTION = re.compile(
    r"(?<![a-z])(?:sin|cos|tan|cot|log|ln|lg|lim|exp)(?![b-z]{3})\s?\(?\s?[\da-z]*[a-z](?![a-z])|[fgh]\s?\(\s?[a-z]\s?\)\s?=|∫|∑|d[xy]/d[xy]"
)


def out_of_scope(question: Question, gold: str) -> str:
    """Why an answer of this kind is not marked, in words; "" where it is."""
    if "不唯一" in gold:
        return "the gold is one of many answers"
    if _PROOF.search(question.main.clause or question.text) and not _VALUE_ASKED.search(question.text):
        return "a proof, a drawing or an explanation is asked"
    ends_in_a_value = re.search(r"=\s?-?[\d./√]+\s?[。.]?$", gold)  # cos2θ=-3/5
    if _FUNCTION.search(gold) and not ends_in_a_value and not _VALUE_OF_ONE.search(question.main.clause):
        return "the gold is a function"
    return ""
