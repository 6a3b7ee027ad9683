"""What one photo may take of a process, and what becomes of photo and process when it takes
more.
"""

from __future__ import annotations

import asyncio
import io
import logging
import signal
import sys
from typing import Any

import psutil
import pytest
from PIL import Image

from app.decoding.limits import DecodeLimits
from app.decoding.pool import DecodePool
from contract.errors import PhotoError
from contract.formats import FORMATS
from contract.pixels import photo_to_pixels
from tests.app.decoders import PHOTO, QUICK, decoders, with_pool
from tests.app.photos import encoded
from tests.app.strange_decoder import BLOATED, BURNING, LEAKY, SWELLING

PATIENT = 60  # seconds: only against hanging
linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not bound memory so")


def pids() -> list[int]:
    """Of the processes that decode now."""
    return sorted(one.pid for one in decoders())


async def refusal(pool: DecodePool, photo: bytes) -> PhotoError:
    """Of a photo that is refused."""
    with pytest.raises(PhotoError) as refused:
        await pool.decode(photo, PATIENT, None)
    return refused.value


@pytest.mark.usefixtures("strange")
def test_a_photo_that_uses_up_its_processor_time_is_refused_at_the_first_process(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lost: list[int] = []

    async def work(pool: DecodePool) -> list[Any]:
        photos = (QUICK, BURNING, QUICK)
        return await asyncio.gather(*(pool.decode(one, PATIENT, None) for one in photos), return_exceptions=True)

    with caplog.at_level(logging.WARNING):
        first, burning, last = with_pool(work, cpu_ms=100, on_lost=lambda: lost.append(1))
    assert [type(first), type(burning), type(last)] == [tuple, PhotoError, tuple]
    assert burning.slug == "image_too_costly"
    assert "100 ms of processor time (decode_cpu_ms)" in str(burning)
    assert lost == [1], "no second process was tried"
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
        ("WARNING", f"a photo of {len(BURNING)} bytes took 100 ms of processor time: refused")
    ]


def test_each_photo_has_its_processor_time_anew() -> None:
    large = encoded(Image.effect_noise((1000, 1000), 64), "PNG")

    def used() -> float:
        return float(sum(decoders()[0].cpu_times()[:2]))

    async def work(pool: DecodePool) -> tuple[list[int], list[int]]:
        before, began = pids(), used()
        while used() < began + 1.2:
            await pool.decode(large, PATIENT, None)
        return before, pids()

    before, after = with_pool(work, cpu_ms=1000)
    assert before == after


@linux
@pytest.mark.usefixtures("strange")
def test_a_photo_that_takes_more_memory_than_its_size_allows_is_refused_and_the_process_goes_on() -> None:
    async def work(pool: DecodePool) -> tuple[Any, ...]:
        before = pids()
        found = [await refusal(pool, photo) for photo in (BLOATED, SWELLING)]
        pixels, _ = await pool.decode(PHOTO, PATIENT, None)
        return before, found, pixels, pids()

    before, found, pixels, after = with_pool(work)
    assert [one.slug for one in found] == ["image_too_costly"] * 2
    assert "more memory than a photo of its size may have" in str(found[0])
    assert (pixels == photo_to_pixels(PHOTO, 32)).all()
    assert before == after


@linux
@pytest.mark.usefixtures("strange")
def test_a_process_that_holds_much_more_than_a_new_one_is_replaced_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    lost: list[int] = []

    async def work(pool: DecodePool) -> tuple[list[int], list[int]]:
        before = pids()
        await refusal(pool, LEAKY)
        waiting = [pool.decode(QUICK, PATIENT, None) for _ in range(4)]
        assert [type(one) for one in await asyncio.gather(*waiting, return_exceptions=True)] == [tuple] * 4
        return before, pids()

    with caplog.at_level(logging.WARNING):
        before, after = with_pool(work, on_lost=lambda: lost.append(1))
    assert (len(after), set(before) & set(after)) == (1, set())
    assert (lost, caplog.text) == ([], "")


FORMS: list[tuple[str, str, dict[str, object]]] = [
    ("WEBP", "RGBA", {"lossless": True, "method": 0}),
    ("WEBP", "RGB", {"method": 0}),
    ("PNG", "LA", {}),
    ("TIFF", "RGBA", {"compression": "tiff_lzw"}),
    ("JPEG", "RGB", {"progressive": True}),
    ("AVIF", "RGBA", {"speed": 10}),
    ("GIF", "P", {"transparency": 0}),
    ("BMP", "RGB", {}),
    *([("HEIF", "RGB", {})] if "HEIF" in FORMATS else []),
]


@linux
def test_what_a_good_photo_takes_is_allowed() -> None:
    photos = []
    for side in (8, 3000):
        for form, mode, options in FORMS:
            out = io.BytesIO()
            Image.linear_gradient("L").resize((side, side)).convert(mode).save(out, form, **options)
            photos.append(out.getvalue())

    async def work(pool: DecodePool) -> list[Any]:
        return await asyncio.gather(*(pool.decode(photo, PATIENT, None) for photo in photos))

    assert len(with_pool(work, max_pixels=9_000_000)) == len(photos)


def test_max_pixels_may_be_above_the_limits_of_the_library() -> None:
    """Pillow warns from 89 million on and refuses from 179 million on."""
    photo = encoded(Image.new("L", (13_500, 13_500), 77), "JPEG")

    async def work(pool: DecodePool) -> Any:
        return (await pool.decode(photo, PATIENT, None))[0]

    assert (with_pool(work, max_pixels=200_000_000) == 77).all()


def test_between_photos_no_time_is_counted() -> None:
    limits = DecodeLimits(60)
    with limits.of(PHOTO):
        assert 0 < signal.getitimer(signal.ITIMER_PROF)[0] < 61
    assert signal.getitimer(signal.ITIMER_PROF) == (0, 0)


@linux
def test_the_limits_end_with_the_photo() -> None:
    async def work(pool: DecodePool) -> list[tuple[int, int]]:
        await pool.decode(PHOTO, PATIENT, None)
        return [one.rlimit(psutil.RLIMIT_DATA) for one in decoders()]

    assert with_pool(work) == [psutil.Process().rlimit(psutil.RLIMIT_DATA)]
