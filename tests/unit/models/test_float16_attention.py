"""float16 attention where torch has no masked kernel for GPUs: the same function, and no score overflows."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402

from glmjobs import compat  # noqa: E402
from glmjobs.models.common import attention  # noqa: E402


def states(size: float, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(2, 3, 40, 16, generator=generator, dtype=torch.float64) for _ in range(3)]
    return [(made[0] * size).to(dtype), (made[1] * size).to(dtype), made[2].to(dtype)]


MASK = torch.ones(40, 40, dtype=torch.bool).tril()[None, None]


def test_it_is_the_same_function_with_the_same_gradients() -> None:
    found = []
    for function in (F.scaled_dot_product_attention, attention.relaxed_attention):
        inputs = [t.requires_grad_() for t in states(3.0, torch.float64)]
        out = function(*inputs, MASK, 0.0)
        (out**2).sum().backward()
        found.append([out.detach(), *(t.grad for t in inputs)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.skipif(compat.TORCH < (2, 1), reason="its CPU multiplies no float16 matrices")
def test_scores_beyond_float16_give_finite_rows() -> None:
    """|score| up to about 10^6: as they stand, as torch 2.0.1 computes them on a GPU, they are infinite."""
    query, key, value = states(500.0, torch.float16)
    wanted = F.scaled_dot_product_attention(query.double(), key.double(), value.double(), attn_mask=MASK)
    assert ((query @ key.transpose(-1, -2)) / 4).isinf().any(), "the case is one"
    found = attention.relaxed_attention(query, key, value, MASK, 0.0)
    assert found.isfinite().all()
    # Where two scores are all but equal, float16 cannot tell which is larger.
    assert ((found.double() - wanted).abs() < 0.02).double().mean() > 0.98


def test_it_is_taken_on_gpus_whose_torch_has_no_masked_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.pretended_gpus import fake_cuda

    taken = []
    monkeypatch.setattr(attention, "relaxed_attention", lambda *a: taken.append(a[0].dtype) or a[0])
    monkeypatch.setattr(compat, "MASKED_ATTENTION_ON_GPUS", False)
    with fake_cuda():
        for dtype in (torch.float16, torch.bfloat16):
            for device in ("cuda", "cpu"):
                some = torch.ones(1, 2, 8, 4, dtype=dtype, device=device)
                mask = torch.ones(1, 1, 8, 8, dtype=torch.bool, device=device)
                attention.attend(some, some, some, mask, None, 0)
    assert taken == [torch.float16]
