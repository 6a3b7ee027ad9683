"""Calls run beside each other, a capture alone."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.engine.captures import CaptureGuard


def test_calls_run_beside_each_other() -> None:
    guard, meeting = CaptureGuard(), threading.Barrier(2, timeout=60)

    def call() -> None:
        with guard.call():
            meeting.wait()

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(call) for _ in range(2)]:
            done.result()


def test_a_capture_waits_for_calls_and_comes_before_those_that_follow() -> None:
    guard, order = CaptureGuard(), list[str]()
    began, go_on, asked = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with guard.call():
            began.set()
            assert go_on.wait(60)
            order.append("first call")

    def capture() -> None:
        asked.set()
        with guard.capture():
            order.append("capture")

    def second() -> None:
        with guard.call():
            order.append("second call")

    with ThreadPoolExecutor(3) as threads:
        running = [threads.submit(first)]
        assert began.wait(60)
        running.append(threads.submit(capture))
        assert asked.wait(60)
        while not guard._waiting:
            pass
        running.append(threads.submit(second))
        go_on.set()
        for done in running:
            done.result(60)
    assert order == ["first call", "capture", "second call"]


def test_a_call_or_capture_ends_with_an_error() -> None:
    guard = CaptureGuard()
    for taken in (guard.call, guard.capture, guard.call, guard.capture):
        try:
            with taken():
                raise RuntimeError("broken")
        except RuntimeError:
            pass


def test_calls_go_on_when_a_capture_is_interrupted_while_it_waits() -> None:
    """By Ctrl-C, which is raised in the main thread wherever it is."""
    guard, began, go_on = CaptureGuard(), threading.Event(), threading.Event()
    main = threading.main_thread().ident or 0

    def first() -> None:
        with guard.call():
            began.set()
            assert go_on.wait(60)

    def second() -> None:
        with guard.call():
            pass

    def interrupt() -> None:
        while not guard._waiting:
            pass
        running.append(threads.submit(second))
        while len(guard._changed._waiters) != 2:  # type: ignore[attr-defined]
            pass
        signal.pthread_kill(main, signal.SIGINT)

    with ThreadPoolExecutor(3) as threads:
        running = [threads.submit(first)]
        assert began.wait(60)
        interrupting = threads.submit(interrupt)
        with pytest.raises(KeyboardInterrupt), guard.capture():
            raise AssertionError("beside a call")
        interrupting.result(60)
        try:
            running[1].result(5)
        finally:
            go_on.set()
