"""The tables of docs/operations.md that are made from code: settings, errors, metrics.

python -m scripts.docs_tables --write    # after a change of app/settings.py, app/faults.py or app/telemetry/metrics.py
python -m scripts.docs_tables --check    # exit code 1 when the file is out of date; a test does the same

A table stands between `<!-- NAME:begin … -->` and `<!-- NAME:end -->`; all else in the file is written by hand.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from app.faults import ERRORS
from app.settings import ENV_PREFIX, Settings
from app.telemetry.metrics import METRICS, PREFIX
from contract.cli import run
from contract.errors import ContractError

FILE = Path(__file__).parent.parent / "docs" / "operations.md"
HOW = "made by `python -m scripts.docs_tables --write`"


def settings_table() -> str:
    """A row for each setting: variable, what it may be, default, meaning."""
    rows = []
    for name, setting in Settings.model_fields.items():
        default = "required" if setting.is_required() else _shown(setting.default)
        rows.append((f"`{ENV_PREFIX}{name.upper()}`", _allowed(setting), default, setting.description or ""))
    return _table(("variable", "allowed", "default", "meaning"), rows)


def errors_table() -> str:
    """A row for each slug: HTTP status and meaning."""
    rows = ((f"`{slug}`", str(kind.status), kind.meaning) for slug, kind in ERRORS.items())
    return _table(("`error_type`", "HTTP", "meaning"), rows)


def metrics_table() -> str:
    """A row for each metric: type, labels and meaning."""
    rows = (
        (f"`{PREFIX}{name}`", kind.type, ", ".join(f"`{label}`" for label in kind.labels) or "–", kind.meaning)
        for name, kind in METRICS.items()
    )
    return _table(("metric", "type", "labels", "meaning"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "settings": settings_table,
    "errors": errors_table,
    "metrics": metrics_table,
}


def filled(text: str) -> str:
    """The text with every table as the code makes it now. Raises `ContractError` where a table has no place."""
    for name, make in TABLES.items():
        place = re.compile(rf"<!-- {name}:begin[^>]*-->\n.*?<!-- {name}:end -->", re.DOTALL)
        found = list(place.finditer(text))
        if len(found) != 1:
            raise ContractError(f"The table {name} needs one place: <!-- {name}:begin --> and <!-- {name}:end -->.")
        table = f"<!-- {name}:begin, {HOW} -->\n{make()}<!-- {name}:end -->"
        text = text[: found[0].start()] + table + text[found[0].end() :]
    return text


def _allowed(setting: FieldInfo) -> str:
    kind: Any = next((one for one in get_args(setting.annotation) if one is Path), setting.annotation)
    if get_origin(kind) is Literal:
        return ", ".join(f"`{one}`" for one in get_args(kind))
    if kind is bool:
        return "`true`, `false`"
    if kind in (int, float):
        least, most = (next((getattr(m, b) for m in setting.metadata if hasattr(m, b)), None) for b in ("ge", "le"))
        return f"{least} to {most}" if most is not None else f"{least} or more"
    return {Path: "path", str: "text"}.get(kind, str(kind))


def _shown(default: object) -> str:
    if default is None or default == "":
        return "–"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(heads), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.docs_tables", description="Tables of the docs, from code.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true", help="bring the file up to date")
    what.add_argument("--check", action="store_true", help="exit code 1 if the file is out of date")
    parser.add_argument("--file", type=Path, default=FILE, help="the file (default: docs/operations.md)")
    args = parser.parse_args(argv)
    return run("scripts.docs_tables", lambda: _main(args.file, write=args.write))


def _main(file: Path, *, write: bool) -> int:
    old = file.read_text(encoding="utf-8")
    new = filled(old)
    if write:
        file.write_text(new, encoding="utf-8")
    elif new != old:
        raise ContractError(f"{file} is out of date; run python -m scripts.docs_tables --write.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
