"""The committed API description, openapi.json, and the error table of docs/api.md, both made from the code.

python -m scripts.openapi --check    # is what is committed what the code says? exit code 1 if not
python -m scripts.openapi --write    # after a change of a route, an answer or an error
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from app.faults import ERRORS
from app.server import create_app
from app.settings import Settings
from contract.bundle import Bundle, DecoderTokens, Manifest

ROOT = Path(__file__).parent.parent
DESCRIPTION = ROOT / "openapi.json"
API_DOCS = ROOT / "docs" / "api.md"
BEGIN = "<!-- errors: made by python -m scripts.openapi --write -->"
END = "<!-- end of errors -->"


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.openapi", description="Write or check openapi.json.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true", help="write openapi.json and the error table of docs/api.md")
    what.add_argument("--check", action="store_true", help="exit with 1 if one of them is not what the code says")
    args = parser.parse_args(argv)
    stale = [path for path, text in expected().items() if _read(path) != text]
    if args.write:
        for path, text in expected().items():
            path.write_text(text, encoding="utf-8")
        print("wrote", ", ".join(path.name for path in stale) or "nothing: all was up to date")
        return 0
    for path in stale:
        print(f"{path.relative_to(ROOT)} is stale; run python -m scripts.openapi --write", file=sys.stderr)
    return 1 if stale else 0


def expected() -> dict[Path, str]:
    """Each file that is made, with the text it must have."""
    before, _, rest = _read(API_DOCS).partition(BEGIN)
    _, _, after = rest.partition(END)
    return {
        DESCRIPTION: json.dumps(description(), indent=1, ensure_ascii=False) + "\n",
        API_DOCS: f"{before}{BEGIN}\n\n{error_table()}\n\n{END}{after}",
    }


def error_table() -> str:
    """The errors as a Markdown table, by status."""
    rows = sorted((kind.status, slug, kind.meaning) for slug, kind in ERRORS.items())
    lines = ["| status | `error_type` | meaning |", "|---|---|---|"]
    return "\n".join(lines + [f"| {status} | `{slug}` | {meaning} |" for status, slug, meaning in rows])


def description() -> dict[str, Any]:
    """The API description. It needs no model: the routes are the same for every bundle and every setting."""
    app = create_app(_nothing(), Settings.model_construct(bundle=Path("none")))
    return app.openapi()


def _nothing() -> Bundle:
    """A bundle without files, enough to make the application but not to start it."""
    manifest = Manifest(
        name="none", source={}, image_size=32, image_tokens=5, width=64, text_layers=1, text_heads=1, text_width=64,
        precision="fp32", opset=23, caption=None, parity={}, metrics={}, versions={}, files={},
        tokens=DecoderTokens(bos=1, sep=2, pad=0, vocabulary=3, max_length=4, static_length=4),
    )  # fmt: skip
    return Bundle(path=Path("none"), manifest=manifest, labels=None)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


if __name__ == "__main__":
    sys.exit(main())
