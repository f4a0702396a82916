"""`python -m freezecheck`."""

from __future__ import annotations

from freezecheck.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
