"""onnxruntime-gpu for one kind of GPU: about 58 MiB packed, instead of a wheel of 256 MB.

The CUDA provider's library holds machine code for many GPUs. The code of one compute capability is kept and the rest
zeroed; every byte outside of these sections stays as it was shipped.
"""

from __future__ import annotations

import lzma
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from contract.errors import ContractError

CONTAINER_MAGIC = 0xBA55ED50
ELF_CUBIN = 2  # kind of an entry: machine code (1 is PTX)
PROVIDER = "onnxruntime/capi/libonnxruntime_providers_cuda.so"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64")


def thin_wheel(version: str, python: str, capability: str) -> bytes:
    """onnxruntime-gpu `version` for Python `python` (`3.12`) and one `capability` (`9.0`), as a tar.xz in memory.

    Downloads the wheel. Raises `ContractError`: it cannot be had, readelf is missing, or it has no code for that GPU.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        download(f"onnxruntime-gpu=={version}", folder, python, PLATFORMS)
        (wheel,) = folder.glob("onnxruntime_gpu-*.whl")
        site, packed = folder / "site", folder / "packed.tar.xz"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
        keep_only(site / PROVIDER, int(capability.replace(".", "")))
        # the Python module links the core statically; the shared copy is for C and C++, TensorRT is not carried
        for extra in (site / "onnxruntime/capi").glob("libonnxruntime.so*"):
            extra.unlink()
        with lzma.open(packed, "wb", preset=9) as stream, tarfile.open(fileobj=stream, mode="w") as tar:
            tar.add(site, arcname=".")
        return packed.read_bytes()


def download(requirement: str, folder: Path, python: str, platforms: tuple[str, ...]) -> None:
    """One wheel, without what it needs, into `folder`. Raises `ContractError` with pip's own last line."""
    command = [
        sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", f"--python-version={python}",
        "--implementation=cp", *(f"--platform={name}" for name in platforms), "-d", str(folder), requirement,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["pip says nothing"])[-1]
        raise ContractError(f"No wheel of {requirement} for Python {python} can be had: {said}")


def keep_only(library: Path, capability: int) -> int:
    """Zero in place the machine code of every GPU but one (`90`: 9.0); returns how many entries were kept."""
    data = bytearray(library.read_bytes())
    kept = 0
    for start, size in _sections(library):
        for offset, length, kind, own in _entries(data, start, size):
            if kind == ELF_CUBIN and own == capability:
                kept += 1
            else:
                data[offset : offset + length] = bytes(length)
    if not kept:
        raise ContractError(
            f"{library.name} has no code for compute capability {capability / 10}; choose another with --arch."
        )
    library.write_bytes(data)
    return kept


def _sections(library: Path) -> Iterator[tuple[int, int]]:
    """Offset and size of each fat binary section of the file."""
    try:
        listed = subprocess.run(["readelf", "-SW", str(library)], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        raise ContractError(
            f"readelf cannot read {library.name}; install binutils (`apt-get install binutils`)."
        ) from None
    for line in listed.splitlines():
        field = line.replace("[ ", "[").split()
        if len(field) > 6 and field[1] in (".nv_fatbin", "__nv_relfatbin"):
            yield int(field[4], 16), int(field[5], 16)


def _entries(data: bytearray, start: int, size: int) -> Iterator[tuple[int, int, int, int]]:
    """Offset and size of the payload, kind and compute capability of each entry of a section."""
    position, end = start, start + size
    while position + 16 <= end:
        magic, _, header, total = struct.unpack_from("<IHHQ", data, position)
        if magic != CONTAINER_MAGIC:
            position += 8
            continue
        entry, stop = position + header, position + header + total
        while entry < stop:
            kind, _, own_header, payload = struct.unpack_from("<HHIQ", data, entry)
            (capability,) = struct.unpack_from("<I", data, entry + 28)
            yield entry + own_header, payload, kind, capability
            entry += own_header + payload
        position = stop
