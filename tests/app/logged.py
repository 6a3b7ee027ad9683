"""`python -m app` whose log a test can read: what the server itself says of its requests."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import ROOT, url_once_ready

Lines = Callable[[], list[dict[str, Any]]]


@contextmanager
def logged(bundle: Path, file: Path, *flags: object) -> Iterator[tuple[str, subprocess.Popen[bytes], Lines]]:
    """The base URL of a server that is ready, its process, and its JSON log lines so far; at the end it has stopped."""
    command = [sys.executable, "-m", "app", "--bundle", bundle, "--port", 0, "--log-format", "json", *flags]
    with file.open("wb") as log:
        process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=log, stderr=log)

    def lines() -> list[dict[str, Any]]:
        whole = file.read_text(encoding="utf-8").split("\n")[:-1]  # the last line may not be written to its end
        return [json.loads(line) for line in whole]

    try:
        url = url_once_ready(process, lambda: file.read_text(encoding="utf-8"))
        yield url, process, lines
        process.terminate()
        process.wait(60)
    finally:
        process.kill()  # nothing, if it has ended
        process.wait()


def warnings(lines: Lines) -> list[dict[str, Any]]:
    """The lines that are worth a look, but what a model of drawn pictures, such as the tests' own, is announced with."""
    return [line for line in lines() if line["level"] != "info" and "a demonstration" not in line["message"]]
