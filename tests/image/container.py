"""A container of the image under test, run as a cluster would: nothing may be written, no capabilities, no root."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from contract.errors import ContractError
from scripts.containers import Tools, find_tools

IMAGE = "FOOD_VISION_IMAGE"
HARDENED = ("--read-only", "--cap-drop=ALL", "--security-opt", "no-new-privileges")


@dataclass(frozen=True)
class Container:
    """A running container and its base URL."""

    tools: Tools
    name: str
    url: str

    def shell(self, line: str) -> str:
        """Stdout of a shell line in the container."""
        return self.tools.call("exec", self.name, "sh", "-c", line)

    def stop(self) -> int:
        """Send SIGTERM, wait, and return the exit code; 137 when it had to be killed after 30 s."""
        self.tools.call("stop", "--time", 30, self.name)
        return int(self.tools.call("wait", self.name))

    def logs(self) -> str:
        """All that the service wrote to stderr and stdout."""
        command = [*self.tools.run, "logs", self.name]
        import subprocess

        done = subprocess.run(command, env=os.environ | self.tools.env, capture_output=True, text=True, check=True)
        return done.stdout + done.stderr


def image_under_test() -> tuple[Tools, str]:
    """The tools and the image that FOOD_VISION_IMAGE names, or skip the test with the reason."""
    name = os.environ.get(IMAGE)
    if not name:
        pytest.skip(f"needs {IMAGE}, the name of an image: make image-test")
    try:
        tools = find_tools()
    except ContractError as error:
        pytest.skip(str(error))
    assert tools.has(name), f"there is no image {name}: make image"
    return tools, name


@contextmanager
def running(tools: Tools, image: str, *options: object, bundle: Path | None = None) -> Iterator[Container]:
    """A hardened container, ready to answer, and removed at the end."""
    flags = [*HARDENED, *options]
    if tools.name == "podman":
        flags.append("--read-only-tmpfs=false")  # by itself podman puts folders that can be written over /tmp and /run
    if bundle is not None:
        flags += ["--volume", f"{bundle}:/bundle:ro"]
    name = tools.call("run", "--detach", "--publish", "127.0.0.1::8000", *flags, image)
    try:
        container = Container(tools, name, f"http://{tools.call('port', name, '8000/tcp')}")
        wait_until_ready(container.url, lambda: container.logs())
        yield container
    finally:
        tools.call("rm", "--force", name)


def wait_until_ready(url: str, logs: object, seconds: float = 60) -> None:
    """Wait for 200 at /health/ready. Fails the test with `logs()` when it does not come."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health/ready", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"not ready within {seconds} s: {logs() if callable(logs) else logs}")
