"""Get this checkout ready: look at the machine, then install into .venv what `make` needs.

    python3.11 -m scripts.prepare                # what every `make` target that runs Python does first
    python3.11 -m scripts.prepare --for test     # and look for what the tests need; run, demo: for room
    python3.11 -m scripts.prepare --torch cuda   # cpu, cuda, or a pin such as torch==2.13.0+cpu
    python3.12 -m scripts.prepare --for notebook --torch here   # less, and with the torch that this Python has

Where torch comes from: from wherever pip's own configuration says, if it names an index or folder; otherwise, on Linux
without an NVIDIA driver, from PyTorch's index of CPU builds, since the default index's build brings gigabytes of CUDA.

Nothing is installed twice: .venv/.installed says what is there. An install that was cut off is begun anew. Needs no package.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contract.cli import run
from contract.errors import ContractError
from contract.files import write_text_atomic
from scripts import torch_here
from scripts.torch_here import Here

ROOT = Path(__file__).parent.parent
VENV = ROOT / ".venv"
INSTALLED, CUT_OFF = ".installed", ".installing"  # files in .venv
PINS = "constraints.txt"  # and in .venv, where the torch is another than theirs
EXTRAS = "training,tower,export,cpu,bulk,test"
FEWER = "training,tower,export,cpu"  # all that the notebook's commands need
DEVELOPERS = "heic"  # its wheel holds a library under the GPL: for the tests, not for whoever tries the project
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
DRIVER = Path("/proc/driver/nvidia/version")
SOURCES = ("index-url", "extra-index-url", "find-links", "no-index")  # pip settings that say where packages come from
# .venv is 2.6 GB with a CPU build; with CUDA it was not measured
INSTALL_BYTES = {"here": 3 << 30, "cpu": 4 << 30, "cuda": 12 << 30}
UNPACK_BYTES = {
    "here": 1 << 30,
    "cpu": 1 << 30,
    "cuda": 4 << 30,
}  # pip's temporary folder: the largest wheel and what it holds
RUN_BYTES = 1 << 30  # of a demo or a run of the tests
LARGE_MB = 20  # downloads from here on are named


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="prepare", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--for", dest="purpose", choices=["demo", "notebook", "run", "test", "tool"], default="tool")
    parser.add_argument(
        "--torch",
        help="cpu, cuda, a pin, or here: the one of the Python that runs this, where it will do (default: cpu on Linux "
        "without an NVIDIA driver)",
    )
    parser.add_argument(
        "--torch-index", default=CPU_INDEX, help="index with CPU builds of torch (default: %(default)s)"
    )
    args = parser.parse_args(arguments)
    return run("make", lambda: _prepare(args.purpose, args.torch, args.torch_index))


def _prepare(purpose: str, torch: str | None, index: str) -> int:
    here: Here | str | None = None
    if torch == "here":
        torch, here = None, torch_here.find(has_nvidia_driver())
        if isinstance(here, Here) and here.folder.is_relative_to(VENV.resolve()):
            here = None  # this Python is that of .venv
    if torch:
        _check_torch(torch)
    if purpose == "test" and not shutil.which("gcc"):
        raise ContractError(
            "gcc was not found: the tests compile stand-ins of NVIDIA's libraries. Install it, on Debian and Ubuntu "
            "by `apt-get install gcc`."
        )
    with _alone() as lock:
        if not _is_installed(torch, purpose, here):
            if here is not None:
                says = f"{here}, so it is installed" if isinstance(here, str) else f"{here.version} of {sys.executable}"
                print(f"torch: {says}", flush=True)
            _install(torch, index, lock, _extras(purpose), here if isinstance(here, Here) else None)
    if purpose != "tool":
        for folder in (ROOT, Path(tempfile.gettempdir())):
            _check_free(folder, RUN_BYTES, "a run")
    return 0


def _check_torch(torch: str) -> None:
    """Raises `ContractError` for what is no choice, or one that the pins forbid."""
    if torch in ("cpu", "cuda"):
        return
    if not torch.startswith("torch=="):
        raise ContractError(f"TORCH={torch} is not known: cpu, cuda, or a pin such as {_torch_pin()}+cpu.")
    if torch.partition("+")[0] != _torch_pin():
        raise ContractError(f"TORCH={torch} is not the version of constraints.txt, which has {_torch_pin()}.")


@contextmanager
def _alone() -> Iterator[int]:
    """Two calls at once would install into one folder: the second waits for the first. Gives the lock's descriptor."""
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another make is installing here: waiting for it.", flush=True)
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(folder)


def _extras(purpose: str) -> str:
    return {"notebook": FEWER, "demo": EXTRAS}.get(purpose, f"{EXTRAS},{DEVELOPERS}")


def _wanted(extras: str, here: Here | str | None = None) -> str:
    """Digest of all that decides what belongs into .venv: the lists, this Python, and where the checkout lies."""
    lists = [(ROOT / name).read_bytes() for name in ("pyproject.toml", PINS)]
    parts = [*lists, extras.encode(), platform.python_version().encode(), str(ROOT.resolve()).encode()]
    if isinstance(here, Here):
        parts.append(f"{here.version} {here.folder}".encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _is_installed(torch: str | None, purpose: str, here: Here | str | None = None) -> bool:
    more = {"notebook": ("notebook", "demo", "test")}.get(purpose, (purpose, "test"))
    enough = {_wanted(_extras(one)) for one in more} | {_wanted(_extras(purpose), here)}
    try:
        same = (VENV / INSTALLED).read_text(encoding="utf-8").strip() in enough
    except OSError:
        return False
    return same and fits(_torch_version(), torch)


def _torch_version() -> str:
    """Of the torch that is in .venv, such as 2.13.0+cpu; empty where there is none."""
    found = sorted(VENV.glob("lib/python*/site-packages/torch-*.dist-info"))
    return found[-1].name.removeprefix("torch-").removesuffix(".dist-info") if found else ""


def fits(version: str, torch: str | None) -> bool:
    """Whether torch `version` is what `torch` (None, cpu, cuda or a pin) asks for."""
    if torch in ("cpu", "cuda"):
        return sys.platform != "linux" or version.endswith("+cpu") == (torch == "cpu")
    wanted = (torch or "").removeprefix("torch==")
    return wanted in ("", version, version.partition("+")[0])


def _install(torch: str | None, index: str, lock: int, extras: str, here: Here | None = None) -> None:
    started = time.monotonic()
    build = "cuda" if torch == "cuda" or (torch is None and has_nvidia_driver()) else "cpu"
    if here is not None and _torch_version() and not (VENV / PINS).exists():  # nothing is linked over an installed one
        if (VENV / INSTALLED).exists():
            (VENV / CUT_OFF).touch()  # so it is begun anew
        else:
            here = None  # somebody's own environment
    _make_venv(build if here is None else "here")
    _use(here)
    size = "about 150 packages, 2.6 GB" if extras != FEWER else "about 90 packages, 1.9 GB"
    print(
        f"Installing into {VENV.name}, once: {size} with a CPU build of torch, 1 to 6 minutes."
        if here is None
        else f"Installing into {VENV.name}, once: all but torch, 1 GB, 1 to 3 minutes.",
        flush=True,
    )
    other = ["--force-reinstall"] if _torch_version() and not fits(_torch_version(), torch) else []
    bare = wants_cpu_index(_pip_config())
    if here is None and bare and (torch in (None, "cpu") or torch.endswith("+cpu")):
        _install_cpu_torch(index, other, lock, needed=torch is not None)
    elif torch is not None:
        _pip(lock, "install", *other, torch if torch.startswith("torch==") else _torch_pin())
    _check_fits(torch)
    _pip(lock, "install", "-e", f".[{extras}]")
    if not _torch_version():
        raise ContractError(
            f"pip put torch elsewhere than into {VENV.name}: see what `{VENV.name}/bin/python -m pip config list` says."
        )
    _check_fits(torch)
    write_text_atomic(VENV / INSTALLED, _wanted(extras, here) + "\n")
    (VENV / CUT_OFF).unlink(missing_ok=True)
    print(f"Installed in {time.monotonic() - started:.0f} s.", flush=True)


def _check_fits(torch: str | None) -> None:
    if torch is not None and not fits(_torch_version(), torch):
        raise ContractError(f"TORCH={torch} was asked for and pip's configuration gave torch {_torch_version()}.")


def _make_venv(build: str) -> None:
    """Make .venv, or take the one that is there unless it was left half-made."""
    python = VENV / "bin" / "python"
    if VENV.is_symlink() or VENV.is_file():
        raise ContractError(f"{VENV} is a link or a file, and a folder is to be made there: rm {VENV.name}")
    if python.exists() and not (VENV / CUT_OFF).exists():
        version = subprocess.run(
            [str(python), "-c", "import pip, platform; print(platform.python_version())"],
            capture_output=True, text=True, check=False,
        ).stdout.strip()  # fmt: skip
        if version != platform.python_version():
            raise ContractError(
                f"{VENV} is of Python {version or 'that is gone or has no pip'} and this is {platform.python_version()}. "
                f"Delete it (rm -r {VENV.name}) or name its Python: make PYTHON=…"
            )
        return
    own_pip = importlib.util.find_spec("ensurepip") is not None  # Debian and Colab leave it out
    if not own_pip and importlib.util.find_spec("pip") is None:
        major, minor = sys.version_info[:2]
        raise ContractError(
            f"this Python cannot make virtual environments. On Debian and Ubuntu: apt-get install python{major}.{minor}-venv"
        )
    _empty_venv()
    for folder, least in ((ROOT, INSTALL_BYTES[build]), (Path(tempfile.gettempdir()), UNPACK_BYTES[build])):
        _check_free(folder, least, "the install")
    VENV.mkdir(exist_ok=True)
    (VENV / CUT_OFF).touch()  # before anything else: what has this file is begun anew
    base = getattr(sys, "_base_executable", sys.executable)  # this Python may be the one of .venv
    steps = [[base, "-m", "venv", str(VENV)]]
    if not own_pip:
        steps = [
            [*steps[0], "--without-pip"],
            [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "pip"],
        ]
    for step in steps:
        made = subprocess.run(step, capture_output=True, text=True, check=False, env=_environment())
        if made.returncode:
            raise ContractError(f"{VENV} could not be made: {_last(made.stdout + made.stderr)}")


def _use(here: Here | None) -> None:
    """Link to the torch of another Python, with pins that name it, or take the links of an earlier install away."""
    linked = (VENV / PINS).exists()
    if here is None and not linked:
        return
    (VENV / CUT_OFF).touch()
    (VENV / INSTALLED).unlink(missing_ok=True)
    if here is None:
        torch_here.unlink(_packages())
        (VENV / PINS).unlink()
        return
    torch_here.link(here, _packages())
    pins = (ROOT / PINS).read_text(encoding="utf-8").replace(_torch_pin(), f"torch=={here.version}", 1)
    write_text_atomic(VENV / PINS, pins)


def _packages() -> Path:
    return next(VENV.glob("lib/python*/site-packages"))


def _empty_venv() -> None:
    """Delete what an install left half-made, or one whose Python is gone; nothing that `make` did not make."""
    if not VENV.exists():
        return
    if any(VENV.iterdir()) and not any((VENV / mark).exists() for mark in (CUT_OFF, INSTALLED)):
        raise ContractError(f"{VENV} has no Python and was not made by make. Move it away or delete it.")
    (VENV / CUT_OFF).touch()  # stays to the end, in case this is cut off, too
    for entry in VENV.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != CUT_OFF:
            entry.unlink()


def _check_free(folder: Path, least: int, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < least:
        raise ContractError(
            f"{folder} has {free / 1e9:.1f} GB free and {what} needs {least / 1e9:.1f} GB. Free some, "
            f"or {'put the checkout on another disk' if folder == ROOT else 'set TMPDIR to a folder on another disk'}."
        )


def has_nvidia_driver() -> bool:
    """Whether this machine has a driver for NVIDIA GPUs, under Linux or under WSL."""
    return DRIVER.exists() or shutil.which("nvidia-smi") is not None


def wants_cpu_index(pip_config: str) -> bool:
    """Whether torch is to come from PyTorch's index of CPU builds; `pip_config`: what `pip config list` prints."""
    configured = any(
        re.match(rf"[^=]*\.{source}=(?!''$)", line) for line in pip_config.splitlines() for source in SOURCES
    )
    return sys.platform == "linux" and not has_nvidia_driver() and not configured


def _pip_config() -> str:
    command = [str(VENV / "bin" / "python"), "-m", "pip", "config", "list"]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=_environment()).stdout


def _environment() -> dict[str, str]:
    """Of what is run here, without what is meant for another Python: pip would find its packages and not install them."""
    others = ("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH")
    return {name: value for name, value in os.environ.items() if name not in others}


def _torch_pin() -> str:
    found = re.search(r"^torch==\S+", (ROOT / PINS).read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return found.group()


def _install_cpu_torch(index: str, flags: list[str], lock: int, *, needed: bool) -> None:
    """Only torch, so that no other package asks that index; what torch needs comes with all the rest."""
    print(f"  torch: a CPU build from {index} (make TORCH=cuda: the other)", flush=True)
    once = ["--retries", "1", "--timeout", "15"]
    try:
        _pip(lock, "install", *flags, "--index-url", index, "--no-deps", *once, _torch_pin())
    except ContractError:
        if needed:
            raise
        print(f"  torch: {index} gave none, so it comes from pip's default index, with CUDA's libraries", flush=True)


def _pip(lock: int, *arguments: str) -> None:
    """Run pip with the pins; shows what is large and what went wrong. Raises `ContractError` when it fails.

    It holds the lock, too, in case it outlives this process.
    """
    command = [str(VENV / "bin" / "python"), "-m", "pip", *arguments]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    # the pins' path is relative, since pip would split it at spaces; a user's own setting of `user` cannot hold in .venv
    pins = f"{VENV.name}/{PINS}" if (VENV / PINS).exists() else PINS
    environment = _environment() | {"PIP_CONSTRAINT": pins, "PIP_USER": "0"}
    last: deque[str] = deque(maxlen=30)
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, pass_fds=[lock]
    ) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            if is_noise(line):
                continue
            last.append(line)
            if line.startswith("Installing collected packages:"):  # until here nothing has changed
                (VENV / CUT_OFF).touch()
                (VENV / INSTALLED).unlink(missing_ok=True)
            if shown := progress(line):
                print(f"  {shown}", flush=True)
    if pip.returncode:
        anew = " The same command begins anew." if (VENV / CUT_OFF).exists() else ""
        raise ContractError(f"pip failed: {_last(''.join(last))}{anew}")


def is_noise(line: str) -> bool:
    """Whether a line of pip's says what it says of many packages: that a folder lacks it, or that it lacks an extra."""
    if line.startswith("WARNING: Location"):
        return "is ignored" in line
    return "does not provide the extra" in line


def progress(line: str) -> str | None:
    """What a line of pip's is worth showing as, or None."""
    if found := re.match(r"\s*Downloading (\S+) \(([\d.]+) (MB|GB)\)", line):
        megabytes = float(found[2]) * (1000 if found[3] == "GB" else 1)
        return f"downloading {found[1].split('/')[-1]}, {megabytes:.0f} MB" if megabytes >= LARGE_MB else None
    if line.startswith("Installing collected packages:"):
        return f"unpacking {line.count(',') + 1} packages"
    return line.rstrip() if line.startswith("WARNING") and not line.startswith("WARNING: Retrying") else None


def _last(output: str) -> str:
    """The sentence that says why, from the output of a command that failed."""
    if "No space left on device" in output:
        free = ", ".join(
            f"{shutil.disk_usage(one).free / 1e9:.1f} GB free in {one}" for one in (ROOT, tempfile.gettempdir())
        )
        return f"the disk is full ({free}). Free some, or set TMPDIR to a folder on another disk."
    if "connection broken by" in output or "No matching distribution found for setuptools" in output:
        return (
            "the package index could not be reached. Look at the network, the proxy and what "
            f"`{VENV.name}/bin/python -m pip config list` says."
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR") or "Error" in line]
    told = [line for line in errors if not line.startswith("ResolutionImpossible")]
    return (told or errors or lines or ["it said nothing"])[-1].rstrip(".") + "."


if __name__ == "__main__":
    sys.exit(main())
