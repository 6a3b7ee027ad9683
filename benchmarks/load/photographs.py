"""What is sent: the photographs of a folder, or drawn pictures in several sizes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from contract.errors import ContractError
from contract.formats import FORMATS
from training.drawn.pictures import draw

DRAWN_SIDES = (256, 512, 1024)  # px
LARGEST = 64 << 20  # bytes of one file
QUALITY = 90


@dataclass(frozen=True)
class Photograph:
    """Bytes as they are sent, their media type, and width and height in px."""

    name: str
    data: bytes
    media_type: str
    width: int
    height: int


def from_folder(folder: Path, most: int, seed: int) -> list[Photograph]:
    """Up to `most` images of a folder and those below it, the same for the same seed.

    Raises `ContractError` when the folder is not there or has no image in it; files that are none are passed over.
    """
    if not folder.is_dir():
        raise ContractError(f"The folder of photographs {folder} does not exist or is no folder.")
    try:
        paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        raise ContractError(f"The folder of photographs {folder} cannot be read: {error.strerror}.") from None
    order = np.random.default_rng(seed).permutation(len(paths))
    found: list[Photograph] = []
    for place in order:
        if len(found) == most:
            break
        if (photograph := _read(paths[place], folder)) is not None:
            found.append(photograph)
    if not found:
        raise ContractError(
            f"The folder {folder} holds {len(paths)} files and none is an image that can be read. Give a folder of JPEG, "
            "PNG, WebP, GIF, BMP, TIFF, HEIC or AVIF files, or leave --photos out to send drawn pictures."
        )
    return found


def _read(path: Path, folder: Path) -> Photograph | None:
    try:
        if not 0 < path.stat().st_size <= LARGEST:
            return None
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            media_type = Image.MIME.get(image.format or "", "application/octet-stream")
            return Photograph(str(path.relative_to(folder)), data, media_type, *image.size)
    except (OSError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None


def drawn(sides: Sequence[int], each: int, seed: int) -> list[Photograph]:
    """`each` drawn pictures of food for every side length in px (16 to 1024), as JPEG."""
    found = []
    for side in sides:
        for number in range(each):
            held = io.BytesIO()
            draw(number, seed=seed, size=side)[0].save(held, "JPEG", quality=QUALITY)
            found.append(Photograph(f"drawn-{side}-{number}", held.getvalue(), "image/jpeg", side, side))
    return found
