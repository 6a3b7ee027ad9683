"""Hostile requests: what broken, careless and malicious clients send. Each is made from a seeded generator."""

from __future__ import annotations

import gzip
import io
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


@dataclass(frozen=True)
class Hostile:
    """The bytes of one request in pieces, with a pause after each; `hang_up` closes without reading the answer."""

    kind: str
    pieces: list[bytes]
    hang_up: bool = False


def picture(rng: random.Random, format: str, size: int = 96) -> bytes:
    """A real image of one format."""
    width, height = size, size + rng.randrange(64)
    image = Image.frombytes("RGB", (width, height), rng.randbytes(3 * width * height))
    file = io.BytesIO()
    image.save(file, format=format)
    return file.getvalue()


def post(path: str, body: bytes, headers: dict[str, str] | None = None, length: int | None = None) -> bytes:
    """A POST request; `length` lies about the body's."""
    head = {"Host": "localhost", "Content-Length": str(len(body) if length is None else length), "Connection": "close"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in (head | (headers or {})).items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


def mutated(rng: random.Random) -> Hostile:
    """A real image with bytes flipped, cut, repeated or swapped."""
    data = bytearray(picture(rng, rng.choice(FORMATS)))
    for _ in range(rng.randrange(1, 40)):
        at = rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                data[at] = rng.randrange(256)
            case 1:
                del data[at : at + rng.randrange(1, 200)]
            case 2:
                data[at:at] = data[at : at + rng.randrange(1, 50)]
            case _:
                data[at : at + 4] = rng.randbytes(4)
        if len(data) < 8:
            break
    return Hostile("mutated image", [post("/predict", bytes(data))])


def png_bomb(rng: random.Random) -> Hostile:
    """A small PNG whose header says that it is enormous, and whose data is a long run of zeros."""
    side = rng.choice((8_000, 30_000, 65_000, 2**31 - 1))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1 << 20), 9)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return Hostile("png bomb", [post("/predict", data)])


def gzip_bomb(rng: random.Random) -> Hostile:
    """A body of 64 MiB of zeros in 64 kB."""
    body = gzip.compress(bytes(64 << 20), 9)
    return Hostile("gzip bomb", [post(rng.choice(("/predict", "/")), body, {"Content-Encoding": "gzip"})])


def multipart(rng: random.Random) -> Hostile:
    """Multipart with the wrong boundary, no end, no name, too many parts, or binary headers."""
    name = rng.choice(('name="image"; filename="a.jpg"', "name=", 'name="photo"', 'name="image"', "\xff\x00"))
    part = f"--x\r\nContent-Disposition: form-data; {name}\r\n\r\n".encode("latin-1") + picture(rng, "JPEG")
    body = part * rng.choice((0, 1, 1, 2, 40)) + rng.choice((b"\r\n--x--\r\n", b"", b"--y--", b"\r\n--x"))
    kind = rng.choice(("multipart/form-data; boundary=x", "multipart/form-data", "multipart/form-data; boundary="))
    path = rng.choice(("/predict", "/predict/batch", "/caption"))
    return Hostile("multipart", [post(path, body, {"Content-Type": kind})])


def wrong_length(rng: random.Random) -> Hostile:
    """More or less body than the header says; the client gives up when less."""
    body = picture(rng, "JPEG")
    length = rng.choice((0, 1, len(body) // 2, len(body) * 2, 10**12, -5))
    return Hostile("wrong length", [post("/predict", body, length=length)], hang_up=length > len(body))


def headers(rng: random.Random) -> Hostile:
    """Huge, many, or nonsensical headers."""
    extra = rng.choice(
        (
            {"X-Big": "a" * 200_000},
            {f"X-{i}": "b" * 100 for i in range(2000)},
            {"Content-Type": "a" * 5000},
            {"X-Request-Timeout-Ms": rng.choice(("-1", "abc", "9" * 400, "1"))},
            {"X-Request-Id": "\x01\x02" * 50},
            {"Authorization": "Bearer " + "k" * 4000},
            {"Transfer-Encoding": "chunked"},
            {"Expect": "100-continue"},
        )
    )
    return Hostile("headers", [post("/predict", picture(rng, "JPEG"), extra)])


def nonsense(rng: random.Random) -> Hostile:
    """No HTTP at all, or an unknown method, path or query."""
    line = rng.choice(
        (
            rng.randbytes(300),
            b"GET / HTTP/9.9\r\n\r\n",
            b"BREW /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            b"POST /predict?top_k=%ff HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            b"POST /predict?top_k=" + b"9" * 20 + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        )
    )
    return Hostile("nonsense", [line], hang_up=True)


def hang_up(rng: random.Random) -> Hostile:
    """A good request whose client goes away in the middle of it, or before the answer."""
    data = post("/predict", picture(rng, "JPEG"))
    at = rng.choice((5, 60, len(data) // 2, len(data) - 1, len(data)))
    return Hostile("hang up", [data[:at]], hang_up=True)


def empty(rng: random.Random) -> Hostile:
    """No body, text for an image, or JSON of another shape."""
    body = rng.choice((b"", b"hello", b"{}", b'{"inputs": 5}', b"[" * 10_000, b"\x00" * 5000))
    kind = rng.choice(("application/json", "image/jpeg", "text/plain"))
    return Hostile("empty", [post(rng.choice(("/predict", "/", "/caption")), body, {"Content-Type": kind})])


def good(rng: random.Random) -> Hostile:
    """A request as it should be, in one or several pieces."""
    data = post("/predict", picture(rng, rng.choice(FORMATS)))
    at = rng.randrange(1, len(data))
    return Hostile("good", [data[:at], data[at:]])


KINDS: tuple[tuple[Callable[[random.Random], Hostile], int], ...] = (
    (mutated, 40), (multipart, 12), (wrong_length, 8), (headers, 8), (nonsense, 8), (hang_up, 10), (png_bomb, 3),
    (gzip_bomb, 1), (empty, 5), (good, 5),
)  # fmt: skip


def hostile(seed: int) -> Hostile:
    """The request of one seed."""
    rng = random.Random(seed)
    return rng.choices([kind for kind, _ in KINDS], [weight for _, weight in KINDS])[0](rng)
