"""Serve a bundle.

python -m app --bundle bundles/drawn
curl -F image=@dinner.jpg http://127.0.0.1:8000/predict
"""

from __future__ import annotations

import os
import signal

if __name__ == "__main__":  # before all that takes long to import; what it has begun by then ends with it
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])  # it waits for `app.server`, which can reload

import argparse
import gc
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, NoReturn

import uvicorn

from app.server import create_app
from app.serving.service import LAST_WAIT
from app.settings import ENV_PREFIX, Settings, load_settings
from app.telemetry.logs import configure_logs
from app.telemetry.observe import refused_unread
from app.web.connection import connection_class
from app.web.keys import HEALTH_PATHS
from app.web.places import Places, connections_allowed
from contract.bundle import read_bundle
from contract.cli import run
from contract.errors import ContractError

log = logging.getLogger("food_vision")
# Of one port: the event loop accepts one connection of each in a turn, and a probe stands behind those that came before it.
LISTENERS = 16


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m app",
        description="Serve a bundle over HTTP.",
        epilog=f"Each setting is also an environment variable {ENV_PREFIX}<NAME>; a flag wins.",
    )
    for name, field in Settings.model_fields.items():
        default = "required" if field.is_required() else f"default: {field.default}"
        parser.add_argument(f"--{name.replace('_', '-')}", help=f"{field.description} ({default})", default=None)
    args = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    return run("app", lambda: _serve(args))


class Server(uvicorn.Server):
    """uvicorn's server, which after the first signal goes on serving for `delay` seconds.

    The second ends that, and Ctrl-C after it the wait for requests. However it ends, it ends well:
    no signal is raised again.
    """

    before_exit: Callable[[], None] = staticmethod(lambda: None)
    delay: float = 0
    draining = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See the class."""
        if self.draining or not self.delay:
            super().handle_exit(sig, frame)
            return
        self.draining = True
        self.before_exit()
        timer = threading.Timer(self.delay, setattr, (self, "should_exit", True))
        timer.daemon = True
        timer.start()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """From now on, for good: a signal during the last steps changes nothing either."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle_exit)
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn would leave the application as it is where it was told not to wait."""
        await super().shutdown(sockets)
        if self.force_exit:
            await self.lifespan.shutdown()


def _serve(args: dict[str, Any]) -> int:
    settings = load_settings(**args)
    configure_logs(settings.log_level, settings.log_format)
    bundle = read_bundle(settings.bundle)
    listeners = _listen(settings.host, settings.port)
    failures: list[str] = []

    def on_failure(reason: str) -> None:
        failures.append(reason)
        server.should_exit = True

    app = create_app(bundle, settings, on_failure=on_failure)
    server = Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            log_level=settings.log_level,
            log_config=None,  # one form for all lines: `configure_logs`
            http=connection_class(
                settings.body_timeout_ms / 1000,
                partial(refused_unread, app.state.metrics),
                Places(connections_allowed(settings.max_connections)),
                HEALTH_PATHS | app.state.probed,
            ),
            ws="none",  # a wish for a WebSocket gets the route's own answer
            access_log=False,  # `app.telemetry.observe` writes a line with more in it
            proxy_headers=False,  # nothing here asks who the client is
            timeout_keep_alive=settings.keep_alive_seconds,
            timeout_graceful_shutdown=settings.drain_seconds,
        )
    )
    server.before_exit, server.delay = app.state.service.drain, settings.shutdown_delay_seconds
    gc.collect()
    gc.freeze()  # what is there now stays; to look through all of it would hold up the event loop for a tenth of a second
    server.run(sockets=listeners)
    if failures:
        raise ContractError(failures[0])
    return 0 if server.started else 1


def leave(code: int) -> NoReturn:
    """End the process with this exit code, even if an engine call or a disk never answers:
    `sys.exit` would wait for its thread. A signal changes nothing any more.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # Python's end puts all other handlers back to the default, which kills
    ends = time.monotonic() + LAST_WAIT
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(max(0.0, ends - time.monotonic()))
            if thread.is_alive():
                log.error("the thread %s has not ended: left behind", thread.name)
                logging.shutdown()
                os._exit(code)
    sys.exit(code)


def _listen(host: str, port: int) -> list[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        one = socket.create_server((host, port), family=family)
    except OSError as error:
        raise ContractError(
            f"Cannot listen on {host}:{port}: {error.strerror}. Choose another --host or --port."
        ) from None
    return [one, *(one.dup() for _ in range(LISTENERS - 1))]


if __name__ == "__main__":
    leave(main())
