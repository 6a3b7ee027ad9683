"""From a request to the bytes of its photos: the body as it is, or the files of a form.

They go straight into memory. Starlette's form writes every file into a spooled temporary file, and
any above 1 MB to the disk; that took a fifth of the event loop's time for a request. The body as a
whole is limited before it gets here (`app.web.body`).

Sources: RFC 2046, 5.1 (preamble, padding, epilogue) and RFC 7578 (forms). Lines end with CR LF and
no header is folded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.faults import ServiceError, shown
from app.web.body import Joined, read_body

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FIELDS = ("image", "images")
HINT = "Send multipart with the field `image`, or the bytes of the photo as the body."
LARGEST_HEADER = 1000  # characters of one with parameters: longer ones may take the square of their length to read
LONGEST_BOUNDARY = 256  # bytes; RFC 2046 allows 70
LONGEST_PREAMBLE = 4096  # bytes before the first boundary; they are not read
QUOTED, EXTENDED = re.compile(rb'"(?:[^"\\]|\\.)*"'), re.compile(rb";\s*filename\*", re.IGNORECASE)
AS_IT_IS = (b"", b"binary", b"8bit", b"7bit")  # values of Content-Transfer-Encoding, which RFC 7578 advises against
MAX_TEXTS = 16  # parts that are no files
MAX_TEXT_BYTES = 1 << 20  # of one of them; its content is not read


def media_type(header: str | None) -> str:
    """What a `Content-Type` says without its parameters, where a boundary may hold any word:

    `multipart/form-data` for `Multipart/Form-Data ; boundary=json`; empty where nothing is said.
    """
    return (header or "").partition(";")[0].strip().lower()


def is_json(header: str | None) -> bool:
    """Whether it is JSON: `application/json`, or any type that ends with `+json`."""
    kind = media_type(header)
    return kind == "application/json" or kind.endswith("+json")


def is_multipart(request: Request) -> bool:
    """Whether the body says that it is a form with files."""
    return media_type(request.headers.get("content-type")) == "multipart/form-data"


async def read_photo(request: Request) -> bytes:
    """The bytes of the one photo of a request: multipart field `image`, or the raw body.

    Raises `ServiceError` with slug `missing_image`, `bad_request`, `too_many_images` or
    `body_too_large`.
    """
    if not is_multipart(request):
        return not_empty(await read_body(request))
    photos = await photos_of(request, max_files=4)
    if len(photos) > 1:
        raise ServiceError("too_many_images", "More than one image was sent. Use /predict/batch for several.")
    return photos[0]


def not_empty(body: bytes) -> bytes:
    """The body as it is. Raises `ServiceError` with slug `missing_image` for one of 0 bytes."""
    if not body:
        raise ServiceError("missing_image", f"The request body is empty. {HINT}")
    return body


async def read_photos(request: Request, max_images: int) -> list[bytes]:
    """The bytes of all photos of a multipart request, in order. Raises as `read_photo` does."""
    if not is_multipart(request):
        raise ServiceError("bad_request", "Send multipart with the field `images` once for each photo.")
    return await photos_of(request, max_files=max_images)


async def photos_of(request: Request, max_files: int) -> list[bytes]:
    """The contents of the files of the fields `FIELDS`, in order, at least one.

    Raises `ServiceError` with slug `missing_image`, `bad_request` or `too_many_images` (more than
    `max_files` files).
    """
    kind = request.headers["content-type"]
    if len(kind) > LARGEST_HEADER:
        raise _unreadable(f"Its Content-Type is longer than {LARGEST_HEADER} characters.")
    _, parameters = parse_options_header(kind)
    boundary = parameters.get(b"boundary")
    if not boundary:
        raise _unreadable("The Content-Type names no boundary.")
    if len(boundary) > LONGEST_BOUNDARY:
        raise _unreadable(f"Its boundary is longer than {LONGEST_BOUNDARY} bytes.")
    collected = _Collected(max_files, boundary)
    parser = MultipartParser(boundary, collected.callbacks())
    parser.write(b"--" + boundary + b"\r\n\r\n\r\n")  # it knows no preamble: that is the content of a part of ours
    try:
        async for chunk in request.stream():
            parser.write(chunk)
        parser.finalize()
    except FormParserError:
        raise _unreadable(
            "After a boundary come at most 8 headers of up to 4 KB, each on one line that ends with CR LF, no other text."
        ) from None
    return collected.photos()


@dataclass
class _Part:
    name: str = ""
    is_file: bool = False
    whole: bool = False
    size: int = 0
    content: Joined = field(default_factory=Joined)


class _Collected:
    """What the parser found so far. The first part is the preamble."""

    def __init__(self, max_files: int, boundary: bytes) -> None:
        self._max_files, self._boundary = max_files, boundary
        self._files = self._texts = 0
        self._parts: list[_Part] = []
        self._header = self._value = self._disposition = self._encoding = b""

    def callbacks(self) -> MultipartCallbacks:
        """For `MultipartParser`."""
        return {
            "on_part_begin": self._begin, "on_part_data": self._data, "on_part_end": self._end,
            "on_header_field": self._header_field, "on_header_value": self._header_value,
            "on_header_end": self._header_end, "on_headers_finished": self._headers_finished,
        }  # fmt: skip

    def photos(self) -> list[bytes]:
        """See `photos_of`."""
        preamble, *parts = self._parts
        if preamble.size and not preamble.whole:
            raise self._no_form("No line")
        if not all(part.whole for part in parts):
            raise _unreadable("It is cut off: its last boundary is missing.")
        found = [part for part in parts if part.name in FIELDS]
        if not found:
            names = [shown(name) for name in sorted({part.name for part in parts})]
            raise ServiceError("missing_image", f"The form has no field `image` (it has [{', '.join(names)}]). {HINT}")
        if not all(part.is_file for part in found):
            raise ServiceError("bad_request", f"The field `image` holds text, not a file. {HINT}")
        return [part.content.whole for part in found]

    def _no_form(self, lines: str) -> ServiceError:
        boundary = shown("--" + self._boundary.decode("latin-1"))
        return _unreadable(f"{lines} is the boundary of the Content-Type, {boundary}; lines end with CR LF.")

    def _begin(self) -> None:
        self._parts.append(_Part())
        self._header = self._value = self._disposition = self._encoding = b""

    def _end(self) -> None:
        self._parts[-1].whole = True

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        elif self._header.lower() == b"content-transfer-encoding":
            self._encoding = self._value.strip().lower()
        self._header = self._value = b""

    def _headers_finished(self) -> None:
        if len(self._parts) == 1:
            return
        if len(self._disposition) > LARGEST_HEADER:
            raise _unreadable(f"A Content-Disposition is longer than {LARGEST_HEADER} characters.")
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise _unreadable("A part has no name in its Content-Disposition.")
        part = self._parts[-1]
        part.name = options[b"name"].decode("utf-8", "replace")
        part.is_file = b"filename" in options or _has_extended_filename(self._disposition)
        if part.is_file and part.name in FIELDS and self._encoding not in AS_IT_IS:
            raise _unreadable(
                f"A part has the Content-Transfer-Encoding {shown(self._encoding.decode('latin-1'))}. Send it as it is."
            )
        self._files += part.is_file
        self._texts += not part.is_file
        if self._files > self._max_files:
            raise ServiceError(
                "too_many_images", f"More than {self._max_files} images were sent. Send fewer."
            )  # fmt: skip
        if self._texts > MAX_TEXTS:
            raise _unreadable(f"It has more than {MAX_TEXTS} fields that are no files; at most {MAX_TEXTS} are read.")

    def _data(self, data: bytes, start: int, end: int) -> None:
        part = self._parts[-1]
        if part.is_file:
            if part.name in FIELDS:  # nobody asks for another
                part.content.add(data[start:end])
            return
        part.size += end - start
        if len(self._parts) == 1:
            if part.size > LONGEST_PREAMBLE:
                raise self._no_form(f"No line of its first {LONGEST_PREAMBLE} bytes")
        elif part.size > MAX_TEXT_BYTES:
            raise _unreadable(f"A field that is no file is larger than {MAX_TEXT_BYTES >> 10} KB.")


def _has_extended_filename(disposition: bytes) -> bool:
    """Whether it names a file by `filename*`: RFC 7578 forbids that, some clients send it alone,
    and `parse_options_header` leaves it out.
    """
    return EXTENDED.search(QUOTED.sub(b"", disposition)) is not None


def _unreadable(reason: str) -> ServiceError:
    return ServiceError("bad_request", f"The multipart body cannot be read: {reason} {HINT}")
