"""The torch of the Python that runs this, kept instead of downloaded: a notebook's machine has one that fits its GPU.

Links to it, and to the libraries that it needs, are put into an environment of ours. Nothing else of that Python can be
seen there: its other packages have versions that were never tried with ours. Needs no package.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

LEAST = (2, 10)  # the oldest version that was tried; pyproject.toml says the same
BELOW = (3, 0)
LARGE = re.compile(r"torch|triton|pytorch-triton|(nvidia|cuda)-.*")  # what torch needs beside it comes by the pins


@dataclass(frozen=True)
class Here:
    """A torch that will do: its version, and what to link by its path in a folder of packages."""

    version: str
    links: dict[str, Path]


def find(driver: bool) -> Here | str:
    """This Python's torch, or why it will not do; `driver`: whether there is one for NVIDIA's GPUs."""
    try:
        torch = importlib.metadata.distribution("torch")
    except importlib.metadata.PackageNotFoundError:
        return f"{sys.executable} has none"
    version, known = torch.version, ".".join(map(str, LEAST))
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if not LEAST <= numbers < BELOW:
        return f"{sys.executable} has {version}, and it takes {known} or newer below {BELOW[0]}"
    if driver and version.endswith("+cpu"):
        return f"{sys.executable} has {version}, which cannot use this machine's GPU"
    links = {name: path for one in _needed(torch) for name, path in _links(one)}
    if "torch" not in links:
        return f"{sys.executable} has {version}, which pip did not install"
    tried = subprocess.run([sys.executable, "-c", "import torch"], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"{sys.executable} cannot import its own: {tried.stderr.strip().splitlines()[-1]}"
    return Here(version, links)


def link(here: Here, packages: Path) -> None:
    """Put the links into a folder of packages, in place of those that were there. Raises `OSError`."""
    unlink(packages)
    for name, path in here.links.items():
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).symlink_to(path)


def unlink(packages: Path) -> None:
    """Take away all links to elsewhere, so that an install into the folder cannot reach through them."""
    for path in (*packages.glob("*"), *packages.glob("nvidia/*")):
        if path.is_symlink():
            path.unlink()


def _needed(torch: importlib.metadata.Distribution) -> Iterable[importlib.metadata.Distribution]:
    """torch and the installed packages below it that are large: CUDA's libraries and Triton."""
    found = {"torch": torch}
    left = [torch]
    while left:
        for requirement in left.pop().requires or ():
            name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower().replace("_", "-")
            if name in found or not LARGE.fullmatch(name):
                continue
            try:
                found[name] = importlib.metadata.distribution(name)
            except importlib.metadata.PackageNotFoundError:
                continue  # for another system, or pip brings it
            left.append(found[name])
    return found.values()


def _links(package: importlib.metadata.Distribution) -> Iterator[tuple[str, Path]]:
    """What of a package lies at the top: its folders and files. `nvidia` is shared by many packages, so what is in it."""
    for file in package.files or ():
        parts = file.parts[: 2 if file.parts[0] == "nvidia" else 1]
        if parts[0] in ("..", "__pycache__", "/"):  # commands; caches
            continue
        path = Path(str(package.locate_file("/".join(parts)))).resolve()
        if path.exists():
            yield "/".join(parts), path
