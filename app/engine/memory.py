"""How much memory of a GPU a model's weights take, reckoned up before a session is opened.

Every session copies the weights of its graph. Only these are counted: activations, the workspace of the libraries and
what CUDA itself takes (about half a gigabyte) come on top, and the warm-up finds out whether they fit.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from app.providers.gpu import GpuMemoryError
from contract.bundle_files import GraphFile

log = logging.getLogger("food_vision")

# Numbers of the fields that lead to the weights: ModelProto.graph, GraphProto.initializer, and of TensorProto raw_data
# and external_data, whose entries are key (1) and value (2). Source: onnx.proto.
GRAPH, INITIALIZER, RAW_DATA, EXTERNAL_DATA, KEY, VALUE = 7, 5, 9, 13, 1, 2
REMEDY = (
    "export with a smaller --precision (fp16), stop what else runs on that GPU, or choose another one "
    "(FOOD_VISION_DEVICE)."
)
VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5  # wire types of protobuf
MOST_BYTES = 10  # of a number in protobuf, which has 64 bits


def sizes_that_fit(
    sizes: tuple[int, ...], weights: int, free: int | None, *, cuda_graphs: bool, device: int
) -> tuple[int, ...]:
    """The batch sizes for which a GPU has room: all, or with CUDA graphs the smallest of them.

    `weights` are the bytes that one session of each graph takes together. There is one of each, or with `cuda_graphs`
    one for each of `sizes`. `free` is the GPU's free memory in bytes (None: not known, so all fit), `device` its number.
    Raises `GpuMemoryError` when it does not do for the smallest.
    """
    room = f"{_shown(free)} are free" if free is not None else "how much is free is not known"
    if free is not None and weights > free:
        raise GpuMemoryError(
            f"The model's weights alone take {_shown(weights)} of a GPU's memory, but GPU {device} has {_shown(free)} "
            f"free; {REMEDY}"
        )
    if not cuda_graphs:
        log.info("weights: %s on GPU %d; %s", _shown(weights), device, room)
        return sizes
    kept = sizes if free is None or not weights else sizes[: free // weights]
    log.info(
        "CUDA graphs: each of %d batch sizes has sessions of its own, %s of weights each, %s in all; %s",
        len(sizes), _shown(weights), _shown(weights * len(sizes)), room,
    )  # fmt: skip
    if kept != sizes:
        log.warning(
            "no memory for the weights of batches of %d: serving at most %d at a time; FOOD_VISION_CUDA_GRAPHS=false "
            "needs %s for all sizes",
            sizes[len(kept)], kept[-1], _shown(weights),
        )  # fmt: skip
    return kept


def no_room(device: int, error: Exception) -> GpuMemoryError:
    """What to say when the weights fit and not one photo does; `error` is the runtime's."""
    told = " ".join(str(error).split())
    return GpuMemoryError(
        f"GPU {device} has no room for one photo beside the model's weights ({told[-150:]}); {REMEDY}"
    )


def weights_bytes(graph: GraphFile) -> int:
    """Bytes of the weights that a session of `graph` copies, as they are stored; a tensor that two graphs share is copied
    for each.

    0 for what is no ONNX graph: whoever opens it says what is wrong.
    """
    try:
        return sum(
            _tensor_bytes(tensor)
            for body in _fields(memoryview(graph.data), GRAPH)
            for tensor in _fields(body, INITIALIZER)
        )
    except (IndexError, ValueError):
        return 0


def _tensor_bytes(tensor: memoryview) -> int:
    """Of the raw data inside, or of the place outside. Typed lists, which hold a few numbers at most, are not counted."""
    found = sum(len(data) for data in _fields(tensor, RAW_DATA))
    for entry in _fields(tensor, EXTERNAL_DATA):
        if b"length" in map(bytes, _fields(entry, KEY)):
            found += sum(_length(bytes(value)) for value in _fields(entry, VALUE))
    return found


def _length(text: bytes) -> int:
    """Decimal digits, which nothing vouches for. Raises `ValueError` for what is no length of a file."""
    if not (text.isdigit() and len(text) < 2 * MOST_BYTES):
        raise ValueError(f"length {text[: 2 * MOST_BYTES]!r}")
    return int(text)


def _fields(message: memoryview, number: int) -> Iterator[memoryview]:
    """The contents of every length-delimited field of that number. Raises `IndexError` or `ValueError`: no protobuf."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == LENGTH_DELIMITED:
            size, at = _varint(message, at)
            if tag >> 3 == number:
                yield message[at : at + size]
            at += size
        elif kind == VARINT:
            _, at = _varint(message, at)
        elif kind in (FIXED32, FIXED64):
            at += 4 if kind == FIXED32 else 8
        else:
            raise ValueError(f"wire type {kind}")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number, seven bits a byte from the lowest, and where it ends."""
    value = 0
    for place in range(MOST_BYTES):
        byte = message[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError("a number without an end")


def _shown(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
