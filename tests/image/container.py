"""A container of the image under test, run as a cluster would: nothing may be written, no capabilities, no root."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from contract.errors import ContractError
from scripts.containers import Tools, find_tools

IMAGE, TRAINING_IMAGE, BULK_IMAGE = "FOOD_VISION_IMAGE", "FOOD_VISION_TRAINING_IMAGE", "FOOD_VISION_BULK_IMAGE"
MADE_BY = {
    IMAGE: "image-test", TRAINING_IMAGE: "image-test TARGET=training", BULK_IMAGE: "image-test TARGET=bulk",
}  # fmt: skip
HARDENED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges")


@dataclass(frozen=True)
class Container:
    """A container; `url` is where it answers, empty when no port was published."""

    tools: Tools
    name: str
    url: str = ""

    def shell(self, line: str) -> str:
        """Stdout of a shell line in the container."""
        return self.tools.call("exec", self.name, "sh", "-c", line)

    def signal_and_wait(self) -> int:
        """Send SIGTERM, wait for the end, and return the exit code."""
        self.tools.call("kill", "--signal", "TERM", self.name)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end and return the exit code."""
        return int(self.tools.call("wait", self.name))

    def logs(self) -> str:
        """All that the service wrote."""
        command = [*self.tools.run, "logs", self.name]
        env = os.environ | self.tools.env
        return subprocess.run(command, env=env, stdout=-1, stderr=subprocess.STDOUT, text=True, check=True).stdout


def image_under_test(variable: str = IMAGE) -> tuple[Tools, str]:
    """The tools and the image that the variable names, or skip the test with the reason."""
    name = os.environ.get(variable)
    if not name:
        pytest.skip(f"needs {variable}, the name of an image: make {MADE_BY[variable]}")
    try:
        tools = find_tools()
    except ContractError as error:
        pytest.skip(str(error))
    assert tools.has(name), f"there is no image {name}: make image"
    return tools, name


@contextmanager
def started(tools: Tools, image: str, *options: object, bundle: Path | None = None) -> Iterator[Container]:
    """A hardened container, removed at the end."""
    flags: list[object] = [*HARDENED, *options]
    if tools.name == "podman":
        flags.append("--read-only-tmpfs=false")  # by itself podman puts folders that can be written over /tmp and /run
    if bundle is not None:
        flags += ["--volume", f"{bundle}:/bundle:ro"]
    name = tools.call("run", "--detach", *flags, image)
    try:
        yield Container(tools, name)
    finally:
        tools.call("rm", "--force", name)


@contextmanager
def running(tools: Tools, image: str, *options: object, bundle: Path | None = None) -> Iterator[Container]:
    """A hardened container that is ready to answer at its `url`."""
    with started(tools, image, "--publish=127.0.0.1::8000", *options, bundle=bundle) as container:
        address = tools.call("port", container.name, "8000/tcp").splitlines()[0]
        ready = Container(tools, container.name, f"http://{address}")
        wait_until_ready(ready.url, ready.logs)
        yield ready


def wait_until_ready(url: str, logs: Callable[[], str], seconds: float = 180) -> None:
    """Wait for 200 at /health/ready. Fails the test with the logs when it does not come."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health/ready", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"not ready within {seconds} s: {logs()}")
