"""Random texts for tokenizers: blocks of Unicode, and pieces that meet a special rule."""

from __future__ import annotations

import random
from collections.abc import Iterator

#: Blocks of Unicode that a fuzzed word is drawn from.
BLOCKS = (
    *((0x20, 0x7E), (0x20, 0x7E), (0x4E00, 0x9FA5), (0x4E00, 0x5FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF)),
    *((0xFF01, 0xFF5E), (0xFF61, 0xFFDC), (0x3040, 0x30FF), (0xAC00, 0xD7A3), (0x1100, 0x11FF)),
    *((0x0300, 0x036F), (0x0080, 0x024F), (0x0370, 0x04FF), (0x0590, 0x06FF), (0x0900, 0x097F)),
    *((0x0E00, 0x0E7F), (0x2000, 0x206F), (0x2100, 0x22FF), (0x2460, 0x24FF), (0x3000, 0x33FF)),
    *((0x1F300, 0x1FAFF), (0xFB00, 0xFDFF), (0x0000, 0x001F), (0xE000, 0xE0FF), (0x1D400, 0x1D7FF)),
)
#: Pieces of text that meet a special rule.
PARTS = (
    "[gMASK]", "[MASK]", "[sMASK]", "<sop>", "<eop>", "<ENC>", "<dBLOCK>", "<unused_0>", "<pad>", "<s>",
    "</s>", "<unk>", "<n>", "<|tab|>", "<|blank_5|>", "<|blank_80|>", "<|blank_81|>", "<0x41>", "<image_3>",
    "▁", "▁▁", "\n", "\n\n", "\r\n", "\t", "\t\t", " ", "  ", "   ", " " * 79, " " * 80, " " * 81, " " * 82,
    " " * 200, "\u3000\u3000", "\u00a0 ", "\u200b", "\u200d", "\ufeff", "\x00", "e\u0301", "か\u3099",
    "👨‍👩‍👧", "🇨🇳", "🙂", "𠮷", "哈哈哈", "………", "----", "====", "12", "3.5", "1/2", "，", "。", "：", "？", "３．５％",
    "苹果", "你好", "the ",
)  # fmt: skip


def fuzz_texts(count: int, seed: int) -> Iterator[str]:
    """Mixed scripts, blanks, tabs and newlines, emoji, full width, control pieces, repeated characters."""
    chance = random.Random(seed)

    def word() -> str:
        kind = chance.random()
        if kind < 0.35:
            return chance.choice(PARTS)
        if kind < 0.45:
            return chance.choice(PARTS)[:1] * chance.randint(1, 12)
        low, high = chance.choice(BLOCKS)
        return "".join(chr(chance.randint(low, high)) for _ in range(chance.randint(1, 8)))

    for _ in range(count):
        yield "".join(word() for _ in range(chance.randint(0, 14)))
