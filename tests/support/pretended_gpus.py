"""GPUs for a machine that has none: the CUDA branches run here, and what only a GPU can show stays unseen.

:func:`fake_cuda`: tensors without values that say they are on a GPU (torch's FakeTensorMode). One left on the CPU is an
error, as it would be there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode


@contextmanager
def fake_cuda(**options: Any) -> Iterator[FakeTensorMode]:
    """Within it every new tensor is fake, and may be asked for on ``cuda``."""
    with mock.patch.object(torch.cuda, "_lazy_init", lambda: None), FakeTensorMode(**options) as mode:
        yield mode
