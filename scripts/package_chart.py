"""Package the Helm chart of a release: with the images that were pushed for it, so that nobody has to name one.

    python3 -m scripts.package_chart                        # after `make image-push` of cpu and gpu; into build
    python3 -m scripts.package_chart --records build/release/image --version 1.2.3 --out build/release

Repository and digest come from the records of `make image-push`, DIR/cpu.json and DIR/gpu.json, and become
`image.release.cpu` and `image.release.gpu` of values.yaml. The same chart, version and digests make the same file, byte for
byte, which `helm package` does not. Needs neither helm nor a package.
"""

from __future__ import annotations

import argparse
import fnmatch
import gzip
import io
import json
import re
import sys
import tarfile
import tomllib
from pathlib import Path

from contract.cli import run
from contract.errors import ContractError
from contract.files import write_bytes_atomic

ROOT = Path(__file__).parent.parent
CHART = ROOT / "helm" / "food-vision"
TARGETS = ("cpu", "gpu")  # of the images that the chart chooses from, by node.mode
TIME = 315532800  # 1980, of every file
VERSION = re.compile(r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?")
REFERENCE = re.compile(r"[a-z0-9][a-z0-9._/:-]*@sha256:[0-9a-f]{64}")


def package(records: Path, version: str, out: Path) -> Path:
    """Write OUT/food-vision-VERSION.tgz and return its path.

    Raises `ContractError` for a record that is missing or names no image by its digest, and for a version that is none.
    """
    if not VERSION.fullmatch(version):
        raise ContractError(f"The version {version!r} is none that Helm takes: write it as 1.2.3.")
    images = {target: _reference(records / f"{target}.json", target) for target in TARGETS}
    ignored = (CHART / ".helmignore").read_text(encoding="utf-8").split()
    files = {path.relative_to(CHART).as_posix(): path.read_bytes() for path in CHART.rglob("*") if path.is_file()}
    files = {name: data for name, data in files.items() if not _is_ignored(name, ignored)}
    files["values.yaml"] = _with_images(files["values.yaml"].decode(), images).encode()
    files["Chart.yaml"] = _with_version(files["Chart.yaml"].decode(), version).encode()
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{CHART.name}-{version}.tgz"
    write_bytes_atomic(path, _archive(files))
    return path


def _reference(record: Path, target: str) -> str:
    """REPOSITORY@DIGEST of what `make image-push` wrote down."""
    if not record.is_file():
        raise ContractError(f"There is no {record}: make image-push TARGET={target} IMAGE=registry/path writes it.")
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        reference = f"{found['repository']}@{found['digest']}"
    except (ValueError, KeyError, TypeError):
        reference = ""
    if not REFERENCE.fullmatch(reference):
        raise ContractError(f"{record} names no image by repository and digest: make image-push TARGET={target} again.")
    return reference


def _is_ignored(name: str, patterns: list[str]) -> bool:
    """Whether .helmignore leaves a file out: `folder/`, or a pattern for the file's own name."""
    *folders, file = name.split("/")
    return any(
        pattern.rstrip("/") in folders if pattern.endswith("/") else fnmatch.fnmatch(file, pattern)
        for pattern in patterns
    )


def _with_images(values: str, images: dict[str, str]) -> str:
    """values.yaml with the references under `image.release`; its comments stay."""
    head, found, rest = values.partition("\n  release:\n")
    for target, reference in images.items():
        rest, count = re.subn(rf'^    {target}: ""', f'    {target}: "{reference}"', rest, count=1, flags=re.MULTILINE)
        if not (found and count):
            raise ContractError(f'{CHART / "values.yaml"} needs the line `{target}: ""` under image.release.')
    return head + found + rest


def _with_version(chart: str, version: str) -> str:
    """Chart.yaml of this version, of chart and service."""
    chart = re.sub(r"^version: .*$", f"version: {version}", chart, flags=re.MULTILINE)
    return re.sub(r"^appVersion: .*$", f'appVersion: "{version}"', chart, flags=re.MULTILINE)


def _archive(files: dict[str, bytes]) -> bytes:
    """A .tgz as Helm's: all under the chart's name, Chart.yaml first, and nothing of this machine or day in it."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(files, key=lambda name: (name != "Chart.yaml", name)):
            entry = tarfile.TarInfo(f"{CHART.name}/{name}")
            entry.size, entry.mtime, entry.mode = len(files[name]), TIME, 0o644
            archive.addfile(entry, io.BytesIO(files[name]))
    return gzip.compress(plain.getvalue(), mtime=0)


def _own_version() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.package_chart", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument(
        "--records", type=Path, default=ROOT / "build" / "image", metavar="FOLDER",
        help="where `make image-push` wrote cpu.json and gpu.json (default: build/image)",
    )  # fmt: skip
    parser.add_argument("--version", default=_own_version(), help="of chart and service (default: pyproject.toml's)")
    parser.add_argument("--out", type=Path, default=ROOT / "build", help="folder of the package (default: build)")
    args = parser.parse_args(argv)
    return run("package_chart", lambda: print(package(args.records, args.version, args.out)) or 0)


if __name__ == "__main__":
    sys.exit(main())
