"""The name of :mod:`hpc.chain.local` as it was: scripts of runs in flight call it. Gone after one release."""

from __future__ import annotations

from hpc.chain.local import main

if __name__ == "__main__":
    raise SystemExit(main())
