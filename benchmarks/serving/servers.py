"""The servers that are compared: started, paused and stopped as whole process trees.

All stay loaded, and only the one that is measured runs: the others are stopped by SIGSTOP meanwhile, since some of them
poll (LitServe's idle processes take a whole core here) and would take cores from the one that is measured.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import uvloop

from benchmarks.hardware import ROOT
from benchmarks.known_engine import Device
from benchmarks.load.connection import server_of
from benchmarks.load.phase import Target
from benchmarks.load.photographs import Photograph
from benchmarks.load.routes import Route
from benchmarks.load.run import check
from contract.errors import ContractError

OURS, PLAIN, LITSERVE, ORIGINAL = "food-vision", "plain FastAPI", "LitServe", "the original (Flask)"
BEFORE = "before"
START_SECONDS = 180.0
NEW_TOKENS = 6  # of a tuned caption: a photo of delicious 6 [SEP]


@dataclass(frozen=True)
class Entry:
    """A server to compare: its name, what it is, and its command for a bundle, a checkpoint and a number of threads.

    `root` is the checkout that it runs from, with a bundle that was exported there.
    """

    name: str
    what: str
    command: Callable[[Path, Path, int], list[str]]
    scraped: bool = False
    root: Path = ROOT


def _baseline(module: str, *more: str) -> Callable[[Path, Path, int], list[str]]:
    def command(bundle: Path, checkpoint: Path, threads: int) -> list[str]:
        paths = ["--bundle", str(bundle), "--checkpoint", str(checkpoint), "--threads", str(threads)]
        return ["-m", f"benchmarks.serving.baselines.{module}", *paths, *more]

    return command


def _ours(bundle: Path, checkpoint: Path, threads: int) -> list[str]:
    return ["-m", "app", "--bundle", str(bundle), "--threads", str(threads), "--log-level", "warning"]


ENTRIES = (
    Entry(OURS, "this project's service as it is installed", _ours, scraped=True),
    Entry(PLAIN, "FastAPI, one photo at a time, the same engine function", _baseline("plain_fastapi")),
    Entry(LITSERVE, "LitServe, batches of up to 16, the same engine function", _baseline("litserve_server")),
    Entry(
        ORIGINAL,
        "Flask's development server around transformers' generate",
        _baseline("flask_original", "--new-tokens", str(NEW_TOKENS)),
    ),
)


def older(root: Path) -> Entry:
    """Our service from an older checkout of this repository, with the packages of this one."""
    return Entry(BEFORE, "this project's service at an older commit", _ours, root=root)


EXPORT = "import sys; from pathlib import Path; from benchmarks.random_model import random_model as make; "
EXPORT += "print(make(sys.argv[1], Path(sys.argv[2])).bundle('fp32').path)"


def exported_by(root: Path, shapes: str, work: Path) -> Path:
    """The bundle of random weights that the checkout at `root` exports. Raises `ContractError` when it cannot."""
    done = subprocess.run(
        [sys.executable, "-c", EXPORT, shapes, str(work.absolute())],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ContractError(f"The checkout {root} exports no bundle: {done.stderr.strip()[-300:]}")
    return Path(done.stdout.strip().splitlines()[-1])


def on_device(entry: Entry, of: Device) -> Entry:
    """The same server with an engine of known speed (`known_engine`). Not for the original, which has no engine."""

    def command(bundle: Path, checkpoint: Path, threads: int) -> list[str]:
        plain = entry.command(bundle, checkpoint, threads)
        module = "benchmarks.known_engine" if plain[1] == "app" else plain[1]
        return ["-m", module, *plain[2:], "--device-ms", of.flag]

    return replace(entry, what=f"{entry.what}, on a stand-in device of {of}", command=command)


@dataclass
class Running:
    """A server that answers, paused unless `awake`."""

    entry: Entry
    process: subprocess.Popen[bytes]
    url: str
    log: Path
    _tree: list[psutil.Process] = field(default_factory=list)

    def target(self, photographs: Sequence[Photograph], timeout: float = 60.0) -> Target:
        """Where to send photographs: all servers speak the original contract, so all get the same requests."""
        return Target(Route("multipart", server_of(self.url)), photographs, timeout, scraped=self.entry.scraped)

    def signal(self, number: int) -> None:
        """To every process of the tree."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Let it run within the block."""
        self.signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.signal(signal.SIGSTOP)

    def usage(self) -> tuple[float, int]:
        """Processor seconds so far, and memory in bytes (shared pages counted once, Linux' PSS), of the whole tree."""
        seconds, memory = 0.0, 0
        for one in self._processes():
            with contextlib.suppress(psutil.Error):
                times = one.cpu_times()
                seconds += times.user + times.system
                memory += one.memory_full_info().pss
        return seconds, memory

    def _processes(self) -> list[psutil.Process]:
        if not self._tree:
            with contextlib.suppress(psutil.Error):
                parent = psutil.Process(self.process.pid)
                self._tree = [parent, *parent.children(recursive=True)]
        return self._tree

    def stop(self) -> None:
        """End the tree, politely first."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=10)
        self.signal(signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def started(
    entries: Sequence[Entry],
    bundle: Path,
    checkpoint: Path,
    threads: int,
    work: Path,
    photographs: Sequence[Photograph],
    shapes: str = "tiny",
) -> Iterator[list[Running]]:
    """The servers, each started alone, asked once and paused. Raises `ContractError` when one does not come up.

    `shapes` are those of the bundle, for servers of another checkout, which export their own. They are processes of
    their own sessions, so SIGTERM has to stop like Ctrl-C, or they would stay behind.
    """
    running: list[Running] = []
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        for entry in entries:
            own = bundle if entry.root == ROOT else exported_by(entry.root, shapes, work / entry.name)
            running.append(_start(entry, own, checkpoint, threads, work))
            _wait(running[-1], photographs)
            running[-1].signal(signal.SIGSTOP)
        yield running
    finally:
        for one in running:
            one.stop()
        signal.signal(signal.SIGTERM, before)


def _start(entry: Entry, bundle: Path, checkpoint: Path, threads: int, work: Path) -> Running:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = work / f"{entry.name.split()[0]}.log"
    command = [sys.executable, *entry.command(bundle, checkpoint, threads), "--port", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=entry.root, stdout=out, stderr=out, start_new_session=True)
    return Running(entry, process, f"http://127.0.0.1:{port}", log)


def _wait(one: Running, photographs: Sequence[Photograph]) -> None:
    ends, reason = time.monotonic() + START_SECONDS, ""
    while time.monotonic() < ends and one.process.poll() is None:
        try:
            uvloop.run(check(one.target(photographs[:1], timeout=START_SECONDS)))
            return
        except ContractError as error:
            reason = str(error)
            time.sleep(0.3)
    tail = one.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    raise ContractError(f"{one.entry.name} did not come up: {reason} It last said: {' '.join(tail)[:300] or 'nothing'}")
