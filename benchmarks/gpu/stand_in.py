"""A GPU that is not there: stand-ins for NVIDIA's libraries, on which ONNX Runtime's real CUDA provider loads.

    make gpu-wheel
    python -m benchmarks.gpu.stand_in build/stand-in
    LD_LIBRARY_PATH=build/stand-in PYTHONPATH=build/onnxruntime-gpu python -m app --provider cuda …

onnxruntime-gpu then searches its real kernel registry for every node, builds its sessions, copies, allocates and launches;
the kernels themselves are never run, and copies to the device are not kept: its memory is zero. It shows what a GPU would
be given and which calls are made, never what it would compute or how fast. Needs gcc and nm.

`stand_in.c` says what the device does. Environment variables of the process that loads it:

STAND_IN_CAPABILITY   compute capability (9.0)          STAND_IN_MEMORY    bytes of device memory (80 GiB)
STAND_IN_CUDA         the driver's CUDA (13000)         STAND_IN_DEVICES   how many GPUs (1)
STAND_IN_NAME         the GPU's name (stand-in)         STAND_IN_CAPTURE_MS   least time of a capture (0)
STAND_IN_JOURNAL      file to which calls are appended:

    malloc SIZE live BYTES, free SIZE live BYTES     device memory, and all that is held after it
    refused SIZE live BYTES                          no room was left
    register ADDRESS SIZE, unregister ADDRESS mapped|unmapped    page-locked memory, and whether it was still there
    capture global|local, launch, unsafe CALL        CUDA graphs; a call that a capture in any thread forbids
    end live BYTES most BYTES                        when the process ends
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from contract.cli import run
from contract.errors import ContractError

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "stand_in.c"
WHEEL = HERE.parents[1] / "build/onnxruntime-gpu"
HEADERS = HERE.parents[1] / "build/cuda-headers/nvidia/cu13/include"  # of pip's nvidia-cuda-runtime
TOOLKIT = Path("/usr/local/cuda/include")
PROVIDER = "onnxruntime/capi/libonnxruntime_providers_cuda.so"
DRIVER, RUNTIME = "libcuda.so.1", "libcudart.so.13"
WRITTEN = {DRIVER: "DRIVER", RUNTIME: "CUDART", "libcublas.so.13": "BLAS", "libcublasLt.so.13": "BLAS"}
ANSWERS = {  # cuDNN 9.99: torch refuses one that is older than what it was built with
    "cudnnGetVersion": "long cudnnGetVersion(void) { return 99900; }",
    "cudnnGetProperty": "int cudnnGetProperty(int what, int *value) { *value = what ? 99 : 9; return 0; }",
}
EXTRA = {"libcurand.so.10": {"curandCreateGenerator"}}  # linked, without a function that is imported


def build(folder: Path, wheel: Path = WHEEL, importers: Iterable[Path] = (), replaced: Iterable[Path] = ()) -> Path:
    """Compile the stand-ins that the CUDA provider in `wheel`, an unpacked onnxruntime-gpu, is linked to.

    `importers` are libraries that must find what they import in the same ones: those of a CUDA build of torch, where
    it stays on the CPU and the stand-ins are preloaded (LD_PRELOAD). `replaced` get a stand-in as a whole.
    Returns `folder`, for LD_LIBRARY_PATH. Raises `ContractError`: no wheel, compiler or CUDA header there.
    """
    provider = wheel / PROVIDER
    if not provider.is_file():
        raise ContractError(f"There is no {PROVIDER} in {wheel}; run `make gpu-wheel`.")
    for tool in ("gcc", "nm"):
        if shutil.which(tool) is None:
            raise ContractError(f"{tool} was not found; install it, on Debian and Ubuntu by `apt-get install gcc`.")
    include = headers()
    folder.mkdir(parents=True, exist_ok=True)
    own = _defined()
    wanted = _wanted(provider)
    for importer in importers:
        for library, names in _wanted(importer).items():
            wanted.get(library, set()).update(names)
    wanted |= {library.name: _exported(library) for library in replaced}
    for library, names in wanted.items():
        macro = WRITTEN.get(library)
        lines = [
            ANSWERS.get(name, f"long {name}(void) {{ return 0; }}")
            for name in sorted(names - own.get(macro or "", set()))
        ]
        _compile(folder, library, "\n".join([*_included(macro), *lines]) + "\n", include)
    return folder


def headers() -> Path:
    """The folder of CUDA's `driver_types.h`: pip's package, else a toolkit. Raises `ContractError`."""
    for folder in (HEADERS, TOOLKIT):
        if (folder / "driver_types.h").is_file():
            return folder
    raise ContractError(f"CUDA's headers were found neither in {HEADERS} nor in {TOOLKIT}; run `make gpu-wheel`.")


def environment(folder: Path, wheel: Path = WHEEL, **device: str) -> dict[str, str]:
    """This process's environment with the stand-in device and onnxruntime-gpu first; `device`: CAPABILITY, MEMORY …"""
    path = os.pathsep.join(part for part in (str(wheel), os.environ.get("PYTHONPATH", "")) if part)
    named = {f"STAND_IN_{name}": value for name, value in device.items()}
    return os.environ | {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": path, **named}


def _included(macro: str | None) -> list[str]:
    return [f"#define {macro}", f'#include "{SOURCE}"'] if macro else []


def _defined() -> dict[str, set[str]]:
    """Functions that `stand_in.c` defines, by the macro that asks for them."""
    found: dict[str, set[str]] = {}
    macro = ""
    for line in SOURCE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#ifdef "):
            macro = line.split()[1]
        head, bracket, _ = line.partition("(")
        if bracket and head.startswith(("int cu", "const char *cu")):
            found.setdefault(macro, set()).add(head.split()[-1].lstrip("*"))
    return found


def _wanted(provider: Path) -> dict[str, set[str]]:
    """Library → functions that the provider imports from it."""
    wanted: dict[str, set[str]] = {DRIVER: set(), **EXTRA}
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", str(provider)], capture_output=True, text=True, check=True
    ).stdout
    for line in listed.splitlines():
        name, _, library = line.split()[-1].partition("@")
        if library.startswith("libcu"):
            wanted.setdefault(library, set()).add(name)
        elif name.startswith("cu"):
            wanted[DRIVER].add(name)
    return wanted


def _exported(library: Path) -> set[str]:
    """Functions that a library defines."""
    command = ["nm", "-D", "--defined-only", str(library)]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    fields = [line.split() for line in listed.splitlines()]
    return {field[2].partition("@")[0] for field in fields if len(field) == 3 and field[1] == "T"}


def _compile(folder: Path, library: str, source: str, include: Path) -> None:
    command = ["gcc", "-shared", "-fPIC", "-O1", "-w", f"-I{include}", f"-Wl,-soname,{library}"]
    versions = folder / f"{library}.versions"
    if library != DRIVER:  # the provider asks for symbol versions
        versions.write_text(f"{library} {{ global: *; }};\n", encoding="utf-8")
        command.append(f"-Wl,--version-script={versions}")
    # written beside and then moved: another process may be loading the one that is there
    done = subprocess.run(
        [*command, "-x", "c", "-", "-o", str(folder / f".{library}")], input=source, text=True, capture_output=True
    )
    versions.unlink(missing_ok=True)
    if done.returncode:
        raise ContractError(f"gcc cannot make the stand-in of {library}: {done.stderr.strip()[-500:]}")
    (folder / f".{library}").replace(folder / library)


def main(argv: list[str] | None = None) -> int:
    """Compile the libraries into a folder; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.stand_in", description="Compile a GPU that is not there, for LD_LIBRARY_PATH."
    )
    parser.add_argument("folder", type=Path, help="where the libraries go")
    parser.add_argument(
        "--wheel", type=Path, default=WHEEL, help="folder of an unpacked onnxruntime-gpu (default: make gpu-wheel's)"
    )
    args = parser.parse_args(argv)
    return run("benchmarks.gpu.stand_in", lambda: _main(args))


def _main(args: argparse.Namespace) -> int:
    print(f"stand-in device in {build(args.folder, args.wheel)}: LD_LIBRARY_PATH={args.folder.resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
