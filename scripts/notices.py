"""Write down the licences of what is installed in a virtual environment, with their texts; the Dockerfile runs it.

    python3 notices.py VENV [ROOT]

Into VENV/share/doc/food-vision/THIRD-PARTY-NOTICES; with ROOT below that folder, and packages there are read as well. The
same packages always make the same file. Needs no package and nothing of this repository.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

FILE = "share/doc/food-vision/THIRD-PARTY-NOTICES"
# A licence file by its name, or by its folder: `*.dist-info/licenses/` holds what the wheel says are its licences, and
# `LICENSES/` those of parts.
TEXTS = re.compile(
    r"(.*/)?((licen[cs]e|copying|notice|third.?party|copyright|authors)[^/]*"
    r"|[^/]*[._-](licen[cs]es?|copying)(\.(txt|md|rst))?|licen[cs]es/.+)",
    re.IGNORECASE,
)
CODE = (".py", ".pyc", ".pyi", ".h", ".hpp", ".so", ".js")
HEAD = """food-vision is licensed under the MIT licence; its own notices lie beside its code. This image also holds the
Python packages below, each under a licence of its own: what its wheel declares, then the texts that
the wheel brings. NVIDIA's packages are under NVIDIA's terms, which are among these texts. Debian's
packages, those of the base image, have theirs in /usr/share/doc/PACKAGE/copyright.
"""
RULE = "=" * 100


def declared(found: Distribution) -> str:
    """What the metadata says: the SPDX expression, else the field License in one line, else the classifiers."""
    fields = {name: found.metadata.get_all(name) or [] for name in ("License-Expression", "License", "Classifier")}
    named = [line.rsplit(" :: ", 1)[-1] for line in fields["Classifier"] if line.startswith("License ::")]
    free = [text.strip() for text in fields["License"] if "\n" not in text.strip() and text.strip() != "UNKNOWN"]
    return ", ".join(fields["License-Expression"] or free or named) or "not declared"


def in_metadata(found: Distribution) -> str:
    """All that the metadata says of licences, one below the other: two fields may differ."""
    said = {name: found.metadata.get_all(name) or [] for name in ("License-Expression", "License", "Classifier")}
    named = [line for line in said.pop("Classifier") if line.startswith("License ::")]
    return "\n".join([*(text for several in said.values() for text in several), *named])


def texts(found: Distribution) -> list[tuple[str, str]]:
    """Name and content of each licence file of an installed wheel, or of a wheel's own file; each content once."""
    seen = dict[str, str]()
    for file in sorted(found.files or (), key=str):
        path = found.locate_file(file)
        if TEXTS.fullmatch(file.as_posix()) and not file.name.endswith(CODE) and path.is_file():  # type: ignore[attr-defined]
            text = path.read_text(encoding="utf-8", errors="replace")  # type: ignore[call-arg]
            seen.setdefault(text.strip(), str(file))
    return [(name, text) for text, name in seen.items()]


def notices(folders: list[str]) -> str:
    """The file's text: all packages of the folders by name."""
    parts = [HEAD]
    for one in sorted(distributions(path=folders), key=lambda one: one.metadata["Name"].lower()):
        parts.append(f"{RULE}\n{one.metadata['Name']} {one.version}\nLicence: {declared(one)}\n")
        parts += [f"{'-' * 100}\n{name}\n\n{text}\n" for name, text in texts(one)]
    return "\n".join(parts)


def main(venv: str, root: str = "") -> None:
    """Write the file of one environment."""
    bases = [Path(base + venv) for base in dict.fromkeys(("", root))]
    out = bases[-1] / FILE
    out.parent.mkdir(parents=True, exist_ok=True)
    found = [str(folder) for base in bases for folder in base.glob("lib/python3*/site-packages")]
    out.write_text(notices(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
