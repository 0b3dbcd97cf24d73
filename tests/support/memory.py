"""What a process has of memory that is its own: not files', not shared."""

from __future__ import annotations

import re
from pathlib import Path


def anonymous(pid: int | str = "self") -> int:
    """Bytes of anonymous memory that a process holds now (Linux: RssAnon)."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="utf-8"))
    return int(found[1]) << 10 if found else 0
