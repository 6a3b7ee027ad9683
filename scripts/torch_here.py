"""The torch of the Python that runs this, kept instead of downloaded: a notebook's machine has one that fits its GPU.

Every file of it, and of the libraries that it needs, gets a link in an environment of ours, in folders of our own: what
is installed over a link, or deleted, takes the place of the link and leaves the file alone. Nothing else of that Python
can be seen there: its other packages have versions that were never tried with ours. Needs no package.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

LEAST = (2, 10)  # the oldest version that was tried; pyproject.toml says the same
BELOW = (3, 0)
MODULE = "torch/__init__.py"
LARGE = re.compile(r"torch|triton|pytorch-triton|(nvidia|cuda)-.*")  # what torch needs beside it comes by the pins


@dataclass(frozen=True)
class Here:
    """A torch that will do: its version, and the files to link by their paths in a folder of packages."""

    version: str
    links: dict[str, Path]

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.links[MODULE].parent


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
    if MODULE not in links:
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
        (packages / name).unlink(missing_ok=True)
        (packages / name).symlink_to(path)


def unlink(packages: Path) -> None:
    """Take away all links, and the folders that held nothing else."""
    for folder, folders, files in os.walk(packages, topdown=False):
        found = [Path(folder, name) for name in folders + files]
        links = [path for path in found if path.is_symlink()]
        for path in links:
            path.unlink()
        emptied = links or len(found) > len(os.listdir(folder))  # of folders that are gone by now
        if emptied and Path(folder) != packages and not os.listdir(folder):
            Path(folder).rmdir()


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
    """The files of a package that lie below the folder of packages: no commands."""
    for file in package.files or ():
        path = Path(str(package.locate_file(file))).resolve()
        if ".." not in file.parts and not file.is_absolute() and path.is_file():
            yield file.as_posix(), path
