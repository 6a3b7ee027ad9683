"""The one place that reads pickled weights (`.pth`, `.bin`), as plain tensors and nothing else.

A pickle can name any function to be called while it is read. torch's restricted unpickler
(`weights_only=True`) builds tensors and refuses most of the rest, but a few hundred bytes may still
ask it for `bytearray(100_000_000_000)` or for one tensor under a billion names. So what a pickle
names and how long it is are looked at before, and what came of it after. The bytes are read once,
so that what was hashed is what is used. Weights are written as safetensors everywhere, so a pickle
is only ever a model's first form.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import pickletools
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from contract.errors import CheckpointError

MOST_BYTES = 4 << 30  # of a file; BLIP-large has 1.9 GB
MOST_DEPTH = 4  # dicts in dicts: {"model": {"state_dict": {…}}} is the usual most
MOST_STEPS = 1_000_000  # of a pickle; a tensor takes some 40, BLIP-large has 1,000 tensors
MOST_WEIGHTS = 50_000  # names; dicts that are shared can have more of them than the file has bytes
LONGEST_NAME = 1000  # characters
# What a dict of tensors is made of, and nothing that makes memory from a number alone.
_NEEDED = re.compile(
    r"collections OrderedDict|torch \w+Storage|torch\._utils (_rebuild_tensor|_rebuild_tensor_v2|_rebuild_parameter)"
)
_LEGACY_PICKLES = 5  # magic number, version, system, tensors, names of storages
_ZIP = b"PK\x03\x04"  # torch's format since 1.6; older files are pickles with the tensors' bytes behind them


@dataclass(frozen=True)
class PickledWeights:
    """Tensors by name, on the CPU, and the hex sha256 of the file that they came from.

    Names of nested dicts are joined by dots.
    """

    tensors: dict[str, torch.Tensor] = field(repr=False)
    sha256: str


def read_pickled_weights(path: Path, *, sha256: str | None = None, most_bytes: int = MOST_BYTES) -> PickledWeights:
    """The tensors of a `.pth` or `.bin` file: a dict of tensors, or dicts of these.

    `sha256` is the hex digest that the file must have, checked before anything of it is
    interpreted; where it is not known, record the one that is returned. Raises `CheckpointError`
    with one sentence for a file that is missing, larger than `most_bytes`, another than expected,
    damaged, or that holds anything but plain tensors.
    """
    data = _read(path, most_bytes)
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256.lower():
        raise CheckpointError(f"{path} has the sha256 {found}, not {sha256}: it is not the file that was expected.")
    if data.startswith(_ZIP):
        _check_archive(path, data)
    try:
        _check_pickle(data)
        # mmap would let the file change after it was hashed.
        held = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True, mmap=False)
    except Exception:  # whatever a stranger's bytes can raise; torch's own text advises to switch the protection off
        raise CheckpointError(
            f"{path} cannot be read as weights: it is damaged, or holds Python objects, which are never loaded. "
            "Save the model's tensors as safetensors."
        ) from None
    tensors: dict[str, torch.Tensor] = {}
    _collect(path, held, "", tensors, MOST_DEPTH, itertools.count())
    if not tensors:
        raise CheckpointError(f"{path} holds no weights.")
    return PickledWeights(tensors, found)


def _read(path: Path, most: int) -> bytes:
    try:
        if not path.is_file():
            raise CheckpointError(f"There is no file of weights at {path}.")
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise CheckpointError(f"The weights {path} cannot be read: {error.strerror}.") from None
    if len(data) > most:
        raise CheckpointError(f"{path} is larger than {most} bytes; such weights are not read.")
    return data


def _check_archive(path: Path, data: bytes) -> None:
    """torch stores its records as they are; packed ones could unpack to any size."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError):
        raise CheckpointError(f"{path} is not a whole file of weights; copy it again.") from None
    packed = any(record.compress_type != zipfile.ZIP_STORED for record in records)
    if packed or sum(record.file_size for record in records) > len(data):
        raise CheckpointError(f"{path} is packed in a way that torch never writes; it is not read.")


def _check_pickle(data: bytes) -> None:
    """Raise `ValueError` for a pickle that is long, or names more than tensors are made of."""
    if data.startswith(_ZIP):  # by torch's own reader: another might find another record of that name
        pickles, several = io.BytesIO(torch._C.PyTorchFileReader(io.BytesIO(data)).get_record("data.pkl")), 1
    else:
        pickles, several = io.BytesIO(data), _LEGACY_PICKLES
    steps = 0
    for _ in range(several):
        for opcode, named, _ in pickletools.genops(pickles):
            steps += 1
            if steps > MOST_STEPS or (opcode.name == "GLOBAL" and not _NEEDED.fullmatch(str(named))):
                raise ValueError


def _collect(
    path: Path, held: object, name: str, tensors: dict[str, torch.Tensor], depth: int, met: Iterator[int]
) -> None:
    if next(met) > MOST_WEIGHTS or len(name) > LONGEST_NAME:
        raise CheckpointError(
            f"{path} has more than {MOST_WEIGHTS} weights, or a name beyond {LONGEST_NAME} characters."
        )
    if isinstance(held, dict) and depth:
        for key, value in held.items():
            if not isinstance(key, str):
                raise CheckpointError(f"{path} holds {_shown(repr(key))} where the name of a weight belongs.")
            _collect(path, value, f"{name}.{key}" if name else key, tensors, depth - 1, met)
    elif isinstance(held, torch.Tensor) and name and name.isprintable() and _is_plain(held):
        if name in tensors:
            raise CheckpointError(f"{path} holds the weight {_shown(name)} twice.")
        tensors[name] = held.detach()
    else:
        raise CheckpointError(f"{path} holds more than plain tensors: {_shown(name) or 'all of it'} is none.")


def _shown(text: str) -> str:
    """A stranger's text within a sentence: short, on one line, and nothing that moves the cursor."""
    return "".join(one if one.isprintable() else "?" for one in text[:100])


def _is_plain(tensor: torch.Tensor) -> bool:
    """Real, dense, on the CPU, and no larger than the bytes behind it, as an expanded one would be."""
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and not tensor.is_complex()
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    )
