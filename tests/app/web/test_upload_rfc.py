"""Forms as RFC 2046 and RFC 7578 allow them, however they are cut; what is refused says why."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable

import pytest
from fastapi import Request
from starlette.types import Message

from app.faults import ServiceError
from app.web.upload import LONGEST_PREAMBLE, photos_of

KIND = "multipart/form-data; boundary=cut"
PHOTO = b"\xff\xd8 photo \r\n--cu\r\n--\r\n--cuttings\r\n--cut-\r\r\n--cut\r-\n--cut\n \xff\xd9"
HEAD = b'Content-Disposition: form-data; name="image"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n'
FIRST, END = b"--cut\r\n", b"\r\n--cut--\r\n"
TEXT = b'--cut\r\nContent-Disposition: form-data; name="t"\r\n\r\nx\r\n'
PLAIN = FIRST + HEAD + b"\r\n" + PHOTO + END


def part(*headers: bytes, content: bytes = PHOTO) -> bytes:
    """A form of one part with these headers."""
    return FIRST + b"".join(header + b"\r\n" for header in headers) + b"\r\n" + content + END


def read(pieces: Iterable[bytes], kind: str = KIND) -> list[bytes] | str:
    """The photos of a body that comes in these pieces, or the sentence of its refusal."""
    left = list(pieces)

    async def receive() -> Message:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", kind.encode())]}
    try:
        return asyncio.run(photos_of(Request(scope, receive), 4))
    except ServiceError as error:
        return f"{error.slug}: {error}"


def bound(boundary: str) -> bytes:
    """The plain form with another boundary."""
    return PLAIN.replace(b"--cut\r\n" + HEAD, f"--{boundary}\r\n".encode() + HEAD).replace(
        END, f"\r\n--{boundary}--\r\n".encode()
    )


OTHER = (
    b"--cut\r\nContent-Disposition: form-data; name=notes; filename=a\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\nAA==\r\n"
)
LONG, SPACED = "b" * 70, "a b:c=d?e"
RIGHT: dict[str, tuple[bytes, str]] = {
    "plain": (PLAIN, KIND),
    "a preamble": (b"This is a message in MIME format.\r\n" + PLAIN, KIND),
    "an empty line before": (b"\r\n" + PLAIN, KIND),
    "a preamble that begins with an empty line": (b"\r\nread this\r\n" + PLAIN, KIND),
    "a preamble like the boundary": (b"--cuttings\r\n--cu\r\n" + PLAIN, KIND),
    "an epilogue": (PLAIN + b"the end\r\n--cut\r\nmore", KIND),
    "nothing after the end": (PLAIN.removesuffix(b"\r\n"), KIND),
    "padding of the first boundary": (PLAIN.replace(FIRST, b"--cut \t \r\n"), KIND),
    "padding of the next boundary": (TEXT + PLAIN.replace(FIRST, b"--cut\t\r\n"), KIND),
    "padding of the last boundary": (PLAIN.replace(END, b"\r\n--cut-- \t\r\n"), KIND),
    "filename* alone": (part(b"Content-Disposition: form-data; name=image; filename*=UTF-8''a%20b.jpg"), KIND),
    "filename in pieces": (part(b'Content-Disposition: form-data; name=image; filename*0="a"; filename*1=b'), KIND),
    "a name without quotes": (part(b"Content-Disposition: form-data; name=image; filename=a"), KIND),
    "names of headers in any case": (part(b'CONTENT-DISPOSITION: form-data; NAME="image"; FileName="a"'), KIND),
    "content as it is": (part(HEAD.strip(), b"Content-Transfer-Encoding: Binary"), KIND),
    "content of 8 bits": (part(HEAD.strip(), b"content-transfer-encoding: 8bit"), KIND),
    "another file in base64": (OTHER + PLAIN, KIND),
    "a quoted boundary": (PLAIN, 'multipart/form-data; boundary="cut"'),
    "a parameter before": (PLAIN, 'multipart/form-data; a="b; boundary=no" ; Boundary=cut'),
    "a long boundary": (bound(LONG), f"multipart/form-data; boundary={LONG}"),
    "a boundary with spaces": (bound(SPACED), f'multipart/form-data; boundary="{SPACED}"'),
}  # fmt: skip
WRONG: dict[str, tuple[bytes, str]] = {
    "only LF": (PLAIN.replace(b"\r\n", b"\n"), "the boundary of the Content-Type, '--cut'; lines end with CR LF."),
    "another boundary": (PLAIN.replace(b"cut", b"cot"), "No line is the boundary of the Content-Type, '--cut'"),
    "a photo without a form": (PHOTO * 1000, f"No line of its first {LONGEST_PREAMBLE} bytes is the boundary"),
    "nothing": (b"", "missing_image: "),
    "no end": (PLAIN.removesuffix(END), "It is cut off: its last boundary is missing."),
    "the end of headers missing": (FIRST + HEAD, "It is cut off"),
    "a folded header": (part(b"Content-Disposition: form-data;\r\n name=image; filename=a"), "on one line"),
    "a header without a colon": (part(HEAD.strip(), b"nonsense"), "on one line"),
    "many headers": (part(HEAD.strip(), *[b"a: b"] * 9), "at most 8"),
    "a long header": (part(HEAD.strip(), b"a: " + b"b" * 5000), "4 KB"),
    "something after padding": (PLAIN.replace(FIRST, b"--cut x\r\n"), "no other text"),
    "base64": (part(HEAD.strip(), b"Content-Transfer-Encoding: base64"), "Content-Transfer-Encoding 'base64'"),
    "no name": (part(b"Content-Disposition: form-data; filename=a"), "A part has no name"),
    "no disposition": (part(b"Content-Type: image/jpeg"), "A part has no name"),
    "filename* inside of a name": (part(b'Content-Disposition: form-data; name="image"; a="; filename*=b"'), "holds text"),
    "a name in percents": (part(b"Content-Disposition: form-data; name=im%61ge; filename=a"), "it has ['im%61ge']"),
    "no parts": (b"--cut--\r\n", "no field `image`"),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_forms_that_are_right(name: str) -> None:
    body, kind = RIGHT[name]
    assert read([body], kind) == [PHOTO]


@pytest.mark.parametrize("name", WRONG)
def test_forms_that_are_wrong(name: str) -> None:
    body, words = WRONG[name]
    found = read([body])
    assert isinstance(found, str)
    assert words in found
    assert found.startswith(("bad_request: ", "missing_image: "))


def test_an_empty_file_is_an_empty_photo() -> None:
    assert read([part(HEAD.strip(), content=b"")]) == [b""]


def test_a_boundary_that_is_too_long() -> None:
    long = "b" * 257
    assert "longer than 256" in str(read([bound(long)], f"multipart/form-data; boundary={long}"))


@pytest.mark.parametrize("name", [*RIGHT, *WRONG])
def test_it_does_not_matter_how_a_body_is_cut(name: str) -> None:
    body, kind = RIGHT[name] if name in RIGHT else (WRONG[name][0], KIND)
    whole, chance = read([body], kind), random.Random(name)
    body = body[:1200]
    if len(body) == 1200:
        whole = read([body], kind)
    for at in range(len(body)):
        assert read([body[:at], body[at:]], kind) == whole, at
    assert read([body[at : at + 1] for at in range(len(body))] + [b""], kind) == whole
    for _ in range(200):
        ends = sorted(chance.choices(range(len(body) + 1), k=chance.randrange(2, 12)))
        pieces = [body[begin:end] for begin, end in zip([0, *ends], [*ends, len(body)], strict=True)]
        assert read(pieces, kind) == whole, ends
