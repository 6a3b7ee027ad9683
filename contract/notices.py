"""What goes with weights that are others': a notice, and the licence that they are under."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from contract.files import write_text_atomic

NOTICE_FILE = "NOTICE"  # whose weights they are, and under which licence
LICENCE_FILE = "LICENSE-APACHE-2.0"  # the licence's text: this package holds it


def write_notice(folder: Path, notice: str) -> None:
    """Write `notice` and the text of the Apache licence 2.0 to a checkpoint or bundle. Raises `OSError`."""
    licence = importlib.resources.files("contract").joinpath(LICENCE_FILE).read_text(encoding="utf-8")
    write_text_atomic(folder / NOTICE_FILE, notice)
    write_text_atomic(folder / LICENCE_FILE, licence)
