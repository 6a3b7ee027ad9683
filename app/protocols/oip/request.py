"""A request of the Open Inference Protocol: from its body to photos and the wanted outputs.

A body is a JSON head before the bytes of binary tensors. A BYTES tensor is its elements one after
the other, each as its length in bytes (4 bytes, little-endian) and its bytes. Source: Triton's
`protocol/extension_binary_data.md`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from app.faults import ServiceError, shown
from app.protocols.json_photos import (
    json_object,
    min_confidence_of,
    parameters_of,
    photo_of,
    unfamiliar_of,
    whole_number,
)
from app.settings import Unfamiliar
from contract.bundle import Manifest

HEAD_LENGTH = "Inference-Header-Content-Length"
IMAGE = "IMAGE"
FAMILIARITY = "FAMILIARITY"
OUTPUTS = {"LABEL": "BYTES", "SCORE": "FP32", FAMILIARITY: "FP32"}  # name → datatype
LONGEST_TIMEOUT_US = 1 << 53
LONGEST_ID = 1000  # characters


@dataclass(frozen=True)
class Wanted:
    """One output: as strings `score:index:label` of the best `classes` labels if that is not 0;
    binary or JSON.
    """

    name: str
    classes: int
    binary: bool


@dataclass(frozen=True)
class InferRequest:
    """Photos [n], the outputs in the order asked for, the caller's id, its deadline in
    milliseconds, its threshold, what is to become of unfamiliar photos.
    """

    photos: list[bytes]
    wanted: list[Wanted]
    id: str | None = None
    timeout_ms: int | None = None
    min_confidence: float | None = None
    unfamiliar: Unfamiliar | None = None


def outputs_of(manifest: Manifest) -> tuple[str, ...]:
    """The outputs of a model, of `OUTPUTS`: one that knows no training photos cannot tell how familiar a photo is."""
    return tuple(name for name in OUTPUTS if name != FAMILIARITY or manifest.familiarity is not None)


def parse_request(
    body: bytes,
    head_length: str | None,
    max_images: int,
    outputs: Sequence[str] = tuple(OUTPUTS),
    *,
    raw_answer_binary: bool = True,
) -> InferRequest:
    """The request in a decompressed body, by the header `Inference-Header-Content-Length`.

    `outputs` are those that the model has. A raw binary request cannot say how it wants its
    outputs: binary, as Triton gives them, or by `raw_answer_binary`. Raises `ServiceError` with
    slug `bad_request`, `invalid_parameter`, `missing_image` or `too_many_images`.
    """
    head, rest = split_body(body, head_length)
    if head_length is not None and not head:  # a raw binary request: one photo without its length before it
        if not body:
            raise ServiceError("missing_image", "The request body is empty. Send the bytes of a photo.")
        return InferRequest([body], [Wanted(name, 0, raw_answer_binary) for name in outputs])
    found = json_object(head, "The inference request", max_images)
    parameters = parameters_of(found)
    return InferRequest(
        _photos(found, rest, max_images),
        _wanted(found, parameters, outputs),
        _id(found),
        _timeout_ms(parameters),
        min_confidence_of(parameters, None),
        unfamiliar_of(parameters, None),
    )


def _photos(found: dict[str, Any], rest: memoryview, max_images: int) -> list[bytes]:
    given = _objects(found, "inputs")
    if [one.get("name") for one in given] != [IMAGE]:
        names = ", ".join(shown(one.get("name")) for one in given[:4])
        raise ServiceError("bad_request", f"The inputs must be one tensor named {IMAGE}, not [{names}].")
    (tensor,) = given
    if tensor.get("datatype") != "BYTES":
        raise ServiceError(
            "bad_request", f"The datatype of {IMAGE} must be BYTES, not {shown(tensor.get('datatype'))}."
        )
    count = _count(tensor.get("shape"), max_images)
    size = parameters_of(tensor, f"parameters of {IMAGE}").get("binary_data_size")
    if (size is None) == ("data" not in tensor):
        raise ServiceError(
            "bad_request",
            f"The input {IMAGE} must have either `data` or `parameters.binary_data_size` (shared memory is not offered).",
        )
    if size is not None:
        _check_size(size, len(rest))
        return unpack_bytes(rest, count, IMAGE)
    if rest:
        raise ServiceError(
            "bad_request", f"After the JSON come {len(rest)} bytes, but {IMAGE} has no binary_data_size."
        )
    return _from_text(tensor["data"], count)


def _count(shape: object, max_images: int) -> int:
    """n of the shape [n, 1]."""
    sizes = [whole_number(size) for size in shape] if isinstance(shape, list) else []
    count = sizes[0] if len(sizes) == 2 and sizes[1] == 1 else None
    if count is None or count < 1:
        raise ServiceError("bad_request", f"The shape of {IMAGE} must be [n, 1] for n photos, not {shown(shape)}.")
    if count > max_images:
        raise ServiceError(
            "too_many_images", f"The request has {shown(count)} photos, more than {max_images}. Send fewer at once."
        )
    return count


def _check_size(size: object, rest: int) -> None:
    if whole_number(size) != rest:
        raise ServiceError(
            "bad_request", f"The binary_data_size of {IMAGE} is {shown(size)}, but {rest} bytes follow the JSON."
        )


def _from_text(data: object, count: int) -> list[bytes]:
    """Photos of JSON data: base64 strings, flat or nested as the shape is."""
    rows = data if isinstance(data, list) else [data]
    texts = [text for row in rows for text in (row if isinstance(row, list) else [row])]
    if len(texts) != count:
        raise ServiceError("bad_request", f"The data of {IMAGE} has {len(texts)} elements, but its shape says {count}.")
    return [photo_of(text, f"Element {index} of {IMAGE}") for index, text in enumerate(texts)]


def _wanted(found: dict[str, Any], parameters: dict[str, Any], outputs: Sequence[str]) -> list[Wanted]:
    """Whether an output is binary is said by its `binary_data`, else by the request's
    `binary_data_output`.
    """
    usual = _flag(parameters, "binary_data_output", False)
    given = [] if found.get("outputs") is None else _objects(found, "outputs")
    asked = given or [{"name": name} for name in outputs]
    wanted = [_one_wanted(one, usual, outputs) for one in asked]
    names = [one.name for one in wanted]
    if len(set(names)) < len(names):
        raise ServiceError("bad_request", f"An output is asked for twice: {', '.join(names[:4])}.")
    return wanted


def _one_wanted(output: dict[str, Any], usual: bool, outputs: Sequence[str]) -> Wanted:
    name = output.get("name")
    if not isinstance(name, str) or name not in outputs:
        raise ServiceError("bad_request", f"There is no output {shown(name)}. Ask for {' or '.join(outputs)}.")
    parameters = parameters_of(output, f"parameters of {name}")
    given = parameters.get("classification", 0)
    classes = whole_number(given)
    if classes is None or classes < 0 or (classes and name == FAMILIARITY):
        raise ServiceError(
            "invalid_parameter",
            f"The parameter classification of {name} must be {'left out' if name == FAMILIARITY else 'a number of labels'}, "
            f"not {shown(given)}.",
        )
    return Wanted(name, classes, _flag(parameters, "binary_data", usual))


def _flag(parameters: dict[str, Any], name: str, default: bool) -> bool:
    found = parameters.get(name, default)
    if not isinstance(found, bool):
        raise ServiceError("invalid_parameter", f"The parameter {name} must be true or false, not {shown(found)}.")
    return found


def _id(found: dict[str, Any]) -> str | None:
    text = found.get("id")
    if text is not None and not (isinstance(text, str) and len(text) <= LONGEST_ID):  # the answer has it too
        raise ServiceError(
            "bad_request", f"The id must be a string of at most {LONGEST_ID} characters, not {shown(text)}."
        )
    return text


def _timeout_ms(parameters: dict[str, Any]) -> int | None:
    """`timeout` is in microseconds, 0 for none; rounded up to milliseconds."""
    found = parameters.get("timeout", 0)
    microseconds = whole_number(found)
    if microseconds is None or not 0 <= microseconds <= LONGEST_TIMEOUT_US:
        raise ServiceError(
            "invalid_parameter", f"The parameter timeout must be a number of microseconds, not {shown(found)}."
        )
    return -(-microseconds // 1000) or None


def _objects(found: dict[str, Any], field: str) -> list[dict[str, Any]]:
    listed = found.get(field)
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise ServiceError("bad_request", f"The field {field} must be a list of objects, not {shown(listed)}.")
    return listed


def split_body(body: bytes, header: str | None) -> tuple[bytes, memoryview]:
    """The JSON head and the binary rest, by the header that gives the length of the head in bytes.

    No header: all is JSON. A length of 0: all is the raw bytes of one element. Raises
    `ServiceError` (`bad_request`).
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
    """The `count` elements of a BYTES tensor. Raises `ServiceError` (`bad_request`) for short or
    trailing bytes.
    """
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
