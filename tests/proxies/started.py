"""Real nginx and HAProxy with the files of docs/proxies, on free ports, before services on this machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conftest import ROOT

CONFIGS = ROOT / "docs" / "proxies"
PATIENCE = 60.0  # seconds


@dataclass(frozen=True)
class Proxy:
    """One that runs: the address of its plain port and of its TLS port."""

    url: str
    tls_url: str
    process: subprocess.Popen[bytes]

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """All its processes stand still meanwhile: what comes then, comes at once afterwards."""
        os.killpg(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.process.pid, signal.SIGCONT)


Front = Callable[[Path, Sequence[str], Mapping[str, str]], AbstractContextManager[Proxy]]


def needed(*programs: str) -> None:
    """Skip the test where one of these programs is not there."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")


def edited(text: str, changes: Mapping[str, str]) -> str:
    """The text with each key replaced, all of which must be in it once: a change of the docs is noticed."""
    for old, new in changes.items():
        assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
        text = text.replace(old, new)
    return text


@contextmanager
def nginx(folder: Path, services: Sequence[str], changes: Mapping[str, str]) -> Iterator[Proxy]:
    """nginx.conf with `changes` before these services (base URLs); its files go into `folder`."""
    needed("nginx", "openssl")
    certificate(folder)
    plain, tls = free_ports(2)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"\n    {kind}_temp_path {folder / kind};" for kind in kinds)
    server = "        server 127.0.0.1:8000 max_fails=0;"
    lines = "\n".join(server.replace("127.0.0.1:8000", urlsplit(service).netloc) for service in services)
    text = edited((CONFIGS / "nginx.conf").read_text(encoding="utf-8"), changes)
    text = edited(text, {server: lines, "listen 8080": f"listen 127.0.0.1:{plain}", "listen 8443": f"listen 127.0.0.1:{tls}",
        "/etc/nginx/tls/cert.pem": str(folder / "cert.pem"), "/etc/nginx/tls/key.pem": str(folder / "key.pem"),
        "http {": f"http {{\n    access_log off;{places}"})  # fmt: skip
    (folder / "nginx.conf").write_text(text, encoding="utf-8")
    log = folder / "nginx.log"
    one = f"daemon off; pid {folder / 'nginx.pid'}; error_log {log};" + (" user root;" if os.geteuid() == 0 else "")
    with _running(["nginx", "-p", folder, "-e", log, "-c", folder / "nginx.conf", "-g", one], log, plain, tls) as proxy:
        yield proxy


@contextmanager
def haproxy(folder: Path, services: Sequence[str], changes: Mapping[str, str]) -> Iterator[Proxy]:
    """haproxy.cfg with `changes` before these services (base URLs); its files go into `folder`."""
    needed("haproxy", "openssl")
    certificate(folder)
    plain, tls = free_ports(2)
    lines = [f"    server s{i} {urlsplit(service).netloc}" for i, service in enumerate(services)]
    text = edited((CONFIGS / "haproxy.cfg").read_text(encoding="utf-8"), changes)
    text = edited(text, {"    server one 127.0.0.1:8000": "\n".join(lines), "bind :8080": f"bind 127.0.0.1:{plain}",
        "bind :8443": f"bind 127.0.0.1:{tls}", "/etc/haproxy/tls.pem": str(folder / "both.pem")})  # fmt: skip
    (folder / "haproxy.cfg").write_text(text, encoding="utf-8")
    with _running(["haproxy", "-db", "-f", folder / "haproxy.cfg"], folder / "haproxy.log", plain, tls) as proxy:
        yield proxy


def certificate(folder: Path) -> None:
    """A self-signed one for this machine: cert.pem, key.pem, and both.pem with both."""
    if not (folder / "both.pem").exists():
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
            check=True, capture_output=True,
        )  # fmt: skip
        (folder / "both.pem").write_bytes((folder / "cert.pem").read_bytes() + (folder / "key.pem").read_bytes())


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; a proxy cannot be asked which one it has taken."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def _running(command: Sequence[str | Path], log: Path, plain: int, tls: int) -> Iterator[Proxy]:
    with log.open("ab") as file:
        # a process group of its own, so that all of it can be stopped
        process = subprocess.Popen(list(map(str, command)), stdout=file, stderr=file, process_group=0)
    try:
        deadline = time.monotonic() + PATIENCE
        while not _listens(plain):
            assert process.poll() is None, f"{command[0]} did not start: {log.read_text(encoding='utf-8')}"
            assert time.monotonic() < deadline, f"{command[0]} does not listen"
            time.sleep(0.02)
        yield Proxy(f"http://127.0.0.1:{plain}", f"https://127.0.0.1:{tls}", process)
        assert process.poll() is None, f"{command[0]} has ended: {log.read_text(encoding='utf-8')}"
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
