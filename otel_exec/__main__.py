"""`python -m otel_exec`: the same as `otel-exec`."""

from __future__ import annotations

import sys

from otel_exec.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
