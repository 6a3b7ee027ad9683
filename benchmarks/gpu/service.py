"""The service from end to end, as a client sees it: started, asked over HTTP, stopped. Knows `app` by its face only."""

from __future__ import annotations

import argparse
import http.client
import io
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from contract.bundle import Bundle
from contract.errors import ContractError

ROOT = Path(__file__).resolve().parents[2]
# `python -m app` in a process whose CUDA libraries are torch's: one machine that this is run on has no others.
START = "import sys, torch; from app.__main__ import main; sys.exit(main())"
# On a stand-in device all answers are zero, and the service would rightly refuse to start with them.
REHEARSED = (
    "import sys, torch; from app.engine import check; "
    "check.run_self_check = lambda *_: check.SelfCheckReport(0.0, 0.0, 0.0); "
    "from app.__main__ import main; sys.exit(main())"
)
READY_SECONDS = 60
WARM_UP = 20  # requests
CLIENTS = (1, 8, 32)
SECONDS = 4.0  # of each number of clients


def service(bundle: Bundle, args: argparse.Namespace) -> dict[str, Any]:
    """Serve a bundle on a free port, post a picture as a browser would, by one client and by several, and stop it.

    Raises `ContractError` when it does not start, does not run on `args.provider`, or an answer is not one of its labels.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", REHEARSED if args.rehearse else START, "--bundle", str(bundle.path)]
    command += ["--provider", args.provider, "--port", str(port)]
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            base = f"http://127.0.0.1:{port}"
            _wait(f"{base}/health/ready", process, log)
            ready = round(time.monotonic() - began, 1)
            return {"ready_seconds": ready, **_ask(base, bundle, args)}
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _ask(base: str, bundle: Bundle, args: argparse.Namespace) -> dict[str, Any]:
    info = _get(f"{base}/info")
    if info["provider"] != args.provider:
        raise ContractError(f"The service runs on {info['provider']}, not on {args.provider}.")
    body, kind = _multipart(_picture(bundle.manifest.image_size))
    answers = [_get(f"{base}/predict", body, kind) for _ in range(WARM_UP)]
    named = {answer["prediction"] for answer in answers}
    if bundle.labels is None or len(named) != 1 or not named <= {label.display for label in bundle.labels}:
        raise ContractError(f"The same picture was called {sorted(named)}.")
    seconds = 0.5 if args.rehearse else SECONDS
    return {
        "provider": info["provider"], "precision": info["precision"], "self_check": info["self_check"],
        "prediction": answers[0]["prediction"], "raw_output": answers[0]["raw_output"],
        "timings_ms": answers[-1]["timings_ms"], "photo_bytes": len(body),
        "clients": {str(count): _load(base, body, kind, count, seconds) for count in CLIENTS},
    }  # fmt: skip


def _load(base: str, body: bytes, kind: str, clients: int, seconds: float) -> dict[str, Any]:
    """So many clients, each of which asks again as soon as it is answered, on a kept connection."""
    ends = time.perf_counter() + seconds
    with ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(lambda _: _client(base, body, kind, ends), range(clients)))
    milliseconds = np.array([one for client in found for one in client])
    p50, p95 = np.percentile(milliseconds, (50, 95))
    return {
        "answers": len(milliseconds), "photos_per_second": round(len(milliseconds) / seconds, 1),
        "p50_ms": round(float(p50), 2), "p95_ms": round(float(p95), 2),
    }  # fmt: skip


def _client(base: str, body: bytes, kind: str, ends: float) -> list[float]:
    """Milliseconds of each answer. Raises `ContractError` for one that is not 200."""
    connection = http.client.HTTPConnection(base.removeprefix("http://"), timeout=20)
    found: list[float] = []
    while not found or time.perf_counter() < ends:
        began = time.perf_counter()
        connection.request("POST", "/predict", body, {"Content-Type": kind})
        answer = connection.getresponse()
        said = answer.read()
        found.append(1000 * (time.perf_counter() - began))
        if answer.status != 200:
            raise ContractError(f"/predict answers {answer.status}: {said[:200].decode(errors='replace')}")
    connection.close()
    return found


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
    """A JPEG [size, size] of random coarse colours."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((size, size)).save(file, format="JPEG", quality=90)
    return file.getvalue()


def _multipart(photo: bytes) -> tuple[bytes, str]:
    """Body and content type of a form whose field `image` is a file."""
    edge = uuid.uuid4().hex
    head = (
        f'--{edge}\r\nContent-Disposition: form-data; name="image"; filename="picture.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    return head.encode() + photo + f"\r\n--{edge}--\r\n".encode(), f"multipart/form-data; boundary={edge}"
