"""JSON that cannot hold up the service: bounded before it is parsed, read beside the event loop,
cut before it is shown.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import threading
import tracemalloc
from typing import Any

import pytest

from app.faults import ServiceError, shown
from app.protocols import json_photos
from app.protocols.json_photos import LARGE, json_object, json_reader, parsed, photo_of

PHOTOS = 32
BOMBS = {
    "empty lists": b"[" + b"[]," * 3_000_000 + b"0]",
    "empty objects": b"[" + b"{}," * 3_000_000 + b"0]",
    "depth": b"[" * 8_000_000,
    "depth in a field": b'{"inputs": ' + b'{"a":' * 2_000_000,
    "keys": b"{" + b'"a":0,' * 1_000_000 + b'"b":0}',
    "numbers": b"[" + b"1," * 4_000_000 + b"1]",
    "long numbers": b"[" + (b"9" * 2000 + b",") * 4_000 + b"1]",
    "in UTF-16": ("[" + "[]," * 1_000_000 + "0]").encode("utf-16"),
    "at the end": b'{"inputs": "' + b"A" * 8_000_000 + b'", "b": [' + b"0," * 2000 + b"0]}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_would_keep_the_parser_busy_is_refused_before(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(body: object) -> None:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(json, "loads", never)
    with pytest.raises(ServiceError, match="more brackets, commas and colons than 32 photos need") as caught:
        json_object(BOMBS[name], "The body", PHOTOS)
    assert caught.value.slug == "bad_request"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"a": ' + b"9" * 5000 + b"}", "has a number of thousands of digits."),
        (b"9" * 1_000_000, "has a number of thousands of digits."),
        (b"[" * 1200, "nested too deeply"),
        (b'"' + b"a" * 1_000_000 + b'"', "must be a JSON object, not 'aaa"),
        (b"[" + b'"' + b"a" * 1_000_000 + b'"]', "must be a JSON object, not ['aaa"),
        (b'{"' + b"k" * 1_000_000, "Unterminated string"),
        (b"\xff" * 1_000_000, "'utf-8' codec"),
        (b"-Infinity", "must be a JSON object, not -inf"),
    ],
)
def test_sentences_about_it_are_short(body: bytes, words: str) -> None:
    with pytest.raises(ServiceError) as caught:
        json_object(body, "The body", PHOTOS)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 200


def test_the_richest_request_of_all_photos_is_read() -> None:
    photo = {"note": ["a", "b"], "image_bytes": {"b64": "data:image/jpeg;base64,QUJD"}}
    body = json.dumps({"instances": [photo] * PHOTOS, "parameters": {"mine": list(range(400))}}, indent=2).encode()
    assert len(json_object(body, "The body", PHOTOS)["instances"]) == PHOTOS


def test_a_large_body_is_read_beside_the_event_loop_one_at_a_time() -> None:
    threads: list[int] = []
    busy = threading.Lock()

    def parse(body: bytes) -> int:
        assert busy.acquire(blocking=False)
        threads.append(threading.get_ident())
        busy.release()
        return len(body)

    async def story() -> None:
        with json_reader() as reader:
            found = await asyncio.gather(
                *(parsed(bytes(size), parse, reader) for size in (LARGE + 1, LARGE + 2, LARGE))
            )
        assert found == [LARGE + 1, LARGE + 2, LARGE]

    asyncio.run(story())
    mine = threading.get_ident()
    assert threads.count(mine) == 1
    assert len(set(threads) - {mine}) == 1


# -- base64, step by step ---------------------------------------------------------------------------------------------


def test_base64_in_steps_of_any_size_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(5)
    for step in (1, 3, 4, 7, 1000):
        monkeypatch.setattr(json_photos, "STEP", step)
        for size in range(1, 30):
            photo = chance.randbytes(size)
            text = base64.b64encode(photo).decode()
            for _ in range(chance.randrange(4)):
                at = chance.randrange(len(text) + 1)
                text = text[:at] + chance.choice((" ", "\r\n", "\t")) + text[at:]
            assert photo_of(text, "X") == photo_of(f"data:image/png;base64,{text}", "X") == photo


@pytest.mark.parametrize(
    "text", ["A", "AB", "AB=", "AB==AB==", "AB== AB==", "AB==\n \nA", "=", "A===", "AB#=", "é" * 4, "QUJ\0"]
)
@pytest.mark.parametrize("step", [1, 4, 1000])
def test_what_is_no_base64_is_none_in_steps_either(text: str, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_photos, "STEP", step)
    with pytest.raises(ServiceError) as caught:
        photo_of(text, "The field inputs")
    assert caught.value.slug == "bad_request"


@pytest.mark.parametrize("text", ["", " \n", "data:image/png;base64,", "data:nothing"])
def test_no_photo_at_all(text: str) -> None:
    with pytest.raises(ServiceError) as caught:
        photo_of(text, "The field inputs")
    assert caught.value.slug == "missing_image"


# -- what is shown of a value -----------------------------------------------------------------------------------------

LONG = "a" * 5_000_000
VALUES: dict[str, tuple[Any, str]] = {
    "a long text": (LONG, "'" + "a" * 59 + "…"),
    "a list of long texts": ([LONG] * 3, "['aaa"),
    "an object of long keys": ({LONG: LONG}, "{'aaa"),
    "depth": ([[[[[[LONG]]]]]], "[[["),
    "a long list": ([7] * 1_000_000, "[7, 7, 7, 7, ...]"),
    "half a character": (["\ud800", "é"], r"['\ud800', '\xe9']"),
    "a short text": ("é", r"'\xe9'"),
    "a number": (10**4000, "1000"),
    "nothing": (None, "None"),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_is_cut_before_it_is_written_out(name: str) -> None:
    value, begin = VALUES[name]
    tracemalloc.start()
    found = shown(value)
    largest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.startswith(begin)
    assert len(found) <= 61
    found.encode("ascii", "strict" if "…" not in found else "replace")
    assert largest < 100_000
