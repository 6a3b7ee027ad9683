"""The bytes of the Open Inference Protocol: a JSON head before binary tensors, BYTES tensors.

Source: Triton's `protocol/extension_binary_data.md`. A BYTES tensor is its elements one after the other, each as its
length in bytes (4 bytes, little-endian) and its bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from app.faults import ServiceError
from app.protocols.json_photos import shown

HEAD_LENGTH = "Inference-Header-Content-Length"


def split_body(body: bytes, header: str | None) -> tuple[bytes, memoryview]:
    """The JSON head and the binary rest, by the header that gives the length of the head in bytes.

    No header: all is JSON. A length of 0: all is the raw bytes of one element. Raises `ServiceError` (`bad_request`).
    """
    if header is None:
        return body, memoryview(b"")
    if not (header.isascii() and header.isdigit() and len(header) < 12 and int(header) <= len(body)):
        raise ServiceError(
            "bad_request",
            f"The header {HEAD_LENGTH} must be the length of the JSON, 0 to {len(body)} bytes, not {shown(header)}.",
        )
    return body[: int(header)], memoryview(body)[int(header) :]


def unpack_bytes(data: bytes | memoryview, count: int, name: str) -> list[bytes]:
    """The `count` elements of a BYTES tensor. Raises `ServiceError` (`bad_request`) for short or trailing bytes."""
    found, at = [], 0
    for index in range(count):
        end = at + 4
        if end <= len(data):
            end += struct.unpack_from("<I", data, at)[0]
        if end > len(data):
            raise ServiceError(
                "bad_request",
                f"The binary data of {name} ends within element {index} of {count}: {len(data)} bytes are too few.",
            )
        found.append(bytes(data[at + 4 : end]))
        at = end
    if at < len(data):
        raise ServiceError(
            "bad_request", f"The binary data of {name} has {len(data) - at} bytes after its {count} elements."
        )
    return found


def pack_bytes(elements: Iterable[bytes]) -> bytes:
    """A BYTES tensor of these elements."""
    return b"".join(struct.pack("<I", len(one)) + one for one in elements)


def pack_floats(values: Iterable[float]) -> bytes:
    """An FP32 tensor of these values."""
    return b"".join(struct.pack("<f", value) for value in values)
