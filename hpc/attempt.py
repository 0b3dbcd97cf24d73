"""The name of :mod:`hpc.runtime.attempt` as it was: scripts of runs in flight call it. Gone after one release."""

from __future__ import annotations

from hpc.runtime.attempt import main

if __name__ == "__main__":
    raise SystemExit(main())
