"""Photos inside JSON, as the protocols of others send them: base64 text beside parameters."""

from __future__ import annotations

import asyncio
import binascii
import json
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, TypeVar, get_args

from app.faults import ServiceError, shown
from app.settings import Unfamiliar
from app.web.body import Joined

R = TypeVar("R")
LARGE = 256 << 10  # bytes; what is larger is read in a thread
STEP = 1 << 20  # bytes that are looked at in one go, with the interpreter's lock held: less than 2 ms
# Brackets, commas and colons. A photo needs at most ten, with the names around it and a `data:` URL; the rest of a
# request some hundred. Each costs as much as some hundred bytes, and base64 text has none.
MARKS, MARKS_OF_A_PHOTO = 1000, 16
BLANKS = b" \t\n\r\f\v"
UNFAMILIAR: tuple[Unfamiliar, ...] = get_args(Unfamiliar)
LARGEST_TOP_K = 100  # as `?top_k=` of /predict
# For the API description: a PNG of 8 by 8 pixels, so that its requests can be sent as they stand.
EXAMPLE_PHOTO = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFUlEQVR42mO8Ns2DARtgYsABBqcEAFjdAcQyQ2pSAAAAAElFTkSuQmCC"
)
# For the API description: the object `parameters` of the protocols that know these three.
PARAMETERS: dict[str, Any] = {
    "type": ["object", "null"],
    "properties": {
        "top_k": {"type": ["integer", "null"], "minimum": 1, "maximum": LARGEST_TOP_K},
        "min_confidence": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
        "unfamiliar": {"enum": [*UNFAMILIAR, None]},
    },
}


def json_reader() -> Executor:
    """For `parsed`: one thread, since no two could run at once, but both would hold several times
    their bodies.
    """
    return ThreadPoolExecutor(1, "json")


async def parsed(body: bytes, parse: Callable[[bytes], R], reader: Executor) -> R:
    """`parse(body)`; that of a large body by the reader, so that others are answered meanwhile."""
    if len(body) <= LARGE:
        return parse(body)
    return await asyncio.get_running_loop().run_in_executor(reader, parse, body)


def json_object(body: bytes, whole: str, photos: int) -> dict[str, Any]:
    """The JSON object in `body`, which may hold that many photos.

    `whole` names it in the sentence of the `ServiceError` with slug `bad_request`. The parser holds
    the interpreter's lock from begin to end, so what would keep it busy is refused before.
    """
    left = MARKS + MARKS_OF_A_PHOTO * photos
    for start in range(0, len(body), STEP):
        left -= sum(body.count(mark, start, start + STEP) for mark in b"[{,:")
        if left < 0:
            raise ServiceError(
                "bad_request", f"{whole} has more brackets, commas and colons than {photos} photos need."
            )
    try:
        found = json.loads(body)
    except RecursionError:
        raise ServiceError("bad_request", f"{whole} is no JSON: it is nested too deeply.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ServiceError("bad_request", f"{whole} is no JSON: {error}.") from None
    except ValueError:
        raise ServiceError("bad_request", f"{whole} has a number of thousands of digits.") from None
    if not isinstance(found, dict):
        raise ServiceError("bad_request", f"{whole} must be a JSON object, not {shown(found)}.")
    return found


def parameters_of(body: dict[str, Any], where: str = "parameters") -> dict[str, Any]:
    """The object `parameters`, empty where it is absent or null. Raises `ServiceError` with slug
    `bad_request`.
    """
    found = body.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ServiceError("bad_request", f"The field {where} must be a JSON object, not {shown(found)}.")
    return found


def photo_of(text: object, where: str) -> bytes:
    """The bytes of a photo sent as base64 text, a `data:` URL or with line breaks too.

    Raises `ServiceError` with slug `bad_request`, or `missing_image` where the text is empty.
    """
    if not isinstance(text, str):
        raise ServiceError("bad_request", f"{where} must be the base64 text of a photo, not {shown(text)}.")
    begin = text.find(",") + 1 or len(text) if text.startswith("data:") else 0
    try:
        photo = _from_base64(text, begin)
    except ValueError:
        found = shown(text[begin : begin + 20])
        raise ServiceError(
            "bad_request", f"{where} is no base64: it begins with {found}. Encode the photo's bytes."
        ) from None
    if not photo:
        raise ServiceError("missing_image", f"{where} is empty. Send the base64 text of a photo.")
    return photo


def _from_base64(text: str, begin: int) -> bytes:
    """What the text from `begin` on says, step by step. Raises `ValueError`."""
    found, rest, ended = Joined(), b"", False
    for start in range(begin, len(text), STEP):
        rest += text[start : start + STEP].encode("ascii").translate(None, BLANKS)
        if ended and rest:
            raise ValueError("text after the padding")
        whole = len(rest) // 4 * 4
        found.add(binascii.a2b_base64(rest[:whole], strict_mode=True))
        ended, rest = ended or rest[:whole].endswith(b"="), rest[whole:]
    if rest:
        raise ValueError("the end is missing")
    return found.whole


def top_k_of(parameters: dict[str, Any], default: int | None) -> int | None:
    """`top_k` of the parameters, 1 to 100. Raises `ServiceError` with slug `invalid_parameter`."""
    found = parameters.get("top_k")
    if found is None:
        return default
    top_k = whole_number(found)
    if top_k is None or not 1 <= top_k <= LARGEST_TOP_K:
        raise ServiceError(
            "invalid_parameter",
            f"The parameter top_k must be a whole number from 1 to {LARGEST_TOP_K}, not {shown(found)}.",
        )
    return top_k


def min_confidence_of(parameters: dict[str, Any], default: float | None) -> float | None:
    """`min_confidence` of the parameters, 0 to 1. Raises `ServiceError` with slug
    `invalid_parameter`.
    """
    found = parameters.get("min_confidence")
    if found is None:
        return default
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= 1:
        raise ServiceError(
            "invalid_parameter", f"The parameter min_confidence must be a number from 0 to 1, not {shown(found)}."
        )
    return float(found)


def unfamiliar_of(parameters: dict[str, Any], default: Unfamiliar | None) -> Unfamiliar | None:
    """`unfamiliar` of the parameters. Raises `ServiceError` with slug `invalid_parameter`."""
    found = parameters.get("unfamiliar")
    if found is None:
        return default
    for one in UNFAMILIAR:
        if found == one:
            return one
    raise ServiceError(
        "invalid_parameter",
        f"The parameter unfamiliar must be {', '.join(UNFAMILIAR[:-1])} or {UNFAMILIAR[-1]}, not {shown(found)}.",
    )


def whole_number(value: object) -> int | None:
    """An integer as JSON Schema means it, 3.0 among them; None for all else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
