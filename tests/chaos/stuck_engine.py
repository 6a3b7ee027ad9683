"""The service with an engine that hangs for as long as a file exists: `python -m
tests.chaos.stuck_engine PATH …`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from app.__main__ import leave
from app.__main__ import main as serve
from app.engine.engine import Engine


def main(path: str, *others: str) -> int:
    """All other arguments are those of `python -m app`."""
    score: Any = Engine.score

    def hanging(*args: Any) -> Any:
        while Path(path).exists():
            time.sleep(0.05)
        return score(*args)

    setattr(Engine, "score", hanging)  # noqa: B010
    return serve(list(others))


if __name__ == "__main__":
    leave(main(*sys.argv[1:]))
