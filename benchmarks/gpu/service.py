"""The service from end to end, as a client sees it: started, asked over HTTP, stopped. Knows `app` by its face only."""

from __future__ import annotations

import io
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from contract.bundle import Bundle
from contract.errors import ContractError

ROOT = Path(__file__).resolve().parents[2]
# `python -m app` in a process whose CUDA libraries are torch's: one machine that this is run on has no others.
START = "import sys, torch; from app.__main__ import main; sys.exit(main())"
READY_SECONDS, REQUESTS = 45, 20


def service(bundle: Bundle, provider: str) -> dict[str, Any]:
    """Serve a bundle on a free port, post a picture as a browser would, several times, and stop it.

    Raises `ContractError` when it does not start, does not run on `provider`, or an answer is not one of its labels.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", START, "--bundle", str(bundle.path), "--provider", provider, "--port", str(port)]
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            base = f"http://127.0.0.1:{port}"
            _wait(f"{base}/health/ready", process, log)
            ready = round(time.monotonic() - began, 1)
            return {"ready_seconds": ready, **_ask(base, bundle, provider)}
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _ask(base: str, bundle: Bundle, provider: str) -> dict[str, Any]:
    info = _get(f"{base}/info")
    if info["provider"] != provider:
        raise ContractError(f"The service runs on {info['provider']}, not on {provider}.")
    body, kind = _multipart(_picture(bundle.manifest.image_size))
    milliseconds, answers = [], []
    for _ in range(REQUESTS):
        began = time.perf_counter()
        answers.append(_get(f"{base}/predict", body, kind))
        milliseconds.append(1000 * (time.perf_counter() - began))
    named = {answer["prediction"] for answer in answers}
    if bundle.labels is None or len(named) != 1 or not named <= {label.display for label in bundle.labels}:
        raise ContractError(f"The same picture was called {sorted(named)}.")
    return {
        "provider": info["provider"], "precision": info["precision"], "self_check": info["self_check"],
        "prediction": answers[0]["prediction"], "raw_output": answers[0]["raw_output"],
        "timings_ms": answers[-1]["timings_ms"], "median_ms": round(statistics.median(milliseconds), 2),
    }  # fmt: skip


def _wait(url: str, process: subprocess.Popen[bytes], log: IO[str]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            _get(url)
        except (OSError, ContractError):
            if process.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                raise ContractError(f"The service did not get ready: {log.read()[-500:].strip()}") from None
            time.sleep(0.2)
        else:
            return


def _get(url: str, body: bytes | None = None, kind: str = "") -> Any:
    request = urllib.request.Request(url, data=body, headers={"Content-Type": kind} if kind else {})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise ContractError(f"{url} answers {error.code}: {error.read()[:300].decode(errors='replace')}") from None


def _picture(size: int) -> bytes:
    """A PNG [size, size] of random coarse colours."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((size, size)).save(file, format="PNG")
    return file.getvalue()


def _multipart(photo: bytes) -> tuple[bytes, str]:
    """Body and content type of a form whose field `image` is a file."""
    edge = uuid.uuid4().hex
    head = (
        f'--{edge}\r\nContent-Disposition: form-data; name="image"; filename="picture.png"\r\n'
        "Content-Type: image/png\r\n\r\n"
    )
    return head.encode() + photo + f"\r\n--{edge}--\r\n".encode(), f"multipart/form-data; boundary={edge}"
