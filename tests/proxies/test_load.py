"""No request is lost behind nginx and HAProxy: in a mixed load, at a swap, at a rolling restart, when a connection idles."""

from __future__ import annotations

import signal
import subprocess
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from tests.app.inside import until
from tests.app.serving.test_lifecycle import load, point, with_other_labels
from tests.conftest import serving, serving_process
from tests.proxies.conftest import PATIENT, Photo
from tests.proxies.load import mixed, wrong
from tests.proxies.started import Front, free_ports, haproxy, nginx
from tests.proxies.wire import connected, head, read_answer

pytestmark = pytest.mark.proxies

FRONTS = {"nginx": nginx, "haproxy": haproxy}
# The times of docs/proxies, shorter: a proxy's idle connections end after 1 s, the service's after 3.
SOON = {
    "nginx": {"keepalive_timeout 60s;": "keepalive_timeout 1s;"},
    "haproxy": {"pool-purge-delay 10s": "pool-purge-delay 1s"},
}
# Nothing is asked again, as by default. HAProxy would open a connection of its own for what may be a client's first.
ONCE = {
    "nginx": {"proxy_next_upstream error timeout http_503 non_idempotent;": "proxy_next_upstream error timeout;"},
    "haproxy": {"    retry-on conn-failure empty-response ": "    #", "http-reuse safe": "http-reuse always"},
}


@pytest.mark.parametrize("name", FRONTS)
def test_a_mixed_load(name: str, bundle: Path, photo: Photo, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    count = request.config.getoption("requests", 2000)
    start: Front = FRONTS[name]
    with (
        serving(bundle, *PATIENT, "--keep-alive-seconds", 3) as url,
        start(tmp_path, [url], SOON[name]) as proxy,
    ):
        found = mixed(proxy.url, count, photo.data, photo.label)
    print(f"{name}, {count} requests: {dict(found)}")
    assert wrong(found) == {}
    assert sum(found.values()) == count


@pytest.mark.parametrize(
    ("name", "seconds", "again", "answered"),
    [("nginx", 1, False, False), ("nginx", 1, True, True), ("nginx", 620, False, True), ("haproxy", 620, False, True)],
)
def test_who_closes_idle_connections(
    name: str, seconds: int, again: bool, answered: bool, bundle: Path, photo: Photo, tmp_path: Path
) -> None:
    """A service that closes first loses what the proxy sends meanwhile, unless the proxy asks `again`.

    The proxy stands still: the request is there before it hears of the close. Else that is a matter of microseconds.
    (HAProxy may hear of the close first all the same, so that it loses some: what is tried of it is that it need not.)
    """
    whole = head(len(photo.data)) + photo.data
    with (
        serving_process(bundle, *PATIENT, "--keep-alive-seconds", seconds) as (url, process),
        FRONTS[name](tmp_path, [url], {} if again else ONCE[name]) as proxy,
        connected(proxy.url) as (wire, file),
    ):
        wire.sendall(whole)
        assert photo.label.encode() in read_answer(file)
        with proxy.stopped():
            wire.sendall(whole)
            if seconds == 1:
                until(lambda: not _established(process.pid))
        told = file.readline()
        assert told.startswith(b"HTTP/1.1 200 ") == answered, told


def _established(pid: int) -> list[str]:
    return [str(one) for one in psutil.Process(pid).net_connections("tcp") if one.status == psutil.CONN_ESTABLISHED]


@pytest.mark.parametrize("name", FRONTS)
def test_a_swap_under_load(name: str, bundle: Path, tmp_path: Path) -> None:
    folders = [bundle, with_other_labels(bundle, tmp_path / "other")]
    link = tmp_path / "current"
    link.symlink_to(bundle)
    with (
        serving_process(link, *PATIENT) as (url, process),
        FRONTS[name](tmp_path, [url], {}) as proxy,
        load(proxy.url) as answers,
    ):
        versions = set()
        for target in [folders[1], folders[0]] * 3:
            _some_more(answers)
            point(link, target)
            before = _version(url)
            process.send_signal(signal.SIGHUP)
            until(lambda before=before: _version(url) != before)  # type: ignore[misc]
            versions.add(_version(url))
    _all_answered(answers)
    assert len(versions) == 2


def _version(url: str) -> str:
    return str(httpx.get(f"{url}/info").json()["model"]["version"])


@pytest.mark.parametrize("name", FRONTS)
def test_a_rolling_restart_under_load(name: str, bundle: Path, tmp_path: Path) -> None:
    """Each of two instances is stopped by SIGTERM, and another takes its port, while clients go on."""
    ports = free_ports(2)

    def instance(port: int) -> AbstractContextManager[tuple[str, subprocess.Popen[bytes]]]:
        return serving_process(bundle, *PATIENT, "--port", port, "--shutdown-delay-seconds", 5)

    with ExitStack() as stack:
        running = [stack.enter_context(ExitStack()) for _ in ports]
        for port, one in zip(ports, running, strict=True):
            one.enter_context(instance(port))
        proxy = stack.enter_context(FRONTS[name](tmp_path, [f"http://127.0.0.1:{port}" for port in ports], {}))
        with load(proxy.url) as answers:
            for port, one in zip(ports, running, strict=True):
                _some_more(answers)
                one.close()  # SIGTERM, and its end
                _some_more(answers)
                one.enter_context(instance(port))
            _some_more(answers)
        _all_answered(answers)


def _some_more(answers: list[httpx.Response | Exception]) -> None:
    begun = len(answers)
    until(lambda: len(answers) > begun + 10)


def _all_answered(answers: list[httpx.Response | Exception]) -> None:
    print(f"{len(answers)} answers")
    bad = [a if isinstance(a, Exception) else (a.status_code, a.text) for a in answers
           if isinstance(a, Exception) or a.status_code != 200]  # fmt: skip
    assert bad == []
