"""Connections between two requests: kept longer than any load balancer before them, and no burden."""

from __future__ import annotations

import contextlib
import resource
import signal
from pathlib import Path

from app.settings import Settings
from app.web.places import connections_allowed
from tests.app.logged import logged, warnings
from tests.app.raw import PROBE, answers, connected

LOAD_BALANCERS = {"Google's": 600, "nginx": 60, "AWS's": 60}  # seconds that they keep an idle connection to a server
MANY = 1000


def test_no_load_balancer_waits_longer_by_default() -> None:
    assert Settings.model_fields["keep_alive_seconds"].default > max(LOAD_BALANCERS.values())


def test_a_thousand_idle_connections_do_not_hold_up_the_end(bundle: Path, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    flags = ("--drain-seconds", 3600, "--keep-alive-seconds", 3600, "--max-connections", MANY)
    try:
        with (
            logged(bundle, tmp_path / "log", "--threads", 1, "--decode-processes", 1, *flags) as (url, process, lines),
            contextlib.ExitStack() as open_ones,
        ):
            idle = [open_ones.enter_context(connected(url)) for _ in range(connections_allowed(MANY) - 10)]
            for line in idle[::2]:  # every other one has asked before
                line.sendall(PROBE)
                assert [answer[0] for answer in answers(line)] == [200]
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, "it waited"
            assert {line.recv(1) for line in idle} == {b""}
            few = "connections at a time instead of"  # where fewer files may be open than by default
            assert [line for line in warnings(lines) if few not in line["message"]] == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
