"""The name of :mod:`hpc.runtime.local_launch` as it was: scripts of runs in flight call it. Gone after one release."""

from __future__ import annotations

from hpc.runtime.local_launch import main

if __name__ == "__main__":
    raise SystemExit(main())
