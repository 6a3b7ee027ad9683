"""The faces a server may have: how to ask each for a photo's label, and where the answer says it.

`predict` is this project's own route with the photo as the body, `multipart` the original contract (also spoken by the
original's Flask server), `hf` Hugging Face's, `oip` the Open Inference Protocol's with binary tensors, as its client sends.
All give the label's name of the data set (`hot_dog`), but for the original contract, which has the display name alone.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from benchmarks.load.connection import Server
from contract.errors import ContractError

ROUTES = ("predict", "multipart", "hf", "oip")
BOUNDARY = b"food-vision-5f0c9d6e41"
NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # of a header, RFC 9110
SLUG = re.compile(r"[\w.-]{1,50}")


class WrongAnswer(Exception):
    """A status of 200 with a body that is no answer of this route."""


@dataclass(frozen=True)
class Route:
    """One face of a server. `model` is needed by `oip` alone; `headers` go with every request (API keys)."""

    name: str
    server: Server
    model: str = ""
    headers: Sequence[tuple[str, str]] = field(default=())

    @property
    def path(self) -> str:
        """Where requests go."""
        paths = {"hf": "/", "oip": f"/v2/models/{quote(self.model, safe='')}/infer"}
        return self.server.path + paths.get(self.name, "/predict")

    def request(self, photo: bytes, media_type: str) -> bytes:
        """The whole HTTP request for one photo."""
        extra: list[tuple[str, str]] = []
        if self.name == "multipart":
            head = (
                f'Content-Disposition: form-data; name="image"; filename="photo"\r\nContent-Type: {media_type}\r\n\r\n'
            )
            body = b"--%b\r\n%b%b\r\n--%b--\r\n" % (BOUNDARY, head.encode(), photo, BOUNDARY)
            media_type = f"multipart/form-data; boundary={BOUNDARY.decode()}"
        elif self.name == "oip":
            described, tensor = _oip_head(len(photo)), struct.pack("<I", len(photo)) + photo
            extra, body = [("Inference-Header-Content-Length", str(len(described)))], described + tensor
            media_type = "application/octet-stream"
        else:
            body = photo
        own = [
            ("Host", self.server.authority), ("User-Agent", "food-vision-latency"), ("Accept", "application/json"),
            ("Content-Type", media_type), *extra,
        ]  # fmt: skip
        given = {name.lower() for name, _ in self.headers}
        headers = [*(one for one in own if one[0].lower() not in given), *self.headers]
        lines = "".join(f"{name}: {value}\r\n" for name, value in [*headers, ("Content-Length", str(len(body)))])
        return f"POST {self.path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body

    def label(self, body: bytes) -> str:
        """The label in an answer of status 200; "" for one that says it does not know. Raises `WrongAnswer`."""
        try:
            answer = json.loads(body)
            found = self._label(answer)
        except (ValueError, LookupError, TypeError, RecursionError):
            raise WrongAnswer from None
        if found is not None and not isinstance(found, str):
            raise WrongAnswer
        return found or ""

    def _label(self, answer: Any) -> Any:
        if self.name == "hf":
            return answer[0]["label"] if answer != [] else None
        if self.name == "oip":
            labels = [one for one in answer["outputs"] if one["name"] == "LABEL"]
            return labels[0]["data"][0]
        found = answer["prediction"]
        return answer.get("label", found) if found is not None and self.name == "predict" else found


def outcome_of(status: int, body: bytes) -> str:
    """What an answer other than 200 is counted as: the status, with this project's slug where there is one."""
    try:
        slug = json.loads(body)["error_type"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return str(status)
    return f"{status} {slug}" if isinstance(slug, str) and SLUG.fullmatch(slug) else str(status)


def parse_headers(texts: Sequence[str]) -> list[tuple[str, str]]:
    """`Name: value` texts as pairs. Raises `ContractError` for what is not a header, without its value: it may be secret."""
    found = []
    for place, text in enumerate(texts):
        name, colon, value = text.partition(":")
        name, value = name.strip(), value.strip()
        if not (colon and NAME.fullmatch(name) and value.isprintable() and value.isascii()):
            shown = name if colon and NAME.fullmatch(name) else f"number {place + 1}"
            raise ContractError(f"The header {shown} is wrong: write it as 'Name: value', in ASCII.")
        if name.lower() in ("content-length", "transfer-encoding"):
            raise ContractError(f"The header {name} is not yours to set: it follows from the request.")
        found.append((name, value))
    return found


def _oip_head(length: int) -> bytes:
    tensor = {"name": "IMAGE", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": 4 + length}}
    outputs = [{"name": "LABEL", "parameters": {"binary_data": False}}]
    return json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
