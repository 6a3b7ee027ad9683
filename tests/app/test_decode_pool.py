"""The pool of processes that decode photos: order, refusals, deaths, hangs, ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from app.decode_pool import DecodePool
from app.errors import ServiceError
from contract.errors import PhotoError
from contract.pixels import photo_to_pixels
from tests.app.inside import running, until
from tests.app.photos import assert_error
from tests.conftest import ROOT, drawn_png

PHOTO = drawn_png(0, size=64)


def decoders(parent: int | None = None) -> list[psutil.Process]:
    """The decoding processes of a process, by default of this one."""
    children = psutil.Process(parent).children()
    return [one for one in children if "app.decoder_process" in one.cmdline()]


def with_pool(work: Callable[[DecodePool], Awaitable[Any]], processes: int = 1, **options: Any) -> Any:
    """Do something with a pool that is ready."""

    async def whole() -> Any:
        pool = DecodePool(
            processes, **{"max_waiting": 64, "image_size": 32, "max_pixels": 10**6, "longest": 5} | options
        )
        try:
            await pool.start()
            await pool.ready()
            return await work(pool)
        finally:
            await pool.close()

    found = asyncio.run(whole())
    assert decoders() == [], "none stays behind"
    return found


def test_each_photo_gets_its_own_pixels() -> None:
    photos = [drawn_png(i, size=40 + i) for i in range(40)]

    async def work(pool: DecodePool) -> list[Any]:
        return await asyncio.gather(*(pool.decode(photo, 20) for photo in photos))

    for photo, (pixels, seconds) in zip(photos, with_pool(work, processes=2), strict=True):
        assert np.array_equal(pixels, photo_to_pixels(photo, 32))
        assert pixels.dtype == np.uint8
        assert seconds > 0


def test_a_bad_photo_fails_alone_and_in_its_own_words() -> None:
    photos = [PHOTO, b"no photo", PHOTO, b"", drawn_png(1, size=1024), PHOTO]

    async def work(pool: DecodePool) -> list[Any]:
        return await asyncio.gather(*(pool.decode(photo, 20) for photo in photos), return_exceptions=True)

    found = with_pool(work)
    assert [type(one) is tuple for one in found] == [True, False, True, False, False, True]
    for place, slug in ((1, "unsupported_format"), (3, "empty_image"), (4, "image_too_large")):
        with pytest.raises(PhotoError) as wanted:
            photo_to_pixels(photos[place], 32, max_pixels=10**6)
        assert (found[place].slug, str(found[place])) == (slug, str(wanted.value))


def test_a_photo_larger_than_any_socket_buffer() -> None:
    photo = PHOTO + bytes(20 << 20)  # what follows a PNG's end is not read

    async def work(pool: DecodePool) -> Any:
        return await asyncio.gather(pool.decode(photo, 20), pool.decode(PHOTO, 20))

    (large, _), (small, _) = with_pool(work)
    assert np.array_equal(large, small)


def test_no_more_than_allowed_wait() -> None:
    async def work(pool: DecodePool) -> list[Any]:
        waiting = [asyncio.create_task(pool.decode(PHOTO, 20)) for _ in range(4)]
        found = await asyncio.gather(*waiting, return_exceptions=True)
        await pool.decode(PHOTO, 20)
        return found

    found = with_pool(work, max_waiting=3)
    assert [type(one) for one in found] == [tuple, tuple, tuple, ServiceError]


def test_a_death_costs_one_photo_and_the_process_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    lost: list[int] = []

    async def work(pool: DecodePool) -> list[Any]:
        (victim,) = decoders()
        victim.suspend()
        waiting = [asyncio.create_task(pool.decode(PHOTO, 20)) for _ in range(4)]
        await asyncio.sleep(0.1)
        victim.kill()
        return await asyncio.gather(*waiting, return_exceptions=True)

    with caplog.at_level(logging.ERROR):
        first, *rest = with_pool(work, on_lost=lambda: lost.append(1))
    assert isinstance(first, PhotoError)
    assert first.slug == "bad_image"
    assert "ended the process" in str(first)
    assert all(isinstance(one, tuple) for one in rest), "the photo that lay ready at it was given to the next"
    assert lost == [1]
    assert "ended with code -9; another is started" in caplog.text


def test_the_rest_of_the_pool_goes_on_while_one_hangs_and_it_is_killed() -> None:
    async def work(pool: DecodePool) -> Any:
        before = decoders()
        before[0].suspend()
        first = await asyncio.gather(
            *(pool.decode(drawn_png(i, size=300), 0.2) for i in range(6)), return_exceptions=True
        )
        async with asyncio.timeout(10):
            while before[0].is_running() and before[0].status() != psutil.STATUS_ZOMBIE:
                await asyncio.sleep(0.02)
            while len(decoders()) < 2:
                await asyncio.sleep(0.02)
        return first, await pool.decode(PHOTO, 20)

    first, last = with_pool(work, processes=2, longest=0.5)
    assert {type(one) for one in first} <= {tuple, TimeoutError}
    assert 1 <= sum(isinstance(one, TimeoutError) for one in first) <= 2
    assert isinstance(last, tuple)


def test_a_client_that_leaves_does_not_hide_a_hang() -> None:
    async def work(pool: DecodePool) -> None:
        (victim,) = decoders()
        victim.suspend()
        task = asyncio.create_task(pool.decode(PHOTO, 20))
        await asyncio.sleep(0.05)
        task.cancel()
        await pool.decode(PHOTO, 10)

    with_pool(work, longest=0.3)


def test_what_was_not_begun_by_its_deadline_is_not_decoded() -> None:
    async def work(pool: DecodePool) -> float:
        (busy,) = decoders()
        busy.suspend()
        tasks = [asyncio.create_task(pool.decode(drawn_png(2, size=900), 0.2)) for _ in range(20)]
        assert {type(one) for one in await asyncio.gather(*tasks, return_exceptions=True)} == {TimeoutError}
        before = sum(busy.cpu_times()[:2])
        busy.resume()
        await pool.decode(PHOTO, 20)
        return sum(busy.cpu_times()[:2]) - before

    began = time.process_time()
    for _ in range(3):
        photo_to_pixels(drawn_png(2, size=900), 32)
    three = time.process_time() - began
    assert with_pool(work, longest=20) < 2 * three, "two at most: the one under way and the one that lay ready"


def test_closing_ends_the_wait_of_a_photo_under_way() -> None:
    async def whole() -> None:
        pool = DecodePool(1, 64, image_size=32, max_pixels=10**6, longest=5)
        await pool.start()
        await pool.ready()
        decoders()[0].suspend()
        tasks = [asyncio.create_task(pool.decode(PHOTO, 20)) for _ in range(3)]
        await asyncio.sleep(0.05)
        await pool.close()
        found = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert {type(one) for one in found} == {asyncio.CancelledError}

    asyncio.run(whole())


def test_no_secret_of_the_service_reaches_a_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FOOD_VISION_API_KEYS_FILE", "OTEL_EXPORTER_OTLP_HEADERS", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "secret")

    async def work(pool: DecodePool) -> dict[str, str]:
        return decoders()[0].environ()

    found = with_pool(work)
    assert "secret" not in found.values()
    assert found["PATH"] == os.environ["PATH"]


def test_it_is_seen_from_outside(bundle: Path) -> None:
    with running(bundle, decode_processes=1) as (url, _):
        decoders()[0].kill()
        until(lambda: httpx.post(f"{url}/predict", content=PHOTO).status_code == 200)
        metrics = httpx.get(f"{url}/metrics").text
    assert "food_vision_decoders_lost_total 1.0" in metrics
    memory = next(line for line in metrics.splitlines() if line.startswith("food_vision_decoders_memory_bytes "))
    assert 1e7 < float(memory.split()[1]) < 3e8


def test_a_request_whose_decoder_dies_is_told_so(bundle: Path) -> None:
    with running(bundle, decode_processes=1) as (url, _), httpx.Client(base_url=url) as client:
        victim = decoders()[0]
        victim.suspend()
        asker = subprocess.Popen(
            [sys.executable, "-c", "import httpx, sys; print(httpx.post(sys.argv[1], content=sys.stdin.buffer.read()).text)",
             f"{url}/predict"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=False,
        )  # fmt: skip
        assert asker.stdin is not None
        asker.stdin.write(PHOTO)
        asker.stdin.close()
        asker.stdin = None
        until(lambda: "food_vision_requests_in_flight 1.0" in client.get("/metrics").text)
        time.sleep(0.1)
        victim.kill()
        assert b'"error_type":"bad_image"' in asker.communicate(timeout=20)[0]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_none_outlives_the_service(bundle: Path, number: int) -> None:
    command = [sys.executable, "-m", "app", "--bundle", str(bundle), "--port", "0", "--threads", "1"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    until(lambda: bool(decoders(process.pid)), seconds=30)
    assert process.stderr is not None
    for line in process.stderr:
        if "ready on" in line:
            break
    children = decoders(process.pid)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    log = process.communicate(timeout=30)[1]
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert (len(gone) > 0, alive) == (True, [])
    assert "Traceback" not in log


def test_slow_photos_and_a_deadline(bundle: Path) -> None:
    with running(bundle, decode_processes=1, request_timeout_ms=300) as (url, _):
        decoders()[0].suspend()
        started = time.monotonic()
        assert_error(httpx.post(f"{url}/predict", content=PHOTO), "deadline_exceeded")
        assert time.monotonic() - started < 2
        until(lambda: httpx.post(f"{url}/predict", content=PHOTO).status_code == 200)
