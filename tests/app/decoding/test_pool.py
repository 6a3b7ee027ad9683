"""The pool of processes that decode photos: order, refusals, deaths, hangs, ends."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from app.decoding.client import Decoder
from app.decoding.line import Job
from app.decoding.pool import DecodePool
from app.faults import ServiceError
from contract.errors import ContractError, PhotoError
from contract.pixels import photo_to_pixels
from tests.app.decoders import PHOTO, QUICK, decoders, settle, with_pool
from tests.app.photos import png_of_size
from tests.app.strange_decoder import DEADLY, FAULTY, HANGING, NOISY, slow
from tests.conftest import drawn_png

PATIENT = 60  # seconds: only against hanging


def test_each_photo_gets_its_own_pixels() -> None:
    photos = [drawn_png(i, size=40 + i) for i in range(40)]

    async def work(pool: DecodePool) -> list[Any]:
        return await asyncio.gather(*(pool.decode(photo, PATIENT, None) for photo in photos))

    for photo, (pixels, seconds) in zip(photos, with_pool(work, processes=2), strict=True):
        assert np.array_equal(pixels, photo_to_pixels(photo, 32))
        assert pixels.dtype == np.uint8
        assert seconds > 0


def test_a_bad_photo_fails_alone_and_in_its_own_words() -> None:
    photos = [PHOTO, b"no photo", PHOTO, b"", png_of_size(1001, 1000), PHOTO]

    async def work(pool: DecodePool) -> list[Any]:
        return await asyncio.gather(*(pool.decode(photo, PATIENT, None) for photo in photos), return_exceptions=True)

    found = with_pool(work)
    assert [type(one) is tuple for one in found] == [True, False, True, False, False, True]
    for place, slug in ((1, "unsupported_format"), (3, "empty_image"), (4, "image_too_large")):
        with pytest.raises(PhotoError) as wanted:
            photo_to_pixels(photos[place], 32, max_pixels=10**6)
        assert (found[place].slug, str(found[place])) == (slug, str(wanted.value))


def test_a_photo_larger_than_any_socket_buffer() -> None:
    photo = PHOTO + bytes(20 << 20)  # what follows a PNG's end is not read

    async def work(pool: DecodePool) -> Any:
        return await asyncio.gather(pool.decode(photo, PATIENT, None), pool.decode(PHOTO, PATIENT, None))

    (large, _), (small, _) = with_pool(work)
    assert np.array_equal(large, small)


def test_no_more_than_allowed_wait() -> None:
    async def work(pool: DecodePool) -> list[Any]:
        waiting = [asyncio.create_task(pool.decode(PHOTO, PATIENT, None)) for _ in range(4)]
        found = await asyncio.gather(*waiting, return_exceptions=True)
        await pool.decode(PHOTO, PATIENT, None)
        return found

    found = with_pool(work, max_waiting=3)
    assert [type(one) for one in found] == [tuple, tuple, tuple, ServiceError]


def test_a_death_costs_no_photo_and_the_process_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    lost: list[int] = []

    async def work(pool: DecodePool) -> list[Any]:
        (victim,) = decoders()
        victim.suspend()
        waiting = [asyncio.create_task(pool.decode(PHOTO, PATIENT, None)) for _ in range(4)]
        await settle()
        victim.kill()
        return await asyncio.gather(*waiting, return_exceptions=True)

    with caplog.at_level(logging.ERROR):
        found = with_pool(work, on_lost=lambda: lost.append(1))
    assert [type(one) for one in found] == [tuple] * 4
    assert lost == [1]
    assert "ended with code -9; another is started" in caplog.text


async def gone(process: psutil.Process) -> None:
    """Wait until it has ended."""
    async with asyncio.timeout(PATIENT):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.02)


@pytest.mark.usefixtures("strange")
def test_a_photo_at_which_two_processes_die_is_refused_and_no_other() -> None:
    lost: list[int] = []

    async def work(pool: DecodePool) -> list[Any]:
        photos = [QUICK, DEADLY, QUICK, QUICK, DEADLY, QUICK]
        return await asyncio.gather(*(pool.decode(photo, PATIENT, None) for photo in photos), return_exceptions=True)

    found = with_pool(work, on_lost=lambda: lost.append(1))
    assert [type(one) for one in found] == [tuple, PhotoError, tuple, tuple, PhotoError, tuple]
    assert found[1].slug == "bad_image"
    assert str(found[1]).startswith("The image ends the process that decodes it")
    assert len(lost) == 4


@pytest.mark.usefixtures("strange")
def test_a_hang_of_a_photo_that_lay_ready_and_that_nobody_awaits(tmp_path: Path) -> None:
    async def work(pool: DecodePool) -> Any:
        (first,) = decoders()
        busy = asyncio.create_task(pool.decode(slow(tmp_path / "end"), PATIENT, None))
        await settle()
        with pytest.raises(TimeoutError):
            await pool.decode(HANGING, 0.1, None)
        (tmp_path / "end").touch()
        with pytest.raises(PhotoError):
            await busy
        pool._longest = 0.2
        await gone(first)
        pool._longest = PATIENT
        return await pool.decode(PHOTO, PATIENT, None)

    assert isinstance(with_pool(work), tuple)


@pytest.mark.usefixtures("strange")
def test_a_photo_does_not_wait_behind_a_slow_one_while_another_process_is_idle(tmp_path: Path) -> None:
    async def work(pool: DecodePool) -> None:
        busy = asyncio.create_task(pool.decode(slow(tmp_path / "end"), 2 * PATIENT, None))
        await settle()
        await asyncio.gather(*(pool.decode(QUICK, PATIENT, None) for _ in range(3)))
        assert not busy.done()
        (tmp_path / "end").touch()
        with pytest.raises(PhotoError):
            await busy

    with_pool(work, processes=2, longest=2 * PATIENT)


@pytest.mark.usefixtures("strange")
def test_a_fault_is_logged_and_the_next_photo_is_answered(caplog: pytest.LogCaptureFixture) -> None:
    async def work(pool: DecodePool) -> list[Any]:
        return await asyncio.gather(
            *(pool.decode(one, PATIENT, None) for one in (FAULTY, PHOTO)), return_exceptions=True
        )

    fault, good = with_pool(work)
    assert isinstance(fault, RuntimeError)
    assert isinstance(good, tuple)
    assert "üüüx" in caplog.text


@pytest.mark.usefixtures("strange")
def test_what_libraries_say_of_a_photo_is_not_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    async def work(pool: DecodePool) -> None:
        with pytest.raises(PhotoError):
            await pool.decode(NOISY, PATIENT, None)

    with_pool(work)
    assert capfd.readouterr().err == ""


def test_processes_that_die_at_once_are_told_and_nothing_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.decoding.pool.PROGRAM", ("-c", "raise SystemExit(3)"))
    monkeypatch.setattr("app.decoding.pool.AGAIN_SECONDS", 0.05)
    with pytest.raises(
        ContractError, match="Of 2 processes that decode photos 0 are ready, and [1-9][0-9]* ended as soon"
    ):
        with_pool(lambda pool: asyncio.sleep(0), processes=2)


def test_no_process_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*arguments: object, **options: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("app.decoding.pool.subprocess.Popen", none)
    with pytest.raises(
        ContractError, match=r"cannot be started: Resource temporarily unavailable\. .*decode_processes"
    ):
        with_pool(lambda pool: asyncio.sleep(0))


def test_the_rest_of_the_pool_goes_on_while_one_hangs_and_it_is_killed() -> None:
    async def work(pool: DecodePool) -> Any:
        before = decoders()
        before[0].suspend()
        tasks = [asyncio.create_task(pool.decode(drawn_png(i, size=300), PATIENT, None)) for i in range(6)]
        while sum(one.done() for one in tasks) < 5:  # all but the one that the hanging process has
            await asyncio.wait([one for one in tasks if not one.done()], return_when=asyncio.FIRST_COMPLETED)
        assert before[0].status() == psutil.STATUS_STOPPED
        pool._longest = 0.2
        await gone(before[0])
        pool._longest = PATIENT
        async with asyncio.timeout(PATIENT):
            while len(decoders()) < 2:
                await asyncio.sleep(0.02)
        return await asyncio.gather(*tasks, return_exceptions=True), await pool.decode(PHOTO, PATIENT, None)

    found, last = with_pool(work, processes=2)
    assert sorted(type(one).__name__ for one in found) == ["PhotoError"] + 5 * ["tuple"]
    assert isinstance(last, tuple)


def test_a_client_that_leaves_does_not_hide_a_hang() -> None:
    async def work(pool: DecodePool) -> None:
        (victim,) = decoders()
        victim.suspend()
        task = asyncio.create_task(pool.decode(PHOTO, PATIENT, None))
        await settle()
        task.cancel()
        pool._longest = 0.2
        await gone(victim)
        pool._longest = PATIENT
        await pool.decode(PHOTO, PATIENT, None)

    with_pool(work)


def test_what_was_not_begun_by_its_deadline_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []
    send = Decoder.send

    def counted(decoder: Decoder, job: Job) -> None:
        sent.append(job.photo)
        send(decoder, job)

    monkeypatch.setattr(Decoder, "send", counted)
    late = [drawn_png(i, size=64) for i in range(1, 21)]

    async def work(pool: DecodePool) -> None:
        (busy,) = decoders()
        busy.suspend()
        tasks = [asyncio.create_task(pool.decode(photo, 0.2, None)) for photo in late]
        assert {type(one) for one in await asyncio.gather(*tasks, return_exceptions=True)} == {TimeoutError}
        busy.resume()
        await pool.decode(PHOTO, PATIENT, None)

    with_pool(work)
    assert sent == [*late[:2], PHOTO], "but for the two that were at the process"


def test_closing_ends_the_wait_of_a_photo_under_way() -> None:
    async def whole() -> None:
        pool = DecodePool(1, 64, image_size=32, max_pixels=10**6, cpu_ms=60_000, longest=PATIENT)
        await pool.start()
        await pool.ready()
        decoders()[0].suspend()
        tasks = [asyncio.create_task(pool.decode(PHOTO, PATIENT, None)) for _ in range(3)]
        await settle()
        await pool.close()
        await settle()
        assert all(task.done() for task in tasks)
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(one) for one in found} == {asyncio.CancelledError}

    asyncio.run(whole())


def test_closing_waits_for_a_process_that_has_just_died(monkeypatch: pytest.MonkeyPatch) -> None:
    async def whole() -> subprocess.Popen[bytes]:
        pool = DecodePool(1, 64, image_size=32, max_pixels=10**6, cpu_ms=60_000, longest=PATIENT)
        await pool.start()
        await pool.ready()
        (decoder,) = pool._decoders
        lost, closing = pool.lost, asyncio.get_running_loop().create_future()

        def lost_while_closing(one: Decoder) -> None:
            closing.set_result(asyncio.create_task(pool.close()))  # before the task that reads the exit code
            lost(one)

        monkeypatch.setattr(pool, "lost", lost_while_closing)
        decoder.process.kill()
        await (await closing)
        return decoder.process

    assert asyncio.run(whole()).returncode == -signal.SIGKILL


def test_no_secret_of_the_service_reaches_a_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "FOOD_VISION_API_KEYS_FILE",
        "OTEL_EXPORTER_OTLP_HEADERS",
        "AWS_SECRET_ACCESS_KEY",
        "LANGCHAIN_API_KEY",
        "PATHSECRET",
    ):
        monkeypatch.setenv(name, "secret")

    async def work(pool: DecodePool) -> dict[str, str]:
        return decoders()[0].environ()

    found = with_pool(work)
    assert "secret" not in found.values()
    assert found["PATH"] == os.environ["PATH"]
