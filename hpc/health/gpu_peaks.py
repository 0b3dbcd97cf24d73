"""What a GPU computes at most, by its name."""

from __future__ import annotations

import re

_PEAKS = (
    ("V100S", 130.0), ("V100 PCIE", 112.0), ("V100 FHHL", None), ("V100", 125.0),
    ("A100X", 312.0), ("A100", 312.0), ("A800", 312.0), ("A40", 149.7), ("A30", 165.0), ("A10", 125.0),
    ("H100 PCIE", 756.0), ("H100 NVL", 835.5), ("H100", 989.4), ("H800 PCIE", 756.0), ("H800 NVL", 835.5),
    ("H800", 989.4), ("H200 NVL", 835.5), ("H200", 989.4),
    ("L40S", 362.1), ("L40", 181.1), ("4090", 165.2),
)  # fmt: skip
"""Words of a name, and TFLOPS of dense float16 or bfloat16 matrix products that are summed in float32.

By NVIDIA's data sheet of each card (half of what it says "with sparsity"); the 4090's by the "NVIDIA Ada GPU
Architecture" whitepaper, appendix A. The first row whose words are all there counts.
"""

_OTHERS = frozenset({"MIG", "GRID", "LAPTOP", "D", "TI", "SUPER"})
"""Words that make a name another card's, or a part of one: of those nothing is known here."""


def peak_tflops(name: str) -> float | None:
    """Peak of dense half-precision products of a GPU by the name that its driver gives; None where it isn't listed.

    >>> peak_tflops("NVIDIA A100-SXM4-80GB"), peak_tflops("Tesla V100-PCIE-16GB"), peak_tflops("NVIDIA H100 80GB HBM3")
    (312.0, 112.0, 989.4)
    >>> peak_tflops("NVIDIA A100-SXM4-80GB MIG 1g.10gb"), peak_tflops("Tesla T4")
    (None, None)
    """
    words = set(re.findall(r"[A-Z0-9]+", name.upper()))
    if words & _OTHERS:
        return None
    return next((peak for row, peak in _PEAKS if set(row.split()) <= words), None)
