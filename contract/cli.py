"""Command lines: exit code 2 for wrong usage, 1 for failure, and never a traceback for a user's mistake."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from contract.errors import ContractError


def run(program: str, command: Callable[[], int]) -> int:
    """Run `command`; a `ContractError` or an interrupt becomes one sentence on stderr and an exit code."""
    try:
        return command()
    except ContractError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, a path that cannot be written
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{program}: interrupted.", file=sys.stderr)
        return 130


def moved(old: str, new: str) -> NoReturn:
    """What `python -m old` does for one release after the command became `python -m new`: say so, exit code 2."""
    print(f"{old}: this command is now python -m {new}; the options are the same.", file=sys.stderr)
    raise SystemExit(2)
