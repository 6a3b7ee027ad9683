"""The whole path on two CPU cores, offline: train, compare, export, serve, label one picture over HTTP.

    make demo

Every step is a command that is printed before it runs, so that it can be typed again.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from contract.cli import run
from contract.errors import ContractError

ROOT = Path(__file__).parent.parent
WORK = Path("build/demo")
CHECKPOINT, BUNDLE, PICTURE = WORK / "checkpoint", WORK / "bundle", WORK / "picture.png"
HELD_OUT_PICTURE = 1_000_005  # drawn pictures from 1,000,000 on are never trained on


def main() -> int:
    """Run all steps; returns the exit code of the first that fails, 1 for another failure, 130 after Ctrl-C."""
    return run("demo", _demo)


def _demo() -> int:
    os.chdir(ROOT)
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "*"  # all that is asked is on this machine
    WORK.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    print("Train, compare, export, serve, label: five steps, two to four minutes on two cores, offline.", flush=True)
    try:
        step(
            "Train a small BLIP on drawn pictures", 100, "training", "--recipe", "drawn", "--out", CHECKPOINT, "--force"
        )
        step("Before and after, on pictures it has never seen", 30, "training.evaluate", CHECKPOINT)
        step("Export to ONNX, compared with PyTorch", 15, "export", CHECKPOINT, BUNDLE, "--force")
        step("Draw one picture it has never seen", 5, "training.drawn", "--index", HELD_OUT_PICTURE, "--out", PICTURE)
        with server() as url:
            label(url)
    except subprocess.CalledProcessError as error:
        print(f"demo: this step failed with exit code {error.returncode}", file=sys.stderr)
        return error.returncode if error.returncode > 0 else 1
    except (RuntimeError, httpx.HTTPError) as error:
        raise ContractError(str(error)) from error
    print(
        f"\nAll steps took {time.monotonic() - started:.0f} s. The bundle is {BUNDLE}. Next, serve it and send photos:\n"
    )
    print(f"    make serve BUNDLE={BUNDLE}")
    print(f"    curl -F image=@{PICTURE} http://127.0.0.1:8000/predict\n")
    return 0


def step(title: str, seconds: int, module: str, *arguments: object) -> None:
    """Print a command and what it takes on two cores, and run it."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    print(f"\n== {title} (about {seconds} s)\n$ python {shlex.join(command[1:])}", flush=True)
    subprocess.run(command, check=True)


@contextmanager
def server() -> Iterator[str]:
    """Start the service on a free port, yield its URL once it is ready, and stop it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "app", "--bundle", str(BUNDLE), "--port", str(port), "--log-level", "warning"]
    print(f"\n== Serve it (about 5 s)\n$ python {shlex.join(command[1:])}", flush=True)
    process = subprocess.Popen(command)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)
    print("service stopped")


def wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    """Raises `RuntimeError` when the service ends or is not ready within a minute."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the service ended with exit code {process.returncode}")
        try:
            if httpx.get(f"{url}/health/ready", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError("the service was not ready within 60 s")


def label(url: str) -> None:
    """Post the picture and print the answer."""
    print(f"\n== Label it\n$ curl -F image=@{PICTURE} {url}/predict", flush=True)
    answer: dict[str, Any] = {}
    for _ in range(3):  # the times of the last one: caches are warm
        response = httpx.post(f"{url}/predict", files={"image": PICTURE.read_bytes()}, params={"top_k": 3})
        response.raise_for_status()
        answer = response.json()
    print(f"picture  {PICTURE}")
    print(f"label    {answer['prediction']}  ({answer['raw_output']!r})")
    print("top 3    " + ", ".join(f"{one['prediction']} {100 * one['confidence']:.1f} %" for one in answer["top"]))
    print("times    " + ", ".join(f"{stage} {value:.1f} ms" for stage, value in answer["timings_ms"].items()))


if __name__ == "__main__":
    sys.exit(main())
